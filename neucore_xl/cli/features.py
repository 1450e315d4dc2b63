"""``neucore-xl features``: features of images that another network computed, for ``backbone.features``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from neucore_xl import terminal

app = typer.Typer(help="Features of images that another network computed.", no_args_is_help=True)


class Format(str, Enum):
    """What features can be read from."""

    AUTO = "auto"
    SAFETENSORS = "safetensors"
    NPZ = "npz"
    DATASETS = "datasets"
    PICKLE = "pickle"


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A file of features, or a folder of such files.")],
    out: Annotated[Path, typer.Argument(help="New folder, for backbone.features.")],
    format: Annotated[Format, typer.Option(help="Format of the files; auto: by their names.")] = Format.AUTO,
    origin: Annotated[
        str | None, typer.Option(help="Where they come from, in words that every table repeats.", show_default=False)
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store tokens in 16 bits.")] = False,
) -> None:
    """Write the features of SOURCE into the new folder OUT, checked; nothing is written if an image cannot be used."""
    from neucore_xl.data.features.importing import import_features

    import_features(source, out, format=format.value, origin=origin, half=half)
    show(out)


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of features.")]) -> None:
    """Say how many images a folder has features of, their widths and tokens, and where they come from; checks it."""
    from neucore_xl.data.features.folder import FeatureFolder

    opened = FeatureFolder(folder)
    opened.check()
    m = opened.manifest
    tokens = (
        f"{m.fewest}" if m.fewest == m.most else f"{m.fewest} to {m.most}, {m.total_tokens / m.count:.1f} on average"
    )
    terminal.say(f"{folder}: {m.count:,} images")
    terminal.say(f"tokens of an image: {tokens}; {m.token_width} wide, {m.dtype}{', a map' if m.grid else ''}")
    terminal.say(f"pooled: {m.pooled_width} wide")
    terminal.say(f"origin: {m.origin}")
    terminal.say(f"digest: {m.digest}")
