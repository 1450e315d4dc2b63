"""``neucore-xl train``: a recipe and a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", show_default=False, help="Settings that differ from the recipe."),
]
Recipe = Annotated[str, typer.Argument(help="Name of a packaged recipe (`config list`) or path of a YAML file.")]


def train(
    recipe: Recipe,
    run: Annotated[Path, typer.Option("--run", help="Run folder: created, or resumed from its last checkpoint.")],
    overrides: Overrides = None,
) -> None:
    """Train RECIPE into a run folder; the same command again resumes where it stopped."""
    from neucore_xl.config.load import load_settings

    settings = load_settings(recipe, overrides or [])  # refuse a wrong call before the seconds of importing torch

    from neucore_xl.training.job import run_job

    raise typer.Exit(run_job(settings, run))
