"""What the scripts of this folder share: common options, processes, and the way from a run folder to its scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from neucore_xl import terminal
from neucore_xl.errors import UserError, check_arguments
from neucore_xl.parallel.ending import ended, hand_over

if TYPE_CHECKING:  # torch is imported when a run is really opened, so that --help answers at once
    from neucore_xl.config.schema import Settings
    from neucore_xl.data.triplets import Split
    from neucore_xl.parallel.world import World
    from neucore_xl.runs.system import System

UNTRAINED = ("product", "sum", "steps", "ridge", "ridge-words", "image-only", "text-only")


class Parser(argparse.ArgumentParser):
    """Its refusals, which repeat what was typed, show control characters as escapes."""

    def error(self, message: str) -> NoReturn:
        super().error(terminal.printable(message))


def parser(description: str, example: str) -> Parser:
    """A parser with the options that every evaluation has."""
    p = Parser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", "--run-dir", type=Path, help="run folder of `train --run-dir`, or an exported file")
    which.add_argument(
        "--system",
        metavar="NAME",
        help="instead of a run, a system that is not trained: product, sum, steps, ridge, ridge-words, image-only or "
        "text-only; what it fits in closed form, it fits on the split train below ROOT",
    )
    p.add_argument("--backbone", metavar="NAME", help="of --system: an open_clip model, local-dir:DIR or hf-hub:MODEL")
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
    terminal.prepare()
    code = 0
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
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


def settings_of(arguments: argparse.Namespace, dataset: str) -> Settings:
    """The run's own settings on the given data, device and overrides; imports no torch."""
    from neucore_xl.config.load import load_file, with_overrides

    if arguments.system is not None:
        return _untrained_settings(arguments, dataset)
    if arguments.backbone is not None:
        raise UserError("--backbone belongs to --system: a run has its own.")
    config = arguments.run / "config.yaml"
    if not config.is_file() and not arguments.run.is_file():
        raise UserError(f"{arguments.run} is no run folder (it has no config.yaml): give the --run-dir of its training")
    stored = load_file(config) if config.is_file() else _exported_settings(arguments.run)
    # an evaluation may run on another number of processes than the training did
    return _on_the_data(with_overrides(stored, [*_own(arguments, dataset), "train.world_size=null"]), arguments)


def _own(arguments: argparse.Namespace, dataset: str) -> list[str]:
    """The options as overrides, before those that were typed."""
    size = [] if arguments.batch_size is None else [f"evaluation.batch_size={arguments.batch_size}"]
    return [f"data.name={dataset}", f"train.device={arguments.device}", *arguments.overrides, *size]


def _on_the_data(settings: Settings, arguments: argparse.Namespace) -> Settings:
    return settings.model_copy(update={"data": settings.data.model_copy(update={"root": arguments.data})})


def _untrained_settings(arguments: argparse.Namespace, dataset: str) -> Settings:
    """The defaults with the system and the backbone that were asked for."""
    from neucore_xl.config.load import with_overrides
    from neucore_xl.config.schema import Settings
    from neucore_xl.errors import did_you_mean, nearest

    if arguments.system not in UNTRAINED:
        hint = did_you_mean(nearest(arguments.system, UNTRAINED), ".")
        raise UserError(
            f"--system {arguments.system}: only {', '.join(UNTRAINED)} need no training{hint} Give others as --run."
        )
    if arguments.backbone is None:
        raise UserError(f"--system {arguments.system} needs --backbone, an open_clip model such as ViT-B-16-quickgelu.")
    if arguments.checkpoint != "best":
        raise UserError("--checkpoint belongs to --run: an untrained system has none.")
    settings = with_overrides(Settings(), [f"model.name={arguments.system}"])
    brings = arguments.backbone.startswith(("local-dir:", "hf-hub:"))
    own = {"name": arguments.backbone, **({"pretrained": None} if brings else {})}
    settings = settings.model_copy(update={"backbone": settings.backbone.model_copy(update=own)})
    return _on_the_data(with_overrides(settings, _own(arguments, dataset)), arguments)


def _exported_settings(file: Path) -> Settings:
    """Settings from the header of an exported file; reading it does import torch."""
    from neucore_xl.runs.checkpoints.export import ExportedRun

    return ExportedRun(file).settings()


def source(arguments: argparse.Namespace) -> str:
    """What is evaluated, as a result records it."""
    return str(arguments.run) if arguments.system is None else f"untrained {arguments.system}"


def open_run(arguments: argparse.Namespace, settings: Settings, world: World, split: Split) -> System:
    """The run's system, or the untrained one that was asked for, on the device of every process.

    First it is made clear that given features cover ``split``. An untrained system that fits something is fitted on
    the split ``data.train_split``; what was found is said.
    """
    from neucore_xl.encoding.inputs import check_features
    from neucore_xl.runs.system import load_run

    if arguments.system is not None:
        from neucore_xl.runs.fitting import fitted, told

        with world.agreed():
            check_features(settings, [split])
        system, report = fitted(settings, world)
        if report is not None and world.is_main:
            terminal.say(told(report))
        return system

    with world.agreed():
        check_features(settings, [split])
    system = load_run(arguments.run, checkpoint=arguments.checkpoint, settings=settings, world=world)
    return system.to(settings.train.device)


def context(system: System) -> dict[str, dict[str, Any]]:
    """What a result says of its making: ``protocol`` (pictures to pixels), ``environment`` (weights, code, data)."""
    from neucore_xl.runs.environment import describe

    environment = {
        "run": str(system.path) if system.path else f"untrained {system.settings.model.name}",
        "row": system.settings.model.name,
        "checkpoint": system.checkpoint.path.name if system.checkpoint else None,
        "precision": system.settings.evaluation.precision,
        **describe(system.settings, sys.argv),
    }
    return {"protocol": system.protocol, "environment": environment}


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1,000,000")
    return value
