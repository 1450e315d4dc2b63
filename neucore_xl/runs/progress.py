"""One progress bar for everything long in this room, silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_BELOW = 256  # items; a bar for less would only flicker


@contextmanager
def track(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; the block calls the yielded function with the number of items done since."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=total < QUIET_BELOW or not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)
