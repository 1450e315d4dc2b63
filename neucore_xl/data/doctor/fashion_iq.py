"""What the doctor collects from a folder in Fashion-IQ's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from neucore_xl.data import fashion_iq
from neucore_xl.data.doctor import rows_fashion_iq as irregular_fashion_iq
from neucore_xl.data.doctor.report import Clash, Findings, SplitFacts, read_or_none
from neucore_xl.data.doctor.statistics import FashionIqStatistics, fashion_iq_statistics

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
    statistics: dict[tuple[str, str], FashionIqStatistics] = {}
    for category in categories or fashion_iq.CATEGORIES:
        for split in splits:
            statistics[category, split] = _split(root, category, split, files, findings)
    absent = [c for c in fashion_iq.CATEGORIES if c not in categories]
    if categories and absent:
        kept = ",".join(categories)
        findings.notes.append(f"No files of {', '.join(absent)}: train with data.categories=[{kept}].")
    findings.fashion_iq_statistics = statistics
    for name, several in files.items():
        if len(several) > 1:
            shown = ", ".join(p.name for p in several)
            findings.clashes.append(Clash("several-files", f"images/: {shown} (the first is read)", (name,)))
    return findings


def _there(root: Path, prefix: str) -> set[tuple[str, str]]:
    found = {(p.name.split(".")[1], p.name.split(".")[2]) for p in root.glob(f"{prefix}.*.*.json")}
    return {(category, split) for category, split in found if category != fashion_iq.OTHER_FORMAT}


def _split(
    root: Path, category: str, split: str, files: dict[str, list[Path]], findings: Findings
) -> FashionIqStatistics:
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
            findings.note(split, f"{where}: {len(names) - len(good):,} entries are not texts.", fatal=needed)
        for name, count in Counter(good).items():
            if count > 1:
                findings.clashes.append(Clash("listed-twice", f"{where}: {name}, {count} times", (name,)))
        listed = {name: fashion_iq.image_path(root, name, files) for name in good}
        findings.image_lists[category, split] = tuple(listed)
        findings.paths[category, split] = listed
    rows: list[tuple[str, fashion_iq.Row]] | None = None
    if raws is not None:
        rows, malformed = irregular_fashion_iq.parse_rows(raws, captions.name, category, split)
        findings.irregular += malformed
        findings.irregular += irregular_fashion_iq.examine_rows(rows, split, listed, labelled=needed)
        if needed and not raws:
            findings.problems.append(f"{captions.relative_to(root)} holds no rows.")
    plain = None if rows is None else [row for _, row in rows]
    findings.splits.append(_facts(f"{category}/{split}", plain, raws, listed))
    if needed:
        findings.needed.update(_used(plain or ()) if split == "train" else listed or ())
    return fashion_iq_statistics(plain, None if listed is None else len(listed))


def _used(rows: Sequence[fashion_iq.Row]) -> set[str]:
    return {name for row in rows for name in (row.reference, row.target) if name}


def _facts(
    name: str, rows: list[fashion_iq.Row] | None, raws: list[object] | None, listed: dict[str, Path] | None
) -> SplitFacts:
    used = _used(rows or ())
    return SplitFacts(
        name=name,
        rows=None if raws is None else len(raws),
        with_target=None if rows is None else sum(row.target is not None for row in rows),
        images=None if listed is None else len(listed),
        images_in_no_row=tuple(n for n in listed or () if rows is not None and n not in used),
    )
