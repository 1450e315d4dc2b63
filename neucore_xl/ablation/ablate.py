"""An ablation: its runs carried out, and the file of what they bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from neucore_xl.ablation.plan import PlannedRun
from neucore_xl.ablation.run import carry_out, check
from neucore_xl.ablation.table import Comparison, compare_variants
from neucore_xl.evaluation.result import Result
from neucore_xl.files import output_json
from neucore_xl.runs.environment import describe


def run_ablation(runs: Sequence[PlannedRun], out: Path, console: Console, *, arguments: Sequence[str]) -> Comparison:
    """Train and evaluate every run, write ``out/ablation.json``, and return what it holds.

    The last checkpoint of every run is evaluated. A finished run is not trained again, an evaluated checkpoint not
    evaluated again.

    Raises ``UserError`` before any training for settings, annotations, sequences or run folders that cannot be used.
    """
    check(runs)
    results: dict[str, list[Result]] = {}
    for finished in carry_out(runs, console):
        results.setdefault(finished.run.variant.name, []).append(finished.result)
    comparison = compare_variants(results, seeds=list(dict.fromkeys(r.seed for r in runs)))
    content = comparison.to_json() | {"environment": describe(runs[0].settings, list(arguments))}
    output_json(out / "ablation.json", content)
    return comparison
