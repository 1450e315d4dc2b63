"""The whole job: settings and a folder become a trained model; a folder with a checkpoint goes on from it.

Every process of a job runs this. Rank 0 owns the run folder; what can be wrong is agreed on before work starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.settings import check_dataset
from neucore_xl.encoding.sentences import check_sequences
from neucore_xl.errors import UserError
from neucore_xl.parallel.launch import Launch
from neucore_xl.parallel.start import backend_name
from neucore_xl.parallel.stopping import Reason, Stopping, StopSignals
from neucore_xl.parallel.watchdog import Watchdog
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint
from neucore_xl.runs.checkpoints.save import mark_best
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import assemble
from neucore_xl.training.engines.engine import Engine, resolve_device
from neucore_xl.training.engines.strategy import Strategy, choose_strategy
from neucore_xl.training.journal import Journal, RunLog
from neucore_xl.training.loop import Hooks, TrainingPaused, TrainState, Validation, run_loop
from neucore_xl.training.restart import engine_for, restore_randomness, saver, state_of
from neucore_xl.training.stream import Share, batch_order, training_stream, workers_for
from neucore_xl.training.validate import check_labels, evaluate_split, headline


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
    """The processes of a job, how they were started and how they share the work; one process by default."""

    world: World
    launch: Launch
    strategy: Strategy
    signals: StopSignals | None = None

    @staticmethod
    def alone(settings: Settings) -> Together:
        """One process that nobody launched."""
        return Together(World(), Launch(), choose_strategy(settings.train, 1, {}))


def train(
    settings: Settings, run_dir: Path, *, console: Console | None = None, together: Together | None = None
) -> TrainSummary:
    """Train ``settings`` in ``run_dir``, or go on where it was stopped; a finished run is only summed up.

    Everything that can be wrong with the settings, the annotations or the folder is found before the folder is
    created, as a ``UserError``. Raises ``TrainingStopped`` when the loss or a gradient is no longer finite, and
    ``TrainingPaused`` when it was asked to stop and has saved.
    """
    started = time.monotonic()
    together = together or Together.alone(settings)
    world, strategy = together.world, together.strategy
    console = console if world.is_main else None
    device = resolve_device(settings.train)
    share = Share.of(settings.train, world)
    folder = RunFolder(run_dir)
    with ExitStack() as stack:
        resumed = world.on_main(lambda: folder.exists)
        if resumed:  # refuse a folder in use or of another run before the towers are built
            _claim(folder, settings, world, stack)
        with world.agreed():
            check_dataset(settings)
            train_split = open_from_settings(settings.data, settings.data.train_split)
            val_split = open_from_settings(settings.data, settings.data.val_split)
            check_labels(val_split)
            check_sequences(settings, [train_split, val_split])
            order = batch_order(train_split, settings)
            stored = folder.vocabulary() if resumed else None
        assembled = assemble(settings, stored, world=world)
        if not resumed:
            _claim(folder, settings, world, stack)
        if stored is None:
            world.on_main(lambda: folder.write_vocabulary(assembled.vocabulary))
        found = find.latest(folder.checkpoints, world)
        state = state_of(found)
        if found is not None and state.best_step == state.step:
            # a kill may have come between the checkpoint and this mark
            world.on_main(lambda: _mark_best(folder, found))
        # Before the engine: sharded towers cannot compute features.
        facts = assembled.facts([train_split, val_split])
        inputs = assembled.inputs_for([train_split, val_split], facts, without_gallery=[settings.data.train_split])
        val_collator = assembled.collator(inputs, facts, val_split)
        engine = engine_for(strategy, assembled, settings.train, world, found)

        def validate() -> Validation:
            return headline(
                evaluate_split(
                    engine.composer, inputs, val_collator, val_split, settings, device, world=world, forward=engine.root
                )
            )

        def newest() -> Path | None:
            checkpoint = find.latest(folder.checkpoints) if world.is_main else None
            return world.broadcast(checkpoint.path if checkpoint else None)

        stopping = Stopping(world, run_dir, settings.train.wall_minutes, started, together.signals)
        reasons: list[Reason] = []

        def stop() -> Reason | None:
            reason = stopping.poll()
            reasons.extend([reason] if reason else [])
            return reason

        log = world.on_main_only(lambda: RunLog(folder.path, state.step))
        journal = stack.enter_context(Journal(log, settings.train.steps, state.step, console))
        held = world.gather(engine.shard_sizes())
        journal.say(start_table(_facts(settings, together, engine, share, held)))
        journal.say(_announcement(settings, engine, train_split.name, len(train_split.triplets), state))
        hooks = Hooks(
            validate,
            saver(folder.checkpoints, engine, strategy, assembled, settings.train.keep_checkpoints),
            newest,
            stop,
        )
        if world.many:
            hooks = hooks.marking(stack.enter_context(Watchdog(world, settings.train.hang_minutes)).mark)
        train_collator = assembled.collator(inputs, facts, train_split)
        workers = workers_for(inputs, settings)
        stream = training_stream(train_split, order, train_collator, settings, state.step, workers, share)
        # Last before the loop: whether features were cached or computed must not change the dropout.
        restore_randomness(found, settings.train, world)
        try:
            state = run_loop(engine, stream, settings, state, journal, hooks, order.per_epoch)
        except TrainingPaused:
            for reason in reasons:
                stopping.obeyed(reason)
            raise
        journal.say(f"finished after {state.step} steps; best mean {state.best_value:.2f} at step {state.best_step}")
        best = world.on_main(lambda: find.best(folder.checkpoints))
        metrics = dict(best.metrics) if best else {}
    return TrainSummary(folder.path, state.step, state.best_step, state.best_value, metrics)


def _claim(folder: RunFolder, settings: Settings, world: World, stack: ExitStack) -> None:
    """Rank 0 holds the folder; every process must see it."""

    def claim() -> None:
        stack.enter_context(folder.claim(settings))

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


def _mark_best(folder: RunFolder, found: Checkpoint) -> None:
    mark_best(folder.checkpoints, found.step, found.metrics)


def _facts(
    settings: Settings, together: Together, engine: Engine, share: Share, held: list[int]
) -> list[tuple[str, object]]:
    """The rows of the start table."""
    train, world = settings.train, together.world
    part = train.batch_size // train.accumulate
    name = f" ({torch.cuda.get_device_name()})" if engine.device.type == "cuda" else ""
    spread = f"{min(held):,}" if min(held) == max(held) else f"{min(held):,} to {max(held):,}"
    return [
        ("launcher", together.launch.launcher),
        ("world size", world.world_size),
        ("nodes", together.launch.nodes),
        ("strategy", engine.describe()),
        ("backend", backend_name(engine.device.type, world)),
        ("device", f"{engine.device.type}{name}"),
        ("precision", train.precision),
        ("batch", f"{train.batch_size} queries a step, {part // share.parts} a forward pass and process"),
        ("parameters", f"{spread} a rank"),
    ]


def _announcement(settings: Settings, engine: Engine, split: str, triplets: int, state: TrainState) -> str:
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in engine.composer.parameters()]
    trained, whole = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
    begin = f"going on after step {state.step} of" if state.step else "training"
    return (
        f"{begin} {settings.train.steps} steps: {settings.model.name} on {settings.data.name} {split} "
        f"({triplets} triplets), batch {settings.train.batch_size}, {engine.device} in {settings.train.precision}, "
        f"{trained / 1e6:.2f} of {whole / 1e6:.2f} M parameters trained"
    )


_NAMES = len("world size")  # so that a log always holds the line `world size  N`


def start_table(rows: Iterable[tuple[str, object]]) -> str:
    """Rows of a name and a value as plain lines, the same in a terminal and a log."""
    return "\n".join(f"{name:<{_NAMES}}  {value}" for name, value in rows)
