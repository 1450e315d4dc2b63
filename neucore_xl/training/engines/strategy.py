"""Which engine a run uses: what the settings, the launcher and the number of processes say, or a refusal.

Nothing is guessed in silence: a run whose strategy is not the one that was asked for does not start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from neucore_xl.config.schema import TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.models.composer import Composer
from neucore_xl.parallel.world import World
from neucore_xl.training.engines.deepspeed_check import check_config, stage_of
from neucore_xl.training.engines.deepspeed_file import find_config, from_accelerate, read_config, resolve_config
from neucore_xl.training.engines.engine import Engine, PlainEngine, resolve_device
from neucore_xl.training.engines.zero import quiet_deepspeed
from neucore_xl.training.stream import Share


@dataclass(frozen=True)
class Strategy:
    """``name`` is ``plain``, ``ddp`` or ``deepspeed``; ``config`` is DeepSpeed's, complete."""

    name: str
    config: Mapping[str, Any] | None = None

    @property
    def stage(self) -> int:
        """ZeRO stage; 0 without DeepSpeed."""
        return stage_of(dict(self.config)) if self.config is not None else 0

    @property
    def needs_group(self) -> bool:
        """Whether even one process needs a process group."""
        return self.name == "deepspeed"


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


def choose_strategy(train: TrainSettings, world_size: int, environ: Mapping[str, str] = os.environ) -> Strategy:
    """The strategy of a run of ``world_size`` processes, its DeepSpeed configuration checked and complete."""
    name, file = named_strategy(train, world_size, environ)
    share = Share.of(train, World(0, world_size))
    if file is None:
        return Strategy(name)
    quiet_deepspeed(resolve_device(train).type)
    source = find_config(file)
    config = read_config(source)
    check_config(config, source)
    local = train.batch_size // train.accumulate // share.world_size
    return Strategy(
        name,
        resolve_config(
            config,
            source=source,
            global_batch=train.batch_size,
            local_batch=local,
            world_size=world_size,
            bf16=train.precision == "bf16",
            clip_norm=train.clip_norm,
        ),
    )


def build_engine(
    strategy: Strategy,
    composer: Composer,
    backbone: nn.Module,
    train: TrainSettings,
    world: World,
    *,
    universal: bool = False,
) -> Engine:
    """The engine of ``strategy`` around ``composer``; ``universal``: it will load a universal checkpoint."""
    if strategy.name == "ddp":
        from neucore_xl.training.engines.ddp import DDPEngine

        return DDPEngine(composer, backbone, train, world)
    if strategy.config is not None:
        from neucore_xl.training.engines.zero import DeepSpeedEngine

        return DeepSpeedEngine(composer, backbone, train, world, strategy.config, universal=universal)
    return PlainEngine(composer, backbone, train, world)
