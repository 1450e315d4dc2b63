"""The training loop: micro-batches to gradients to steps, with logging, validation and checkpoints at their steps.

Step numbers count finished optimiser steps: step 1 is the first. Nothing here depends on the wall clock but the two
rates in the log, so that a run that is killed and resumed repeats the losses of an unbroken one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch
from neucore_xl.errors import UserError
from neucore_xl.training.engine import Engine
from neucore_xl.training.errors import TrainingStopped
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


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: ``validate()``; ``save(state, validation, best)``, the validation being that of the
    same step if there was one; ``newest()``, the newest checkpoint or None."""

    validate: Callable[[], Validation]
    save: Callable[[TrainState, Validation | None, bool], None]
    newest: Callable[[], Path | None]


def run_loop(
    engine: Engine,
    batches: Iterable[Batch | UserError],
    settings: Settings,
    state: TrainState,
    journal: Journal,
    hooks: Hooks,
    micro_per_epoch: int,
) -> TrainState:
    """Train from ``state.step`` to ``train.steps`` and return the state at the end.

    ``batches`` are the micro-batches that follow ``state.step``, ``train.accumulate`` a step; an error among them is
    raised here. Raises ``TrainingStopped`` before an update that is not finite.
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
                validation = hooks.validate()
            engine.composer.train()
            record["validation"] = dict(validation.metrics)
            best = state.best_value is None or validation.headline > state.best_value
            if best:
                state.best_step, state.best_value = step, validation.headline
        if validation is not None or step % train.log_every == 0:
            record["epoch"] = step * train.accumulate / micro_per_epoch
            journal.write(record | meter.read())
        if best or last or step % train.checkpoint_every == 0:
            # After the log line: what a checkpoint has done, the log holds.
            with meter.paused():
                hooks.save(state, validation, best)
    return state


def _one_step(
    engine: Engine,
    stream: Iterator[Batch | UserError],
    settings: Settings,
    step: int,
    journal: Journal,
    meter: StepMeter,
    hooks: Hooks,
) -> dict[str, Any]:
    """One optimiser step; returns its log record. Losses are means over its micro-batches."""
    parts = settings.train.accumulate
    sums: dict[str, float] = {"loss": 0.0, "loss_match": 0.0, "loss_concept": 0.0}
    ids: tuple[str, ...] = ()
    temperature = 0.0
    for _ in range(parts):
        with meter.waiting():
            item = next(stream)
        if isinstance(item, UserError):
            raise item
        ids += item.ids
        output, batch = engine.forward(item)
        terms = objective(engine.composer, output, batch, settings.loss)
        values = {"loss": terms.total, "loss_match": terms.match, "loss_concept": terms.concept}
        values.update({f"loss_{name}": value for name, value in terms.penalties.items()})
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.item() / parts
        if not math.isfinite(sums["loss"]):
            raise _stopped("the loss is not finite", step, item.ids, journal, hooks)
        temperature = output.log_scale.detach().float().exp().item()
        engine.backward(terms.total / parts)
    norm = engine.gradient_norm()
    if not math.isfinite(norm):
        raise _stopped("a gradient is not finite", step, ids, journal, hooks)
    rates = engine.rates()
    engine.step()
    meter.step(len(ids), sums["loss"])
    record: dict[str, Any] = {"step": step, **sums, "lr": next(iter(rates.values()))}
    if "backbone" in rates:
        record["lr_backbone"] = rates["backbone"]
    return record | {"temperature": temperature, "grad_norm": norm}


def _stopped(what: str, step: int, ids: tuple[str, ...], journal: Journal, hooks: Hooks) -> TrainingStopped:
    newest = hooks.newest()
    journal.write(
        {"step": step, "loss": None, "stopped": what, "ids": list(ids), "checkpoint": str(newest) if newest else None}
    )
    return TrainingStopped(what, step, ids, newest)
