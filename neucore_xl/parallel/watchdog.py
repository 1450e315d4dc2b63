"""Jobs that hang: who waits, who is missing, and an end to it; and the one sentence for peers that died.

Every rank marks how far it is. The marks go through the store that the processes met at (never the file system); when
nobody in the job has made a mark for too long, one rank prints where each one is, and all end with exit code 1.
"""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from neucore_xl.parallel.world import World


class Watchdog:
    """Watches from a thread of its own from construction to ``close`` (or over a ``with`` block).

    ``hang_minutes``: how long the job may be without a mark of any rank. With several ranks, construct it on all.
    """

    def __init__(self, world: World, hang_minutes: float) -> None:
        self._world = world
        self._limit = 60 * hang_minutes
        self._pause = min(5.0, self._limit / 10)
        self._mark = ("start", 0, time.monotonic())
        self._closed = threading.Event()
        self._main = threading.main_thread().ident or 0
        self._store = _own_store(self._pause) if world.many else None
        self._heard: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def mark(self, phase: str, step: int) -> None:
        """This rank has come to ``phase`` of ``step``: two assignments, no communication."""
        self._mark = (phase, step, time.monotonic())

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._closed.wait(self._pause):
            pass


def lost_peers(error: BaseException, world: World | None = None) -> str | None:
    """One sentence if ``error`` says that other ranks are gone, else None."""
    if not isinstance(error, RuntimeError) or not _GONE.search(str(error)):
        return None
    who = f"rank {world.rank} on {world.host}" if world else "this rank"
    return (
        f"{who} lost the other ranks: one of them died (see its own output); started again, the run goes on from its "
        "last checkpoint."
    )


_GONE = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused|Socket closed|"
    r"Timed out waiting|NCCL communicator was aborted|remote process exited|ncclRemoteError|ncclSystemError",
    re.IGNORECASE,
)


def _own_store(pause: float) -> dist.Store:
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(30.0, pause)),
        wait_for_workers=False,
    )
    return dist.PrefixStore("neucore-xl/watchdog", store)
