"""Fashion-IQ's measures with every switch of the published conventions explicit.

- ``gallery``: ``original`` ranks all images of the split file; ``val`` only those that occur in the split's pairs.
- ``reference``: ``keep`` leaves the reference image in the ranking, ``drop`` takes it out.
- ``captions``: how a row's two captions were read: ``12`` and ``21`` joined to one sentence, ``both`` as two queries
  that count like any others, ``mean`` as two queries whose scores against each image are averaged before ranking,
  so that a row is one query again.
- ``average``: ``macro`` over categories or ``micro`` over queries.

A row without a target, with a target outside the gallery, or whose target is the dropped reference, is a miss at
every K and counted under ``irregular`` in the protocol; no row is left out of the averages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation.metrics import hit_at
from neucore_xl.evaluation.ranking import ABSENT, Chunk, Ints, Scores, checked, columns, rank_of_target
from neucore_xl.evaluation.result import Result

GalleryRule = Literal["original", "val"]
ReferenceRule = Literal["keep", "drop"]
Captions = Literal["12", "21", "both", "mean"]
Average = Literal["macro", "micro"]
RECALL_K = (10, 50)
_ONE_CAPTION = re.compile(r"-[a-z]$")


@dataclass(frozen=True)
class Line:
    """One choice of all switches: one line of a results table."""

    gallery: GalleryRule = "original"
    reference: ReferenceRule = "keep"
    captions: Captions = "12"
    average: Average = "macro"

    def __post_init__(self) -> None:
        for value, kind in (
            (self.gallery, GalleryRule),
            (self.reference, ReferenceRule),
            (self.captions, Captions),
            (self.average, Average),
        ):
            if value not in get_args(kind):
                raise UserError(f"{value!r} is not a Fashion-IQ switch here: choose {', '.join(get_args(kind))}")

    @property
    def name(self) -> str:
        return f"{self.gallery}-{self.reference}-{self.captions}-{self.average}"


#: The CLIP line of work, and the other camp.
DEFAULT_LINES = (Line("original", "keep", "12", "macro"), Line("val", "drop", "12", "macro"))


def evaluate(
    split: Split,
    chunks_by_category: Mapping[str, Iterable[Chunk]],
    *,
    reference: ReferenceRule = "keep",
    captions: Captions = "12",
    average: Average = "macro",
    gallery: GalleryRule = "original",
) -> Result:
    """Recall@10 and @50 per category, their averages, and ``mean`` = (R@10 + R@50) / 2, in percent.

    Args:
        split: a labelled split opened with ``gallery="original"`` (and ``captions="both"`` for ``both`` and ``mean``).
            The rows of a category are its triplets in order, the columns its gallery's names in order.
        chunks_by_category: category → consecutive ``(first query, scores [q, G])``.
        gallery: ``val`` selects the columns here, so that one encoding serves both conventions; a split that was
            opened with ``gallery="val"`` must say so here too.

    Raises:
        UserError: the split carries no labels, a switch is unknown, or scores are NaN.
    """
    return evaluate_lines(split, chunks_by_category, (Line(gallery, reference, captions, average),))[0]


def evaluate_lines(
    split: Split, chunks_by_category: Mapping[str, Iterable[Chunk]], lines: Sequence[Line] = DEFAULT_LINES
) -> list[Result]:
    """Several lines from one pass over the scores; otherwise as :func:`evaluate`. All lines read captions alike."""
    if not any(t.target for t in split.triplets):
        raise UserError(
            f"split {split.name} of {split.dataset} carries no labels, so no measure can be computed: evaluate val"
        )
    if len({line.captions for line in lines}) != 1:
        raise ValueError("the lines of one pass must read the captions alike")
    _check_reading(split, lines[0].captions)
    missing = [c for c in split.galleries if c not in chunks_by_category]
    if missing:
        raise ValueError(f"no scores for categories {missing}")
    tallies = [_Tally(line) for line in lines]
    for category, names in ((c, g.names) for c, g in split.galleries.items()):
        triplets = [t for t in split.triplets if (t.category or "") == category]
        if not triplets:
            continue
        rows: Iterable[tuple[list[Triplet], Scores]]
        rows = _with_triplets(triplets, chunks_by_category[category], len(names))
        if lines[0].captions == "mean":
            rows = _averaged(rows)
        paired = columns([*(t.reference for t in triplets), *(t.target for t in triplets)], names)
        outside = np.ones(len(names), dtype=bool)
        outside[paired[paired != ABSENT]] = False  # the images that gallery "val" does without
        for tally in tallies:
            tally.open(category, len(names) if tally.line.gallery == "original" else int((~outside).sum()))
        for part, scores in rows:
            for tally in tallies:
                tally.add(part, scores, names, outside)
    return [tally.result(split) for tally in tallies]


def base_id(triplet_id: str) -> str:
    """The row behind a query: the id without the ``-a``, ``-b``, … of a single caption."""
    return _ONE_CAPTION.sub("", triplet_id)


def _check_reading(split: Split, captions: Captions) -> None:
    """Refuse a split whose queries were not read as ``captions`` says (a paired id ends with -a or -b)."""
    paired = any(_ONE_CAPTION.search(t.id) for t in split.triplets)
    wants = captions in ("both", "mean")
    if paired != wants:
        raise UserError(
            f"captions {captions} needs a split opened with captions={'both' if wants else captions}, "
            f"but its rows were read as {'two queries' if paired else 'one query'} each"
        )


class _Tally:
    """Ranks of one line, collected category by category."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.galleries: dict[str, int] = {}
        self.irregular: Counter[str] = Counter()
        self.ids: list[str] = []
        self.categories: list[str] = []
        self.ranks: list[Ints] = []

    def open(self, category: str, gallery: int) -> None:
        self.category = category
        self.galleries[category] = gallery

    def add(
        self,
        triplets: Sequence[Triplet],
        scores: Scores,
        names: Sequence[str],
        outside: NDArray[np.bool_],
    ) -> None:
        reference = columns([t.reference for t in triplets], names)
        target = columns([t.target for t in triplets], names)
        out = np.zeros(scores.shape, dtype=bool)
        if self.line.gallery == "val":
            out |= outside
        if self.line.reference == "drop":
            present = np.flatnonzero(reference != ABSENT)
            out[present, reference[present]] = True
        self.ranks.append(rank_of_target(scores, target, out))
        for i, t in enumerate(triplets):
            self.ids.append(base_id(t.id) if self.line.captions == "mean" else t.id)
            self.categories.append(self.category)
            self.irregular["no target"] += t.target is None
            self.irregular["target not in the gallery"] += t.target is not None and target[i] == ABSENT
            self.irregular["target is the reference"] += t.target == t.reference
            self.irregular["reference not in the gallery"] += reference[i] == ABSENT

    def result(self, split: Split) -> Result:
        rank = np.concatenate(self.ranks)
        category = np.array(self.categories, dtype=np.str_)
        metrics: dict[str, float] = {}
        per_category: dict[str, float] = {}
        for k in RECALL_K:
            hits = hit_at(rank, k)
            by_category = {c: float(hits[category == c].mean()) for c in self.galleries}
            per_category |= {f"{c}/R@{k}": v for c, v in by_category.items()}
            macro = float(np.mean(list(by_category.values())))
            metrics[f"R@{k}"] = macro if self.line.average == "macro" else float(hits.mean())
        metrics["mean"] = (metrics["R@10"] + metrics["R@50"]) / 2
        per_category |= {
            f"{c}/mean": (per_category[f"{c}/R@10"] + per_category[f"{c}/R@50"]) / 2 for c in self.galleries
        }
        protocol = {
            "dataset": split.dataset,
            "split": split.name,
            "gallery": self.line.gallery,
            "reference": self.line.reference,
            "captions": self.line.captions,
            "average": self.line.average,
            "gallery_sizes": self.galleries,
            "ties": "against the target",
            "mean": "(R@10 + R@50) / 2",
            "irregular": {k: int(v) for k, v in self.irregular.items() if v},
        }
        return Result(
            protocol=protocol,
            metrics=metrics | per_category,
            ids=tuple(self.ids),
            per_query={"rank": rank, "mean": (hit_at(rank, 10) + hit_at(rank, 50)) / 2},
            strata=category if self.line.average == "macro" else None,
        )


def _with_triplets(
    triplets: Sequence[Triplet], chunks: Iterable[Chunk], gallery: int
) -> Iterator[tuple[list[Triplet], Scores]]:
    for rows, scores in checked(chunks, [t.id for t in triplets], gallery):
        yield list(triplets[rows]), scores


def _averaged(rows: Iterable[tuple[list[Triplet], Scores]]) -> Iterator[tuple[list[Triplet], Scores]]:
    """The queries of a row as one, with the mean of their scores.

    A caption without words says nothing and is left out of the mean, unless the row holds no other. The queries of
    a row stand next to each other (the reader yields them so); raises ``ValueError`` where they do not.
    """
    seen: set[str] = set()
    waiting: list[tuple[Triplet, Scores]] = []

    def close() -> tuple[Triplet, Scores]:
        said = [row for triplet, row in waiting if triplet.text.strip()]
        return waiting[0][0], np.mean(said or [row for _, row in waiting], axis=0)

    for triplets, scores in rows:
        done = []
        for triplet, row in zip(triplets, scores, strict=True):
            base = base_id(triplet.id)
            if waiting and base_id(waiting[0][0].id) != base:
                done.append(close())
                waiting = []
            if not waiting:
                if base in seen:
                    raise ValueError(f"the queries of row {base} do not stand next to each other")
                seen.add(base)
            waiting.append((triplet, row.copy()))  # a copy: the chunk itself need not stay alive
        if done:
            yield [t for t, _ in done], np.stack([row for _, row in done])
    if waiting:
        last, row = close()
        yield [last], row[None]
