"""What a search has found so far, on disk, so that one that was killed goes on where it stopped."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from neucore_xl import files
from neucore_xl.data.subsets.procedure import SIZE

_RECORD = np.dtype([("row", np.int32, (SIZE,)), ("checksum", np.uint32)])


class Journal:
    """A file of rows [SIZE] int32, one for each first image in their order, written block by block.

    Each row begins with its first image and has a checksum. What does not fit what is asked for (the end of a block
    that was cut, a file that was damaged) is dropped from there on and found again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, firsts: np.ndarray) -> np.ndarray:
        """The rows [n, SIZE] of the first n of ``firsts`` that are there and sound; the file is cut behind them."""
        with files.disk_errors("keeping what was found", self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = len(content) // _RECORD.itemsize * _RECORD.itemsize
            records = np.frombuffer(content[:whole], _RECORD)[: len(firsts)]
            sound = (records["row"][:, 0] == firsts[: len(records)]) & (records["checksum"] == _of(records["row"]))
            count = len(records) if sound.all() else int(np.argmin(sound))
            with self.path.open("ab") as file:
                file.truncate(count * _RECORD.itemsize)
        return records["row"][:count]

    def append(self, rows: np.ndarray) -> None:
        """Write rows [b, SIZE] int32 behind those that are there; they are on the disk when this returns."""
        records = np.empty(len(rows), _RECORD)
        records["row"], records["checksum"] = rows, _of(rows)
        with files.disk_errors("keeping what was found", self.path.parent), self.path.open("ab") as file:
            file.write(records.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file: everything is done."""
        self.path.unlink(missing_ok=True)


def _of(rows: np.ndarray) -> np.ndarray:
    """The checksum of each row."""
    return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)
