"""``python -m neucore_xl.train RECIPE --run DIR [key=value …]``: the same as ``neucore-xl train``, for launchers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neucore_xl.errors import UserError, one_sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Wrong input is one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m neucore_xl.train", description="Train a model, or go on training it."
    )
    parser.add_argument("recipe", help="name of a recipe, or path to a YAML file")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder; one that exists is resumed")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe")
    options = parser.parse_intermixed_args(arguments)
    try:
        from neucore_xl.config.load import load_settings

        settings = load_settings(options.recipe, options.overrides)
        from rich.console import Console

        from neucore_xl.training.run import train

        train(settings, options.run, console=Console())
    except (UserError, OSError) as error:
        if (said := one_sentence(error)) is None:
            raise
        print(f"error: {said[0]}", file=sys.stderr)
        return said[1]
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from the last checkpoint in {options.run}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
