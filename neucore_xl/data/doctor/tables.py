"""Tables and cells of the doctor's report."""

from __future__ import annotations

from typing import Literal

from rich.table import Table
from rich.text import Text


def table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table; the first ``left`` columns hold words, the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number < left else "right"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=number == 0)
    return made


def cell(value: float | None, digits: int = 0) -> str:
    """A number for a person; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def beside(measured: float | None, published: float | None, digits: int = 0) -> Text:
    """ "measured / published", marked where the two differ as printed."""
    text = f"{cell(measured, digits)} / {cell(published, digits)}"
    differs = measured is not None and published is not None and cell(measured, digits) != cell(published, digits)
    return Text(f"{text} ≠", "yellow") if differs else Text(text)
