"""From a checkpoint of any strategy into an optimiser or a DeepSpeed engine, at any number of processes.

Engines restore themselves with it (``Engine.restore``): torch's own optimisers take ``whole_state``, DeepSpeed's
engine what ``engine_source`` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import trusted
from neucore_xl.runs.checkpoints.checkpoint import TAG, ZERO, Checkpoint
from neucore_xl.runs.checkpoints.universal import (
    model_state,
    needs_universal,
    optimizer_state,
    universal_folder,
    whole_engine_state,
)

Names = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Source:
    """What a DeepSpeed engine loads: ``folder`` is None where the checkpoint's state is in one piece."""

    checkpoint: Checkpoint
    folder: Path | None
    universal: bool


def engine_source(checkpoint: Checkpoint, world: World, stage: int, names: Names) -> Source:
    """What a DeepSpeed engine at ZeRO ``stage`` loads, converted now if need be; every rank calls it.

    Where the result is ``universal`` (``needs_universal`` tells it before), the engine must have been made with
    ``"checkpoint": {"load_universal": true}``. ``names``: ``parameter_names`` of the model and its optimiser, taken
    before ``deepspeed.initialize``.
    """
    if needs_universal(checkpoint, world.world_size, stage):
        return Source(checkpoint, universal_folder(checkpoint, world, names), True)
    native = checkpoint.sharded and checkpoint.zero_stage == stage
    return Source(checkpoint, checkpoint.path / ZERO if native else None, False)


def load_engine(engine: Any, source: Source, world: World, names: Names) -> None:
    """Weights, buffers, optimiser and schedule into a DeepSpeed engine; every rank calls it.

    Frozen parameters stay as they were built: a checkpoint has none, ``Identity`` vouches for them. Where the
    checkpoint's state is in one piece (``source.folder`` None) the weights must be in the model already.
    """
    if source.folder is None:
        if not isinstance(engine.optimizer, torch.optim.Optimizer):  # DeepSpeed's own, around fp32 copies
            raise UserError(
                f"checkpoint {source.checkpoint.path} cannot go on under ZeRO stage 0 in bf16: choose stage 1, which "
                "reads it, or train.precision=fp32."
            )
        state = whole_state(source.checkpoint, world, names)
        with trusted.taking_in(source.checkpoint.path):
            engine.optimizer.load_state_dict(state["optimizer"])
            if engine.lr_scheduler is not None:
                engine.lr_scheduler.load_state_dict(state["scheduler"])
        engine.global_steps = source.checkpoint.step
        return
    with world.agreed():
        trusted.check(trusted.files_of(source.folder)[world.rank :: world.world_size])
    with trusted.taking_in(source.checkpoint.path):
        with trusted.weights_only():
            path, _ = engine.load_checkpoint(str(source.folder), tag=TAG, load_module_strict=False)
        if path is None:
            raise UserError(f"DeepSpeed found nothing to load in {source.folder}: use another checkpoint.")
        if source.universal:
            _repair(engine, source.folder)


def whole_state(checkpoint: Checkpoint, world: World, names: Names) -> dict[str, Any]:
    """``{"optimizer", "scheduler"}`` as torch's own classes load them, of a checkpoint of any strategy."""
    if not checkpoint.zero_stage:
        return whole_engine_state(checkpoint)
    folder = universal_folder(checkpoint, world, names)
    with trusted.taking_in(checkpoint.path):
        return {"optimizer": optimizer_state(folder, names), "scheduler": model_state(folder)["lr_scheduler"]}


def _repair(engine: Any, folder: Path) -> None:
    """What loading the universal form leaves undone.

    Buffers are not loaded at all. Stage 3 gives every group the rate and decay of the first, and all parts one
    tensor as their step count, which each of torch's updates then advances.
    """
    buffers = dict(engine.module.named_buffers())
    with torch.no_grad():
        for name, value in model_state(folder)["module"].items():
            if name in buffers:
                buffers[name].copy_(value)
    saved = trusted.read_shard(folder / TAG / "zero" / "optimizer_state.pt", dict)
    for group, kept in zip(engine.optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({k: v for k, v in kept.items() if k != "params"})
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
