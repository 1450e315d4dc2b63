"""The thin engine between the loop and the hardware: one process here; DDP and DeepSpeed implement the same methods.

The loop calls nothing of torch's training machinery but through an ``Engine``, and reaches the model through its
root ``forward`` only, because under ZeRO-3 only that gathers the parameter shards. An engine also knows what of it
belongs into a checkpoint and how to go on from one of any strategy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neucore_xl.config.schema import TrainSettings
from neucore_xl.data.batches import Batch, move
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint
from neucore_xl.runs.checkpoints.restore import whole_state
from neucore_xl.runs.checkpoints.trusted import taking_in
from neucore_xl.runs.checkpoints.universal import parameter_names
from neucore_xl.runs.checkpoints.weights import load_state, stored_state, write_weights
from neucore_xl.training.optim import build_optimizer, build_scheduler, trainable

CPU = torch.device("cpu")


class Engine(ABC):
    """Forward, backward and step of one model on one or many processes, and its state on disk.

    ``composer`` is the bare module: for ``score`` and for names and shapes, never for a forward; ``backbone`` is the
    part of it whose frozen weights no checkpoint holds. ``root`` is what a forward outside training goes through
    (``root("targets", images)``); all processes must call it equally often.
    """

    strategy: str
    stage: int = 0  # of ZeRO
    composer: Composer
    backbone: nn.Module
    root: nn.Module
    device: torch.device
    world: World

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
    def save(self, into: Path) -> dict[str, Any]:
        """Write weights, and whatever is sharded, into the folder ``into``; every process calls it.

        Returns what of optimiser and schedule is in one piece, as tensors and plain values: it belongs beside the
        weights, under ``engine`` (``save_together`` puts it there). A disk that refuses is an ``OSError``.
        """

    @abstractmethod
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take weights, optimiser and schedule of a checkpoint of any strategy and number of processes.

        Every process calls it. Frozen weights stay as they were built. Raises ``UserError`` for a checkpoint of
        another model, and for the few that this engine cannot go on from.
        """

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
        self,
        composer: Composer,
        backbone: nn.Module,
        settings: TrainSettings,
        world: World = ALONE,
        device: torch.device = CPU,
    ) -> None:
        self.world, self.device = world, device
        self.composer = composer.to(device)
        self.backbone = backbone
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

    def save(self, into: Path) -> dict[str, Any]:
        if self.world.is_main:
            write_weights(stored_state(self.composer, self.backbone), into)
        return {"optimizer": self._optimizer.state_dict(), "scheduler": self._scheduler.state_dict()}

    def restore(self, checkpoint: Checkpoint) -> None:
        with self.world.agreed():
            load_state(self.composer, self.backbone, checkpoint.weights(), checkpoint.path)
        state = whole_state(checkpoint, self.world, parameter_names(self.composer, self._optimizer))
        with taking_in(checkpoint.path):
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])


def autocast(device: torch.device, settings: TrainSettings) -> torch.autocast:
    """The forward's precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16")
