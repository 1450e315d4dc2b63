"""Image tokens as the map that they are: rows of a square, from the upper left to the lower right.

Legend: B images, N tokens, S = √N, d width.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def side(n_tokens: int) -> int | None:
    """S of a square map of ``n_tokens`` = S² tokens, or None where it is no square."""
    s = math.isqrt(n_tokens)
    return s if s * s == n_tokens else None


def to_map(tokens: Tensor) -> Tensor:
    """``tokens [B, N, d]`` of a square map to ``[B, d, S, S]``; raises ``ValueError`` for another N."""
    s = side(tokens.shape[1])
    if s is None:
        raise ValueError(f"{tokens.shape[1]} tokens are no square map")
    return tokens.transpose(1, 2).unflatten(-1, (s, s))


def from_map(x: Tensor) -> Tensor:
    """``x [B, d, S, S]`` to tokens ``[B, N, d]``."""
    return x.flatten(2).transpose(1, 2)


def at_most(tokens: Tensor, most: int) -> Tensor:
    """``tokens [B, N, d]`` as they are where N ≤ ``most``, else the means of cells: ``[B, most, d]`` or fewer.

    Of a square map the cells are rectangles of a coarser square; of other tokens, neighbours in their order.
    """
    if tokens.shape[1] <= most:
        return tokens
    if side(tokens.shape[1]) is None:
        return F.adaptive_avg_pool1d(tokens.transpose(1, 2), most).transpose(1, 2)
    return from_map(F.adaptive_avg_pool2d(to_map(tokens), math.isqrt(most)))


def pooled_to(tokens: Tensor, count: int, *, square: bool = True) -> Tensor:
    """``tokens [B, N, d]`` as exactly ``count`` tokens ``[B, count, d]``, each the mean of a cell of the old ones.

    Where N and ``count`` are both square numbers (and ``square`` allows it), tokens are a map and cells its rectangles;
    else neighbours in their order. Where ``count`` exceeds N, cells overlap and tokens repeat.
    """
    if tokens.shape[1] == count:
        return tokens
    size = side(count)
    if square and size is not None and side(tokens.shape[1]) is not None:
        return from_map(F.adaptive_avg_pool2d(to_map(tokens), size))
    return F.adaptive_avg_pool1d(tokens.transpose(1, 2), count).transpose(1, 2)
