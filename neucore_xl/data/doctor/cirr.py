"""What the doctor collects from a folder in CIRR's format."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from neucore_xl.data import cirr
from neucore_xl.data.doctor import rows_cirr
from neucore_xl.data.doctor.report import Clash, Findings, SplitFacts, read_or_none
from neucore_xl.data.doctor.statistics_cirr import CirrStatistics, MeasuredSplit, measure
from neucore_xl.errors import UserError

SPLITS = ("train", "val", "test1")
LABELLED = ("train", "val")


def collect(root: Path) -> Findings:
    """Everything that the annotation files below ``root`` tell; no picture is looked for."""
    findings = Findings()
    there = {*cirr.splits_in(root), *(p.name.split(".")[2] for p in root.glob("image_splits/split.rc2.*.json"))}
    splits = (*SPLITS, *sorted(there - set(SPLITS)))
    findings.statistics = CirrStatistics({split: _split(root, split, findings) for split in splits})
    return findings


def _split(root: Path, split: str, findings: Findings) -> MeasuredSplit:
    needed = split in LABELLED
    captions = cirr.captions_path(root, split)
    raws = read_or_none(findings, root, captions, list, split, required=needed)
    images = read_or_none(findings, root, cirr.image_map_path(root, split), dict, split, required=needed)
    extended = cirr.extended_path(root, split)
    auxiliary = read_or_none(findings, root, extended, list, split, required=False)

    listed = _image_map(root, split, images, findings) if images is not None else None
    rows: list[cirr.Row] | None = None
    if raws is not None:
        rows, malformed = rows_cirr.parse_rows(raws, captions.name, split)
        findings.irregular += malformed
        findings.irregular += rows_cirr.examine(rows, split, listed, labelled=needed)
        if needed and not raws:
            findings.problems.append(f"{captions.relative_to(root)} holds no rows.")
        if auxiliary is not None:
            findings.irregular += rows_cirr.examine_auxiliary(auxiliary, rows, split)
    members = {name for row in rows or () for name in row.members}
    findings.splits.append(SplitFacts.of(split, None if raws is None else len(raws), rows, listed, members))
    if needed:
        findings.needed.update(_needed(split, rows or [], listed or {}))
    return measure(rows, None if listed is None else len(listed), auxiliary)


def _image_map(root: Path, split: str, images: dict[str, Any], findings: Findings) -> dict[str, Path]:
    where = cirr.image_map_path(root, split).relative_to(root)
    listed, bad = {}, []
    for name, relative in images.items():
        try:
            listed[name] = cirr.image_file(root, name, relative, str(where))
        except UserError as error:
            bad.append(str(error))
    if bad:
        findings.note(f"Paths that are refused: {len(bad):,}, the first is: {bad[0]}", fatal=split in LABELLED)
    findings.image_lists["", split] = tuple(listed)
    findings.paths["", split] = listed
    for path, count in Counter(listed.values()).items():
        if count > 1:
            names = tuple(name for name, other in listed.items() if other == path)
            findings.clashes.append(Clash("one-file", f"{where}: {', '.join(names)} are one file", names))
    for name, path in listed.items():
        if name not in (path.stem, path.relative_to(root / "img_raw").as_posix()):
            findings.clashes.append(Clash("other-name", f"{where}: {name} lies in a file called {path.name}", (name,)))
    return listed


def _needed(split: str, rows: list[cirr.Row], listed: dict[str, Path]) -> set[str]:
    """Images that a training opens: of train those of the pairs and subsets, of val the whole gallery."""
    if split == "val":
        return set(listed)
    return {name for row in rows for name in (row.reference, row.target, *row.members) if name}
