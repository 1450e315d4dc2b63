"""The thin engine between the loop and the hardware: one process here; DDP and DeepSpeed implement the same methods.

The loop calls nothing of torch's training machinery but through an ``Engine``, and reaches the model through its
root ``forward`` only, because under ZeRO-3 only that gathers the parameter shards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
from neucore_xl.training.optim import build_optimizer, build_scheduler, trainable


class Engine(ABC):
    """Forward, backward and step of one model on one or many processes."""

    composer: Composer  # the bare module: for ``score`` and for saving, never for a forward while training
    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes and prints."""
        return self.rank == 0

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[ComposerOutput, Batch]:
        """The training forward under the run's precision, and the batch on the engine's device."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` (a scalar, already divided by the micro-batches of a step)."""

    @abstractmethod
    def gradient_norm(self) -> float:
        """Clip to ``train.clip_norm`` (0: leave as they are) and return the total norm before clipping."""

    @abstractmethod
    def step(self) -> None:
        """Update the parameters and the rate, and clear the gradients."""

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Learning rate of the next step by parameter group."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Optimiser and schedule, as tensors and plain values; the weights are saved apart."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""


class PlainEngine(Engine):
    """One process, one device."""

    def __init__(self, composer: Composer, backbone: nn.Module, settings: TrainSettings) -> None:
        self.device = resolve_device(settings)
        self.composer = composer.to(self.device)
        self._settings = settings
        self._optimizer: Optimizer = build_optimizer(self.composer, backbone, settings)
        self._scheduler: LambdaLR = build_scheduler(self._optimizer, settings)
        self._parameters = list(trainable(self.composer))
        self._forward: Callable[..., Any] = self.composer
        if settings.compile:
            self._forward = cast("Callable[..., Any]", torch.compile(self.composer, dynamic=True))

    def forward(self, batch: Batch) -> tuple[ComposerOutput, Batch]:
        batch = move(batch, self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._settings.precision == "bf16"):
            return self._forward("train", batch), batch

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gradient_norm(self) -> float:
        bound = self._settings.clip_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(self._parameters, bound).item()

    def step(self) -> None:
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)

    def rates(self) -> dict[str, float]:
        return {group["name"]: group["lr"] for group in self._optimizer.param_groups}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])


def resolve_device(settings: TrainSettings) -> torch.device:
    """The device of ``train.device``; raises ``UserError`` for a GPU, or a precision, that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is `cuda` but torch sees no GPU: use train.device=cpu or `auto`")
    device = torch.device("cpu" if settings.device == "cpu" or not torch.cuda.is_available() else "cuda")
    if settings.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("train.precision is `bf16` but this GPU does not compute in it: use train.precision=fp32")
    return device
