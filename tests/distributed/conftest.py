"""The parity harness, and jobs as users start them: real launchers, real processes, gone when the test is."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from neucore_xl.training.journal import read_log

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 600  # seconds for a busy machine


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
    """Training jobs on the tiny data; ``begin`` starts one, ``run`` waits for its end."""

    def __init__(self, base: Sequence[str], folder: Path) -> None:
        self.base, self.folder = list(base), folder
        self.recipe = folder / "recipe.yaml"
        self.running: list[subprocess.Popen[str]] = []

    def words(self, run: str, more: Sequence[str]) -> list[str]:
        """What follows ``neucore_xl.train`` on a command line."""
        return [str(self.recipe), "--run", str(self.folder / run), *self.base, *more]

    def begin(self, run: str, *more: str, ranks: int = 1, **environ: str) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
        start = [*launcher, "-m", "--"] if ranks > 1 else ["-m"]
        return self.start([sys.executable, *start, "neucore_xl.train", *self.words(run, more)], **environ)

    def start(self, command: Sequence[str], **environ: str) -> subprocess.Popen[str]:
        foreign = ("SLURM_", "ACCELERATE_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "NEUCORE_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        out = self.folder / f"out-{len(self.running)}.txt"
        process = subprocess.Popen(
            list(command),
            cwd=REPOSITORY,
            env=kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | environ,
            stdout=out.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        process.said = out  # type: ignore[attr-defined]
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit code and everything that was printed."""
        code = process.wait(PATIENCE)
        return code, process.said.read_text()  # type: ignore[attr-defined]

    def run(self, run: str, *more: str, ranks: int = 1, **environ: str) -> tuple[int, str]:
        return self.end(self.begin(run, *more, ranks=ranks, **environ))

    def log(self, run: str) -> list[dict[str, Any]]:
        return read_log(self.folder / run / "log.jsonl")

    def losses(self, run: str) -> list[float]:
        return [record["loss"] for record in self.log(run)]

    def until(self, what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
        """Wait until ``what()`` is true while ``process`` runs."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert process.poll() is None, self.end(process)[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @staticmethod
    def port() -> int:
        return free_port()

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    child.kill()
                process.wait()


@pytest.fixture(scope="module")
def jobs(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Six steps with validation at 3 and 6 and a checkpoint every 2, all towers trained."""
    folder = tmp_path_factory.mktemp("jobs")
    base = harness.tiny_settings(folder)
    more = ["train.steps=6", "train.log_every=1", "train.validate_every=3", "train.checkpoint_every=2"]
    found = Jobs([*base, *more, "backbone.freeze=none"], folder)
    yield found
    found.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
