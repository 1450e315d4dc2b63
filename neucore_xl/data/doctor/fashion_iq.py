"""What the doctor collects from a folder in Fashion-IQ's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from neucore_xl.data import fashion_iq
from neucore_xl.data.doctor import rows_fashion_iq
from neucore_xl.data.doctor.report import Clash, Findings, SplitFacts, read_or_none
from neucore_xl.data.doctor.statistics_fashion_iq import FashionIqStatistics, MeasuredSplit, measure
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import file_name

SPLITS = ("train", "val", "test")
LABELLED = ("train", "val")


def collect(root: Path) -> Findings:
    """Everything that the annotation files below ``root`` tell; of the pictures only their names are listed."""
    findings = Findings()
    files = fashion_iq.find_images(root)
    captions, lists = _there(root, "captions/cap"), _there(root, "image_splits/split")
    there = captions | lists
    categories = [c for c in fashion_iq.CATEGORIES if any(c == category for category, _ in there)]
    categories += sorted({category for category, _ in there} - set(categories))
    splits = (*SPLITS, *sorted({split for _, split in there} - set(SPLITS)))
    statistics: dict[tuple[str, str], MeasuredSplit] = {}
    for category in categories or fashion_iq.CATEGORIES:
        for split in splits:
            statistics[category, split] = _split(root, category, split, files, findings)
    absent = [c for c in fashion_iq.CATEGORIES if c not in categories]
    if categories and absent:
        kept = ",".join(categories)
        findings.notes.append(f"No files of {', '.join(absent)}: train with data.categories=[{kept}].")
    findings.statistics = FashionIqStatistics(statistics)
    for name, several in files.items():
        if len(several) > 1:
            shown = ", ".join(p.name for p in several)
            findings.clashes.append(Clash("several-files", f"images/: {shown} (the first is read)", (name,)))
    return findings


def _there(root: Path, prefix: str) -> set[tuple[str, str]]:
    found = {(p.name.split(".")[1], p.name.split(".")[2]) for p in root.glob(f"{prefix}.*.*.json")}
    return {(category, split) for category, split in found if category != fashion_iq.OTHER_FORMAT}


def _file_names(names: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """The names that files can have, and the sentences about the others."""
    good, bad = [], []
    for name in names:
        try:
            good.append(file_name(name, f"{where}, image name"))
        except UserError as error:
            bad.append(str(error))
    return good, bad


def _split(root: Path, category: str, split: str, files: dict[str, list[Path]], findings: Findings) -> MeasuredSplit:
    needed = split in LABELLED
    captions, image_list = (
        path(root, category, split) for path in (fashion_iq.captions_path, fashion_iq.image_list_path)
    )
    raws = read_or_none(findings, root, captions, list, split, required=needed)
    names = read_or_none(findings, root, image_list, list, split, required=needed)

    listed: dict[str, Path] | None = None
    if names is not None:
        where = image_list.relative_to(root)
        good = [name for name in names if isinstance(name, str)]
        if len(good) != len(names):
            findings.note(f"{where}: {len(names) - len(good):,} entries are not texts.", fatal=needed)
        good, bad = _file_names(good, str(where))
        if bad:
            findings.note(f"Image names that are refused: {len(bad):,}, the first is: {bad[0]}", fatal=needed)
        for name, count in Counter(good).items():
            if count > 1:
                findings.clashes.append(Clash("listed-twice", f"{where}: {name}, {count} times", (name,)))
        listed = {name: fashion_iq.image_path(root, name, files) for name in good}
        findings.image_lists[category, split] = tuple(listed)
        findings.paths[category, split] = listed
    rows: list[fashion_iq.Row] | None = None
    if raws is not None:
        rows, malformed = rows_fashion_iq.parse_rows(raws, captions.name, category, split)
        findings.irregular += malformed
        findings.irregular += rows_fashion_iq.examine(rows, split, listed, labelled=needed)
        if needed and not raws:
            findings.problems.append(f"{captions.relative_to(root)} holds no rows.")
    held = None if raws is None else len(raws)
    findings.splits.append(SplitFacts.of(f"{category}/{split}", held, rows, listed))
    if needed:
        paired = {name for row in rows or () for name in (row.reference, row.target) if name}
        findings.needed.update(paired if split == "train" else listed or ())
    return measure(rows, None if listed is None else len(listed))
