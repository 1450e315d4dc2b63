"""Processes that share the work of one command, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of ``workers`` fresh processes that end when this one does, killed or not.

    They are spawned: forking a process that has started threads, as a tensor library does, can hang the child.
    """
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_parent
    )


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)  # a pool waits for work for ever, since its own processes hold the other end of the queue

    threading.Thread(target=wait, daemon=True).start()
