"""``neucore-xl compare`` and ``neucore-xl results``: every system on one backbone, and the page of what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.cli.train import Overrides, Recipe
from neucore_xl.errors import UserError


def compare(
    recipe: Recipe,
    overrides: Overrides = None,
    systems: Annotated[str, typer.Option(metavar="all|A,B,…", help="Systems by name, or all that can run.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, max=numbers.PROCESSES, help="Runs of every system.")] = 3,
    first_seed: Annotated[
        int, typer.Option("--first-seed", min=0, max=numbers.SEED, help="Seed of the first of them.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the runs, of results.json and the tables.")] = Path(
        "runs/compare"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="What happens anyway: finished runs are taken as they are.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Print the papers' figures beside them (other backbones).")
    ] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Whether results.svg is drawn.")] = True,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print a command for each run instead, to run them on a cluster.")
    ] = False,
    task: Annotated[
        int | None, typer.Option(min=0, max=numbers.SEED, help="Only run TASK of the plan, from 0, without tables.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Train nothing, write the tables of what there is.")
    ] = False,
) -> None:
    """Train and evaluate systems on RECIPE's backbone, data and budget; print the papers' tables with intervals.

    The same command again goes on where it was stopped; runs that were made elsewhere into its folders are taken.
    """
    from neucore_xl.data.settings import job_settings

    job_settings(recipe, overrides or [])  # refuse a wrong call before the seconds of importing torch
    if plot and task is None and not commands:
        from neucore_xl.comparison.plot import check_library

        check_library()
    from neucore_xl.ablation.plan import planned_runs
    from neucore_xl.comparison.entries import Asked
    from neucore_xl.comparison.systems import planned_systems

    variants, skipped = planned_systems(systems, recipe, overrides or [])
    runs = planned_runs(recipe, overrides or [], variants, seeds, out, first_seed=first_seed)
    asked = Asked(recipe, overrides or [], out)
    if commands:
        for number in range(len(runs)):
            print(asked.task_command(number, systems, seeds, first_seed))
        return
    from neucore_xl.ablation.run import Failed
    from neucore_xl.comparison.run import collect as collected
    from neucore_xl.comparison.run import run_comparison, run_task
    from neucore_xl.comparison.write import print_tables, write_tables
    from neucore_xl.training.loop import TrainingPaused

    if task is not None:
        raise typer.Exit(run_task(runs, task))
    console = terminal.console()
    for system in skipped:
        console.print(f"left out: {system.name}: {system.why}", soft_wrap=True)
    failed: list[Failed] = []
    try:
        entries = (collected if collect else run_comparison)(runs, asked, console, failed)
    except TrainingPaused as pause:
        terminal.say(str(pause), stderr=True)
        raise typer.Exit(pause.exit_code) from None
    files = write_tables(entries, out, published=published, plot=plot)
    print_tables(entries, skipped, console, published=published)
    for file in files:
        console.print(str(file), soft_wrap=True)
    for one in failed:
        terminal.say(f"error: {one.run.variant.name}, seed {one.run.seed}, is left out: {one.why}", stderr=True)
    raise typer.Exit(1 if failed else 0)


def results(
    page: Annotated[Path, typer.Argument(help="Page to write, such as docs/results.md.")],
    sections: Annotated[
        Path | None, typer.Option(help="YAML of its sections; default: sections.yaml in the folder named as the page.")
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="NAME=FILE", help="Take a results.json as section NAME's; repeat for others."),
    ] = None,
) -> None:
    """Write the page of results from small results files that stand beside it, with a plot for each.

    A section without a file is a table with empty cells and the command that fills it.
    """
    from neucore_xl.cli.output import write_own
    from neucore_xl.comparison.page import MARK, draw_plots, page_text, read_sections, take_results

    folder = page.with_suffix("")
    content = read_sections(sections or folder / "sections.yaml")
    for argument in take or []:
        name, equals, file = argument.partition("=")
        if not equals or not file:
            raise UserError(f"--from {argument}: give a section and a file, such as shapes=runs/compare/results.json")
        take_results(content, name, Path(file), folder)
    write_own(page, page_text(content, folder), replaces=lambda old: MARK in old)
    for path in [page, *draw_plots(content, folder)]:
        terminal.say(f"wrote {path}")
