"""What the scripts of this folder share: their common options, and the way from a run folder to chunks of scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.errors import UserError, one_sentence

if TYPE_CHECKING:  # torch is imported when a run is really opened, so that --help answers at once
    import numpy as np

    from neucore_xl.config.schema import Settings
    from neucore_xl.data.triplets import Split
    from neucore_xl.runs.load import Run


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options that every evaluation has."""
    p = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--run", required=True, type=Path, help="run folder, as given to `neucore-xl train --run`")
    p.add_argument("--data", required=True, type=Path, metavar="ROOT", help="folder with captions/ and image_splits/")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the figures are written")
    p.add_argument("--checkpoint", default="best", help="best, last or a step number (default: best)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one")
    p.add_argument("--batch-size", type=_positive, help="images or queries per forward pass (default: the run's)")
    p.add_argument("--force", action="store_true", help="replace figures of another run or protocol in --out")
    p.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run that differ here, e.g. fusion.file=FILE"
    )
    return p


def guarded(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> None:
    """Run a script's ``main``; what the user can mend is one sentence on standard error and exit code 2."""
    try:
        main(arguments)
    except (UserError, OSError) as error:
        if (said := one_sentence(error)) is None:
            raise
        print(f"{Path(sys.argv[0]).name}: {said[0]}", file=sys.stderr)
        sys.exit(said[1])


@dataclass(frozen=True)
class Opened:
    """A run at work on a device."""

    run: Run
    settings: Settings
    device: Any

    def chunks(self, split: Split) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
        """Category (``""`` on CIRR) → scores of its triplets against its gallery, encoded when asked for."""
        from neucore_xl.runs.encode import score_split

        facts = self.run.facts([split])
        inputs = self.run.inputs_for([split], facts)
        collator = self.run.collator(inputs, facts, split)
        return score_split(self.run.composer, inputs, collator, split, self.settings.evaluation, self.device)

    def protocol(self) -> dict[str, Any]:
        """How pictures became pixels: part of every protocol."""
        return {"preprocessing": self.run.preprocessing}

    def environment(self) -> dict[str, Any]:
        """Which weights were evaluated, by which code, on which annotations."""
        from neucore_xl.runs.environment import describe

        return {
            "run": str(self.run.path),
            "row": self.settings.model.name,
            "checkpoint": self.run.checkpoint.path.name,
            **describe(self.settings, sys.argv),
        }


def settings_of(arguments: argparse.Namespace, dataset: str) -> Settings:
    """The run's own settings on the given data, device and overrides; imports no torch."""
    from neucore_xl.config.load import load_settings

    config = arguments.run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{arguments.run} is no run folder (it has no config.yaml): give the --run of its training")
    overrides = [f"data.name={dataset}", f"train.device={arguments.device}", *arguments.overrides]
    if arguments.batch_size is not None:
        overrides.append(f"evaluation.batch_size={arguments.batch_size}")
    settings = load_settings(str(config), overrides)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"root": arguments.data})})


def open_run(arguments: argparse.Namespace, settings: Settings) -> Opened:
    """Load the run's weights onto the device."""
    from neucore_xl.runs.load import load_run
    from neucore_xl.training.engine import resolve_device

    device = resolve_device(settings.train)
    run = load_run(arguments.run, checkpoint=arguments.checkpoint, settings=settings)
    run.composer.to(device)
    run.assembled.backbone.to(device)
    return Opened(run, settings, device)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
