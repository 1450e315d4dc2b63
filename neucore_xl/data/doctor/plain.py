"""What the doctor collects of a dataset that brings no examination of its own: what its reader yields or refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neucore_xl.data.datasets import Dataset
from neucore_xl.data.doctor.kinds import Irregular
from neucore_xl.data.doctor.report import FileFact, Findings, SplitFacts
from neucore_xl.data.doctor.rows import Found, examine_rows, members_not_listed
from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Gallery, Split
from neucore_xl.errors import UserError

LABELLED = ("train", "val")


@dataclass(frozen=True)
class _Row:
    """A triplet with at least one caption, for the checks that all datasets share."""

    id: str
    reference: str
    target: str | None
    captions: tuple[str, ...]
    members: tuple[str, ...]


def collect(dataset: Dataset, root: Path) -> Findings:
    """Everything that the splits of ``dataset`` below ``root`` tell; no picture is looked for.

    A row that the reader refuses hides the rest of its split: only its own sentence is reported.
    """
    findings = Findings()
    present = dataset.splits(root)
    for name in (*LABELLED, *(split for split in present if split not in LABELLED)):
        needed = name in LABELLED
        state = "there"
        if name not in present:
            state = "missing"
            findings.note(f"There is no split {name}.", fatal=needed)
        else:
            try:
                _split(dataset.open(root, name, Switches(empty_text="keep")), findings, needed)
            except UserError as error:
                state = "unreadable"
                findings.note(str(error), fatal=needed)
        findings.files.append(FileFact(f"split {name}", state, needed))
    return findings


def _split(split: Split, findings: Findings, needed: bool) -> None:
    if needed and not split.triplets:
        findings.problems.append(f"Split {split.name} holds no rows.")
    for key, gallery in split.galleries.items():
        rows = [
            _Row(t.id, t.reference, t.target, t.captions or (t.text,), t.subset)
            for t in split.triplets
            if (t.category or "") == key
        ]
        findings.irregular += _irregular(rows, split.name, gallery, needed)
        members = {name for row in rows for name in row.members}
        label = f"{key}/{split.name}" if key else split.name
        findings.splits.append(SplitFacts.of(label, len(rows), rows, gallery.names, members))
        findings.image_lists[key, split.name] = gallery.names
        findings.paths[key, split.name] = gallery.paths
        if needed:
            findings.needed.update(_needed(split.name, rows, gallery))


def _irregular(rows: Sequence[_Row], split: str, gallery: Gallery, labelled: bool) -> list[Irregular]:
    listed = frozenset(gallery.names)

    def has_words(row: _Row) -> bool:
        return any(caption.strip() for caption in row.captions)

    def own(row: _Row) -> Iterator[Found]:
        yield from members_not_listed(row.members, listed)

    return examine_rows(rows, split, listed, labelled, has_words=has_words, own=own)


def _needed(split: str, rows: Sequence[_Row], gallery: Gallery) -> set[str]:
    """Images that a training opens: of train those of its rows, of val the whole gallery."""
    if split == "val":
        return set(gallery.names)
    return {name for row in rows for name in (row.reference, row.target, *row.members) if name}
