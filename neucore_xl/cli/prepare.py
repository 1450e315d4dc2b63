"""``neucore-xl prepare``: what is made once, offline, and stored beside the annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl.errors import UserError

app = typer.Typer(help="Make fusion sequences and concept lists, once and offline.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make fusion sequences and concept lists, once and offline."""


@app.command()
def sequences(
    root: Annotated[Path | None, typer.Argument(help="Folder of CIRR or Fashion-IQ annotations.")] = None,
    planner: Annotated[str, typer.Option(help="Who splits a sentence into steps: clauses.")] = "clauses",
    split: Annotated[list[str] | None, typer.Option(help="Only this split (repeatable); all without it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Sequence file; ROOT/sequences/PLANNER.jsonl without it.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a sequence file of other content.")] = False,
    score: Annotated[
        Path | None, typer.Option("--score", metavar="TRUTH", help="Score the planner on this truth file instead.")
    ] = None,
    predicted: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --score: score this sequence file, not the planner.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="With --score: also write the score here.")
    ] = None,
) -> None:
    """Plan the fusion sequence of every sentence below ROOT, or score a planner on a truth file."""
    if (root is None) == (score is None):
        raise UserError("Give either a folder of annotations to plan or --score TRUTH, a truth file to score on.")
    if root is not None and (predicted is not None or json_file is not None):
        raise UserError("--predicted and --json belong to --score TRUTH.")
    if score is not None and (split or out is not None or force):
        raise UserError("--split, --out and --force belong to a folder of annotations, not to --score.")

    from rich.console import Console

    from neucore_xl.data import prepare as preparing

    console = Console()
    if score is not None:
        result = preparing.score_truth(score, planner=planner, predicted=predicted)
        preparing.print_score(result, console)
        if json_file is not None:
            from neucore_xl.cli.output import write_json

            write_json(json_file, result.to_json())
    elif root is not None:
        prepared = preparing.prepare_sequences(root, planner=planner, splits=split or None, out=out, force=force)
        preparing.print_prepared(prepared, console)


@app.command()
def concepts(
    root: Annotated[Path, typer.Argument(help="Folder of CIRR or Fashion-IQ annotations.")],
    split: Annotated[str, typer.Option(help="Split whose zero-shot concepts are listed.")] = "val",
    known: Annotated[str, typer.Option(help="Split whose concepts make the vocabulary.")] = "train",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the lists here.")] = None,
) -> None:
    """List the concepts that a split names and the training split does not."""
    from rich.console import Console

    from neucore_xl.data.concept_lists import concept_lists

    lists = concept_lists(root, known=known, split=split)
    lists.print(Console())
    if json_file is not None:
        from neucore_xl.cli.output import write_json

        write_json(json_file, lists.to_json())
