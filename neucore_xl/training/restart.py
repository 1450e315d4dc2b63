"""Saving a run and going on from what was saved, on any strategy and any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import TrainSettings
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints import restore as loading
from neucore_xl.runs.checkpoints import save as sharded
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, load_state, stored_shapes
from neucore_xl.runs.checkpoints.save import save_together
from neucore_xl.runs.checkpoints.universal import parameter_names
from neucore_xl.runs.system import Assembled
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.engines.strategy import Strategy, build_engine
from neucore_xl.training.loop import TrainState, Validation
from neucore_xl.training.optim import build_optimizer
from neucore_xl.training.randomness import random_state, restore_random_state, seed_everything


def engine_for(
    strategy: Strategy, assembled: Assembled, train: TrainSettings, world: World, found: Checkpoint | None
) -> Engine:
    """The engine of a run, its weights, optimiser and schedule those of ``found``; every process calls it.

    Raises ``UserError`` for a checkpoint of another model, vocabulary or frozen backbone.
    """
    composer, backbone = assembled.composer, assembled.backbone
    if found is None:
        return build_engine(strategy, composer, backbone, train, world)
    with world.agreed():
        find.check_identity(found, assembled.identity)
    names = parameter_names(composer, build_optimizer(composer, backbone, train))
    if strategy.config is None:
        with world.agreed():
            load_state(composer, backbone, found.weights(), found.path)
        engine = build_engine(strategy, composer, backbone, train, world)
        engine.load_state_dict(loading.whole_state(found, world, names))
        return engine
    source = loading.engine_source(found, world, strategy.stage, names)
    if source.folder is None:  # its state is in one piece
        with world.agreed():
            load_state(composer, backbone, found.weights(), found.path)
    engine = build_engine(strategy, composer, backbone, train, world, universal=source.universal)
    loading.load_engine(engine.deepspeed, source, world, names)  # type: ignore[attr-defined]
    return engine


def state_of(found: Checkpoint | None) -> TrainState:
    """How far the run was."""
    return TrainState() if found is None else TrainState(**found.extra()["state"])


def restore_randomness(found: Checkpoint | None, train: TrainSettings, world: World) -> None:
    """The generators of this process: those of ``found`` where it has them, else freshly seeded."""
    step = 0 if found is None else found.step
    seed_everything(train.seed + world.rank + 1_000_003 * step)
    if found is None:
        return
    own = found.rank_extra(world.rank) or (found.extra() if world.is_main else {})
    if "random" in own:
        restore_random_state(own["random"])


def saver(
    folder: Path, engine: Engine, strategy: Strategy, assembled: Assembled, keep: int
) -> Callable[[TrainState, Validation | None, bool], None]:
    """What saves the run into the checkpoint folder; every process calls it at the same step."""
    composer, backbone, world = assembled.composer, assembled.backbone, engine.world
    tensors = stored_shapes(composer, backbone)

    def save(now: TrainState, validation: Validation | None, best: bool) -> None:
        writer: Any = (
            sharded.weights_writer(composer, backbone, world)
            if strategy.config is None
            else sharded.deepspeed_writer(engine.deepspeed)  # type: ignore[attr-defined]
        )
        save_together(
            folder,
            now.step,
            world,
            writer,
            extra={"engine": engine.state_dict(), "state": asdict(now)},
            rank_extra={"random": random_state()},
            identity=assembled.identity,
            keep=keep,
            metrics=dict(validation.metrics) if validation else None,
            best=best,
            facts={"strategy": strategy.name, "zero_stage": strategy.stage},
            tensors=tensors,
        )

    return save
