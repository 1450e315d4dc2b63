"""``neucore-xl prepare``: what is made once, offline, and stored beside the annotations."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make fusion sequences and concept lists, once and offline.", no_args_is_help=True)


class Planner(str, Enum):
    """Who splits a sentence into steps."""

    CLAUSES = "clauses"


@app.callback()
def _group() -> None:
    """Make fusion sequences and concept lists, once and offline."""


@app.command()
def sequences(
    root: Annotated[Path | None, typer.Argument(help="Folder of the annotations.")] = None,
) -> None:
    """Plan fusion sequences."""
    raise NotImplementedError
