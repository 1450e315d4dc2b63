"""The whole job: settings and a folder become a trained model; a folder with a checkpoint goes on from it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.runs import checkpoints
from neucore_xl.runs.assemble import Assembled, assemble
from neucore_xl.runs.checkpoints import Checkpoint
from neucore_xl.runs.folder import RunFolder
from neucore_xl.training.data import batch_order, training_stream, workers_for
from neucore_xl.training.engine import Engine, PlainEngine, resolve_device
from neucore_xl.training.journal import Journal
from neucore_xl.training.log import RunLog
from neucore_xl.training.loop import Hooks, TrainState, Validation, run_loop
from neucore_xl.training.randomness import random_state, restore_random_state, seed_everything
from neucore_xl.training.validate import check_labels, evaluate_split, headline


@dataclass(frozen=True)
class TrainSummary:
    """What a finished job leaves: ``best_value`` and ``metrics`` (of the best checkpoint) in percent."""

    run: Path
    steps: int
    best_step: int | None
    best_value: float | None
    metrics: dict[str, float]


def train(settings: Settings, run_dir: Path, *, console: Console | None = None) -> TrainSummary:
    """Train ``settings`` in ``run_dir``, or go on where it was stopped; a finished run is only summed up.

    Everything that can be wrong with the settings, the annotations or the folder is found before the folder is
    created, as a ``UserError``. Raises ``TrainingStopped`` when the loss or a gradient is no longer finite.
    """
    device = resolve_device(settings.train)
    folder = RunFolder(run_dir)
    with ExitStack() as stack:
        if folder.exists:  # refuse a folder in use or of another run before the towers are built
            stack.enter_context(folder.claim(settings))
        train_split = open_from_settings(settings.data, settings.data.train_split)
        val_split = open_from_settings(settings.data, settings.data.val_split)
        check_labels(val_split)
        order = batch_order(train_split, settings)
        stored = folder.vocabulary() if folder.exists else None
        assembled = assemble(settings, stored)
        engine = PlainEngine(assembled.composer, assembled.backbone, settings.train)
        claimed = folder.exists
        if not claimed:
            stack.enter_context(folder.claim(settings))
        if stored is None:
            folder.write_vocabulary(assembled.vocabulary)

        found = checkpoints.latest(folder.checkpoints)
        state = TrainState()
        if found is not None:
            state = _restore_weights(found, assembled, engine)
            if state.best_step == state.step:  # a kill may have come between the checkpoint and this mark
                checkpoints.mark_best(folder.checkpoints, state.step, found.metrics)
        facts = assembled.facts([train_split, val_split])
        inputs = assembled.inputs_for([train_split, val_split], facts, without_gallery=[settings.data.train_split])
        engine.composer.to(device)  # computing features may have moved the towers
        val_collator = assembled.collator(inputs, facts, val_split)

        def validate() -> Validation:
            return headline(evaluate_split(engine.composer, inputs, val_collator, val_split, settings, device))

        def save(now: TrainState, validation: Validation | None, best: bool) -> None:
            checkpoints.save(
                folder.checkpoints,
                now.step,
                weights=checkpoints.stored_state(engine.composer, assembled.backbone),
                extra={"engine": engine.state_dict(), "random": random_state(), "state": asdict(now)},
                identity=assembled.identity,
                keep=settings.train.keep_checkpoints,
                metrics=dict(validation.metrics) if validation else None,
                best=best,
            )

        def newest() -> Path | None:
            checkpoint = checkpoints.latest(folder.checkpoints)
            return checkpoint.path if checkpoint else None

        with Journal(RunLog(folder.path, state.step), settings.train.steps, state.step, console) as journal:
            journal.say(_announcement(settings, engine, train_split.name, len(train_split.triplets), state))
            workers = workers_for(inputs, settings)
            train_collator = assembled.collator(inputs, facts, train_split)
            stream = training_stream(train_split, order, train_collator, settings, state.step, workers)
            # Last before the loop: whether features were cached or computed must not change the dropout.
            seed_everything(settings.train.seed)
            if found is not None:
                restore_random_state(found.extra()["random"])
            state = run_loop(engine, stream, settings, state, journal, Hooks(validate, save, newest), order.per_epoch)
            journal.say(
                f"finished after {state.step} steps; best mean {state.best_value:.2f} at step {state.best_step}"
            )
        best = checkpoints.best(folder.checkpoints)
        metrics = dict(best.metrics) if best else {}
    return TrainSummary(folder.path, state.step, state.best_step, state.best_value, metrics)


def _restore_weights(found: Checkpoint, assembled: Assembled, engine: Engine) -> TrainState:
    """Weights, optimiser and schedule of a checkpoint into the engine; returns how far it was."""
    checkpoints.check_identity(found, assembled.identity)
    checkpoints.load_state(engine.composer, assembled.backbone, found.weights(), found.path)
    extra: dict[str, Any] = found.extra()
    engine.load_state_dict(extra["engine"])
    return TrainState(**extra["state"])


def _announcement(settings: Settings, engine: Engine, split: str, triplets: int, state: TrainState) -> str:
    trained = sum(p.numel() for p in engine.composer.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in engine.composer.parameters())
    begin = f"going on after step {state.step} of" if state.step else "training"
    return (
        f"{begin} {settings.train.steps} steps: {settings.model.name} on {settings.data.name} {split} "
        f"({triplets} triplets), batch {settings.train.batch_size}, {engine.device} in {settings.train.precision}, "
        f"{trained / 1e6:.2f} of {whole / 1e6:.2f} M parameters trained"
    )
