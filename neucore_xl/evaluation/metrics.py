"""From ranks to per-query values in [0, 100]; the mean over queries is the figure a table prints, in percent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neucore_xl.evaluation.ranking import Ints, Scores

Floats = NDArray[np.float64]


def hit_at(ranks: Ints, k: int) -> Floats:
    """Recall@k of each query: 100 where the one positive is ranked ``k`` or better, else 0. ``[Q] -> [Q]``."""
    return np.where(ranks <= k, 100.0, 0.0)


def average_precision_at(ranks: Ints, k: int) -> Floats:
    """AP@k of each query with one positive: 100 / rank where the rank is at most ``k``, else 0. ``[Q] -> [Q]``."""
    return np.where(ranks <= k, 100.0 / np.maximum(ranks, 1), 0.0)


def graded_at(ranks: Ints, values: Floats, k: int) -> Floats:
    """Best label value among the top ``k`` of each query, times 100; nothing labelled there gives 0.

    Args:
        ranks: ``[Q, L]`` ranks of the L labelled images (see :func:`graded_ranks`).
        values: ``[Q, L]`` their values; only positive ones can help.
    """
    if ranks.shape[1] == 0:
        return np.zeros(len(ranks))
    return 100.0 * np.where(ranks <= k, np.maximum(values, 0.0), 0.0).max(axis=1)


def graded_ranks(scores: Scores, values: Floats, valid: NDArray[np.bool_]) -> Ints:
    """Ranks within small dense sets of M images, where of equally scored images the one of least value comes first.

    With one positive value per row this is the rank with ties against it; with several, a tie among equals costs
    nothing. Memory is O(Q · M²).

    Args:
        scores, values: ``[Q, M]``.
        valid: ``[Q, M]``, false on padding, which takes part in nothing.

    Returns:
        ``[Q, M]`` int64; meaningless where not valid.
    """
    higher = scores[:, None, :] > scores[:, :, None]
    tied = scores[:, None, :] == scores[:, :, None]
    worse = values[:, None, :] < values[:, :, None]
    ahead = (higher | (tied & worse)) & valid[:, None, :]
    return 1 + ahead.sum(axis=2, dtype=np.int64)
