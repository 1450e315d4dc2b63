"""The launchers themselves, each asked for two processes: the world has two, or there is a sentence and no world.

Slow because nothing stands for a launcher: each is started as a user starts it, with all its imports and its workers'.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.forks import free_port

from .conftest import WORKER, Ended, Spawn, ended

pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--mixed_precision=no", "--dynamo_backend=no", "--num_processes=2"]


def launched(spawn: Spawn, launcher: list[str], run: Path, **settings: str) -> Ended:
    return ended(spawn([sys.executable, *launcher, str(WORKER), str(run), "nothing"], **settings))


def accelerate(*options: str) -> list[str]:
    return [*ACCELERATE, f"--main_process_port={free_port()}", *options]


@pytest.mark.parametrize("name", ["torchrun", "accelerate", "accelerate with DeepSpeed", "deepspeed"])
def test_a_launcher_that_starts_two_processes_makes_a_world_of_two(name: str, spawn: Spawn, tmp_path: Path):
    settings = {}
    if name == "torchrun":
        command = TORCHRUN
    elif name == "accelerate":
        command = accelerate("--multi_gpu")
    elif name == "accelerate with DeepSpeed":
        command = accelerate("--use_deepspeed", "--zero_stage=2")
    else:
        command = ["-m", "deepspeed.launcher.runner", "--num_gpus=2", f"--master_port={free_port()}"]
        settings["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = launched(spawn, command, tmp_path, **settings)
    assert result.code == 0, result.err
    assert "world size  2" in result.out.splitlines()
    assert f"launcher    {name.split()[0]}" in result.out.splitlines()


def test_accelerate_on_cpus_that_starts_one_process_of_two_is_refused(spawn: Spawn, tmp_path: Path):
    result = launched(spawn, accelerate("--cpu"), tmp_path)
    assert result.code != 0
    assert "error: accelerate launch was asked for 2 processes but started one" in result.err
    assert "world size" not in result.out


def test_a_world_of_another_size_than_the_settings_say_is_refused(spawn: Spawn, tmp_path: Path):
    result = launched(spawn, TORCHRUN, tmp_path, EXPECT="4")
    assert result.code != 0
    assert "error: train.world_size=4, but 2 processes were started by torchrun" in result.err
    assert "world size" not in result.out


def test_two_processes_on_fewer_gpus_are_refused(spawn: Spawn, tmp_path: Path):
    result = launched(spawn, TORCHRUN, tmp_path, DEVICE="cuda", CUDA_VISIBLE_DEVICES="")
    assert result.code != 0
    assert "error: 2 processes were started on this node, but it has 0 GPUs for them" in result.err
    assert "world size" not in result.out


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here")
def test_processes_of_mpirun_are_refused(spawn: Spawn, tmp_path: Path):
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, str(WORKER)]
    result = ended(spawn([*command, str(tmp_path), "nothing"]))
    assert result.code != 0
    assert "error: mpirun started 2 processes that do not know of each other" in result.err
