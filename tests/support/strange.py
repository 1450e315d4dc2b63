"""What stands where a file should, deep and long JSON, and the sentence that tells of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neucore_xl.errors import UserError, one_sentence
from tests.support.promptly import promptly

DEEP = "[" * 50_000 + "]" * 50_000
NESTED = '{"a":' * 50_000 + "1" + "}" * 50_000
DIGITS = "9" * 5000
ESCAPES = "\\u001b]0;owned\\u0007\\u001b[31m"


@pytest.fixture
def nobody_waits() -> Iterator[None]:
    """What is waited for (a pipe that nobody writes to) or read for ever (a device) ends in an error and not never."""
    with promptly(20):
        yield


def told(error: UserError, *parts: object) -> str:
    said = one_sentence(error)
    assert said is not None
    assert said[1] == 2
    assert len(said[0]) < 1500
    assert all(c.isprintable() for c in said[0]), ascii(said[0][:300])
    for part in parts:
        assert str(part) in said[0]
    return said[0]


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_long_loop(path: Path) -> None:
    path.symlink_to(path.with_name("b"))
    path.with_name("b").symlink_to(path)


def a_dead_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)  # of which the disk holds nothing


STRANGE: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a pipe": a_pipe,
    "a link to itself": a_loop,
    "two links in a circle": a_long_loop,
    "a link to nothing": a_dead_link,
    "a device": a_device,
    "a socket": a_socket,
    "4 TiB of nothing": a_huge_file,
    "nothing": lambda path: None,
}
