"""``neucore-xl data``: examine annotations and images, generate a benchmark, or begin one of your own pictures."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal
from neucore_xl.cli import numbers
from neucore_xl.cli.subsets import subsets

app = typer.Typer(help="Examine data, generate a benchmark, or begin your own.", no_args_is_help=True)
generators = typer.Typer(help="Generate a benchmark.", no_args_is_help=True)
app.add_typer(generators, name="generate")


class Layout(str, Enum):
    """The annotation formats that a generated benchmark can have."""

    CIRR = "cirr"
    FASHION_IQ = "fashion-iq"


@app.command()
def doctor(
    name: Annotated[str, typer.Argument(help="Name of the dataset: cirr, fashion-iq, or one of your own.")],
    root: Annotated[Path, typer.Argument(help="Folder of the annotations and images.")],
    images: Annotated[bool, typer.Option("--images/--no-images", help="Also open every image.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report here.")
    ] = None,
) -> None:
    """Say what is there, what is missing and every irregular row; exit 0 if it can be trained on, 1 if not."""
    from neucore_xl.cli.output import write_report
    from neucore_xl.data.doctor.examine import examine
    from neucore_xl.data.doctor.printed import print_report

    console = terminal.console()
    report = examine(name, root, images=images, console=console)
    print_report(report, console)
    if json_file is not None:
        write_report(json_file, report.to_json())
    raise typer.Exit(0 if report.trainable else 1)


@generators.command()
def shapes(
    out: Annotated[Path, typer.Argument(help="New folder for annotations, images and the truth beside them.")],
    layout: Annotated[Layout, typer.Option(help="File format.")] = Layout.CIRR,
    train: Annotated[int, typer.Option(min=0, max=numbers.IMAGES, help="Training images.")] = 6000,
    val: Annotated[int, typer.Option(min=0, max=numbers.IMAGES, help="Validation images.")] = 1200,
    test: Annotated[int, typer.Option(min=0, max=numbers.IMAGES, help="Test images.")] = 600,
    seed: Annotated[int, typer.Option(min=0, max=numbers.SEED, help="Same seed, same files.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=numbers.SIDE, help="Side of an image in pixels.")] = 96,
    workers: Annotated[int, typer.Option(min=1, max=numbers.PROCESSES, help="Drawing processes.")] = 2,
) -> None:
    """Scenes of coloured, textured, placed and counted objects, with sentences and their true fusion sequences."""
    from neucore_xl.shapes.generate import generate

    summary = generate(out, layout=layout.value, train=train, val=val, test=test, seed=seed, size=size, workers=workers)
    for split, images in summary.images.items():
        terminal.say(f"{split}: {images} images, {summary.pairs.get(split, 0)} pairs")
    if summary.reused:
        terminal.say(f"{out} held exactly this already")
    else:
        rate = sum(summary.images.values()) / max(summary.seconds, 1e-9)
        terminal.say(f"{summary.files} files in {out}, {summary.seconds:.1f} s ({rate:.0f} images a second)")


app.command()(subsets)
