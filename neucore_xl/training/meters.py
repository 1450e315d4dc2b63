"""What a running job says about itself: throughput, time spent waiting for data, and a smoothed loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StepMeter:
    """Counts samples and clocks between two readings.

    Wrap the wait for a batch in ``waiting()``, and whatever is not training (validation, saving) in ``paused()``;
    call ``step(n)`` after each optimiser step of n queries; ``read()`` gives the figures and starts afresh.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.smoothed_loss: float | None = None
        self._restart()

    def _restart(self) -> None:
        self._start = self._clock()
        self._waited = self._paused = 0.0
        self._samples = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is waiting for data."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count at all."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def step(self, samples: int, loss: float) -> None:
        """One optimiser step over ``samples`` queries; ``loss`` enters an exponential mean (factor 0.98)."""
        self._samples += samples
        self.smoothed_loss = loss if self.smoothed_loss is None else 0.98 * self.smoothed_loss + 0.02 * loss

    def read(self) -> dict[str, float]:
        """``samples_per_second`` (queries) and ``data_wait`` (share of the time, 0 to 1) since the last reading."""
        elapsed = max(self._clock() - self._start - self._paused, 1e-9)
        figures = {
            "samples_per_second": self._samples / elapsed,
            "data_wait": min(1.0, self._waited / elapsed),
        }
        self._restart()
        return figures
