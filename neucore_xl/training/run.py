"""The whole job: settings and a folder become a trained model; a folder with a checkpoint goes on from it.

Every process of a job runs this. Rank 0 owns the run folder; what can be wrong is agreed on before work starts.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.settings import check_dataset
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.inputs import check_features
from neucore_xl.encoding.scores import Scorer
from neucore_xl.encoding.sentences import check_sequences
from neucore_xl.errors import UserError
from neucore_xl.parallel.device import resolve_device
from neucore_xl.parallel.launch import Launch
from neucore_xl.parallel.stopping import Reason, Stopping, StopSignals
from neucore_xl.parallel.watchdog import Watchdog
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint
from neucore_xl.runs.checkpoints.find import best, check_identity, latest
from neucore_xl.runs.checkpoints.save import settle_best
from neucore_xl.runs.fitting import fit, told
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import System, assemble
from neucore_xl.training.announce import announcement, start_lines, start_table
from neucore_xl.training.engines.engine import Engine
from neucore_xl.training.engines.strategy import Strategy, build_engine, choose_strategy
from neucore_xl.training.journal import Journal, RunLog
from neucore_xl.training.loop import Hooks, TrainingPaused, TrainState, Validation, run_loop
from neucore_xl.training.restart import restore_randomness, saver, state_of
from neucore_xl.training.stream import BatchOrder, Share, batch_order, training_stream, workers_for
from neucore_xl.training.validate import check_labels, evaluate_split, headline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSummary:
    """What a finished job leaves: ``best_value`` and ``metrics`` (of the best checkpoint) in percent."""

    run: Path
    steps: int
    best_step: int | None
    best_value: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Together:
    """The processes of a job, how they were started, where and how they share the work; one process by default."""

    world: World
    launch: Launch
    strategy: Strategy
    device: torch.device
    signals: StopSignals | None = None

    @staticmethod
    def alone(settings: Settings) -> Together:
        """One process that nobody launched."""
        device = resolve_device(settings.train.device, settings.train.precision)
        return Together(World(), Launch(), choose_strategy(settings.train, 1, {}, device=device.type), device)


def train(
    settings: Settings, run_dir: Path, *, console: Console | None = None, together: Together | None = None
) -> TrainSummary:
    """Train ``settings`` in ``run_dir``, or go on where it was stopped; a finished run is only summed up.

    Everything that can be wrong with the settings, the annotations or the folder is found before the folder is
    created, as a ``UserError``. Raises ``TrainingStopped`` when the loss or a gradient is no longer finite, and
    ``TrainingPaused`` when it was asked to stop and has saved.
    """
    together = together or Together.alone(settings)
    stopping = Stopping(together.world, run_dir, settings.train.wall_minutes, signals=together.signals)
    with ExitStack() as held:
        opened = _open(settings, RunFolder(run_dir), together, held)
        built = _build(settings, opened, together)
        state = _loop(settings, opened, built, together, stopping, console if together.world.is_main else None, held)
        metrics = together.world.on_main(lambda: _best_metrics(opened.folder.checkpoints))
    return TrainSummary(opened.folder.path, state.step, state.best_step, state.best_value, metrics)


@dataclass(frozen=True)
class _Opened:
    """What the run stands on: its folder, which is held, its data, its model on the CPU, the newest checkpoint."""

    folder: RunFolder
    share: Share
    train_split: Split
    val_split: Split
    order: BatchOrder
    system: System
    found: Checkpoint | None


@dataclass(frozen=True)
class _Built:
    """What the loop works with."""

    scorer: Scorer
    engine: Engine


def _open(settings: Settings, folder: RunFolder, together: Together, held: ExitStack) -> _Opened:
    """Find everything that can be wrong, claim the folder until ``held`` is left, and assemble the model."""
    world = together.world
    share = Share.of(settings.train, world)
    resumed = world.on_main(lambda: folder.exists)
    if resumed:  # refuse a folder in use or of another run before the towers are built
        _claim(folder, settings, world, held)
    with world.agreed():
        check_dataset(settings)
        train_split = open_from_settings(settings.data, settings.data.train_split)
        val_split = open_from_settings(settings.data, settings.data.val_split)
        check_labels(val_split)
        check_sequences(settings, [train_split, val_split])
        check_features(settings, [train_split, val_split], without_gallery=[settings.data.train_split])
        order = batch_order(train_split, settings)
        vocabulary = folder.vocabulary() if resumed else None
    found = latest(folder.checkpoints, world) if resumed else None
    system = assemble(settings, vocabulary, world=world)
    if not resumed:
        _claim(folder, settings, world, held)
    if vocabulary is None:
        world.on_main(lambda: folder.write_vocabulary(system.vocabulary))
    if found is not None:
        with world.agreed():
            check_identity(found, system.identity)
            best_step = state_of(found).best_step
        # A kill may have come between the checkpoint and its mark.
        world.on_main(lambda: settle_best(folder.checkpoints, best_step))
    return _Opened(folder, share, train_split, val_split, order, system, found)


def _build(settings: Settings, opened: _Opened, together: Together) -> _Built:
    """Features of frozen towers, and the engine with the state of the checkpoint."""
    system, splits = opened.system, [opened.train_split, opened.val_split]
    # Before the engine: sharded towers cannot compute features.
    scorer = system.prepare(splits, without_gallery=[settings.data.train_split], device=together.device)
    if opened.found is None and (report := fit(system, scorer, opened.train_split, device=together.device)) is not None:
        together.world.on_main(lambda: opened.folder.write_start(report))
    engine = build_engine(
        together.strategy,
        system.composer,
        system.backbone,
        settings.train,
        together.world,
        together.device,
        opened.found,
    )
    return _Built(scorer.through(engine.root, engine.device), engine)


def _loop(
    settings: Settings,
    opened: _Opened,
    built: _Built,
    together: Together,
    stopping: Stopping,
    console: Console | None,
    held: ExitStack,
) -> TrainState:
    """Say what is done, train to the last step, and return the state at the end."""
    world, engine, state = together.world, built.engine, state_of(opened.found)
    run_log = world.on_main_only(lambda: RunLog(opened.folder.path, state.step))
    journal = held.enter_context(Journal(run_log, settings.train.steps, state.step, console))
    sizes = world.gather(engine.shard_sizes())
    journal.say(start_table(start_lines(settings, together.launch, engine, opened.share, sizes)))
    journal.say(announcement(settings, engine, opened.train_split, state))
    if (report := world.on_main(opened.folder.start)) is not None:
        journal.say(told(report))
    reasons: list[Reason] = []
    hooks = _hooks(settings, opened, built, stopping, reasons)
    if world.many:
        hooks = hooks.marking(held.enter_context(Watchdog(world, settings.train.hang_minutes)).mark)
    collator, workers = built.scorer.collator(opened.train_split), workers_for(built.scorer.inputs, settings)
    stream = training_stream(opened.train_split, opened.order, collator, settings, state.step, workers, opened.share)
    # Last before the loop: whether features were cached or computed must not change the dropout.
    restore_randomness(opened.found, settings.train, world)
    try:
        state = run_loop(engine, stream, settings, state, journal, hooks, opened.order.per_epoch)
    except TrainingPaused:
        for reason in reasons:
            stopping.obeyed(reason)
        raise
    journal.say(f"finished after {state.step} steps; best mean {state.best_value:.2f} at step {state.best_step}")
    return state


def _hooks(settings: Settings, opened: _Opened, built: _Built, stopping: Stopping, reasons: list[Reason]) -> Hooks:
    """What the loop calls; a reason to stop that is found is added to ``reasons``."""
    engine, checkpoints, world = built.engine, opened.folder.checkpoints, built.engine.world

    def validate() -> Validation:
        return headline(evaluate_split(built.scorer, opened.val_split))

    def newest() -> Path | None:
        checkpoint = None
        if world.is_main:
            with suppress(UserError):  # what ended the run is to be said, not what its checkpoints lack
                checkpoint = latest(checkpoints)
        return world.broadcast(checkpoint.path if checkpoint else None)

    def stop() -> Reason | None:
        reason = stopping.poll()
        reasons.extend([reason] if reason else [])
        return reason

    save = saver(checkpoints, engine, opened.system.identity, settings.train.keep_checkpoints)
    return Hooks(validate, save, newest, stop)


def _best_metrics(checkpoints: Path) -> dict[str, float]:
    """Of the best checkpoint; none where it is damaged, which is said and takes nothing from a run that is done."""
    try:
        chosen = best(checkpoints)
    except UserError as error:
        log.warning("%s", error)
        return {}
    return dict(chosen.metrics) if chosen else {}


def _claim(folder: RunFolder, settings: Settings, world: World, held: ExitStack) -> None:
    """Rank 0 holds the folder; every process must see it."""

    def claim() -> None:
        held.enter_context(folder.claim(settings))

    world.on_main(claim)
    with world.agreed():
        try:
            seen = folder.exists
            folder.settings()
        except OSError:
            seen = False
        if not seen:
            raise UserError(
                f"the run folder {folder.path} cannot be read here: put it on a disk that all nodes share, readable "
                "by you on each of them."
            )
