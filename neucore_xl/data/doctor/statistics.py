"""Statistics of annotations: Tables 2 and 6 of the CIRR paper, sizes of Fashion-IQ, length of the captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neucore_xl.data import cirr, fashion_iq
from neucore_xl.data.doctor.rows_cirr import LOOP, QUESTIONS


@dataclass(frozen=True)
class CirrStatistics:
    """One split of CIRR; percentages are of pairs or of subsets, None where the files do not tell."""

    subsets: int | None
    pairs: int | None
    pairs_per_subset: float | None
    images: int | None
    answered: tuple[float, ...] | None  # percent of pairs with an answer to questions 0 to 3
    covered: tuple[float, ...] | None  # the same, an answer "[cr1] Covered in query" counted in
    closed_loops: float | None  # percent of subsets with all six pairs of the loop
    words: float | None  # mean words of a caption


@dataclass(frozen=True)
class FashionIqStatistics:
    """One category of one split of Fashion-IQ."""

    rows: int | None
    images: int | None
    images_in_rows: int | None
    words: float | None  # mean words of a caption
    captions: int | None


def cirr_statistics(
    rows: Sequence[cirr.Row] | None, images: int | None, auxiliary: Sequence[Any] | None
) -> CirrStatistics:
    """Of the rows of one split, the number of images of its split file and the rows of its auxiliary file."""
    if rows is None:
        return CirrStatistics(None, None, None, images, None, None, None, None)
    subsets: dict[str, set[tuple[Any, Any]]] = defaultdict(set)
    labelled = False
    for row in rows:
        labelled = labelled or row.target is not None
        if isinstance(row.reference_rank, int) and isinstance(row.target_rank, int):
            subsets[row.set_id].add((row.reference_rank, row.target_rank))
        else:
            subsets[row.set_id].update(())
    loops = [set(LOOP) <= pairs for pairs in subsets.values()]
    ratio = len(rows) / len(subsets) if subsets else None
    loop_share = percent(loops) if labelled else None
    answered, covered = _answered(auxiliary) if auxiliary else (None, None)
    words = mean_words([row.caption for row in rows])
    return CirrStatistics(len(subsets), len(rows), ratio, images, answered, covered, loop_share, words)


def _answered(auxiliary: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    answers = [raw["caption_extend"] for raw in auxiliary if isinstance(raw, dict) and _has_answers(raw)]
    texts = {q: [a[q] if isinstance(a.get(q), str) else "" for a in answers] for q in QUESTIONS}
    answered = tuple(percent([cirr.is_answer(t) for t in texts[q]]) or 0.0 for q in QUESTIONS)
    covered = tuple(percent([cirr.is_answer(t) or t.startswith("[cr1]") for t in texts[q]]) or 0.0 for q in QUESTIONS)
    return answered, covered


def _has_answers(raw: Mapping[str, Any]) -> bool:
    return isinstance(raw.get("caption_extend"), dict)


def fashion_iq_statistics(rows: Sequence[fashion_iq.Row] | None, images: int | None) -> FashionIqStatistics:
    """Of the rows of one category and split, and the number of images of its split file."""
    if rows is None:
        return FashionIqStatistics(None, images, None, None, None)
    used = {name for row in rows for name in (row.reference, row.target) if name}
    captions = [caption for row in rows for caption in row.captions]
    return FashionIqStatistics(len(rows), images, len(used), mean_words(captions), len(captions))


def mean_words(captions: Sequence[str]) -> float | None:
    """Mean number of words (runs between blanks); None of no captions."""
    return sum(len(c.split()) for c in captions) / len(captions) if captions else None


def percent(flags: Iterable[bool]) -> float | None:
    """Share of true values in percent; None of no values."""
    values = list(flags)
    return 100.0 * sum(values) / len(values) if values else None


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
