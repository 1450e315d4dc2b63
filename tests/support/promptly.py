"""An end to what would wait for ever or take all memory: a pipe that nobody writes to, a device without end."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MEMORY = 2 << 30  # bytes beyond what the process has; nothing small needs a tenth of it


@contextmanager
def promptly(seconds: float = 15) -> Iterator[None]:
    """Fail if the block, run in the main thread, takes much longer or more memory than anything in it could."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still waiting after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
