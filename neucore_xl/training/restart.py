"""Saving a run and going on from what was saved: its position and its random state, beside what the engine keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from neucore_xl.config.schema import TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Contents, Identity
from neucore_xl.runs.checkpoints.save import save_together
from neucore_xl.runs.checkpoints.trusted import taking_in
from neucore_xl.runs.checkpoints.weights import stored_shapes
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.loop import TrainState, Validation
from neucore_xl.training.randomness import random_state, restore_random_state, seed_everything


def state_of(found: Checkpoint | None) -> TrainState:
    """How far the run was; raises ``UserError`` where the checkpoint was not written by a training."""
    if found is None:
        return TrainState()
    with taking_in(found.path):
        state = TrainState(**found.extra()["state"])
    if state.step != found.step:
        raise UserError(
            f"checkpoint {found.path} does not hold the position of a run after its step {found.step}: no training "
            "goes on from it; begin in another run folder."
        )
    return state


def restore_randomness(found: Checkpoint | None, train: TrainSettings, world: World) -> None:
    """The generators of this process: those of ``found`` where it has them, else freshly seeded."""
    step = 0 if found is None else found.step
    seed_everything(train.seed + world.rank + 1_000_003 * step)
    if found is None:
        return
    own = found.rank_extra(world.rank) or (found.extra() if world.is_main else {})
    if "random" in own:
        with taking_in(found.path):
            restore_random_state(own["random"])


def saver(
    folder: Path, engine: Engine, identity: Identity, keep: int
) -> Callable[[TrainState, Validation | None, bool], None]:
    """What saves the run into the checkpoint folder; every process calls it at the same step."""
    tensors = stored_shapes(engine.composer, engine.backbone)

    def save(now: TrainState, validation: Validation | None, best: bool) -> None:
        contents = Contents(
            step=now.step,
            identity=identity,
            strategy=engine.strategy,
            zero_stage=engine.stage,
            extra={"state": asdict(now)},
            rank_extra={"random": random_state()},
            metrics=dict(validation.metrics) if validation else {},
            tensors=tensors,
            best_step=now.best_step,
        )
        save_together(folder, engine.world, contents, engine.save, keep=keep, best=best)

    return save
