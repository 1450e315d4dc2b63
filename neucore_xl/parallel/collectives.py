"""Rows of all ranks on every rank, with the gradient that a sum of everybody's losses has."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neucore_xl.parallel.world import World


class _GatherRows(torch.autograd.Function):
    """Forward: the rows of every rank, in the order of the ranks. Backward: the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(rows)
        gathered = rows.new_empty(world_size * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # all-reduce, not reduce-scatter: gloo has only the first, and these are features, not parameters
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count], None, None


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """``rows [R, ...]`` of every rank (R equal on all) as ``[world · R, ...]``, differentiable.

    A rank's gradient is the sum over ranks of what their losses say about its rows. With gradients averaged over
    ranks afterwards (DDP, ZeRO) the result is the gradient of the mean of all ranks' losses.
    """
    return _GatherRows.apply(rows, world.rank, world.world_size) if world.many else rows
