"""Python processes that need no imports of their own: ``forks.start(["-m", "neucore_xl.train", …])``.

Importing torch, open_clip and DeepSpeed takes a process five seconds of a core, and the tests start hundreds. These are
forked from one that has done so (``fork_server.py``). Launchers, Slurm jobs and one start by each entry point are real
processes all the same, in the tests that are about them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).with_name("fork_server.py")
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds for a busy machine; nothing here should take one
# What a launcher or a scheduler around the tests has set
FOREIGN = (
    "SLURM_", "ACCELERATE_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "OMPI_", "PMI_", "NEUCORE_",
)  # fmt: skip

# Arrow's allocator starts a thread of its own when it is loaded; there must be none when the server forks.
NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment without what a launcher or a scheduler has set, on one thread and without a GPU or a network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    return kept | fixed | settings


class Fork:
    """A process, with the methods of ``subprocess.Popen`` that the tests use; ``out`` and ``err`` are its files."""

    def __init__(self, out: Path, err: Path) -> None:
        self.out, self.err = out, err
        self.pid = 0
        self.returncode: int | None = None
        self.begun, self.ended = threading.Event(), threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, negative for a signal."""
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.out), timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        with suppress(ProcessLookupError):
            if self.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        """What it has printed so far; what went to a file of its own as errors comes last."""
        files = [self.out] if self.err == self.out else [self.out, self.err]
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


class Forks:
    """The server and what it has forked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Fork] = []
        orders, self.orders = os.pipe()
        self.news, news = os.pipe()
        self.log = folder / "server.txt"
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, str(SERVER), str(orders), str(news)],
                pass_fds=(orders, news), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
                env=clean_environment(DS_ACCELERATOR="cpu", **NO_THREADS), start_new_session=True,
            )  # fmt: skip
        os.close(orders)
        os.close(news)
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self,
        command: Sequence[object],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
        out: Path | None = None,
        err: Path | None = None,
    ) -> Fork:
        """``python COMMAND`` in ``folder``. ``err`` is ``out`` unless given; an existing file is written on."""
        number = len(self.made)
        out = out or self.folder / f"out-{number}.txt"
        fork = Fork(out, err or out)
        self.made.append(fork)
        order = {
            "number": number, "command": [str(word) for word in command], "folder": str(folder),
            "environment": dict(clean_environment() if environment is None else environment),
            "out": str(out), "err": str(fork.err),
        }  # fmt: skip
        os.write(self.orders, json.dumps(order).encode() + b"\n")
        assert fork.begun.wait(PATIENCE), "the fork server does not answer"
        assert fork.pid, self.log.read_text()
        return fork

    def world(
        self,
        command: Sequence[object],
        ranks: int,
        *,
        numbers: Sequence[int] | None = None,
        apart: bool = False,
        **environment: str,
    ) -> list[Fork]:
        """``ranks`` processes of one command that meet at a port of this machine, or some of their ``numbers``.

        Each prints to a file of its own; ``apart``: to one, and its errors to another.
        """
        port, group, made = str(free_port()), len(self.made), []
        for rank in range(ranks) if numbers is None else numbers:
            own = clean_environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **environment,
            )  # fmt: skip
            out, err = (self.folder / f"{kind}-{group}-rank-{rank}.txt" for kind in ("out", "err"))
            made.append(self.start(command, environment=own, out=out, err=err if apart else out))
        return made

    def together(self, command: Sequence[object], ranks: int, **environment: str) -> None:
        """Run such a world to its end; all must end well, and none outlives this call."""
        processes = self.world(command, ranks, **environment)
        try:
            codes = [process.wait(2300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0] * ranks, "\n".join(process.said()[-3000:] for process in processes)

    def _listen(self) -> None:
        with os.fdopen(self.news, encoding="utf-8") as news:
            for line in news:
                told: dict[str, Any] = json.loads(line)
                fork = self.made[told["number"]]
                if "pid" in told:
                    fork.pid = told["pid"]
                    fork.begun.set()
                else:
                    fork.returncode = told["code"]
                    fork.begun.set()
                    fork.ended.set()
        for fork in self.made:  # nobody waits for a server that is gone
            fork.begun.set()

    def stop(self) -> None:
        # The server kills what it has forked, and ends. Closing alone would not say so: a process that a test has
        # forked and left behind (a worker that decodes pictures) has the pipe open as well.
        os.write(self.orders, b"null\n")
        os.close(self.orders)
        self.server.wait(PATIENCE)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """The fork server, started when the first test asks for it."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.stop()
