"""The main job from nothing: generated data, a small CLIP, NEUCORE-XL and the systems it must beat, a table, a page."""

from __future__ import annotations

from pathlib import Path


def run(out: Path) -> None:
    """Run the demo in ``out``; what is finished there already is kept, what was stopped goes on."""
    from neucore_xl.demo.stages import run_demo

    run_demo(out)


__all__ = ["run"]
