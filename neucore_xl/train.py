"""``python -m neucore_xl.train RECIPE --run-dir DIR [key=value …]``: the same as ``neucore-xl train``, for launchers.

Any launcher will do: ``python``, ``torchrun``, ``accelerate launch``, ``deepspeed`` or ``srun``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neucore_xl import terminal
from neucore_xl.errors import UserError, check_arguments
from neucore_xl.parallel.ending import ended, hand_over

if TYPE_CHECKING:
    from neucore_xl.config.schema import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Wrong input is one sentence on standard error."""
    terminal.prepare()
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        return hand_over(ended(error))
    parser = argparse.ArgumentParser(
        prog="python -m neucore_xl.train", description="Train a model, or go on training it."
    )
    parser.add_argument("recipe", help="name of a recipe, or path to a YAML file")
    # Two names: launchers take "--run" on their own command line for a short form of options of theirs.
    parser.add_argument("--run", "--run-dir", type=Path, metavar="DIR", help="run folder; one that exists is resumed")
    parser.add_argument("--dry-run", action="store_true", help="print settings, shapes and plan; nothing is trained")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe")
    # deepspeed's launcher adds this to every command; the environment says the same
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    if options.run is None and not options.dry_run:
        parser.error("--run-dir DIR is missing")
    try:
        from neucore_xl.data.settings import job_settings

        settings = job_settings(options.recipe, options.overrides)
        if options.dry_run:
            return _rehearse(settings, options)
    except Exception as error:
        return hand_over(ended(error))
    from neucore_xl.training.job import run_job

    return run_job(settings, options.run)


def _rehearse(settings: Settings, options: argparse.Namespace) -> int:
    """The dry run for one GPU of 80 GB or what the launcher started; `neucore-xl train --dry-run` asks for others."""
    from neucore_xl.sizing.dry_run import dry_run, present_cluster

    cluster = present_cluster(None, None, 80.0)
    dry_run(settings, cluster, terminal.console(), recipe=options.recipe, overrides=options.overrides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
