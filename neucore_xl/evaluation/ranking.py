"""Ranks and best-first lists from chunks of scores. Q queries, G gallery images; memory is O(chunk · G).

Ties never help: the rank of a target counts every other image whose score is equal, so a constant score ranks it
last. Lists of names need one definite order instead: equal scores stand in gallery order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError

Scores = NDArray[np.floating]
Chunk = tuple[int, Scores]  # (first query, scores [q, G], higher is better)
Ints = NDArray[np.int64]

ABSENT = -1  # column index of an image that the gallery does not hold
UNRANKED: int = int(np.iinfo(np.int64).max)  # rank of a target that is not among the ranked images: a miss at any K


def columns(names: Sequence[str | None], gallery: Sequence[str]) -> Ints:
    """Gallery column of every name ``[len(names)]``; ``ABSENT`` where the gallery does not hold it."""
    index = {name: i for i, name in enumerate(gallery)}
    return np.array([ABSENT if n is None else index.get(n, ABSENT) for n in names], dtype=np.int64)


def padded(rows: Sequence[Sequence[int]], width: int = 0) -> Ints:
    """Ragged column lists as ``[len(rows), max(width, longest)]``, filled with ``ABSENT`` on the right."""
    out = np.full((len(rows), max([width, *(len(r) for r in rows)])), ABSENT, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def checked(chunks: Iterable[Chunk], ids: Sequence[str], gallery: int) -> Iterator[tuple[slice, Scores]]:
    """The chunks with the rows they describe, after checking that they cover the queries once and in order.

    Raises ``ValueError`` for a gap, an overlap or a wrong width, ``UserError`` for scores that are not numbers.
    """
    done = 0
    for start, scores in chunks:
        if start != done:
            raise ValueError(f"score chunks must follow one another: expected query {done}, got {start}")
        if scores.ndim != 2 or scores.shape[1] != gallery or done + len(scores) > len(ids):
            raise ValueError(f"scores {scores.shape} at query {start} do not fit {len(ids)} queries × {gallery} images")
        bad = np.flatnonzero(np.isnan(scores).any(axis=1))
        if len(bad):
            raise UserError(
                f"the scores of {len(bad)} queries are not numbers (NaN), first at query {ids[start + int(bad[0])]}: "
                "the weights have diverged or an input is broken; evaluate an earlier checkpoint"
            )
        rows = slice(done, done + len(scores))
        done = rows.stop
        yield rows, scores
    if done != len(ids):
        raise ValueError(f"score chunks end after {done} of {len(ids)} queries")


def _excluded(scores: Scores, exclude: NDArray[np.generic] | None) -> NDArray[np.bool_]:
    """``exclude`` as a mask ``[q, G]``: it may be one (bool), or columns ``[q]`` or ``[q, E]`` with ``ABSENT``."""
    if exclude is not None and exclude.dtype == bool:
        return np.asarray(exclude, dtype=bool)
    mask = np.zeros(scores.shape, dtype=bool)
    if exclude is not None:
        listed = np.asarray(exclude, dtype=np.int64).reshape(len(scores), -1)
        row, slot = np.nonzero(listed >= 0)
        mask[row, listed[row, slot]] = True
    return mask


def rank_of_target(scores: Scores, target: Ints, exclude: NDArray[np.generic] | None = None) -> Ints:
    """Rank of each target, from 1, among the images that are not excluded; ties count against the target.

    Args:
        scores: ``[q, G]``, higher is better, no NaN.
        target: ``[q]`` gallery columns; ``ABSENT`` for a target outside the gallery.
        exclude: columns ``[q]`` or ``[q, E]`` to take out of the ranking (``ABSENT`` fills), or a mask ``[q, G]``.

    Returns:
        ``[q]`` int64: 1 + the number of other ranked images that score at least as high; ``UNRANKED`` where the
        target is absent or itself excluded.
    """
    rows = np.arange(len(scores))
    known = target >= 0
    column = np.where(known, target, 0)
    mask = _excluded(scores, exclude)
    known = known & ~mask[rows, column]
    ahead = scores >= scores[rows, column][:, None]
    ahead &= ~mask
    ahead[rows, column] = False
    return np.where(known, 1 + ahead.sum(axis=1, dtype=np.int64), UNRANKED)


def top_k(scores: Scores, k: int, exclude: NDArray[np.generic] | None = None) -> Ints:
    """Columns of the ``k`` best images per query, best first, equal scores in gallery order.

    Returns:
        ``[q, min(k, G)]`` int64; ``ABSENT`` on the right where fewer images are left after ``exclude``
        (as in :func:`rank_of_target`).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    mask = _excluded(scores, exclude)
    k = min(k, scores.shape[1])
    out = np.full((len(scores), k), ABSENT, dtype=np.int64)
    kept = np.where(mask, -np.inf, scores)
    # The k-th best score admits every image tied with it; only those few are then sorted.
    threshold = np.partition(kept, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]
    for row, (values, least) in enumerate(zip(kept, threshold, strict=True)):
        candidates = np.flatnonzero((values >= least) & ~mask[row])
        best = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
        out[row, : len(best)] = best
    return out
