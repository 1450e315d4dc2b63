"""What the doctor found, as data and as JSON; the printing is next door."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neucore_xl.data.doctor.kinds import KINDS, Irregular
from neucore_xl.data.doctor.rows import Row
from neucore_xl.data.doctor.statistics import Statistics
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_json

if TYPE_CHECKING:
    from neucore_xl.data.doctor.pictures import PictureCheck

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

    @classmethod
    def of(
        cls,
        name: str,
        count: int | None,
        rows: Sequence[Row] | None,
        listed: Collection[str] | None,
        members: Collection[str] | None = None,
    ) -> SplitFacts:
        """Of the ``count`` rows of a file those that could be read, the names of its split file and of all subsets."""
        paired = {name for row in rows or () for name in (row.reference, row.target) if name}
        unused = tuple(name for name in listed or () if rows is not None and name not in paired)
        return cls(
            name=name,
            rows=count,
            with_target=None if rows is None else sum(row.target is not None for row in rows),
            images=None if listed is None else len(listed),
            images_in_no_row=unused,
            images_in_no_subset=() if members is None else tuple(name for name in unused if name not in members),
        )


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
    statistics: Statistics | None = None

    def note(self, text: str, *, fatal: bool) -> None:
        """A line of the verdict: a problem where it is ``fatal``, else worth knowing and no more."""
        (self.problems if fatal else self.notes).append(text)


@dataclass(frozen=True)
class DoctorReport:
    """The whole report; ``pictures`` is None where none was looked at; ``subsets``: the dataset has image sets."""

    dataset: str
    root: Path
    findings: Findings
    pictures: PictureCheck | None
    subsets: bool = False

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
            "statistics": None if f.statistics is None else f.statistics.to_json(),
        }


def read_or_none(
    findings: Findings, root: Path, path: Path, expect: type[T], split: str, *, required: bool
) -> T | None:
    """The content of ``path``, or None with a line in the report that says why not."""
    shown = str(path.relative_to(root))
    if not os.path.lexists(path):
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
        findings.note(str(error), fatal=required or split in ("train", "val"))
        return None
    findings.files.append(FileFact(shown, "there", required))
    for key in dict.fromkeys(clashes):
        findings.clashes.append(Clash("json-key", f"{shown}: key {key!r} is twice in one object", (key,)))
    return value
