"""Carry planned runs out: check all of them, train what is not trained, evaluate what is not evaluated."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from neucore_xl.ablation.plan import PlannedRun
from neucore_xl.ablation.timing import device_name, parameter_counts, timed
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.inputs import check_features
from neucore_xl.encoding.sentences import check_sequences
from neucore_xl.errors import UserError
from neucore_xl.evaluation.compare import load
from neucore_xl.evaluation.result import METRICS_FILE, Result
from neucore_xl.files import write_json
from neucore_xl.jsonfile import read_json
from neucore_xl.parallel.device import resolve_device
from neucore_xl.progress import duration
from neucore_xl.runs.checkpoints.find import find_checkpoint, latest
from neucore_xl.runs.environment import describe
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import load_run
from neucore_xl.training.loop import TrainingStopped
from neucore_xl.training.run import train
from neucore_xl.training.validate import check_labels, evaluate_split

log = logging.getLogger(__name__)

EVALUATED = "evaluation"
SECONDS = "seconds.json"  # in a run folder: how long its training took from its first to its last second


@dataclass(frozen=True)
class Finished:
    """A run that is trained and evaluated."""

    run: PlannedRun
    result: Result


@dataclass(frozen=True)
class Failed:
    """A run that cannot be finished, and why, in one sentence."""

    run: PlannedRun
    why: str


def check(runs: Sequence[PlannedRun]) -> None:
    """Everything that can be wrong with any run, before the first is trained; raises ``UserError``."""
    opened: dict[str, list[Split]] = {}
    seen: set[str] = set()
    for run in runs:
        try:
            RunFolder(run.path).check(run.settings)
        except UserError as error:
            raise UserError(str(error).replace("--run-dir", "--out")) from error
        if run.variant.name in seen:
            continue
        seen.add(run.variant.name)
        data = run.settings.data
        key = data.model_dump_json()
        if key not in opened:
            splits = [open_from_settings(data, name) for name in (data.train_split, data.val_split)]
            check_labels(splits[1])
            opened[key] = splits
        try:
            check_sequences(run.settings, opened[key])
            check_features(run.settings, opened[key], without_gallery=[data.train_split])
        except UserError as error:
            raise UserError(f"{run.variant.name}: {error}") from error


def carry_out(runs: Sequence[PlannedRun], console: Console, failed: list[Failed] | None = None) -> Iterator[Finished]:
    """Each run in turn, trained and evaluated; what is finished already is taken as it is.

    A run whose loss is no longer finite ends all of them, or, with a list ``failed``, is added to it and left out.

    The last checkpoint of every run is evaluated: the number of steps was fixed before, so nothing is chosen on the
    split that is reported.
    """
    left = TimeLeft(runs)
    for number, run in enumerate(runs, start=1):
        console.print(f"{number}/{len(runs)} {run.variant.name}, seed {run.seed}{left.words()}", style="bold")
        start = time.monotonic()
        try:
            _train(run, console)
        except TrainingStopped as error:
            if failed is None:
                raise
            failed.append(Failed(run, str(error)))
            console.print(f"left out: {error}", soft_wrap=True)
            left.done(run, time.monotonic() - start)
            continue
        result = evaluate_run(run.path, run.settings)
        left.done(run, time.monotonic() - start)
        console.print(f"{result.headline} {result.score:.2f}")
        yield Finished(run, result)


def _train(run: PlannedRun, console: Console) -> None:
    """Train what is not trained, and write how long it took where this is known."""
    if trained(run):
        return
    start, begun = time.monotonic(), RunFolder(run.path).exists
    train(run.settings, run.path, console=console)
    if not begun:
        write_json(run.path / SECONDS, {"wall_seconds": time.monotonic() - start})


def trained(run: PlannedRun) -> bool:
    """Whether the run has its last checkpoint; raises ``UserError`` where its folder is another run's."""
    folder = RunFolder(run.path)
    if not folder.exists:
        return False
    newest = latest(folder.checkpoints)
    return newest is not None and newest.step >= run.settings.train.steps


def wall_seconds(path: Path) -> float | None:
    """Seconds that the run at ``path`` took to train; None where it was stopped on the way, or trained elsewhere."""
    try:
        seconds = read_json(path / SECONDS, dict).get("wall_seconds")
    except UserError:
        return None
    return float(seconds) if isinstance(seconds, int | float) else None


class TimeLeft:
    """How long the runs that are not finished will take, from those that are."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._waiting = [run for run in runs if not trained(run)]
        self._took: dict[str, list[float]] = {}
        for run in runs:
            if (seconds := wall_seconds(run.path)) is not None:
                self._took.setdefault(run.variant.name, []).append(seconds)

    def done(self, run: PlannedRun, seconds: float) -> None:
        """``run`` took ``seconds``, if it was not finished before."""
        if run in self._waiting:
            self._waiting.remove(run)
            self._took.setdefault(run.variant.name, []).append(seconds)

    def seconds(self) -> float | None:
        """A run takes what its variant took with other seeds, or else what runs took on average; None: unknown."""
        every = [s for took in self._took.values() for s in took]
        if not every or not self._waiting:
            return None
        return sum(_mean(self._took.get(run.variant.name, every)) for run in self._waiting)

    def words(self) -> str:
        """The end of a line of progress."""
        seconds = self.seconds()
        return "" if seconds is None else f" (about {duration(seconds)} left)"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def evaluate_run(path: Path, settings: Settings) -> Result:
    """The result of the last checkpoint of the run at ``path`` on ``data.val_split``, kept in its ``evaluation/``.

    Its environment holds what it was measured with: ``backbone`` (the fingerprint of the frozen weights),
    ``parameters``, ``ms_per_query`` and ``device``.
    """
    folder = path / EVALUATED
    found = find_checkpoint(RunFolder(path), "last")
    checkpoint = found.path.name
    if (kept := _kept(folder, checkpoint)) is not None:
        return kept
    device = resolve_device(settings.train.device, settings.train.precision)
    system = load_run(path, checkpoint="last", settings=settings).to(device)
    split = open_from_settings(settings.data, settings.data.val_split)
    scorer, watch = timed(system.prepare([split]))
    measured: dict[str, Any] = {
        "parameters": parameter_counts(system.composer, system.backbone),
        "device": device_name(device),
    }
    result = evaluate_split(scorer, split).with_context(
        protocol=system.protocol,
        environment={"run": str(path), "checkpoint": checkpoint, **describe(settings, sys.argv)},
    )
    measured |= {"ms_per_query": watch.ms_per_query, "backbone": found.identity.backbone}
    result = result.with_context(environment=measured)
    result.save(folder, force=True)  # a folder of ours, inside the run's own
    return result


def _kept(folder: Path, checkpoint: str) -> Result | None:
    """What ``folder`` holds, if it is whole and of ``checkpoint``."""
    if not (folder / METRICS_FILE).exists():
        return None
    try:
        result = load(folder)
    except UserError as error:
        log.warning("%s", error)
        return None
    return result if result.environment.get("checkpoint") == checkpoint else None
