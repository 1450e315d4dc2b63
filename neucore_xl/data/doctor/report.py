"""What the doctor found, as data and as JSON; the printing is next door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from neucore_xl.data.doctor import statistics as published
from neucore_xl.data.doctor.kinds import KINDS, Irregular
from neucore_xl.data.doctor.pictures import PictureCheck
from neucore_xl.data.doctor.statistics import CirrStatistics, FashionIqStatistics
from neucore_xl.data.jsonfile import read_json
from neucore_xl.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class FileFact:
    """An annotation file: where, and whether it is ``there``, ``missing``, ``missing (optional)`` or ``unreadable``."""

    path: str
    state: str
    required: bool


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split (Fashion-IQ: of one category of it); None where the file is missing."""

    name: str
    rows: int | None
    with_target: int | None
    images: int | None
    images_in_no_row: tuple[str, ...] = ()
    images_in_no_subset: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clash:
    """Names that may be taken for one another: ``kind`` is ``case``, ``json-key``, ``one-file``, ``listed-twice``, …"""

    kind: str
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """Images that two split files have in common, by name or (``same_bytes``) as equal files under two names."""

    one: str
    other: str
    across_splits: bool
    names: tuple[str, ...]
    same_bytes: bool = False


@dataclass
class Findings:
    """Filled while the files are read."""

    files: list[FileFact] = field(default_factory=list)
    splits: list[SplitFacts] = field(default_factory=list)
    irregular: list[Irregular] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # each keeps a training from starting
    notes: list[str] = field(default_factory=list)  # worth knowing, no more
    needed: set[str] = field(default_factory=set)  # images that a training opens
    image_lists: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # (category, split) → names
    paths: dict[tuple[str, str], Mapping[str, Path]] = field(default_factory=dict)
    cirr_statistics: Mapping[str, CirrStatistics] = field(default_factory=dict)
    fashion_iq_statistics: Mapping[tuple[str, str], FashionIqStatistics] = field(default_factory=dict)

    def note(self, split: str, text: str, *, fatal: bool) -> None:
        (self.problems if fatal else self.notes).append(text)


def read_or_none(
    findings: Findings, root: Path, path: Path, expect: type[T], split: str, *, required: bool
) -> T | None:
    """The content of ``path``, or None with a line in the report that says why not."""
    shown = str(path.relative_to(root))
    if not path.exists():
        findings.files.append(FileFact(shown, "missing", required))
        if required:
            findings.problems.append(f"{shown} is missing.")
        return None
    clashes: list[str] = []
    try:
        value = read_json(path, expect, clashes=clashes)
    except UserError as error:
        findings.files.append(FileFact(shown, "unreadable", required))
        # A damaged optional file stops the readers too: they do not guess what it said.
        findings.note(split, str(error), fatal=required or split in ("train", "val"))
        return None
    findings.files.append(FileFact(shown, "there", required))
    for key in dict.fromkeys(clashes):
        findings.clashes.append(Clash("json-key", f"{shown}: key {key!r} is twice in one object", (key,)))
    return value


@dataclass(frozen=True)
class DoctorReport:
    """The whole report; ``pictures`` is None where no picture was looked at."""

    dataset: str
    root: Path
    findings: Findings
    pictures: PictureCheck | None

    @property
    def trainable(self) -> bool:
        """Whether a training on ``train`` with validation on ``val`` can start."""
        return not self.findings.problems

    @property
    def irregular(self) -> dict[str, list[Irregular]]:
        """Kind → irregular rows of it, in the order of the catalogue."""
        found: dict[str, list[Irregular]] = {kind: [] for kind in KINDS}
        for row in self.findings.irregular:
            found[row.kind].append(row)
        return {kind: rows for kind, rows in found.items() if rows}

    def to_json(self) -> dict[str, Any]:
        """Everything, no list cut short."""
        f = self.findings
        return {
            "dataset": self.dataset,
            "root": str(self.root),
            "trainable": self.trainable,
            "problems": f.problems,
            "notes": f.notes,
            "files": [asdict(file) for file in f.files],
            "splits": [asdict(split) for split in f.splits],
            "irregular": {
                kind: {
                    "meaning": KINDS[kind].meaning,
                    "fatal": KINDS[kind].fatal,
                    "count": len(rows),
                    "rows": [{"id": r.id, "split": r.split, "detail": r.detail} for r in rows],
                }
                for kind, rows in self.irregular.items()
            },
            "name_clashes": [asdict(clash) for clash in f.clashes],
            "shared_images": [asdict(shared) for shared in f.shared],
            "images": None if self.pictures is None else asdict(self.pictures),
            "statistics": self._statistics(),
        }

    def _statistics(self) -> dict[str, Any]:
        if self.dataset == "cirr":
            return {
                "measured": {split: asdict(s) for split, s in self.findings.cirr_statistics.items()},
                "published": {split: asdict(row) for split, row in published.CIRR.items()},
                "published_words": published.CIRR_WORDS,
                "published_closed_loops": published.CIRR_CLOSED_LOOPS,
                "sources": [published.TABLE_2, published.TABLE_6],
                "notes": list(published.CIRR_NOTES),
            }
        return {
            "measured": {f"{c}/{s}": asdict(v) for (c, s), v in self.findings.fashion_iq_statistics.items()},
            "published": {f"{c}/val": asdict(row) for c, row in published.FASHION_IQ_VAL.items()},
            "published_words": published.FASHION_IQ_WORDS,
            "notes": list(published.FASHION_IQ_NOTES),
        }

    def print(self, console: Console) -> None:
        """The report for a person: long lists are cut, ``to_json`` has them whole."""
        from neucore_xl.data.doctor.printed import print_report

        print_report(self, console)
