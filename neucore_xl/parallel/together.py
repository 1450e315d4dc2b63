"""Long work that every rank does at its own pace: errors are everybody's at once, and no wait outlasts a timeout."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from neucore_xl.parallel.world import World

ALONE = World()  # the world of one process
BEAT = 10.0  # seconds between two meetings: far below the timeout of any process group


def in_step(world: World, work: Generator[Any, None, None], beat: float = BEAT) -> None:
    """Exhaust ``work`` on every rank, each its own; returns on all when the last is done.

    The ranks meet about every ``beat`` seconds between two items of their work, so that one that is done early (or
    waits for a lock) is never long in one collective operation, and a ``UserError`` of one rank is raised on all of
    them within seconds, not at the end. ``work`` must hold no collective operation; it is closed in any case.
    """
    try:
        if not world.many:
            for _ in work:
                pass
            return
        pending = True
        while True:
            with world.agreed():
                pending = pending and _advance(work, beat)
            if not world.any_of(int(pending)):
                return
    finally:
        work.close()


def _advance(work: Generator[Any, None, None], seconds: float) -> bool:
    """Take items of ``work`` for about ``seconds``; false when there are no more."""
    end = time.monotonic() + seconds
    return any(time.monotonic() >= end for _ in work)
