"""One way to show progress for everything long in this room: a bar for a person, a line a tenth for a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_BELOW = 256  # items; progress of less would only flicker


@contextmanager
def track(
    description: str, total: int, console: Console | None = None, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error; the block calls the yielded function with the number of items done since.

    One process of many has it ``shown``; the others count in silence.
    """
    console = console or Console(file=sys.stderr)
    if not shown or total < QUIET_BELOW:
        yield lambda n: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield _Lines(description, total, console)


class _Lines:
    def __init__(self, description: str, total: int, console: Console) -> None:
        self.description = description
        self.total = total
        self.console = console
        self.done = 0

    def __call__(self, n: int) -> None:
        before, self.done = self.done, self.done + n
        if self.done * 10 // self.total > before * 10 // self.total:
            self.console.print(f"{self.description}: {self.done} of {self.total}", highlight=False)
