"""The one command, thin: parse, call, print. Nothing heavy is imported before a sub-command really runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from neucore_xl import __version__, terminal
from neucore_xl.cli import (
    ablate,
    checkpoint,
    compare,
    config,
    data,
    demo,
    explain,
    features,
    plan,
    prepare,
    submission,
    train,
)
from neucore_xl.errors import UserError, check_arguments
from neucore_xl.parallel.ending import ended

app = typer.Typer(
    name="neucore-xl",
    help="Composed image retrieval: train, evaluate and prepare data. Start with `neucore-xl demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's Markdown and syntax colouring cost a third of a second
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"neucore-xl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("train")(train.train)
app.command("ablate")(ablate.ablate)
app.command("compare")(compare.compare)
app.command("results")(compare.results)
app.command("plan")(plan.plan)
app.command("demo")(demo.demo)
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(explain.app, name="explain")
app.add_typer(features.app, name="features")
app.add_typer(prepare.app, name="prepare")
app.add_typer(submission.app, name="submission")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``arguments`` (default: the process's own) and exit: 0 done, 1 done with a bad answer, 2 wrong call or input.

    A `UserError` is printed as one sentence on stderr; a full disk or a folder that refuses writing likewise (exit 1).
    """
    terminal.prepare()
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
        app(args=None if arguments is None else list(arguments), prog_name="neucore-xl")
    except (UserError, OSError) as error:
        sys.exit(ended(error, rank=0))
