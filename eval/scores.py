"""What the scripts of this folder share: common options, processes, and the way from a run folder to its scores."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.errors import UserError
from neucore_xl.parallel.ending import ended, hand_over

if TYPE_CHECKING:  # torch is imported when a run is really opened, so that --help answers at once
    import numpy as np

    from neucore_xl.config.schema import Settings
    from neucore_xl.data.triplets import Split
    from neucore_xl.parallel.world import World
    from neucore_xl.runs.system import Run


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options that every evaluation has."""
    p = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--run", required=True, type=Path, help="run folder of `train --run`, or an exported file")
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
    """Run a script's ``main``; what the user can mend is one sentence on standard error and exit code 2.

    Of many processes that fail alike the first one speaks.
    """
    code = 0
    try:
        main(arguments)
    except Exception as error:
        code = ended(error, name=Path(sys.argv[0]).name)
    sys.exit(hand_over(code))


def meet(settings: Settings) -> World:
    """The processes that this one was started with (``torchrun``, ``srun``, …), which share the work from here on."""
    from neucore_xl.parallel.device import resolve_device
    from neucore_xl.parallel.launch import check, detect
    from neucore_xl.parallel.start import start

    launch, device = detect(), resolve_device(settings.train.device, settings.train.precision).type
    check(launch, settings.train.world_size, device)
    return start(launch, device)


@dataclass(frozen=True)
class Opened:
    """A run at work on a device, on every process of ``world``."""

    run: Run
    settings: Settings
    device: Any
    world: World

    def chunks(self, split: Split) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
        """Category (``""`` on CIRR) → scores of its triplets against its gallery; encoded by all processes, for the
        first one: the others' are empty."""
        from neucore_xl.encoding.scores import score_split

        facts = self.run.facts([split])
        inputs = self.run.inputs_for([split], facts)
        collator = self.run.collator(inputs, facts, split)
        return score_split(
            self.run.composer, inputs, collator, split, self.settings.evaluation, self.device, world=self.world
        )

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
    if not config.is_file() and not arguments.run.is_file():
        raise UserError(f"{arguments.run} is no run folder (it has no config.yaml): give the --run of its training")
    # its training's number of processes is none of this job's business
    overrides = [f"data.name={dataset}", f"train.device={arguments.device}", "train.world_size=null"]
    overrides += arguments.overrides
    if arguments.batch_size is not None:
        overrides.append(f"evaluation.batch_size={arguments.batch_size}")
    if config.is_file():
        settings = load_settings(str(config), overrides)
    else:
        settings = _exported_settings(arguments.run, overrides)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"root": arguments.data})})


def _exported_settings(file: Path, overrides: list[str]) -> Settings:
    """Settings from the header of an exported file; reading it does import torch."""
    from neucore_xl.config.load import dump_yaml, load_settings
    from neucore_xl.runs.checkpoints.export import ExportedRun

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(dump_yaml(ExportedRun(file).settings()), encoding="utf-8")
        return load_settings(str(config), overrides)


def open_run(arguments: argparse.Namespace, settings: Settings, world: World) -> Opened:
    """Load the run's weights onto the device of every process."""
    from neucore_xl.parallel.device import resolve_device
    from neucore_xl.runs.system import load_run

    device = resolve_device(settings.train.device, settings.train.precision)
    run = load_run(arguments.run, checkpoint=arguments.checkpoint, settings=settings, world=world)
    run.composer.to(device)
    run.assembled.backbone.to(device)
    return Opened(run, settings, device, world)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
