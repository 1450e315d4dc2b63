"""Worlds that real Slurm steps make: the number of processes, their addresses, and the ones that cannot be meant.

Slow: steps of a real Slurm, whose processes import torch; the variables that srun sets are in no recording of ours.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PATIENCE, Cluster

pytestmark = pytest.mark.slow

WORKER = Path(__file__).resolve().parent.parent / "parallel" / "worker.py"

# The node's own name stands for a loopback address, as on Debian: gloo would tell the other nodes to connect to it.
OWN_NAME_IS_LOOPBACK = """
hosts=$(mktemp) && { echo "127.0.1.1 $(hostname)"; grep -v -e " $(hostname)$" /etc/hosts; } > "$hosts"
mount --bind "$hosts" /etc/hosts && rm "$hosts" && exec "$@"
"""


def run(cluster: Cluster, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = cluster.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | variables
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    print(done.stdout, done.stderr)
    return done


def worker(run_dir: Path, task: str = "nothing") -> list[str]:
    return [str(WORKER), str(run_dir), task]


def test_the_tasks_of_a_step_on_two_nodes_are_one_world(cluster: Cluster, tmp_path: Path):
    srun = ["srun", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--kill-on-bad-exit=1"]
    done = run(cluster, *srun, sys.executable, *worker(tmp_path))
    assert done.returncode == 0
    assert {"launcher    slurm", "world size  4", "nodes       2"} <= set(done.stdout.splitlines())


def test_nodes_whose_own_name_is_loopback_meet_all_the_same(cluster: Cluster, tmp_path: Path):
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    own_hosts = ["unshare", "--mount", "bash", "-c", OWN_NAME_IS_LOOPBACK, "bash"]
    done = run(cluster, *srun, *own_hosts, sys.executable, *worker(tmp_path))
    assert done.returncode == 0
    assert "world size  2" in done.stdout.splitlines()


def test_a_python_beside_the_tasks_of_its_job_is_refused(cluster: Cluster, tmp_path: Path):
    done = run(cluster, "salloc", "--nodes=2", "--ntasks-per-node=2", sys.executable, *worker(tmp_path))
    assert done.returncode == 2
    assert "error: The Slurm job has 4 tasks, but this is one process outside of them" in done.stderr
    assert "world size" not in done.stdout


def test_a_torchrun_on_each_node_with_a_world_of_its_own_is_refused(cluster: Cluster, tmp_path: Path):
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1"]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=1"]
    done = run(cluster, *srun, sys.executable, *torchrun, *worker(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("error: torchrun was started 2 times by srun, but this world of 1 process spans 1") == 2
    assert "world size" not in done.stdout


def test_a_task_that_is_killed_takes_the_step_down(cluster: Cluster, tmp_path: Path):
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    done = run(cluster, *srun, sys.executable, *worker(tmp_path, "SIGKILL"), STEPS="1000000", PACE="0.01")
    assert done.returncode != 0
    assert re.search(r"rank 0 on \S+ lost the other ranks|task 0: Terminated", done.stderr)
