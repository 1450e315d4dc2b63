"""One way to show progress for everything long: a bar for a person, a line now and then for a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from neucore_xl import terminal

QUIET_BELOW = 256  # items; progress of less would only flicker


class Advance(Protocol):
    """``n`` more items are done; ``note`` is said behind their number."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


@contextmanager
def track(
    description: str,
    total: int,
    console: Console | None = None,
    *,
    shown: bool = True,
    done: int = 0,
    quiet_below: int = QUIET_BELOW,
    lines: bool = True,
    every: float | None = None,
    stays: bool = False,
) -> Iterator[Advance]:
    """Show progress on ``console`` (default: standard error); the block calls the yielded function as it goes on.

    A terminal gets a bar, which vanishes at the end unless it ``stays``; anything else gets ``lines``: one for each
    tenth of ``total`` items, or one ``every`` so many seconds and a last one at the end. ``done`` items were done
    before. Nothing is shown of fewer than ``quiet_below`` items, nor where ``shown`` is false: one process of many
    shows its progress, the others count in silence.
    """
    console = console or terminal.console(file=sys.stderr)
    if not shown or total < quiet_below or not (console.is_terminal or lines):
        yield lambda n=1, note="": None
    elif console.is_terminal:
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            *([TimeElapsedColumn()] if stays else []),
            TimeRemainingColumn(),
            console=console,
            transient=not stays,
        ) as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, note=note)
    else:
        log = _Lines(description, total, console, done, every)
        yield log
        if every is not None:
            log.say()


def duration(seconds: float) -> str:
    """Seconds for a person: ``40 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Lines:
    def __init__(self, description: str, total: int, console: Console, done: int, every: float | None) -> None:
        self.description, self.total, self.console = description, total, console
        self.done, self.note = done, ""
        self.every, self.last = every, time.monotonic()

    def __call__(self, n: int = 1, note: str = "") -> None:
        before, self.done, self.note = self.done, self.done + n, note
        if self.every is None:
            due = self.done * 10 // self.total > before * 10 // self.total
        else:
            due = time.monotonic() - self.last >= self.every
        if due:
            self.last = time.monotonic()
            self.say()

    def say(self) -> None:
        note = f", {self.note}" if self.note else ""
        self.console.print(f"{self.description}: {self.done} of {self.total}{note}", soft_wrap=True)
