"""One line while sentences are planned: done of total, sentences and tokens per second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 30.0  # seconds between two lines of a log file


@contextmanager
def show_rates(
    total: int, done: int, console: Console | None = None, every: float = EVERY
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that is called with the sentences and tokens of a finished portion.

    ``done`` of ``total`` sentences were there before and count for no rate. A terminal gets a bar, a log file a line
    every ``every`` seconds and one at the end; both on standard error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = console or Console(file=sys.stderr)
    rates = _Rates(total, done)
    if not console.is_terminal:
        yield _Lines(rates, console, every)
        console.print(rates.line(), highlight=False, soft_wrap=True)
        return
    with Progress(BarColumn(20), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task(rates.line(), total=total, completed=done)

        def advance(sentences: int, tokens: int) -> None:
            rates.add(sentences, tokens)
            bar.update(task, completed=rates.done, description=rates.line())

        yield advance


class _Rates:
    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.before, self.tokens = total, done, done, 0
        self.start = time.monotonic()

    def add(self, sentences: int, tokens: int) -> None:
        self.done += sentences
        self.tokens += tokens

    def line(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        planned = self.done - self.before
        left = seconds / planned * (self.total - self.done) if planned else None
        return (
            f"{self.done} of {self.total} sentences, {planned / seconds:.1f} sentences/s, "
            f"{self.tokens / seconds:.0f} tokens/s, {'?' if left is None else timedelta(seconds=round(left))} left"
        )


class _Lines:
    def __init__(self, rates: _Rates, console: Console, every: float) -> None:
        self.rates, self.console, self.every = rates, console, every
        self.last = time.monotonic()

    def __call__(self, sentences: int, tokens: int) -> None:
        self.rates.add(sentences, tokens)
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.console.print(self.rates.line(), highlight=False, soft_wrap=True)
