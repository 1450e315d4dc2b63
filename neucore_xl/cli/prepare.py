"""``neucore-xl prepare``: what is made once, offline, and stored beside the annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.errors import UserError

app = typer.Typer(help="Make fusion sequences and concept lists, once and offline.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make fusion sequences and concept lists, once and offline."""


@app.command()
def sequences(
    root: Annotated[Path | None, typer.Argument(help="Folder of CIRR or Fashion-IQ annotations.")] = None,
    planner: Annotated[
        str, typer.Option(help="Who splits a sentence into steps: clauses, clauses-encoder or llm.")
    ] = "clauses",
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
    model: Annotated[
        str | None, typer.Option(help="llm: hub name, folder or GGUF file, or the server's name for it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="llm: branch, tag or commit of the model.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="llm: an OpenAI-compatible server, http://host:port/v1.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="llm: another prompt.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=numbers.MANY, help="llm: sentences at a time (16).", show_default=False)
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, max=numbers.PROCESSES, help="llm --endpoint: questions at a time (8).", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="llm --endpoint: longest wait for a whole answer (120).", show_default=False
        ),
    ] = None,
    max_answer_bytes: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="llm --endpoint: the most of one answer (8388608).", show_default=False),
    ] = None,
    device: Annotated[str | None, typer.Option(help="llm: cpu, cuda, cuda:1, …; the best there is without it.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="llm: bf16 or fp32; by the device without it.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=numbers.MANY, help="llm: length of an answer (256).", show_default=False)
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="llm: plan only share I (from 0) of N; the last one merges.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="llm: plan nothing, write the file of what all shards planned.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=numbers.SENTENCES, help="llm: only the first so many sentences.")
    ] = None,
) -> None:
    """Plan the fusion sequence of every sentence below ROOT, or score a planner on a truth file."""
    if (root is None) == (score is None):
        raise UserError("Give either a folder of annotations to plan or --score TRUTH, a truth file to score on.")
    if root is not None and (predicted is not None or json_file is not None):
        raise UserError("--predicted and --json belong to --score TRUTH.")
    if score is not None and (split or out is not None or force):
        raise UserError("--split, --out and --force belong to a folder of annotations, not to --score.")
    local = {"--batch-size": batch_size, "--device": device, "--precision": precision}
    remote: dict[str, object] = {"--parallel": parallel, "--timeout": timeout, "--max-answer-bytes": max_answer_bytes}
    asking: dict[str, object] = {
        "--model": model, "--revision": revision, "--endpoint": endpoint, "--prompt": prompt, **local,
        **remote, "--max-new-tokens": max_new_tokens,
    }  # fmt: skip
    working: dict[str, object] = {"--shard": shard, "--merge": merge or None, "--limit": limit}
    if planner != "llm" or predicted is not None:
        _refuse(asking | working, "to --planner llm" if predicted is None else "to a planner, not to --predicted")
    elif model is None:
        raise UserError("--planner llm needs --model: a hub name, a folder, a GGUF file, or the server's name for it.")
    elif endpoint is not None:
        _refuse(local, "to a model of this process, not to --endpoint")
    else:
        _refuse(remote, "to --endpoint URL")
    if score is not None:
        _refuse(working, "to a folder of annotations, not to --score")

    from neucore_xl.language.llm.work import Shard
    from neucore_xl.prepare.llm import LlmOptions, build_llm_planner, prepare_llm, print_planned, stored_identity
    from neucore_xl.prepare.sequences import prepare_sequences, print_prepared, print_score, read_sentences, score_truth

    console = terminal.console()
    plan: Any = None
    if planner == "llm" and predicted is None:
        given = {
            "model": model, "revision": revision, "endpoint": endpoint, "prompt": prompt, "batch_size": batch_size,
            "device": device, "precision": precision, "parallel": parallel, "max_new_tokens": max_new_tokens,
            "timeout": timeout, "max_answer_bytes": max_answer_bytes,
        }  # fmt: skip
        options = LlmOptions.of(given)
        share = Shard.parse(shard) if shard is not None else None
        if root is not None:
            read_sentences(root, split or None)  # what is wrong with it is told before a model is loaded
        plan = stored_identity(root, options) if root is not None and merge else build_llm_planner(options)
    if score is not None:
        result = score_truth(score, planner=planner, predicted=predicted, model=plan)
        print_score(result, console)
        if json_file is not None:
            from neucore_xl.cli.output import write_report

            write_report(json_file, result.to_json())
    elif root is not None and plan is not None:
        planned = prepare_llm(
            root,
            plan,
            splits=split or None,
            shard=share,
            limit=limit,
            out=out,
            force=force,
        )
        print_planned(planned, console)
    elif root is not None:
        prepared = prepare_sequences(root, planner=planner, splits=split or None, out=out, force=force)
        print_prepared(prepared, console)


def _refuse(options: Mapping[str, object], belong: str) -> None:
    """Raises ``UserError`` if any of ``options`` was given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{' and '.join(given)} {'belongs' if len(given) == 1 else 'belong'} {belong}.")


@app.command()
def concepts(
    root: Annotated[Path, typer.Argument(help="Folder of CIRR or Fashion-IQ annotations.")],
    split: Annotated[str, typer.Option(help="Split whose zero-shot concepts are listed.")] = "val",
    known: Annotated[str, typer.Option(help="Split whose concepts make the vocabulary.")] = "train",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the lists here.")] = None,
) -> None:
    """List the concepts that a split names and the training split does not."""
    from neucore_xl.prepare.concepts import concept_lists

    lists = concept_lists(root, known=known, split=split)
    lists.print(terminal.console())
    if json_file is not None:
        from neucore_xl.cli.output import write_report

        write_report(json_file, lists.to_json())
