"""Where the time of a training step goes: the towers, the heads, the loss, the update, or waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch, ImageFeatures, TextFeatures
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.losses import objective

PARTS = (
    "data",
    "image tower, forward",
    "text tower, forward",
    "heads, forward",
    "loss",
    "heads, backward",
    "towers, backward",
    "optimiser",
)


@dataclass
class StepProfile:
    """Seconds by part, summed over ``steps`` optimiser steps; the parts add up to ``total``."""

    steps: int
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def shares(self) -> dict[str, float]:
        """Each part's share of the time, 0 to 1."""
        return {part: seconds / max(self.total, 1e-12) for part, seconds in self.seconds.items()}

    @property
    def tower_share(self) -> float:
        """Share of the towers, forward and backward, in the time that is not waiting for data."""
        towers = sum(seconds for part, seconds in self.seconds.items() if "tower" in part)
        return towers / max(self.total - self.seconds["data"], 1e-12)


def profile_steps(
    engine: Engine,
    backbone: Backbone,
    stream: Iterator[list[Batch] | UserError],
    settings: Settings,
    *,
    steps: int,
    warmup: int = 2,
) -> StepProfile:
    """Time ``steps`` optimiser steps after ``warmup`` of them; the model is trained by both.

    Devices are synchronised at each boundary, so a step is somewhat slower than unobserved. The backward pass is
    split where the first gradient arrives at a tower's output: heads run after the towers, so theirs come first.
    """
    profile = StepProfile(steps)
    engine.composer.train()
    for number in range(warmup + steps):
        if number == warmup:
            profile = StepProfile(steps)
        for _ in range(settings.train.accumulate):
            _micro_batch(engine, backbone, stream, settings, profile)
        with _timed(engine, profile, "optimiser"):
            engine.update()
    return profile


def _micro_batch(
    engine: Engine,
    backbone: Backbone,
    stream: Iterator[list[Batch] | UserError],
    settings: Settings,
    profile: StepProfile,
) -> None:
    with _timed(engine, profile, "data"):
        item = next(stream)
    if isinstance(item, UserError):
        raise item
    if len(item) > 1:
        raise UserError("a step in several forward passes cannot be split into parts: set train.micro_batch=null.")
    arrivals: list[float] = []

    def note(gradient: Tensor) -> Tensor:
        if not arrivals:
            arrivals.append(_now(engine))
        return gradient

    before = profile.total - profile.seconds["heads, forward"]
    with _watched_towers(engine, backbone, profile, note), _timed(engine, profile, "heads, forward"):
        output, batch = engine.forward(item[0])
    # The towers ran inside the forward: what they took is not the heads'.
    inside = profile.total - profile.seconds["heads, forward"] - before
    profile.seconds["heads, forward"] -= inside
    with _timed(engine, profile, "loss"):
        total = objective(engine.composer, output, batch, settings.loss, engine.world).total / settings.train.accumulate
    start = _now(engine)
    engine.backward(total)
    end = _now(engine)
    border = arrivals[0] if arrivals else end
    profile.seconds["heads, backward"] += border - start
    profile.seconds["towers, backward"] += end - border


@contextmanager
def _watched_towers(
    engine: Engine, backbone: Backbone, profile: StepProfile, note: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Inside, the backbone's two encoders clock themselves and their outputs report their first gradient."""

    def watch(encode: Callable[[Tensor], Any], part: str) -> Callable[[Tensor], Any]:
        def watched(x: Tensor) -> ImageFeatures | TextFeatures:
            with _timed(engine, profile, part):
                out: ImageFeatures | TextFeatures = encode(x)
            for value in vars(out).values():
                for tensor in value if isinstance(value, tuple) else (value,):
                    if tensor.requires_grad:
                        tensor.register_hook(note)
            return out

        return watched

    images, texts = backbone.encode_images, backbone.encode_texts
    backbone.encode_images = watch(images, PARTS[1])  # type: ignore[assignment, method-assign]
    backbone.encode_texts = watch(texts, PARTS[2])  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del backbone.encode_images, backbone.encode_texts  # the instance's; the class keeps its own


@contextmanager
def _timed(engine: Engine, profile: StepProfile, part: str) -> Iterator[None]:
    start = _now(engine)
    yield
    profile.seconds[part] += _now(engine) - start


def _now(engine: Engine) -> float:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return time.perf_counter()
