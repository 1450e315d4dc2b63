"""``neucore-xl plan``: what fits how many GPUs, before any of them is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.cli.train import Overrides, Recipe


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    nodes: Annotated[int, numbers.nodes("Machines.")] = 1,
    gpus_per_node: Annotated[int, numbers.gpus_per_node("GPUs of each machine.")] = 1,
    gpu_memory: Annotated[float, numbers.gpu_memory("GB (10⁹ bytes) of one GPU.")] = 80.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures, in bytes, here.")] = None,
) -> None:
    """Print the memory per GPU of RECIPE under each strategy, which fit, and the command that submits it.

    Reads no data and no weights. Exit code 1: nothing fits.
    """
    from neucore_xl.data.settings import job_settings

    settings = job_settings(recipe, overrides or [])

    from neucore_xl.cli.output import write_report
    from neucore_xl.sizing.dry_run import plan_lines
    from neucore_xl.sizing.plan import Cluster, make_plan

    found = make_plan(settings, Cluster(nodes, gpus_per_node, gpu_memory), recipe, overrides or [])
    for line in plan_lines(found):
        terminal.say(line)
    if json_file is not None:
        write_report(json_file, found.as_dict())
    if found.recommended is None:
        raise typer.Exit(1)
