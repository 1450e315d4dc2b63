"""``results.md``, ``results.tex`` and ``results.svg`` beside ``results.json``, and the tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neucore_xl.comparison.plot import svg
from neucore_xl.comparison.render import latex, markdown, print_grid
from neucore_xl.comparison.results import CAPTIONS, Entry
from neucore_xl.comparison.systems import Skipped
from neucore_xl.comparison.table import grids, heading, notes
from neucore_xl.files import output_file

MARKDOWN, LATEX, PLOT = "results.md", "results.tex", "results.svg"


def write_tables(entries: Sequence[Entry], out: Path, *, published: bool, plot: bool) -> list[Path]:
    """Write the files of tables (and of the plot) into ``out``, each in one step; returns their paths.

    Raises ``UserError`` where the folder cannot be written, and for a plot without matplotlib.
    """
    texts = {MARKDOWN: whole_markdown(entries, published=published), LATEX: whole_latex(entries, published=published)}
    contents = {name: text.encode() for name, text in texts.items()}
    if plot:
        contents[PLOT] = svg(entries)
    for name, content in contents.items():
        with output_file(out / name) as temporary:
            temporary.write_bytes(content)
    return [out / name for name in contents]


def whole_markdown(entries: Sequence[Entry], *, published: bool = False) -> str:
    """All tables with their heading and notes."""
    first, *rest = heading(entries)
    parts = [f"**{first}**" if first == CAPTIONS else first, *rest]
    for grid in grids(entries, with_published=published):
        parts += [f"### {grid.title}", markdown(grid).rstrip()]
    return "\n\n".join([*parts, *notes(entries)]) + "\n"


def whole_latex(entries: Sequence[Entry], *, published: bool = False) -> str:
    """All tables; heading and notes are comments and captions. Needs the packages booktabs and xcolor."""
    said = [*heading(entries), *notes(entries)]
    parts = ["".join(f"% {line}\n" for line in said)]
    first = entries[0]
    where = f"{first.dataset}, {first.n_queries} queries" + (f", {CAPTIONS}" if first.captions else "")
    return "\n".join([*parts, *(latex(g, f"{g.title}: {where}.") for g in grids(entries, with_published=published))])


def print_tables(entries: Sequence[Entry], skipped: Sequence[Skipped], console: Console, *, published: bool) -> None:
    """Headings, tables and notes. A narrow terminal gets the columns that matter most; the files hold all."""
    first, *rest = heading(entries)
    console.print(first, style="bold", soft_wrap=True)
    for line in rest:
        console.print(line, soft_wrap=True)
    recall, tests, *more = grids(entries, with_published=published)
    wide = console.width >= 150
    print_grid(recall, console, None if wide else _narrow(recall.header))
    print_grid(tests, console, None if wide else {place: tests.header[place] for place in (1, 3, 4)})
    for grid in more if wide else ():
        print_grid(grid, console)
    for line in notes(entries):
        console.print(line, soft_wrap=True)
    for system in skipped:
        console.print(f"left out: {system.name}: {system.why}", style="dim", soft_wrap=True)


def _narrow(header: Sequence[str]) -> dict[int, str]:
    """Columns that fit 80 characters, and their titles: the main measures and, under its short name, the headline."""
    wanted = ("R@1", "R@5", "R_subset@1", "R@10 mean", "R@50 mean")
    places = [place for place, title in enumerate(header) if title in wanted or "/ 2" in title] or [1, 2]
    return {place: header[place] if "/ 2" not in header[place] else "mean" for place in places}
