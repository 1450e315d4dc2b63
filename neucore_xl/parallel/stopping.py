"""Stopping on purpose: a warning signal, a file ``stop`` in the run folder, the end of the time given.

All ranks learn of it at the same step boundary, so that they save the same step.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from neucore_xl.errors import REQUEUE, STOPPED
from neucore_xl.parallel.world import World

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_TOGETHER = 5.0  # seconds within which two SIGTERM are one: Slurm sends it to every process, torchrun passes it on

_SIGNAL, _WALL, _FILE = 1, 2, 4
_FIRST_NUMBER = 3  # bits from here on say which signal


@dataclass(frozen=True)
class Reason:
    """Why to stop: ``text`` ends a sentence that begins "stopped after step N:"."""

    kind: str  # "signal", "wall" or "file"
    text: str
    exit_code: int


class StopSignals:
    """While it lasts, SIGUSR1, SIGUSR2 and SIGTERM are only noted; a later second SIGTERM acts at once.

    SIGINT stays what it is, a KeyboardInterrupt. Only the main thread can enter it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._terminated: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM:
            if self._terminated is not None and now - self._terminated > _TOGETHER:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
            if self._terminated is None:
                self._terminated = now
        if self.received is None:
            self.received = signal.Signals(number)


class Stopping:
    """Asked by every rank at each step boundary whether to stop; costs one small collective operation.

    ``started``: ``time.monotonic()`` from which ``wall_minutes`` count (None: no limit), on rank 0's clock.
    """

    def __init__(
        self,
        world: World,
        run_dir: Path,
        wall_minutes: float | None = None,
        started: float | None = None,
        signals: StopSignals | None = None,
    ) -> None:
        self._world = world
        self._file = run_dir / "stop"
        self._wall = wall_minutes
        self._started = time.monotonic() if started is None else started
        self._signals = signals
        self._found_at_start = world.is_main and self._file.exists()

    def poll(self) -> Reason | None:
        """The reason to stop now, the same on every rank, or None."""
        flags = 0
        if self._signals is not None and self._signals.received is not None:
            flags |= _SIGNAL | 1 << _FIRST_NUMBER + _SIGNALS.index(self._signals.received)
        if self._world.is_main:
            if self._wall is not None and time.monotonic() - self._started >= 60 * self._wall:
                flags |= _WALL
            if self._file.exists():
                flags |= _FILE
        agreed = self._world.any_of(flags)
        if agreed & _FILE:
            since = " (it was there before this start)" if self._found_at_start else ""
            return Reason("file", f"the file {self._file} asks for it{since}", STOPPED)
        if agreed & _SIGNAL:
            names = [s.name for i, s in enumerate(_SIGNALS) if agreed >> _FIRST_NUMBER + i & 1]
            return Reason("signal", f"{' and '.join(names)} was received", REQUEUE)
        if agreed & _WALL:
            return Reason("wall", f"train.wall_minutes={self._wall:g} are over", REQUEUE)
        return None

    def obeyed(self, reason: Reason) -> None:
        """Call after the state is saved: the stop file is removed, so that the next start goes on."""
        if reason.kind == "file" and self._world.is_main:
            self._file.unlink(missing_ok=True)
