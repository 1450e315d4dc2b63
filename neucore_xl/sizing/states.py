"""Bytes that every rank holds of the model's states, for each way of sharing them; arithmetic on shapes.

What DeepSpeed 0.19 really keeps, read from its source and measured in tests/sizing/test_plan_states.py:

| | plain, DDP | ZeRO 1 | ZeRO 2 | ZeRO 3 |
|---|---|---|---|---|
| parameters (p bytes each) | p · P | p · P | p · P | p · P / N |
| gradients | 4 · T | p · T | a · T / N | a · T / N |
| fp32 master copy | none | 4 · T / N | 4 · T / N | 4 · T / N under bf16 |
| Adam's moments | 8 · T | 8 · T / N | 8 · T / N | 8 · T / N |

P parameters, T of them trained, N ranks; p is 4, and 2 where DeepSpeed runs in bf16 (plain and DDP train fp32
parameters under autocast); a is 4: gradients are added up in fp32. ZeRO 1 and 2 keep a master copy in fp32 runs too,
and in those ZeRO 2 keeps the gradient of a parameter that lies across two shards whole on both ranks.
ZeRO 3 shards frozen parameters as well. An offloaded optimizer takes gradients, master copy and moments to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from neucore_xl.config.schema import TrainSettings
from neucore_xl.models.composer import Composer
from neucore_xl.training.engines.strategy import Strategy
from neucore_xl.training.optim import parameter_groups


@dataclass(frozen=True)
class Sizes:
    """A model in numbers of elements: every parameter, the trained ones by optimizer group, and buffer bytes."""

    parameters: tuple[int, ...]
    frozen: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    buffer_bytes: int  # DeepSpeed leaves them in fp32, in a bf16 run too
    largest_layer: int  # parameters that belong to one module itself: what ZeRO 3 gathers at once at least

    @property
    def total(self) -> int:
        return sum(self.parameters)

    @property
    def trained(self) -> int:
        return sum(sum(group) for group in self.groups)

    @staticmethod
    def of(composer: Composer, backbone: nn.Module, train: TrainSettings) -> Sizes:
        """Count ``composer``, which may be on the meta device; raises ``UserError`` where nothing is trained."""
        return Sizes(
            parameters=tuple(p.numel() for p in composer.parameters()),
            frozen=tuple(p.numel() for p in composer.parameters() if not p.requires_grad),
            groups=tuple(
                tuple(p.numel() for p in group["params"]) for group in parameter_groups(composer, backbone, train)
            ),
            buffer_bytes=sum(b.numel() * b.element_size() for b in composer.buffers()),
            largest_layer=max(sum(p.numel() for p in m.parameters(recurse=False)) for m in composer.modules()),
        )


@dataclass(frozen=True)
class States:
    """Bytes a rank. ``buckets``: communication buffers; ``gathered``: whole parameters that ZeRO 3 holds for a while;
    ``update``: what the optimizer step takes while no activation lives; ``host``: what offloading puts there."""

    parameters: int
    gradients: int
    optimizer: int
    buckets: int
    gathered: int
    update: int
    host: int


def states(sizes: Sizes, strategy: Strategy, ranks: int, *, bf16: bool) -> States:
    """The states of one rank of ``ranks``; ``bf16`` is the run's precision."""
    if strategy.config is None or strategy.stage == 0:
        return _whole(sizes, strategy, bf16=bf16)
    if strategy.stage == 3:
        return _zero3(sizes, strategy, ranks, bf16=bf16)
    return _zero12(sizes, strategy, ranks, bf16=bf16)


def _whole(sizes: Sizes, strategy: Strategy, *, bf16: bool) -> States:
    half = bf16 and strategy.config is not None
    width = 2 if half else 4
    largest = max(map(sum, sizes.groups))
    return States(
        parameters=width * sizes.total + sizes.buffer_bytes,
        gradients=width * sizes.trained,
        optimizer=(12 if half else 8) * sizes.trained,  # DeepSpeed without ZeRO: a whole master copy
        buckets=0,  # DDP's gradients are views of its buckets
        gathered=0,
        update=(8 if half else 4) * largest,  # AdamW's square roots; and fp32 gradients
        host=0,
    )


def _zero12(sizes: Sizes, strategy: Strategy, ranks: int, *, bf16: bool) -> States:
    width = 2 if bf16 else 4
    shards = [_ceil(sum(group), 2 * ranks) * 2 for group in sizes.groups]
    shard = sum(shards)
    padded = shard * ranks
    optimizer, gradients = 12 * shard, 4 * shard
    if strategy.stage == 1:  # all are there before they are reduced
        gradients = width * padded
    elif not bf16:
        gradients = 4 * _fullest(sizes.groups, shards, ranks)
    parameters = width * (padded + sum(sizes.frozen)) + sizes.buffer_bytes
    bucket = int(strategy.zero("reduce_bucket_size", 5e8))
    buckets = width * bucket * (2 if strategy.zero("overlap_comm", 0) else 1)
    if strategy.offload.optimizer == "none":
        return States(parameters, gradients, optimizer, buckets, 0, 8 * max(shards), 0)
    # The share of a reduced bucket waits on the GPU for its copy to the host.
    own = gradients if strategy.stage == 1 else 0
    return States(parameters, own, 0, buckets, 0, 0, (12 + 4 + width) * shard)


def _zero3(sizes: Sizes, strategy: Strategy, ranks: int, *, bf16: bool) -> States:
    width = 2 if bf16 else 4
    threshold = strategy.zero("stage3_param_persistence_threshold", 1e5)
    own = sum(_ceil(n, ranks) for n in sizes.parameters)
    shard = sum(_ceil(n, ranks) for group in sizes.groups for n in group)
    persistent = sum(n for n in sizes.parameters if n <= threshold) if threshold else 0
    live = strategy.zero("stage3_max_live_parameters", 1e9)
    ahead = strategy.zero("stage3_prefetch_bucket_size", 5e7)
    gathered = min(sizes.total - persistent, int(max(live, sizes.largest_layer + ahead)))
    bucket = int(strategy.zero("reduce_bucket_size", 5e8))
    largest = min(int(strategy.zero("sub_group_size", 1e9)), shard)
    parameters = width * (own + persistent) + sizes.buffer_bytes
    gradients, optimizer, host = 4 * shard, 12 * shard, 0
    update = 8 * largest
    if strategy.second_copy > 1:
        parameters += width * sum(_ceil(n, strategy.second_copy) for n in sizes.parameters)
    if strategy.offload.optimizer != "none":
        host += optimizer + 2 * gradients
        gradients = optimizer = update = 0
    if strategy.offload.parameters != "none":
        host += width * own
        parameters -= width * own
    return States(parameters, gradients, optimizer, width * bucket, width * gathered, update, host)


def _fullest(groups: tuple[tuple[int, ...], ...], shards: list[int], ranks: int) -> int:
    """Elements of the parameters that touch a rank's shards, for the rank with most: they are not cut in fp32 runs."""
    held = [0] * ranks
    for group, shard in zip(groups, shards, strict=True):
        start = 0
        for count in group:
            for rank in range(start // shard, (start + count - 1) // shard + 1):
                held[rank] += count
            start += count
    return max(held)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
