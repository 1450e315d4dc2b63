"""A training job from its first to its last line: launchers, errors of one process or of all, exit codes."""

from __future__ import annotations

from pathlib import Path

from neucore_xl import terminal
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from neucore_xl.parallel.device import resolve_device
from neucore_xl.parallel.ending import ended, hand_over, leave
from neucore_xl.parallel.launch import check, detect
from neucore_xl.parallel.start import start, stop
from neucore_xl.parallel.stopping import StopSignals
from neucore_xl.parallel.watchdog import lost_peers
from neucore_xl.parallel.world import World
from neucore_xl.runs.folder import differences
from neucore_xl.training.engines.strategy import choose_strategy
from neucore_xl.training.loop import TrainingPaused
from neucore_xl.training.run import Together, train


def run_job(settings: Settings, run_dir: Path) -> int:
    """Train in this process and those it was launched with; returns the exit code, whatever happens.

    0 finished; 1 stopped by a fault; 2 wrong input; 75 and 76 stopped on purpose, saved (``errors.REQUEUE``,
    ``errors.STOPPED``); 130 interrupted. What concerns all is said once, by rank 0.
    """
    rank, local, world = 0, 0, None
    try:
        launch = detect()
        rank, local = launch.rank, launch.local_rank
        device = resolve_device(settings.train.device, settings.train.precision)
        check(launch, settings.train.world_size, device.type)
        strategy = choose_strategy(settings.train, launch.world_size, device=device.type)
        # no collective operation may give up before the watchdog has said who waits for whom
        minutes = max(60.0, 2 * settings.train.hang_minutes)
        world = start(launch, device.type, group=strategy.needs_group, collective_minutes=minutes)
        same_settings(settings, world)
        console = terminal.console() if world.is_main else None
        with StopSignals() as signals:
            together = Together(world, launch, strategy, device, signals)
            train(settings, run_dir, console=console, together=together)
        code = 0
    except TrainingPaused as pause:
        _say(str(pause), rank)
        code = pause.exit_code
    except KeyboardInterrupt:
        _say(f"interrupted: the same command goes on from the last checkpoint in {run_dir}", rank)
        code = 130
    except Exception as error:
        if (lost := lost_peers(error, world)) is not None:
            terminal.say(f"error: {lost}", stderr=True)
            leave(1)
        code = ended(error, rank, before=local)  # before they have met each node speaks for itself
    if world is not None:
        stop(world)
    return hand_over(code, rank)


def same_settings(settings: Settings, world: World) -> None:
    """Raise ``UserError``, on every rank, where a rank was started with other settings than rank 0."""
    first: Settings = world.broadcast(settings)
    with world.agreed():
        if changed := differences(first, settings):
            listed = "; ".join(f"{key} is {new}, on rank 0 {old}" for key, old, new in changed)
            raise UserError(f"the processes were started with different settings ({listed}): start all alike.")


def _say(text: str, rank: int) -> None:
    if rank == 0:
        terminal.say(text, stderr=True)
