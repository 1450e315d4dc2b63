"""How the time of a step grows with the number of processes on this machine, against one plain process.

The batch of the whole job stays the same, so with enough cores N processes would take 1/N of the time. On a laptop
or in CI they share the cores: the figures then say what the processes cost each other, not how a cluster scales.

    python benchmarks/scaling.py [--ranks 1,2,4] [--steps 20] [--strategies ddp,zero2,zero3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from parity import Job, run_jobs, strategy_settings, tiny_settings
from rich.console import Console
from rich.table import Table

WARMUP = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategies", default="ddp,zero2,zero3")
    options = parser.parse_args()
    counts = [int(n) for n in options.ranks.split(",")]
    table = Table("strategy", "ranks", "ms a step", "against one plain process", title=f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = ["backbone.freeze=none", "train.batch_size=64", f"train.steps={options.steps + WARMUP}"]
        base = [*tiny_settings(folder), *more]
        recipe = str(folder / "recipe.yaml")

        def milliseconds(strategies: list[str], ranks: int) -> list[float]:
            jobs = [Job(recipe, [*base, *strategy_settings(s)], thresholds=False) for s in strategies]
            found = run_jobs(jobs, ranks, folder / "out")
            return [1000 * statistics.median(trained.seconds[WARMUP:]) for trained in found]

        (plain,) = milliseconds(["plain"], 1)
        table.add_row("plain", "1", f"{plain:.0f}", "1.00")
        for ranks in counts:
            strategies = options.strategies.split(",")
            for strategy, taken in zip(strategies, milliseconds(strategies, ranks), strict=True):
                table.add_row(strategy, str(ranks), f"{taken:.0f}", f"{taken / plain:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
