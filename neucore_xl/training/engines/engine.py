"""The thin engine between the loop and the hardware: one process here; DDP and DeepSpeed implement the same methods.

The loop calls nothing of torch's training machinery but through an ``Engine``, and reaches the model through its
root ``forward`` only, because under ZeRO-3 only that gathers the parameter shards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neucore_xl.config.schema import TrainSettings
from neucore_xl.data.batches import Batch, move
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput
from neucore_xl.parallel.world import World
from neucore_xl.training.optim import build_optimizer, build_scheduler, trainable


class Engine(ABC):
    """Forward, backward and step of one model on one or many processes.

    ``composer`` is the bare module: for ``score`` and for names and shapes, never for a forward. ``root`` is what a
    forward outside training goes through (``root("targets", images)``); all processes must call it equally often.
    """

    strategy: str
    composer: Composer
    root: nn.Module
    device: torch.device
    world: World

    @property
    def is_main(self) -> bool:
        """True in the one process that writes and prints."""
        return self.world.is_main

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[ComposerOutput, Batch]:
        """The training forward under the run's precision, and the batch on the engine's device."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, a scalar: this process's share, already divided by the parts of a step."""

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward: gradients are exchanged between processes after the ``last`` one of a step."""
        yield

    @abstractmethod
    def update(self) -> float:
        """Clip to ``train.clip_norm`` (0: leave as they are), step, advance the rate, clear the gradients.

        Returns the total norm before clipping. Where it is not finite, parameters are left as they were if the
        engine can tell in time; the caller stops the run.
        """

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Learning rate of the next step by parameter group."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Optimiser and schedule, as tensors and plain values; the weights are saved apart."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""

    def shard_sizes(self) -> int:
        """Parameters (numbers, not bytes) that this process holds."""
        return sum(p.numel() for p in self.composer.parameters())

    def describe(self) -> str:
        """The strategy in a few words, as the start table shows it."""
        return self.strategy


class PlainEngine(Engine):
    """One process, one device; also the base of DDP, whose processes hold whole copies."""

    strategy = "plain"

    def __init__(
        self, composer: Composer, backbone: nn.Module, settings: TrainSettings, world: World | None = None
    ) -> None:
        self.world = world or World()
        self.device = resolve_device(settings)
        self.composer = composer.to(self.device)
        self.root = self.composer
        self._settings = settings
        self._optimizer: Optimizer = build_optimizer(self.composer, backbone, settings)
        self._scheduler: LambdaLR = build_scheduler(self._optimizer, settings)
        self._parameters = list(trainable(self.composer))
        self._forward: Callable[..., Any] = self.composer
        if settings.compile:
            self._forward = cast("Callable[..., Any]", torch.compile(self.composer, dynamic=True))

    def forward(self, batch: Batch) -> tuple[ComposerOutput, Batch]:
        batch = move(batch, self.device, non_blocking=True)
        with autocast(self.device, self._settings):
            return self._forward("train", batch), batch

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> float:
        for parameter in self._parameters:
            if parameter.grad is None:  # not used by this step: AdamW decays it all the same, as it does under ZeRO
                parameter.grad = torch.zeros_like(parameter)
        bound = self._settings.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, bound).item()
        if math.isfinite(norm):
            self._optimizer.step()
            self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def rates(self) -> dict[str, float]:
        return {group["name"]: group["lr"] for group in self._optimizer.param_groups}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])


def autocast(device: torch.device, settings: TrainSettings) -> torch.autocast:
    """The forward's precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16")


def resolve_device(settings: TrainSettings) -> torch.device:
    """The device of ``train.device``; raises ``UserError`` for a GPU, or a precision, that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is `cuda` but torch sees no GPU: use train.device=cpu or `auto`")
    device = torch.device("cpu" if settings.device == "cpu" or not torch.cuda.is_available() else "cuda")
    if settings.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("train.precision is `bf16` but this GPU does not compute in it: use train.precision=fp32")
    return device
