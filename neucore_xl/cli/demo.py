"""``neucore-xl demo``: generated data, a small CLIP, NEUCORE-XL and the systems it must beat, a table and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of everything the demo writes.")] = Path("runs/demo"),
) -> None:
    """Generate data, train NEUCORE-XL and the systems that see one modality only, evaluate, print a table."""
    from neucore_xl.demo import run

    run(out)
