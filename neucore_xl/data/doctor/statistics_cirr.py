"""Statistics of CIRR's annotations beside Tables 2 and 6 of its paper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from neucore_xl.data import cirr
from neucore_xl.data.doctor.rows_cirr import QUESTIONS
from neucore_xl.data.doctor.statistics import mean_words, percent
from neucore_xl.data.subsets.procedure import LOOP

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class PublishedSplit:
    """One row of Tables 2 and 6: counts, pairs per subset, and the pairs with an answer to Q1–Q4 in percent."""

    subsets: int
    pairs: int
    pairs_per_subset: float
    images: int
    answered: tuple[float, float, float, float]


PAPER = "Liu et al., ICCV 2021"
TABLE_2 = f"{PAPER}, Table 2"
TABLE_6 = f"{PAPER}, supplement, Table 6"
PUBLISHED: dict[str, PublishedSplit] = {
    "train": PublishedSplit(3345, 28225, 7.54, 16939, (66.72, 68.09, 48.06, 58.45)),
    "val": PublishedSplit(503, 4184, 8.32, 2297, (71.87, 67.67, 49.43, 64.66)),
    "test1": PublishedSplit(503, 4148, 8.25, 2316, (69.62, 69.01, 46.44, 63.00)),
    "total": PublishedSplit(4351, 36554, 8.40, 21552, (67.65, 68.15, 48.02, 59.69)),
}
WORDS = 11.3  # Table 1: mean words of a sentence
CLOSED_LOOPS = 71.1  # supplement, section D: subsets with all six pairs of the loop, in percent

# What a reader who compares the columns would stumble over.
NOTES = (
    "Table 2 prints 4,184 validation pairs; the released rc2 file holds 4,181, and only with that does the printed "
    "total of 36,554 add up.",
    "Table 2 prints 7.54 training pairs per subset; its own 28,225 pairs in 3,345 subsets make 8.44.",
    "Table 2 prints 2,316 test images; the released rc2 split file lists 2,315.",
    "The percentages of Table 6 are not those of the released rc2 auxiliary files, where more pairs have an answer; "
    "an answer is counted here unless it is one of the codes [c], [cr0] and [cr1].",
    "Words are counted here as runs of characters between blanks; the paper does not say how it counts, and its "
    "11.3 is over all splits.",
)


@dataclass(frozen=True)
class MeasuredSplit:
    """One split of a folder; percentages are of pairs or of subsets, None where the files do not tell."""

    subsets: int | None
    pairs: int | None
    pairs_per_subset: float | None
    images: int | None
    answered: tuple[float, ...] | None  # percent of pairs with an answer to questions 0 to 3
    covered: tuple[float, ...] | None  # the same, an answer "[cr1] Covered in query" counted in
    closed_loops: float | None  # percent of subsets with all six pairs of the loop
    words: float | None  # mean words of a caption


@dataclass(frozen=True)
class CirrStatistics:
    """Split → what was measured of it."""

    measured: Mapping[str, MeasuredSplit]

    def to_json(self) -> dict[str, Any]:
        """Measured and published figures with their sources."""
        return {
            "measured": {split: asdict(figures) for split, figures in self.measured.items()},
            "published": {split: asdict(figures) for split, figures in PUBLISHED.items()},
            "published_words": WORDS,
            "published_closed_loops": CLOSED_LOOPS,
            "sources": [TABLE_2, TABLE_6],
            "notes": list(NOTES),
        }

    def print(self, console: Console) -> None:
        """Table 2 and Table 6, this folder's figures beside the printed ones."""
        from neucore_xl.data.doctor.tables import beside, cell, table

        title = f"This folder / {TABLE_2}"
        sizes = table(title, "split", "subsets", "pairs", "pairs per subset", "images", "words", "closed loops %")
        title = f"Pairs with an auxiliary answer, %: this folder / {TABLE_6}"
        answers = table(title, "split", "Q1", "Q2", "Q3", "Q4")
        for split, here in self.measured.items():
            paper = PUBLISHED.get(split)
            sizes.add_row(
                split,
                beside(here.subsets, paper.subsets if paper else None),
                beside(here.pairs, paper.pairs if paper else None),
                beside(here.pairs_per_subset, paper.pairs_per_subset if paper else None, 2),
                beside(here.images, paper.images if paper else None),
                cell(here.words, 2),
                cell(here.closed_loops, 1),
            )
            shares = here.answered or (None,) * 4
            answers.add_row(split, *(beside(s, paper.answered[q] if paper else None, 2) for q, s in enumerate(shares)))
        total = PUBLISHED["total"]
        numbers = (cell(total.subsets), cell(total.pairs), cell(total.pairs_per_subset, 2), cell(total.images))
        sizes.add_row("paper, all splits", *numbers, f"{WORDS}", f"{CLOSED_LOOPS}", end_section=True)
        answers.add_row("paper, all splits", *(cell(share, 2) for share in total.answered))
        console.print(sizes, answers)
        console.print("Where the released files and the paper differ:")
        for note in NOTES:
            console.print(f"  • {note}")


def measure(rows: Sequence[cirr.Row] | None, images: int | None, auxiliary: Sequence[Any] | None) -> MeasuredSplit:
    """Of the rows of one split, the number of images of its split file and the rows of its auxiliary file."""
    if rows is None:
        return MeasuredSplit(None, None, None, images, None, None, None, None)
    subsets: dict[str, set[tuple[Any, Any]]] = defaultdict(set)
    for row in rows:
        ranked = isinstance(row.reference_rank, int) and isinstance(row.target_rank, int)
        subsets[row.set_id].update([(row.reference_rank, row.target_rank)] if ranked else [])
    labelled = any(row.target is not None for row in rows)
    answered, covered = _answered(auxiliary) if auxiliary else (None, None)
    return MeasuredSplit(
        subsets=len(subsets),
        pairs=len(rows),
        pairs_per_subset=len(rows) / len(subsets) if subsets else None,
        images=images,
        answered=answered,
        covered=covered,
        closed_loops=percent(set(LOOP) <= pairs for pairs in subsets.values()) if labelled else None,
        words=mean_words([row.caption for row in rows]),
    )


def _answered(auxiliary: Sequence[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    answers = [raw["caption_extend"] for raw in auxiliary if isinstance(raw, dict) and _has_answers(raw)]
    texts = {q: [a[q] if isinstance(a.get(q), str) else "" for a in answers] for q in QUESTIONS}
    answered = tuple(percent([cirr.is_answer(t) for t in texts[q]]) or 0.0 for q in QUESTIONS)
    covered = tuple(percent([cirr.is_answer(t) or t.startswith("[cr1]") for t in texts[q]]) or 0.0 for q in QUESTIONS)
    return answered, covered


def _has_answers(raw: Mapping[str, Any]) -> bool:
    return isinstance(raw.get("caption_extend"), dict)
