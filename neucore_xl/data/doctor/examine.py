"""The doctor: look at a data folder without changing it, and say whether a training can start from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from neucore_xl.data.datasets import Dataset, dataset_of, datasets_in, require_root
from neucore_xl.data.doctor import plain
from neucore_xl.data.doctor.kinds import KINDS
from neucore_xl.data.doctor.pictures import PictureCheck, check_pictures, name_clashes
from neucore_xl.data.doctor.report import Clash, DoctorReport, Findings, Shared

TRAINED_ON = ("train", "val")  # splits that a training opens


def examine(
    name: str, root: Path | str, *, images: bool = True, console: Console | None = None, workers: int = 0
) -> DoctorReport:
    """A report on the dataset ``name`` (``cirr``, ``fashion-iq`` or one of your own) below ``root``.

    ``images=False`` opens no picture and does not ask whether they are there. A bar runs on ``console`` while
    pictures are decoded, in ``workers`` processes (0: one per core). Nothing in the data raises: what cannot be
    read is part of the report. Raises ``UserError`` for a wrong call: an unknown name or a folder that does not exist.
    """
    dataset = dataset_of(name)
    root = Path(root)
    require_root(root)
    findings = dataset.examine(root) if dataset.examine is not None else plain.collect(dataset, root)
    findings.notes += _other_format(dataset, root)
    findings.clashes += [
        Clash("case", f"{split}: {', '.join(group)} differ in case alone", group)
        for split, names in _names_by_split(findings).items()
        for group in name_clashes(names)
    ]
    findings.shared += list(_shared(findings.image_lists))
    pictures = None
    if images:
        paths = _all_paths(findings)
        pictures = check_pictures(paths, console=console, workers=workers)
        findings.problems += _picture_problems(pictures, findings.needed)
        findings.shared += list(_shared_bytes(pictures, findings.image_lists))
    findings.problems += _row_problems(findings)
    return DoctorReport(name, root, findings, pictures, subsets=dataset.subsets)


def _all_paths(findings: Findings) -> dict[str, Path]:
    """Name → file over all splits; a name that lies elsewhere in another split is listed with that split."""
    paths: dict[str, Path] = {}
    for (_, split), listed in findings.paths.items():
        for name, path in listed.items():
            if paths.setdefault(name, path) != path:
                paths[f"{name} ({split})"] = path
    return paths


def _other_format(dataset: Dataset, root: Path) -> list[str]:
    present = datasets_in(root)
    if not present or dataset in present:
        return []
    return [f"The folder holds captions in the format of {present[0].name}: call the doctor with that name."]


def _names_by_split(findings: Findings) -> Mapping[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for (_, split), names in findings.image_lists.items():
        merged.setdefault(split, []).extend(names)
    return merged


def _shared(lists: Mapping[tuple[str, str], Sequence[str]]) -> Iterable[Shared]:
    """Names that two split files list; across splits this is leakage, across categories it is how it is."""
    keys = list(lists)
    sets = {key: set(names) for key, names in lists.items()}
    for i, one in enumerate(keys):
        for other in keys[i + 1 :]:
            common = [name for name in dict.fromkeys(lists[one]) if name in sets[other]]
            if common:
                yield Shared(_label(one), _label(other), one[1] != other[1], tuple(common))


def _shared_bytes(check: PictureCheck, lists: Mapping[tuple[str, str], Sequence[str]]) -> Iterable[Shared]:
    """Pictures of two splits that are the same file under different names."""
    splits: dict[str, set[str]] = {}
    for (_, split), names in lists.items():
        for name in names:
            splits.setdefault(name, set()).add(split)
    found: dict[tuple[str, str], list[str]] = {}
    for group in check.same_bytes:
        homes = sorted(set().union(*(splits.get(name, set()) for name in group)))
        for i, one in enumerate(homes):
            for other in homes[i + 1 :]:
                found.setdefault((one, other), []).append(" = ".join(group))
    for (one, other), groups in found.items():
        yield Shared(one, other, True, tuple(groups), same_bytes=True)


def _label(key: tuple[str, str]) -> str:
    category, split = key
    return f"{category}/{split}" if category else split


def _picture_problems(check: PictureCheck, needed: set[str]) -> list[str]:
    found = []
    missing = [name for name in check.missing if name in needed]
    if missing:
        found.append(f"Images that train or val needs are missing: {len(missing):,}, the first is {missing[0]}.")
    damaged = [name for name in check.unreadable if name in needed]
    if damaged:
        first = check.unreadable[damaged[0]]
        found.append(f"Images that train or val needs cannot be decoded: {len(damaged):,}, the first is: {first}")
    return found


def _row_problems(findings: Findings) -> list[str]:
    fatal = Counter((i.split, i.kind) for i in findings.irregular if KINDS[i.kind].fatal and i.split in TRAINED_ON)
    return [
        f"{count:,} × {kind} in {split}: {KINDS[kind].meaning}; mend the rows listed."
        for (split, kind), count in fatal.items()
    ]
