"""The doctor's report on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neucore_xl.data.doctor import statistics as published
from neucore_xl.data.doctor.kinds import KINDS

if TYPE_CHECKING:
    from neucore_xl.data.doctor.report import DoctorReport

FIRST = 4  # ids, names or lines shown of a longer list


def print_report(report: DoctorReport, console: Console) -> None:
    """Files, splits, irregular rows, clashes, shared images, pictures, statistics, verdict."""
    console.print(f"[bold]{report.dataset}[/] in {escape(str(report.root))}", highlight=False)
    _files(report, console)
    _splits(report, console)
    _irregular(report, console)
    _clashes(report, console)
    _shared(report, console)
    _pictures(report, console)
    if report.dataset == "cirr":
        _cirr_statistics(report, console)
    else:
        _fashion_iq_statistics(report, console)
    _verdict(report, console)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number < left else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=number == 0)
    return table


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _first(items: Sequence[str]) -> str:
    rest = f" … ({len(items) - FIRST:,} more)" if len(items) > FIRST else ""
    return escape(", ".join(items[:FIRST]) + rest)


def _files(report: DoctorReport, console: Console) -> None:
    table = _table("Annotation files", "file", "state", left=2)
    for file in report.findings.files:
        state = file.state if file.required or file.state != "missing" else "missing (not needed to train)"
        style = "red" if file.required and file.state != "there" else "green" if file.state == "there" else "yellow"
        table.add_row(escape(file.path), f"[{style}]{state}[/]")
    console.print(table)


def _splits(report: DoctorReport, console: Console) -> None:
    table = _table("Splits", "split", "rows", "with a target", "images listed", "images in no row", "in no subset")
    for split in report.findings.splits:
        if split.rows is None and split.images is None:
            continue
        none = None if split.rows is None or split.images is None else len(split.images_in_no_row)
        outside = None if report.dataset != "cirr" or none is None else len(split.images_in_no_subset)
        numbers = (split.rows, split.with_target, split.images, none, outside)
        table.add_row(split.name, *(_number(n) for n in numbers))
    console.print(table)


def _irregular(report: DoctorReport, console: Console) -> None:
    found = report.irregular
    if not found:
        console.print("No irregular rows.")
        return
    present = {row.split for rows in found.values() for row in rows}
    order = dict.fromkeys(split.name.rpartition("/")[2] for split in report.findings.splits)
    splits = [split for split in order if split in present]
    columns = ("kind", "meaning", "first ids")
    table = _table("Irregular rows (all of them in the JSON report)", *columns, *splits, left=3)
    for kind, rows in found.items():
        counts = Counter(row.split for row in rows)
        ids = list(dict.fromkeys(row.id for row in rows))
        name = f"[red]{kind}[/]" if KINDS[kind].fatal else kind
        table.add_row(name, KINDS[kind].meaning, _first(ids), *(f"{counts[s]:,}" if counts[s] else "" for s in splits))
    console.print(table)
    rows_of = len({(row.split, row.id) for rows in found.values() for row in rows})
    fatal = " (kinds in red stop a training)" if any(KINDS[kind].fatal for kind in found) else ""
    console.print(f"{rows_of:,} rows are irregular in {len(found)} kinds{fatal}; none is dropped.")


def _clashes(report: DoctorReport, console: Console) -> None:
    clashes = report.findings.clashes
    console.print(f"[bold]Name clashes:[/] {len(clashes) or 'none'}")
    for clash in clashes[:FIRST]:
        console.print(f"  {escape(clash.text)}")
    if len(clashes) > FIRST:
        console.print(f"  … and {len(clashes) - FIRST:,} more in the JSON report")


def _shared(report: DoctorReport, console: Console) -> None:
    shared = report.findings.shared
    if not shared:
        console.print("[bold]Images shared between splits:[/] none")
        return
    table = _table("Images that two split files share", "one", "other", "how", "images", "first", left=3)
    for pair in sorted(shared, key=lambda s: not s.across_splits):
        how = "same bytes" if pair.same_bytes else "across splits" if pair.across_splits else "same split"
        table.add_row(pair.one, pair.other, how, f"{len(pair.names):,}", _first(pair.names[:2]))
    console.print(table)


def _pictures(report: DoctorReport, console: Console) -> None:
    check = report.pictures
    if check is None:
        console.print("[bold]Pictures:[/] not looked at")
        return
    modes = ", ".join(f"{mode} {count:,}" for mode, count in check.modes.items())
    console.print(f"[bold]Pictures:[/] {check.checked:,} decoded or tried ({modes or 'none'})", highlight=False)
    console.print(f"  missing: {len(check.missing):,} {_first(check.missing)}", highlight=False)
    console.print(f"  damaged: {len(check.unreadable):,}", highlight=False)
    for reason in list(check.unreadable.values())[:FIRST]:
        console.print(f"    {escape(reason)}")
    console.print(f"  groups of equal files under several names: {len(check.same_bytes):,}", highlight=False)


def _beside(measured: float | None, paper: float | None, digits: int = 0) -> str:
    """ "measured / paper", marked where the two differ as printed."""
    text = f"{_number(measured, digits)} / {_number(paper, digits)}"
    differs = measured is not None and paper is not None and _number(measured, digits) != _number(paper, digits)
    return f"[yellow]{text} ≠[/]" if differs else text


def _cirr_statistics(report: DoctorReport, console: Console) -> None:
    title = f"This folder / {published.TABLE_2}"
    sizes = _table(title, "split", "subsets", "pairs", "pairs per subset", "images", "words", "closed loops %")
    title = f"Pairs with an auxiliary answer, %: this folder / {published.TABLE_6}"
    answers = _table(title, "split", "Q1", "Q2", "Q3", "Q4")
    for split, s in report.findings.cirr_statistics.items():
        paper = published.CIRR.get(split)
        sizes.add_row(
            split,
            _beside(s.subsets, paper.subsets if paper else None),
            _beside(s.pairs, paper.pairs if paper else None),
            _beside(s.pairs_per_subset, paper.pairs_per_subset if paper else None, 2),
            _beside(s.images, paper.images if paper else None),
            _number(s.words, 2),
            _number(s.closed_loops, 1),
        )
        measured = s.answered or (None,) * 4
        answers.add_row(split, *(_beside(m, paper.answered[q] if paper else None, 2) for q, m in enumerate(measured)))
    total = published.CIRR["total"]
    numbers = (_number(total.subsets), _number(total.pairs), _number(total.pairs_per_subset, 2), _number(total.images))
    words, loops = f"{published.CIRR_WORDS}", f"{published.CIRR_CLOSED_LOOPS}"
    sizes.add_row("paper, all splits", *numbers, words, loops, end_section=True)
    answers.add_row("paper, all splits", *(_number(v, 2) for v in total.answered))
    console.print(sizes, answers)
    console.print("Where the released files and the paper differ:")
    for note in published.CIRR_NOTES:
        console.print(f"  • {escape(note)}", highlight=False)


def _fashion_iq_statistics(report: DoctorReport, console: Console) -> None:
    columns = ("split", "rows", "images listed", "images in rows", "words per caption")
    table = _table("This folder / published sizes of the validation sets", *columns)
    measured = report.findings.fashion_iq_statistics
    for (category, split), s in measured.items():
        if s.rows is None and s.images is None:
            continue
        paper = published.FASHION_IQ_VAL.get(category) if split == "val" else None
        sizes = ((s.rows, paper.rows if paper else None), (s.images, paper.original_gallery if paper else None))
        cells = [
            _beside(m, p) if paper else _number(m)
            for m, p in (*sizes, (s.images_in_rows, paper.val_gallery if paper else None))
        ]
        table.add_row(f"{category}/{split}", *cells, _number(s.words, 2))
    captions = sum(s.captions or 0 for s in measured.values())
    words = sum((s.captions or 0) * (s.words or 0.0) for s in measured.values())
    mean = words / captions if captions else None
    table.add_row("all", "", "", "", f"{_number(mean, 2)} / {published.FASHION_IQ_WORDS}")
    console.print(table)
    for note in published.FASHION_IQ_NOTES:
        console.print(f"  • {escape(note)}", highlight=False)


def _verdict(report: DoctorReport, console: Console) -> None:
    for note in report.findings.notes:
        console.print(f"[yellow]Note:[/] {escape(note)}", highlight=False)
    for problem in report.findings.problems:
        console.print(f"[red]Problem:[/] {escape(problem)}", highlight=False)
    if report.trainable:
        checked = "" if report.pictures is not None else " (pictures were not looked at)"
        console.print(f"[bold green]A training can start from this folder{checked}.[/]")
    else:
        console.print("[bold red]No training can start from this folder yet.[/]")
