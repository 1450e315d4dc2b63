"""The matching losses of papers that compare one negative at a time: soft triplets, and a hinge on the hardest.

Both read scores and measure with the distance κ(s) = √(2 − 2s): between vectors of unit length with cosine s that is
their ℓ2 distance. Of a score that is no cosine it is the same function; all scores beyond 1 have distance 0 and no
gradient. The temperature θ has no part in them. Everything is computed in fp32.
Legend: B queries, G gallery columns of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEAREST = 1e-6  # of 2 − 2s: what fp32 can tell from 0; the slope of the root has no bound below it


def distance(scores: Tensor) -> Tensor:
    """κ = √(max(0, 2 − 2s)) of every score, in fp32; never below 0.001, where its gradient is 0."""
    return (2 - 2 * scores.float()).clamp_min(NEAREST).sqrt()


def soft_triplet(scores: Tensor, positive: Tensor, exclude: Tensor) -> Tensor:
    """Mean over queries of the mean over their negatives of log(1 + exp(κ⁺ − κ⁻)); a scalar in fp32.

    ``scores [B, G]``, ``positive [B]`` int64, the column of each query's target, ``exclude [B, G]`` bool: columns that
    are no negatives of a query. All others are: whoever samples negatives excludes the rest. A query without any adds
    0. Source: Liu et al. (CIRPLANT, ICCV 2021), equation 1, whose two distances are printed in the other order, which
    would push the target away. Raises ``ValueError`` on other shapes.
    """
    with torch.autocast(device_type=scores.device.type, enabled=False):
        negative = _negatives(scores, positive, exclude)
        kappa = distance(scores)
        terms = F.softplus(kappa.gather(1, positive.unsqueeze(1)) - kappa)
        counted = negative.sum(1).clamp_min(1)
        return (terms.masked_fill(~negative, 0).sum(1) / counted).mean()


def hardest_hinge(scores: Tensor, positive: Tensor, exclude: Tensor, margin: float) -> Tensor:
    """Mean over queries of max(0, ``margin`` + κ⁺ − min over their negatives of κ⁻); a scalar in fp32.

    Arguments, and queries without negatives, as in ``soft_triplet``. Source: Chen, Gong and Bazzani (VAL, CVPR 2020).
    """
    with torch.autocast(device_type=scores.device.type, enabled=False):
        negative = _negatives(scores, positive, exclude)
        kappa = distance(scores)
        hardest = kappa.masked_fill(~negative, float("inf")).min(1).values
        terms = (margin + kappa.gather(1, positive.unsqueeze(1)).squeeze(1) - hardest).clamp_min(0)
        return terms.masked_fill(~negative.any(1), 0).mean()


def _negatives(scores: Tensor, positive: Tensor, exclude: Tensor) -> Tensor:
    """True where a column is a negative of a row, ``[B, G]``."""
    if scores.ndim != 2 or exclude.shape != scores.shape or positive.shape != scores.shape[:1]:
        raise ValueError(
            f"scores [B, G], positive [B] and exclude [B, G] do not agree: "
            f"{tuple(scores.shape)}, {tuple(positive.shape)}, {tuple(exclude.shape)}"
        )
    return ~exclude.scatter(1, positive.unsqueeze(1), True)
