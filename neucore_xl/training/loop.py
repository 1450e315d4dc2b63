"""The training loop: batches to gradients to steps, with logging, validation and checkpoints at their steps.

Step numbers count finished optimiser steps: step 1 is the first. Nothing here depends on the wall clock but the two
rates in the log, so that a run that is killed and resumed repeats the losses of an unbroken one. With several
processes every one runs this loop, and whatever decides its course (losses, errors, requests to stop) is agreed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.gradcache import cached_step
from neucore_xl.training.journal import Journal
from neucore_xl.training.losses import objective
from neucore_xl.training.meters import StepMeter


@dataclass
class TrainState:
    """How far a run is: finished steps, and the best validation so far (headline measure in percent)."""

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None


@dataclass(frozen=True)
class Validation:
    """What one validation says: the measure that decides and all measures, in percent."""

    headline: float
    metrics: Mapping[str, float]


class Request(Protocol):
    """Why a run is asked to stop before its end: a few words, and the exit code that says whether to start it again."""

    @property
    def text(self) -> str: ...

    @property
    def exit_code(self) -> int: ...


@dataclass(frozen=True)
class Hooks:
    """What the loop calls, on every process alike.

    ``validate()``; ``save(state, validation, best)``, the validation being that of the same step if there was one;
    ``newest()``, the newest checkpoint or None; ``stop()``, a request to stop or None, after every step;
    ``mark(phase, step)``, which says what is about to be done.
    """

    validate: Callable[[], Validation]
    save: Callable[[TrainState, Validation | None, bool], None]
    newest: Callable[[], Path | None]
    stop: Callable[[], Request | None] = lambda: None
    mark: Callable[[str, int], None] = lambda phase, step: None

    def marking(self, mark: Callable[[str, int], None]) -> Hooks:
        """The same with another ``mark``."""
        return replace(self, mark=mark)


class TrainingPaused(Exception):
    """The run was asked to stop, has saved and can go on; ``exit_code`` says whether it wants to be started again."""

    def __init__(self, why: str, exit_code: int, step: int, steps: int) -> None:
        self.exit_code, self.step = exit_code, step
        super().__init__(f"stopped after step {step} of {steps}, saved: {why}; the same command goes on from there")


class TrainingStopped(UserError):
    """The loss or a gradient is not finite: nothing was updated by the step that is named.

    ``step`` counts optimiser steps from 1, ``ids`` are the triplets of the batch, ``checkpoint`` is the newest
    checkpoint saved before it, if any.
    """

    exit_code = 1
    on_all_ranks = True

    def __init__(self, what: str, step: int, ids: tuple[str, ...], checkpoint: Path | None) -> None:
        self.step, self.ids, self.checkpoint = step, ids, checkpoint
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        where = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved before it"
        super().__init__(
            f"{what} at step {step}: the batch held {shown}; {where}; lower train.lr or look at these triplets"
        )


def run_loop(
    engine: Engine,
    batches: Iterable[Sequence[Batch] | UserError],
    settings: Settings,
    state: TrainState,
    journal: Journal,
    hooks: Hooks,
    batches_per_epoch: int,
) -> TrainState:
    """Train from ``state.step`` to ``train.steps`` and return the state at the end.

    ``batches`` are this process's parts of the batches that follow ``state.step``, ``train.accumulate`` batches a
    step; an error among them is raised here. Raises ``TrainingStopped`` where loss or gradient is not finite, and
    ``TrainingPaused`` after saving when ``hooks.stop`` asks for it.
    """
    train = settings.train
    meter = StepMeter()
    stream = iter(batches)
    engine.composer.train()
    while state.step < train.steps:
        record = _one_step(engine, stream, settings, state.step + 1, journal, meter, hooks)
        state.step += 1
        step = state.step
        journal.advance(step, meter.smoothed_loss)
        last = step == train.steps
        validation, best = None, False
        if last or (train.validate_every and step % train.validate_every == 0):
            with meter.paused():
                hooks.mark("validation", step)
                validation = hooks.validate()
            engine.composer.train()
            record["validation"] = dict(validation.metrics)
            best = state.best_value is None or validation.headline > state.best_value
            if best:
                state.best_step, state.best_value = step, validation.headline
        if validation is not None or step % train.log_every == 0:
            record["epoch"] = step * train.accumulate / batches_per_epoch
            journal.write(record | meter.read())
        request = None if last else hooks.stop()
        if best or last or request is not None or step % train.checkpoint_every == 0:
            # After the log line: what a checkpoint has done, the log holds.
            with meter.paused():
                hooks.mark("checkpoint", step)
                hooks.save(state, validation, best)
        if request is not None:
            raise TrainingPaused(request.text, request.exit_code, step, train.steps)
    return state


def gradient(
    engine: Engine, parts: Sequence[Batch], settings: Settings, scale: float, *, last: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Add the gradient of ``scale`` · loss of one batch; its terms by their names in the log, and θ, detached."""
    if len(parts) > 1:
        return cached_step(engine, parts, settings.loss, scale, last=last)
    with engine.accumulating(last):
        output, batch = engine.forward(parts[0])
        terms = objective(engine.composer, output, batch, settings.loss, engine.world)
        engine.backward(terms.total * scale)
    return terms.values(), output.log_scale.detach()


def _one_step(
    engine: Engine,
    stream: Iterator[Sequence[Batch] | UserError],
    settings: Settings,
    step: int,
    journal: Journal,
    meter: StepMeter,
    hooks: Hooks,
) -> dict[str, Any]:
    """One optimiser step; returns its log record. Losses are means over its batches, of all processes."""
    accumulate = settings.train.accumulate
    sums: dict[str, float] = {"loss": 0.0, "loss_match": 0.0, "loss_concept": 0.0}
    ids: tuple[str, ...] = ()
    temperature = 0.0
    for number in range(accumulate):
        hooks.mark("data", step)
        with meter.waiting():
            parts = _agreed_parts(next(stream), engine.world)
        ids += tuple(i for part in parts for i in part.ids)
        hooks.mark("forward and backward", step)
        terms, log_scale = gradient(engine, parts, settings, 1 / accumulate, last=number == accumulate - 1)
        values = dict(zip(terms, engine.world.mean([v.item() for v in terms.values()]), strict=True))
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / accumulate
        if not math.isfinite(sums["loss"]):
            raise _stopped("the loss is not finite", step, engine.world, ids, journal, hooks)
        temperature = log_scale.float().exp().item()
    rates = engine.rates()
    hooks.mark("update", step)
    norm = engine.update()
    if not math.isfinite(norm):
        raise _stopped("a gradient is not finite", step, engine.world, ids, journal, hooks)
    meter.step(len(ids) * engine.world.world_size, sums["loss"])
    record: dict[str, Any] = {"step": step, **sums, "lr": next(iter(rates.values()))}
    if "backbone" in rates:
        record["lr_backbone"] = rates["backbone"]
    return record | {"temperature": temperature, "grad_norm": norm}


def _agreed_parts(item: Sequence[Batch] | UserError, world: World) -> Sequence[Batch]:
    """``item`` where every process has one; an unreadable image of any process is everybody's error."""
    failed = isinstance(item, UserError)
    if world.any_of(int(failed)):
        with world.agreed():
            if isinstance(item, UserError):
                raise item
    assert not isinstance(item, UserError)
    return item


def _stopped(
    what: str, step: int, world: World, own_ids: tuple[str, ...], journal: Journal, hooks: Hooks
) -> TrainingStopped:
    ids = tuple(i for ids in world.gather(own_ids) for i in ids)
    newest = hooks.newest()
    journal.write(
        {"step": step, "loss": None, "stopped": what, "ids": list(ids), "checkpoint": str(newest) if newest else None}
    )
    return TrainingStopped(what, step, ids, newest)
