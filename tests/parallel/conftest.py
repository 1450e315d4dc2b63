"""Real processes: started by hand or by a launcher, and gone when the test is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.forks import PATIENCE, Fork, Forks, clean_environment

WORKER = Path(__file__).parent / "worker.py"


@dataclass(frozen=True)
class Ended:
    """What a process left."""

    code: int
    out: str
    err: str


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a command; whatever still runs of it after the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(command: Sequence[str], **settings: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            list(command), env=clean_environment(**settings), stdout=pipe, stderr=pipe, text=True
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
        process.communicate()


Ranks = Callable[..., "list[Fork]"]


@pytest.fixture
def ranks(forks: Forks, tmp_path: Path) -> Iterator[Ranks]:
    """Start ``world`` workers without a launcher, or some of their ``numbers``; gone when the test is."""
    running: list[Fork] = []

    def begin(world: int, task: str, numbers: Sequence[int] | None = None, **settings: str) -> list[Fork]:
        begun = forks.world([WORKER, tmp_path, task], world, numbers=numbers, apart=True, **settings)
        running.extend(begun)
        return begun

    yield begin
    for process in running:
        process.kill()


def ended(process: subprocess.Popen[str] | Fork) -> Ended:
    if isinstance(process, Fork):
        code = process.wait()
        return Ended(code, process.out.read_text(), process.err.read_text())
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out, err)
