"""Files of JSON that hold something else, what is no file, and a refusal: in one sentence, and soon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def pipe(path: Path) -> None:
    """Nobody writes into it; who waits for that all the same, where no signal reaches, is let go after a while."""
    os.mkfifo(path)
    subprocess.Popen(["sh", "-c", 'sleep 6; [ -p "$0" ] && : <>"$0"', str(path)], start_new_session=True)


KINDS = {
    "folder": lambda path: path.mkdir(),
    "pipe": pipe,
    "loop of links": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "device": lambda path: path.symlink_to(os.devnull),
}
DEEP = 100_000

# What may be wrong with any file of JSON: its bytes.
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "cut": b'{"protocol": {',
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "not utf-8": b'{"protocol": "\xe4"}',
    "utf-16": '{"protocol": {}}'.encode("utf-16"),
    "nul bytes": bytes(40),
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"metrics":' * DEEP + b"1" + b"}" * DEEP,
    "deep and open": b"[" * DEEP,
    "long number": b'{"metrics": {"mean": ' + b"9" * 5000 + b"}}",
    "long negative number": b'{"n_queries": -' + b"9" * 5000 + b"}",
    "long exponent": b'{"n_queries": 1e' + b"9" * 5000 + b"}",
    "two values": b"{} {}",
    "python": b"{'protocol': {}}",
    "escape": b'{"\x1b]0;owned\x07": 1}',
    "binary": bytes(range(256)),
}


class Late(BaseException):
    """No error that a command would handle."""


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """What waits for a pipe ends as an error."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_sentence(said: str) -> None:
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert len(said) < 1500
    assert all(c.isprintable() for c in said[:-1]), ascii(said)
    assert "Traceback" not in said


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
