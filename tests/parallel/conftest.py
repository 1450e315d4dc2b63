"""Real processes: started by hand or by a launcher, and gone when the test is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

WORKER = Path(__file__).parent / "worker.py"
PATIENCE = 600  # seconds for a busy machine; nothing here should take one


@dataclass(frozen=True)
class Ended:
    """What a process left."""

    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """The environment without what a launcher or a scheduler around the tests has set."""
    foreign = ("SLURM_", "ACCELERATE_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "OMPI_", "PMI_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | settings


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a command; whatever still runs of it after the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(command: Sequence[str], **settings: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(list(command), env=environment(**settings), stdout=pipe, stderr=pipe, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
        process.communicate()


@pytest.fixture
def ranks(spawn: Spawn, tmp_path: Path) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start ``world`` workers without a launcher, or some of their ``numbers``."""

    def begin(world: int, task: str, numbers: Sequence[int] | None = None, **settings: str) -> list:
        port = str(free_port())
        return [
            spawn(
                [sys.executable, str(WORKER), str(tmp_path), task],
                RANK=str(rank),
                WORLD_SIZE=str(world),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                **settings,
            )
            for rank in (range(world) if numbers is None else numbers)
        ]

    return begin


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out, err)
