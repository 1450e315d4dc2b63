"""Data-parallel training with whole copies of the model: torch's ``DistributedDataParallel`` behind the engine."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from neucore_xl.config.schema import TrainSettings
from neucore_xl.models.composer import Composer
from neucore_xl.parallel.world import World
from neucore_xl.training.engines.engine import PlainEngine


class DDPEngine(PlainEngine):
    """Every process holds the whole model and its share of the batch; gradients are averaged at the last backward.

    A parameter that a step does not use (a batch without planned edits has no fusion step) is allowed for. Buffers
    are not exchanged: the only ones that move are the statistics of a trained BatchNorm tower, which are those of
    each process's share.
    """

    strategy = "ddp"

    def __init__(
        self, composer: Composer, backbone: nn.Module, settings: TrainSettings, world: World, device: torch.device
    ) -> None:
        super().__init__(composer, backbone, settings, world, device)
        self._wrapped = DistributedDataParallel(
            self.composer,
            device_ids=[torch.cuda.current_device()] if self.device.type == "cuda" else None,
            **_no_buffers(),
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )
        self._forward = torch.compile(self._wrapped, dynamic=True) if settings.compile else self._wrapped

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        if last:
            yield
            return
        with self._wrapped.no_sync():
            yield


def _no_buffers() -> dict[str, Any]:
    """Buffers are left alone in a forward; newer versions of torch call it by another name."""
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
