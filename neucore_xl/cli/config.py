"""``neucore-xl config``: look at recipes and settings without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli.train import Overrides, Recipe

app = typer.Typer(help="Look at recipes and settings.", no_args_is_help=True)


@app.command()
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print the resolved settings of RECIPE as YAML, which is itself a recipe."""
    from neucore_xl.config.load import dump_yaml
    from neucore_xl.data.settings import job_settings

    typer.echo(dump_yaml(job_settings(recipe, overrides or [])), nl=False)


@app.command("list")
def list_recipes() -> None:
    """List the packaged recipes with the first line of each."""
    from neucore_xl.config.load import RECIPES, recipe_names

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        typer.echo(f"{name:<{width}}  {first.lstrip('# ')}")


@app.command()
def reference(
    write: Annotated[Path | None, typer.Option("--write", help="Write the page to this file instead.")] = None,
) -> None:
    """Print the reference page of all settings (Markdown)."""
    from neucore_xl.cli.output import write_own
    from neucore_xl.config.reference import MARK, render
    from neucore_xl.data.datasets import dataset_names

    page = render({"data.name": dataset_names()})
    if write is None:
        typer.echo(page, nl=False)
    else:
        write_own(write, page, replaces=lambda old: MARK in old)
        terminal.say(f"wrote {write}")
