"""``neucore-xl ablate``: one table of what a setting brings, over several seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.cli.train import Overrides, Recipe


def ablate(
    recipe: Recipe,
    overrides: Overrides = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B,…",
            help="Setting and its values, the first is compared with; repeat for all combinations.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=numbers.PROCESSES, help="Runs of every combination.")] = 3,
    first_seed: Annotated[
        int, typer.Option("--first-seed", min=0, max=numbers.SEED, help="Seed of the first of them.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the runs and of ablation.json.")] = Path("runs/ablation"),
    commands: Annotated[
        bool, typer.Option("--commands", help="Print the training commands instead, to run them on a cluster.")
    ] = False,
) -> None:
    """Train RECIPE with every value and seed, evaluate the last checkpoints, print one table with paired intervals.

    The same command again goes on where it was stopped; runs that were trained elsewhere into its folders are taken.
    """
    from neucore_xl.ablation.plan import planned_runs, varied

    runs = planned_runs(recipe, overrides or [], varied(vary or []), seeds, out, first_seed=first_seed)
    if commands:
        for run in runs:
            print(run.command(recipe))
        return

    from neucore_xl.ablation.ablate import run_ablation

    console = terminal.console()
    run_ablation(runs, out, console, arguments=sys.argv).print(console)
    console.print(str(out / "ablation.json"), soft_wrap=True)
