"""What is put in the place of a cache or of an exported file: bytes, a folder, a pipe that nobody may wait for."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest


def deep(levels: int = 200_000) -> bytes:
    return b"[" * levels + b"]" * levels


# What a file of JSON may hold in place of what it should.
JSON: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"format": 1, "keys": ["k0", "k',
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "deep": deep(),
    "long number": b'{"format": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"format": 1, "keys": ["\xff\xfe"]}',
    "zeros": bytes(300),
    "two objects": b"{}{}",
    "NaN": b'{"format": NaN}',
    "infinite": b'{"format": 1e999}',
    "only a mark": b"\xef\xbb\xbf",
    "NUL": b'{"form\x00at": 1}',
    "half a character": b'{"format": 1, "keys": ["\\ud800"], "bytes": {"\\ud800": 1}}',
}


PIPES: list[Path] = []


@pytest.fixture
def nobody_waits_for_a_pipe() -> Iterator[None]:
    """Whoever opens one of ``PIPES`` to read gets its end at once, and the test fails."""
    waited, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for path in PIPES:
                with suppress(OSError):  # nobody reads
                    end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    if stat.S_ISFIFO(os.fstat(end).st_mode):  # and no new file of its name
                        waited.append(path)
                    os.close(end)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()
    PIPES.clear()
    assert not waited, "a pipe was waited for"


def flip(path: Path, *, first: int, count: int = 1, seed: int = 0) -> None:
    """Change ``count`` bytes of ``path`` from ``first`` on, in place."""
    content = bytearray(path.read_bytes())
    places = np.random.default_rng(seed).choice(np.arange(first, len(content)), min(count, len(content) - first), False)
    for place in places:
        content[place] ^= 0x41
    path.write_bytes(content)


def in_its_place(path: Path, what: str) -> None:
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
        PIPES.append(path)
    elif what == "a loop of links":
        path.symlink_to(path.name)
