"""A comparison: its runs carried out, ``results.json`` after each of them, the tables and the plot at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neucore_xl.ablation.plan import PlannedRun, folder_name
from neucore_xl.ablation.run import EVALUATED, Failed, carry_out, check, evaluate_run, trained
from neucore_xl.comparison.entries import Asked, Entries, features_of
from neucore_xl.comparison.results import NAME, Entry, merged, read_results, write_results
from neucore_xl.comparison.seeds import Key, with_over_seeds
from neucore_xl.errors import UserError
from neucore_xl.evaluation.compare import load
from neucore_xl.evaluation.result import Result


def run_comparison(
    runs: Sequence[PlannedRun], asked: Asked, console: Console, failed: list[Failed] | None = None
) -> list[Entry]:
    """Train and evaluate every run and write ``results.json`` into ``asked.out``; returns what it holds.

    The file is replaced after every run, and at the end with what the seeds give together. Entries of earlier calls
    stay, if they were measured alike. A run whose loss is no longer finite ends the command, or, with a list
    ``failed``, is added to it and left out. Raises ``UserError`` before any training for what cannot be used: settings,
    annotations, run folders, a results file of other features.
    """
    path = asked.out / NAME
    check(runs)
    earlier, results = earlier_entries(asked.out, runs)
    entries, make = [], Entries(asked, runs[0].settings)
    for finished in carry_out(runs, console, failed):
        entry = make.entry(finished)
        entries.append(entry)
        results[entry.system, entry.seed] = finished.result
        write_results(path, [e.model_copy(update={"over_seeds": None}) for e in merged(earlier, entries, path)])
    if not entries and failed:
        raise UserError(f"no run could be finished; {failed[0].run.variant.name}: {failed[0].why}")
    console.print("intervals and tests", style="bold")
    return _together(merged(earlier, entries, path), results, path)


def collect(
    runs: Sequence[PlannedRun], asked: Asked, console: Console, failed: list[Failed] | None = None
) -> list[Entry]:
    """As ``run_comparison`` for the runs that are trained; the others are named and left out.

    Raises ``UserError`` where none is.
    """
    done = [run for run in runs if trained(run)]
    for run in runs:
        if run not in done:
            console.print(f"not finished: {run.variant.name}, seed {run.seed}")
    if not done:
        raise UserError(f"no run in {asked.out} is finished: leave --collect out to train them")
    return run_comparison(done, asked, console, failed)


def run_task(runs: Sequence[PlannedRun], number: int) -> int:
    """Train and evaluate run ``number`` of the plan, counted from 0, for one task of an array; returns the exit code.

    It ends as a training job does (75: saved, to be started again). Tables are written by a call without a task.
    Raises ``UserError`` for a number outside of the plan, and as ``check`` does.
    """
    from neucore_xl.parallel.ending import ended, hand_over
    from neucore_xl.training.job import run_job

    if not 0 <= number < len(runs):
        raise UserError(f"--task {number}: the plan has {len(runs)} runs, tasks 0 to {len(runs) - 1}")
    run = runs[number]
    check([run])
    if not trained(run):
        code = run_job(run.settings, run.path)
        if code or not trained(run):
            return code
    try:
        evaluate_run(run.path, run.settings)
    except (UserError, OSError) as error:
        return hand_over(ended(error))
    return hand_over(0)


def earlier_entries(out: Path, runs: Sequence[PlannedRun]) -> tuple[list[Entry], dict[Key, Result]]:
    """What ``out`` holds of runs that are not planned now, and their evaluations.

    Raises ``UserError`` where the file is of other features or another dataset, or an evaluation is gone.
    """
    path = out / NAME
    if not os.path.lexists(path):
        return [], {}
    planned = {(run.variant.name, run.seed) for run in runs}
    kept = [entry for entry in read_results(path) if (entry.system, entry.seed) not in planned]
    settings = runs[0].settings
    results: dict[Key, Result] = {}
    for entry in kept:
        now = {"dataset": settings.data.name, **features_of(settings)}
        before = {"dataset": entry.dataset, **entry.features}
        for key, value in now.items():
            if before.get(key) != value:
                raise UserError(
                    f"{path} holds {entry.system}, seed {entry.seed}, of other features ({key}: {before.get(key)} "
                    f"against {value}): choose another --out, or move the file away."
                )
        folder = out / folder_name(entry.system) / f"seed-{entry.seed}" / EVALUATED
        try:
            results[entry.system, entry.seed] = load(folder)
        except UserError as error:
            raise UserError(
                f"{path} lists {entry.system}, seed {entry.seed}, whose evaluation is gone ({error}): name it in "
                "--systems again, or move the file away."
            ) from error
    return kept, results


def _together(entries: Sequence[Entry], results: dict[Key, Result], path: Path) -> list[Entry]:
    whole = with_over_seeds(entries, results)
    write_results(path, whole)
    return whole
