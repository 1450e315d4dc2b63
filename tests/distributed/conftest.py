"""The parity harness, and whole jobs: by real launchers or as forked ranks, gone when the test is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from neucore_xl.training.journal import read_log
from tests.support.forks import PATIENCE, Fork, Forks, clean_environment, free_port

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def harness() -> Iterator[ModuleType]:
    """``benchmarks/parity.py`` under the name by which its processes import it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "benchmarks"))
        patch.chdir(REPOSITORY)  # for ds_configs/
        spec = importlib.util.spec_from_file_location("parity", REPOSITORY / "benchmarks" / "parity.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "parity", module)
        spec.loader.exec_module(module)
        yield module


class Jobs:
    """Training jobs on the tiny data; ``begin`` starts one, ``run`` waits for its end.

    A job of several ranks is a world of forked processes; with ``launcher="torchrun"`` the real one starts them.
    """

    def __init__(self, base: Sequence[str], folder: Path, forks: Forks) -> None:
        self.base, self.folder, self.forks = list(base), folder, forks
        self.recipe = folder / "recipe.yaml"
        self.running: list[Job] = []

    def words(self, run: str, more: Sequence[str]) -> list[str]:
        """What follows ``neucore_xl.train`` on a command line."""
        return [str(self.recipe), "--run", str(self.folder / run), *self.base, *more]

    def begin(self, run: str, *more: str, ranks: int = 1, launcher: str | None = None) -> Job:
        command = ["neucore_xl.train", *self.words(run, more)]
        if launcher == "torchrun":
            torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
            return self.start([sys.executable, *torchrun, "-m", "--", *command])
        if ranks > 1:
            return self._noted(Job(self.forks.world(["-m", *command], ranks)))
        return self.fork(["-m", *command])

    def fork(self, command: Sequence[object]) -> Job:
        """``python COMMAND`` without its imports."""
        return self._noted(Job([self.forks.start(command)]))

    def start(self, command: Sequence[object], **environ: str) -> Job:
        """A process that imports all by itself."""
        out = self.folder / f"out-{len(self.running)}.txt"
        with out.open("w") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=REPOSITORY,
                env=clean_environment(**environ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self._noted(Job([Started(process, out)]))

    def _noted(self, job: Job) -> Job:
        self.running.append(job)
        return job

    def end(self, job: Job) -> tuple[int, str]:
        """Exit code (the first that is not 0) and everything that was printed."""
        codes = [process.wait(PATIENCE) for process in job.processes]
        return next((code for code in codes if code), 0), job.said()

    def run(self, run: str, *more: str, ranks: int = 1, launcher: str | None = None) -> tuple[int, str]:
        return self.end(self.begin(run, *more, ranks=ranks, launcher=launcher))

    def log(self, run: str) -> list[dict[str, Any]]:
        return read_log(self.folder / run / "log.jsonl")

    def losses(self, run: str) -> list[float]:
        return [record["loss"] for record in self.log(run)]

    def until(self, what: Callable[[], Any], job: Job) -> None:
        """Wait until ``what()`` is true while all processes of ``job`` run."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert all(process.poll() is None for process in job.processes), job.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        for job in self.running:
            for process in job.processes:
                process.kill()


@dataclass
class Started:
    """A real process with a file for what it prints."""

    process: subprocess.Popen[bytes]
    out: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self, timeout: float) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in [*psutil.Process(self.pid).children(recursive=True), self.process]:
                process.kill()
            self.process.wait()

    def said(self) -> str:
        return self.out.read_text()


@dataclass
class Job:
    """The processes of a job, which are one launcher or all of its ranks."""

    processes: Sequence[Started | Fork]

    def said(self) -> str:
        return "".join(process.said() for process in self.processes)


@pytest.fixture(scope="module")
def jobs(harness: ModuleType, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Six steps with validation at 3 and 6 and a checkpoint every 2, all towers trained."""
    folder = tmp_path_factory.mktemp("jobs")
    base = harness.tiny_settings(folder)
    more = ["train.steps=6", "train.log_every=1", "train.validate_every=3", "train.checkpoint_every=2"]
    found = Jobs([*base, *more, "backbone.freeze=none"], folder, forks)
    yield found
    found.stop()
