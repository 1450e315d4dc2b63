"""Tables as Markdown, as LaTeX and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neucore_xl.comparison.table import Cell, Grid

if TYPE_CHECKING:
    from rich.console import Console

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$",
    "·": r"$\cdot$", "×": r"$\times$",
}  # fmt: skip


def markdown_cell(cell: Cell) -> str:
    """Best bold, second best underlined, what is only for reference in italics."""
    text = cell.text.replace("|", "\\|")
    if not text:
        return ""
    return {"best": f"**{text}**", "second": f"<u>{text}</u>", "grey": f"*{text}*", "": text}[cell.style]


def markdown(grid: Grid) -> str:
    """The table as Markdown, without its title."""
    lines = [grid.header, tuple("---" if i == 0 else "--:" for i in range(len(grid.header)))]
    body = [tuple(map(markdown_cell, row)) for row in grid.rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in [*lines, *body])


def latex_text(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_TEX.get(c, c) for c in text)


def latex_cell(cell: Cell) -> str:
    """As ``markdown_cell``; reference lines are grey."""
    text = latex_text(cell.text)
    if not text:
        return ""
    return {
        "best": rf"\textbf{{{text}}}",
        "second": rf"\underline{{{text}}}",
        "grey": rf"\textcolor{{gray}}{{\textit{{{text}}}}}",
        "": text,
    }[cell.style]


def latex(grid: Grid, caption: str) -> str:
    """A whole ``table`` for the packages booktabs and xcolor."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    body = [line(list(map(latex_cell, row))) for row in grid.rows]
    grey = [row[0].style == "grey" for row in grid.rows]
    if True in grey and False in grey:
        body.insert(grey.index(True), r"\midrule")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            line(list(map(latex_text, grid.header))),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def print_grid(grid: Grid, console: Console, columns: Mapping[int, str] | None = None) -> None:
    """The table; of ``columns`` (place → title) only those, and always the first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from neucore_xl.terminal import printable

    styles = {"best": "bold", "second": "underline", "grey": "dim italic", "": ""}
    titles = {0: grid.header[0]} | (dict(enumerate(grid.header)) if columns is None else dict(columns))
    table = Table(title=grid.title, box=box.SIMPLE_HEAD, pad_edge=False)
    widest = max((len(row[0].text) for row in grid.rows if row[0].style != "grey"), default=0)
    for place, title in titles.items():
        first = place == 0
        table.add_column(
            title, justify="left" if first else "right", no_wrap=not first, min_width=widest if first else None
        )
    for row in grid.rows:
        table.add_row(*(Text(printable(row[place].text), style=styles[row[place].style]) for place in titles))
    console.print(table)
