"""``neucore-xl submission``: the files for the CIRR evaluation server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal

app = typer.Typer(help="Files for the CIRR evaluation server.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Files for the CIRR evaluation server."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Submission file (recall or recall_subset).")],
    data: Annotated[Path, typer.Option("--data", help="Root of the CIRR annotations.")],
    split: Annotated[str, typer.Option(help="Split that the file answers.")] = "test1",
) -> None:
    """Check a submission against the split's queries and images; exit 0 if it would be accepted, 1 if not."""
    from neucore_xl.data.datasets import open_split
    from neucore_xl.evaluation.submission import problems_of

    problems = problems_of(file, open_split("cirr", data, split))
    for problem in problems:
        terminal.say(problem)
    terminal.say(f"{file}: {f'{len(problems)} problems' if problems else 'valid'}")
    raise typer.Exit(1 if problems else 0)
