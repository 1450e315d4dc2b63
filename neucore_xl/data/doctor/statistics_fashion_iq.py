"""Statistics of Fashion-IQ's annotations beside the published sizes of its validation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from neucore_xl.data import fashion_iq
from neucore_xl.data.doctor.statistics import mean_words

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes of a validation set: rows, images of the split file, images that occur in rows."""

    rows: int
    original_gallery: int
    val_gallery: int


# The sizes that published evaluations use; the released validation files have exactly these.
PUBLISHED_VAL: dict[str, PublishedSizes] = {
    "dress": PublishedSizes(2017, 3817, 2628),
    "shirt": PublishedSizes(2038, 6346, 3089),
    "toptee": PublishedSizes(1961, 5373, 2902),
}
WORDS = 5.3  # Liu et al., ICCV 2021, Table 1: mean words of a caption
NOTES = ("Words are counted per caption as runs of characters between blanks; 5.3 is from Table 1 of the CIRR paper.",)


@dataclass(frozen=True)
class MeasuredSplit:
    """One category of one split of a folder."""

    rows: int | None
    images: int | None
    images_in_rows: int | None
    words: float | None  # mean words of a caption
    captions: int | None


@dataclass(frozen=True)
class FashionIqStatistics:
    """(category, split) → what was measured of it."""

    measured: Mapping[tuple[str, str], MeasuredSplit]

    def to_json(self) -> dict[str, Any]:
        """Measured and published figures."""
        return {
            "measured": {f"{category}/{split}": asdict(v) for (category, split), v in self.measured.items()},
            "published": {f"{category}/val": asdict(sizes) for category, sizes in PUBLISHED_VAL.items()},
            "published_words": WORDS,
            "notes": list(NOTES),
        }

    def print(self, console: Console) -> None:
        """One table, this folder's figures beside the published ones."""
        from neucore_xl.data.doctor.tables import beside, cell, table

        columns = ("split", "rows", "images listed", "images in rows", "words per caption")
        shown = table("This folder / published sizes of the validation sets", *columns)
        for (category, split), here in self.measured.items():
            if here.rows is None and here.images is None:
                continue
            numbers = (here.rows, here.images, here.images_in_rows)
            sizes = PUBLISHED_VAL.get(category) if split == "val" else None
            if sizes is None:
                cells = [Text(cell(number)) for number in numbers]
            else:
                published = (sizes.rows, sizes.original_gallery, sizes.val_gallery)
                cells = [beside(number, paper) for number, paper in zip(numbers, published, strict=True)]
            shown.add_row(f"{category}/{split}", *cells, cell(here.words, 2))
        captions = sum(here.captions or 0 for here in self.measured.values())
        words = sum((here.captions or 0) * (here.words or 0.0) for here in self.measured.values())
        mean = words / captions if captions else None
        shown.add_row("all", "", "", "", f"{cell(mean, 2)} / {WORDS}")
        console.print(shown)
        for note in NOTES:
            console.print(f"  • {note}")


def measure(rows: Sequence[fashion_iq.Row] | None, images: int | None) -> MeasuredSplit:
    """Of the rows of one category and split, and the number of images of its split file."""
    if rows is None:
        return MeasuredSplit(None, images, None, None, None)
    used = {name for row in rows for name in (row.reference, row.target) if name}
    captions = [caption for row in rows for caption in row.captions]
    return MeasuredSplit(len(rows), images, len(used), mean_words(captions), len(captions))
