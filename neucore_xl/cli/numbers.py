"""Numbers that options take: bounded by what any machine can do, so that a slip is refused before work begins."""

from __future__ import annotations

import math
from typing import Any

import typer

SEED = 2**32 - 1  # what numpy and torch both take
IMAGES = 10_000_000
SIDE = 4096  # pixels
PROCESSES = 1000  # of one machine
MACHINES = 100_000
GIGABYTES = 1_000_000.0  # of one GPU
MANY = 1_000_000  # at a time
SENTENCES = 1_000_000_000


def no_nan(value: float) -> float:
    """Callback of an option: its bounds let NaN pass, since all comparisons with it are false."""
    if math.isnan(value):
        raise typer.BadParameter("nan is no number.")
    return value


def share(least: float, most: float, help: str) -> Any:
    """The option of a real number from ``least`` to ``most``, which NaN is not."""
    return typer.Option(min=least, max=most, callback=no_nan, help=help)


def nodes(help: str) -> Any:
    """The option ``--nodes``."""
    return typer.Option("--nodes", min=1, max=MACHINES, help=help)


def gpus_per_node(help: str) -> Any:
    """The option ``--gpus-per-node``."""
    return typer.Option("--gpus-per-node", min=1, max=PROCESSES, help=help)


def gpu_memory(help: str) -> Any:
    """The option ``--gpu-memory``, in GB."""
    return typer.Option("--gpu-memory", min=0.001, max=GIGABYTES, callback=no_nan, help=help)
