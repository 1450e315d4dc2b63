"""Published figures of the two datasets, as data, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

CIRR_PAPER = "Liu et al., ICCV 2021"
TABLE_2 = f"{CIRR_PAPER}, Table 2"
TABLE_6 = f"{CIRR_PAPER}, supplement, Table 6"


@dataclass(frozen=True)
class CirrFigures:
    """One row of Tables 2 and 6: counts, pairs per subset, and the pairs with an answer to Q1–Q4 in percent."""

    subsets: int
    pairs: int
    pairs_per_subset: float
    images: int
    answered: tuple[float, float, float, float]


CIRR: dict[str, CirrFigures] = {
    "train": CirrFigures(3345, 28225, 7.54, 16939, (66.72, 68.09, 48.06, 58.45)),
    "val": CirrFigures(503, 4184, 8.32, 2297, (71.87, 67.67, 49.43, 64.66)),
    "test1": CirrFigures(503, 4148, 8.25, 2316, (69.62, 69.01, 46.44, 63.00)),
    "total": CirrFigures(4351, 36554, 8.40, 21552, (67.65, 68.15, 48.02, 59.69)),
}
CIRR_WORDS = 11.3  # CIRR_PAPER, Table 1: mean words of a sentence
CIRR_CLOSED_LOOPS = 71.1  # CIRR_PAPER, supplement, section D: subsets with all six pairs of the loop, in percent
FASHION_IQ_WORDS = 5.3  # CIRR_PAPER, Table 1


@dataclass(frozen=True)
class FashionIqFigures:
    """Sizes of a Fashion-IQ validation set: rows, images of the split file, images that occur in rows."""

    rows: int
    original_gallery: int
    val_gallery: int


# The sizes that published evaluations use; the released validation files have exactly these.
FASHION_IQ_VAL: dict[str, FashionIqFigures] = {
    "dress": FashionIqFigures(2017, 3817, 2628),
    "shirt": FashionIqFigures(2038, 6346, 3089),
    "toptee": FashionIqFigures(1961, 5373, 2902),
}

# What a reader who compares the columns would stumble over.
CIRR_NOTES = (
    "Table 2 prints 4,184 validation pairs; the released rc2 file holds 4,181, and only with that does the printed "
    "total of 36,554 add up.",
    "Table 2 prints 7.54 training pairs per subset; its own 28,225 pairs in 3,345 subsets make 8.44.",
    "Table 2 prints 2,316 test images; the released rc2 split file lists 2,315.",
    "The percentages of Table 6 are not those of the released rc2 auxiliary files, where more pairs have an answer; "
    "an answer is counted here unless it is one of the codes [c], [cr0] and [cr1].",
    "Words are counted here as runs of characters between blanks; the paper does not say how it counts, and its "
    "11.3 is over all splits.",
)
FASHION_IQ_NOTES = (
    "Words are counted per caption as runs of characters between blanks; 5.3 is from Table 1 of the CIRR paper.",
)
