"""The doctor's report on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from neucore_xl.data.doctor.kinds import KINDS
from neucore_xl.data.doctor.report import DoctorReport
from neucore_xl.data.doctor.tables import cell, table

FIRST = 4  # ids, names or lines shown of a longer list


def print_report(report: DoctorReport, console: Console) -> None:
    """Files, splits, irregular rows, clashes, shared images, pictures, statistics, verdict."""
    console.print(Text.assemble((report.dataset, "bold"), f" in {report.root}"))
    _files(report, console)
    _splits(report, console)
    _irregular(report, console)
    _clashes(report, console)
    _shared(report, console)
    _pictures(report, console)
    if report.findings.statistics is not None:
        report.findings.statistics.print(console)
    _verdict(report, console)


def _files(report: DoctorReport, console: Console) -> None:
    shown = table("Annotation files", "file", "state", left=2)
    for file in report.findings.files:
        state = file.state if file.required or file.state != "missing" else "missing (not needed to train)"
        style = "red" if file.required and file.state != "there" else "green" if file.state == "there" else "yellow"
        shown.add_row(file.path, Text(state, style))
    console.print(shown)


def _splits(report: DoctorReport, console: Console) -> None:
    shown = table("Splits", "split", "rows", "with a target", "images listed", "images in no row", "in no subset")
    for split in report.findings.splits:
        if split.rows is None and split.images is None:
            continue
        none = None if split.rows is None or split.images is None else len(split.images_in_no_row)
        outside = None if not report.subsets or none is None else len(split.images_in_no_subset)
        numbers = (split.rows, split.with_target, split.images, none, outside)
        shown.add_row(split.name, *(cell(n) for n in numbers))
    console.print(shown)


def _irregular(report: DoctorReport, console: Console) -> None:
    found = report.irregular
    if not found:
        console.print("No irregular rows.")
        return
    present = {row.split for rows in found.values() for row in rows}
    order = dict.fromkeys(split.name.rpartition("/")[2] for split in report.findings.splits)
    splits = [split for split in order if split in present]
    columns = ("kind", "meaning", "first ids")
    shown = table("Irregular rows (all of them in the JSON report)", *columns, *splits, left=3)
    for kind, rows in found.items():
        counts = Counter(row.split for row in rows)
        ids = list(dict.fromkeys(row.id for row in rows))
        name = Text(kind, "red" if KINDS[kind].fatal else "")
        shown.add_row(name, KINDS[kind].meaning, _first(ids), *(f"{counts[s]:,}" if counts[s] else "" for s in splits))
    console.print(shown)
    rows_of = len({(row.split, row.id) for rows in found.values() for row in rows})
    fatal = " (kinds in red stop a training)" if any(KINDS[kind].fatal for kind in found) else ""
    console.print(f"{rows_of:,} rows are irregular in {len(found)} kinds{fatal}; none is dropped.")


def _clashes(report: DoctorReport, console: Console) -> None:
    clashes = report.findings.clashes
    console.print(_headed("Name clashes", f"{len(clashes) or 'none'}"))
    for clash in clashes[:FIRST]:
        console.print(f"  {clash.text}")
    if len(clashes) > FIRST:
        console.print(f"  … and {len(clashes) - FIRST:,} more in the JSON report")


def _shared(report: DoctorReport, console: Console) -> None:
    shared = report.findings.shared
    if not shared:
        console.print(_headed("Images shared between splits", "none"))
        return
    shown = table("Images that two split files share", "one", "other", "how", "images", "first", left=3)
    for pair in sorted(shared, key=lambda s: not s.across_splits):
        how = "same bytes" if pair.same_bytes else "across splits" if pair.across_splits else "same split"
        shown.add_row(pair.one, pair.other, how, f"{len(pair.names):,}", _first(pair.names[:2]))
    console.print(shown)


def _pictures(report: DoctorReport, console: Console) -> None:
    check = report.pictures
    if check is None:
        console.print(_headed("Pictures", "not looked at"))
        return
    modes = ", ".join(f"{mode} {count:,}" for mode, count in check.modes.items())
    console.print(_headed("Pictures", f"{check.checked:,} decoded or tried ({modes or 'none'})"))
    console.print(f"  missing: {len(check.missing):,} {_first(check.missing)}")
    console.print(f"  damaged: {len(check.unreadable):,}")
    for reason in list(check.unreadable.values())[:FIRST]:
        console.print(f"    {reason}")
    console.print(f"  groups of equal files under several names: {len(check.same_bytes):,}")


def _verdict(report: DoctorReport, console: Console) -> None:
    for note in report.findings.notes:
        console.print(_headed("Note", note, "yellow"))
    for problem in report.findings.problems:
        console.print(_headed("Problem", problem, "red"))
    if report.trainable:
        checked = "" if report.pictures is not None else " (pictures were not looked at)"
        console.print(f"A training can start from this folder{checked}.", style="bold green")
    else:
        console.print("No training can start from this folder yet.", style="bold red")


def _first(items: Sequence[str]) -> str:
    rest = f" … ({len(items) - FIRST:,} more)" if len(items) > FIRST else ""
    return ", ".join(items[:FIRST]) + rest


def _headed(head: str, text: str, style: str = "bold") -> Text:
    return Text.assemble((f"{head}:", style), f" {text}")
