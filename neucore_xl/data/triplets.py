"""What every dataset yields: ``Triplet``, ``Gallery``, ``Split``. Nothing above knows a dataset's file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Triplet:
    """One query and, where the split is labelled, its answer.

    ``id`` is unique within its dataset (CIRR: the pair id as text; Fashion-IQ: ``dress-val-17``, the row in its
    file, with ``-a``/``-b`` behind it when the two captions are two queries). ``text`` is what the model reads;
    ``captions`` is what the file held. ``subset`` holds all members of the CIRR image set, the reference and the
    target among them, and is empty elsewhere.
    """

    id: str
    reference: str
    target: str | None
    text: str
    captions: tuple[str, ...] = ()
    category: str | None = None
    subset: tuple[str, ...] = ()
    target_soft: Mapping[str, float] = field(default_factory=dict)
    auxiliary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """The images that are ranked: names in file order (no repeats) and where each image lies.

    ``paths`` may point to files that are absent (annotations without images); whoever decodes reports that.
    """

    names: tuple[str, ...]
    paths: Mapping[str, Path]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Split:
    """One split as the rest of the project sees it.

    ``galleries`` has one entry per ranking universe: key ``""`` where there is one, else the category; a
    triplet is ranked in ``galleries[triplet.category or ""]``.
    """

    dataset: str  # its name in the registry: "cirr", "fashion-iq", ...
    name: str  # "train", "val", "test1", ...
    root: Path
    triplets: tuple[Triplet, ...]
    galleries: Mapping[str, Gallery]

    def image_path(self, name: str) -> Path:
        """Where image ``name`` of this split lies; raises ``KeyError`` for a name of no gallery."""
        for gallery in self.galleries.values():
            if name in gallery.paths:
                return gallery.paths[name]
        raise KeyError(name)

    @property
    def image_names(self) -> tuple[str, ...]:
        """All distinct images of the galleries and of the triplets, in first-seen order."""
        seen: dict[str, None] = {}
        for gallery in self.galleries.values():
            seen.update(dict.fromkeys(gallery.names))
        for t in self.triplets:
            seen.update(dict.fromkeys((t.reference, *((t.target,) if t.target else ()), *t.subset)))
        return tuple(seen)
