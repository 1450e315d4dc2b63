"""``neucore-xl train``: a recipe and a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", show_default=False, help="Settings that differ from the recipe."),
]
Recipe = Annotated[str, typer.Argument(help="Name of a packaged recipe (`config list`) or path of a YAML file.")]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "--run-dir", help="Run folder: created, or resumed from its last checkpoint."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, shapes and plan; needs no run folder, data or weights.")
    ] = False,
    nodes: Annotated[int | None, numbers.nodes("Of a dry run: machines.")] = None,
    gpus_per_node: Annotated[int | None, numbers.gpus_per_node("Of a dry run: GPUs of each machine.")] = None,
    gpu_memory: Annotated[float, numbers.gpu_memory("Of a dry run: GB of one GPU.")] = 80.0,
) -> None:
    """Train RECIPE into a run folder; the same command again resumes where it stopped."""
    from neucore_xl.data.settings import job_settings

    settings = job_settings(recipe, overrides or [])  # refuse a wrong call before the seconds of importing torch

    if dry_run:
        from neucore_xl.sizing.dry_run import dry_run as rehearse
        from neucore_xl.sizing.dry_run import present_cluster

        cluster = present_cluster(nodes, gpus_per_node, gpu_memory)
        rehearse(settings, cluster, terminal.console(), recipe=recipe, overrides=overrides or [])
        return
    if run is None:
        raise UserError("train needs a run folder: add --run-dir DIR, or --dry-run to see what would run.")

    from neucore_xl.training.job import run_job

    raise typer.Exit(run_job(settings, run))
