"""Train and evaluate the runs of an ablation; what is finished already is taken as it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neucore_xl.ablation.plan import PlannedRun
from neucore_xl.ablation.table import Comparison, compare_variants
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.inputs import check_features
from neucore_xl.encoding.sentences import check_sequences
from neucore_xl.errors import UserError
from neucore_xl.evaluation.compare import load
from neucore_xl.evaluation.result import METRICS_FILE, Result
from neucore_xl.files import output_json
from neucore_xl.parallel.device import resolve_device
from neucore_xl.runs.checkpoints.find import find_checkpoint
from neucore_xl.runs.environment import describe
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import load_run
from neucore_xl.training.run import train
from neucore_xl.training.validate import check_labels, evaluate_split

log = logging.getLogger(__name__)

EVALUATED = "evaluation"


def run_ablation(runs: Sequence[PlannedRun], out: Path, console: Console, *, arguments: Sequence[str]) -> Comparison:
    """Train and evaluate every run, write ``out/ablation.json``, and return what it holds.

    The last checkpoint of every run is evaluated: the number of steps was fixed before, so nothing is chosen on the
    split that is reported. A finished run is not trained again, an evaluated checkpoint not evaluated again.

    Raises ``UserError`` before any training for settings, annotations or sequences that cannot be used.
    """
    _check(runs)
    results: dict[str, list[Result]] = {}
    for number, run in enumerate(runs, start=1):
        console.print(f"{number}/{len(runs)} {run.variant.name}, seed {run.seed}", style="bold")
        train(run.settings, run.path, console=console)
        result = evaluate_run(run.path, run.settings)
        console.print(f"{result.headline} {result.score:.2f}")
        results.setdefault(run.variant.name, []).append(result)
    comparison = compare_variants(results, seeds=list(dict.fromkeys(r.seed for r in runs)))
    content = comparison.to_json() | {"environment": describe(runs[0].settings, list(arguments))}
    output_json(out / "ablation.json", content)
    return comparison


def evaluate_run(path: Path, settings: Settings) -> Result:
    """The result of the last checkpoint of the run at ``path`` on ``data.val_split``, kept in its ``evaluation/``."""
    folder = path / EVALUATED
    checkpoint = find_checkpoint(RunFolder(path), "last").path.name
    if (kept := _kept(folder, checkpoint)) is not None:
        return kept
    device = resolve_device(settings.train.device, settings.train.precision)
    system = load_run(path, checkpoint="last", settings=settings).to(device)
    split = open_from_settings(settings.data, settings.data.val_split)
    result = evaluate_split(system.prepare([split]), split).with_context(
        protocol=system.protocol,
        environment={"run": str(path), "checkpoint": checkpoint, **describe(settings, ["ablate"])},
    )
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


def _check(runs: Sequence[PlannedRun]) -> None:
    """Everything that can be wrong with any variant, before the first is trained."""
    opened: dict[str, list[Split]] = {}
    seen: set[str] = set()
    for run in runs:
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
