"""Statistics of annotations: Tables 2 and 6 of the CIRR paper, sizes of Fashion-IQ, length of the captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neucore_xl.data import cirr, fashion_iq
from neucore_xl.data.irregular_cirr import LOOP, QUESTIONS


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
