"""How a run shares the work: what the settings, the launcher and the number of processes say, or a refusal.

Nothing is guessed in silence: a run whose strategy is not the one that was asked for does not start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neucore_xl.config.schema import TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint
from neucore_xl.training.engines.deepspeed_check import Offload, check_config, offload_of, stage_of
from neucore_xl.training.engines.deepspeed_file import find_config, from_accelerate, read_config, resolve_config
from neucore_xl.training.engines.engine import Engine, PlainEngine
from neucore_xl.training.engines.zero import quiet_deepspeed
from neucore_xl.training.stream import Share, queries_a_batch


@dataclass(frozen=True)
class Strategy:
    """One way of sharing model, gradients and optimiser: ``name`` is ``plain``, ``ddp`` or ``deepspeed``.

    ``config`` is DeepSpeed's, None for the others; ``file`` is where it was read from.
    """

    name: str
    config: Mapping[str, Any] | None = None
    file: Path | None = None

    @property
    def label(self) -> str:
        """The name among strategies that differ in their DeepSpeed file: ``ddp``, ``zero2``."""
        return self.file.stem if self.file is not None else self.name

    @property
    def title(self) -> str:
        """The name, and the ZeRO stage if there is one: ``deepspeed, ZeRO 2``."""
        return self.name if self.config is None else f"{self.name}, ZeRO {self.stage}"

    @property
    def needs_group(self) -> bool:
        """Whether even one process needs a process group."""
        return self.name == "deepspeed"

    @property
    def stage(self) -> int:
        """ZeRO stage; 0 without DeepSpeed."""
        return stage_of(dict(self.config or {}))

    @property
    def offload(self) -> Offload:
        """Where parameters and optimiser states lie."""
        return offload_of(dict(self.config or {}))

    @property
    def second_copy(self) -> int:
        """Ranks that hold one more copy of the parameters between them (ZeRO++ hpz); 1: none."""
        return int(self.zero("zero_hpz_partition_size", 1))

    def bf16_parameters(self, train: TrainSettings) -> bool:
        """Whether the parameters themselves are bf16; plain and DDP cast them on the way instead."""
        return self.config is not None and train.precision == "bf16"

    def zero(self, key: str, default: float) -> float:
        """A number of the block ``zero_optimization``, or DeepSpeed's ``default``."""
        return float((self.config or {}).get("zero_optimization", {}).get(key, default))


def named_strategy(
    train: TrainSettings, world_size: int, environ: Mapping[str, str] = os.environ
) -> tuple[str, Path | None]:
    """The strategy's name and its DeepSpeed file; raises ``UserError`` where the wishes contradict each other."""
    asked = from_accelerate(environ)
    if asked is not None and train.strategy in ("plain", "ddp"):
        raise UserError(
            f"accelerate was asked for DeepSpeed ({asked}), but train.strategy={train.strategy}: "
            "start it without DeepSpeed, or set train.strategy=deepspeed."
        )
    if asked is not None and train.deepspeed is not None and find_config(asked) != find_config(train.deepspeed):
        raise UserError(f"accelerate was given {asked}, but train.deepspeed={train.deepspeed}: leave one of them out.")
    file = train.deepspeed or asked
    if train.strategy == "deepspeed" and file is None:
        raise UserError("train.strategy=deepspeed needs a file: set train.deepspeed, e.g. to ds_configs/zero2.json.")
    if train.strategy == "plain" and world_size > 1:
        raise UserError(
            f"train.strategy=plain is one process, but {world_size} were started: set train.strategy=ddp or deepspeed."
        )
    if file is not None:
        if train.compile:
            raise UserError("train.compile is not used with DeepSpeed: set train.compile=false.")
        return "deepspeed", file
    if train.strategy != "auto":
        return train.strategy, None
    return ("ddp" if world_size > 1 else "plain"), None


def choose_strategy(
    train: TrainSettings, world_size: int, environ: Mapping[str, str] = os.environ, *, device: str = "cpu"
) -> Strategy:
    """The strategy of a run of ``world_size`` processes, its DeepSpeed configuration checked and complete.

    ``device`` (``cpu`` or ``cuda``) is what DeepSpeed, which reads it when it is first imported, is told to run on.
    """
    name, file = named_strategy(train, world_size, environ)
    share = Share.of(train, World(0, world_size))
    if file is None:
        return Strategy(name)
    quiet_deepspeed(device)
    source = find_config(file)
    config = read_config(source)
    check_config(config, source)
    complete = resolve_config(
        config,
        source=source,
        global_batch=train.batch_size,
        local_batch=queries_a_batch(train) // share.world_size,
        world_size=world_size,
        bf16=train.precision == "bf16",
        clip_norm=train.clip_norm,
    )
    return Strategy(name, complete, source)


def build_engine(
    strategy: Strategy,
    composer: Composer,
    backbone: nn.Module,
    train: TrainSettings,
    world: World,
    device: torch.device,
    found: Checkpoint | None = None,
) -> Engine:
    """The engine of ``strategy`` around ``composer`` on ``device``, its state that of ``found`` if there is one.

    Every process calls it. ``found`` may be of any strategy and number of processes. Raises ``UserError`` for a
    checkpoint of another model, and for a DeepSpeed engine that is not what the configuration says.
    """
    engine: Engine
    if strategy.config is not None:
        from neucore_xl.training.engines.zero import DeepSpeedEngine

        engine = DeepSpeedEngine(composer, backbone, train, world, device, strategy.config, found)
    elif strategy.name == "ddp":
        from neucore_xl.training.engines.ddp import DDPEngine

        engine = DDPEngine(composer, backbone, train, world, device)
    else:
        engine = PlainEngine(composer, backbone, train, world, device)
    if found is not None:
        engine.restore(found)
    return engine
