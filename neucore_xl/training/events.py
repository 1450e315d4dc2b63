"""TensorBoard's file, written by this thread alone.

TensorBoard's own writer hands every record to a thread through a queue. A Ctrl-C between the taking of that queue's
lock and the block that would give it back leaves it taken for ever (CPython's issue 29988), and closing then waits for
a thread that waits for the lock. A record a logged step needs no thread.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new ``events.out.tfevents…`` in ``folder``; what stands there after ``resumed`` (0: a new run) is hidden.

    What the disk refuses is the ``OSError`` of the call that wrote.
    """

    def __init__(self, folder: Path, resumed: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if resumed:
            self._write(step=resumed + 1, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """One point a curve; they are with the system when this returns."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(step=step, summary=Summary(value=values))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **event: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
