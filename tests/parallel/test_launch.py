"""What each launcher tells its processes, from environments that the launchers themselves made (``launchers.json``)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.errors import UserError
from neucore_xl.parallel.launch import Launch, check, detect

RECORDED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "launchers.json").read_text(encoding="utf-8"))


def recorded(name: str, **changes: str | None) -> Launch:
    """The launch of a recorded environment; a change to None removes a variable."""
    environ = {**RECORDED[name]["environ"], **changes}
    environ = {key: value for key, value in environ.items() if value is not None}
    return detect(environ, RECORDED[name]["ancestors"])


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``scontrol show hostnames`` without a Slurm: it knows the one list of the recorded environments."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("name", "launcher", "rank", "world", "local", "nodes"),
    [
        ("torchrun", "torchrun", 1, 2, (1, 2), 1),
        ("torchrun on two nodes", "torchrun", 3, 4, (1, 2), 2),
        ("accelerate --multi_gpu --num_processes 2", "accelerate", 1, 2, (1, 2), 1),
        ("accelerate --use_deepspeed --zero_stage 3", "accelerate", 1, 2, (1, 2), 1),
        ("deepspeed", "deepspeed", 1, 2, (1, 2), 1),
        ("srun", "slurm", 3, 4, (1, 2), 2),
        ("srun inside sbatch", "slurm", 2, 4, (0, 2), 2),
        ("python inside salloc of one task", "none", 0, 1, (0, 1), 1),
    ],
)
def test_every_launcher_is_recognised(
    name: str, launcher: str, rank: int, world: int, local: tuple[int, int], nodes: int
):
    launch = recorded(name)
    assert (launch.launcher, launch.rank, launch.world_size) == (launcher, rank, world)
    assert (launch.local_rank, launch.local_world_size) == local
    assert launch.nodes == nodes
    check(launch, None, "cpu")
    check(launch, world, "cpu")
    if world > 1:
        assert launch.master_addr
        assert launch.master_port


def test_without_a_launcher_there_is_one_process():
    assert detect({}, []) == Launch()


def test_variables_set_by_hand_make_a_world():
    environ = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "2"}
    launch = detect(environ, [])
    assert launch == Launch("environment", 3, 4, 1, 2, 2, "a", 29500)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set, but RANK"),
        ({"WORLD_SIZE": "2"}, "RANK is not set, but WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 contradict"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x is not a number from 0 on"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a number from 1 on"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(environ: dict[str, str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        detect(environ, [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accelerate --cpu --num_processes 2", "asked for 2 processes but started one"),
        ("python inside sbatch", "The Slurm job has 4 tasks.*srun"),
        ("python inside salloc", "The Slurm job has 4 tasks.*srun"),
        ("torchrun on each of two nodes by itself", "torchrun was started 2 times by srun.*spans 1.*--nnodes"),
    ],
)
def test_a_launch_that_cannot_be_meant_is_refused_unless_the_settings_ask_for_it(name: str, words: str):
    launch = recorded(name)
    with pytest.raises(UserError, match=words):
        check(launch, None, "cpu")
    with pytest.raises(UserError, match=words):  # the reason is more use than the two numbers
        check(launch, 4, "cpu")
    check(launch, launch.world_size, "cpu")


def test_an_allocation_of_several_nodes_needs_no_task_count_to_be_noticed():
    launch = recorded("python inside salloc", SLURM_NTASKS=None, SLURM_NPROCS=None)
    with pytest.raises(UserError, match="has 2 tasks"):
        check(launch, None, "cpu")


def test_the_shell_that_salloc_opens_on_a_node_is_not_a_task():
    launch = recorded("srun", SLURM_STEP_ID="4294967290", SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1")
    assert launch.launcher == "none"
    assert launch.doubt is not None
    assert "srun" in launch.doubt


def test_torchrun_on_one_of_two_nodes_of_a_job_is_refused():
    inside = {
        key: value
        for key, value in RECORDED["torchrun on each of two nodes by itself"]["environ"].items()
        if not key.startswith("SLURM_STEP")
    }
    with pytest.raises(UserError, match="in a Slurm job of 2 nodes, but this world of 2 processes spans 1"):
        check(detect(inside, []), None, "cpu")


def test_processes_of_mpirun_are_not_taken_for_a_world():
    launch = detect({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, [])
    with pytest.raises(UserError, match="mpirun started 4 processes that do not know of each other"):
        check(launch, None, "cpu")


def test_the_number_that_accelerate_was_asked_for_comes_from_its_configuration_file_too(tmp_path: Path):
    file = tmp_path / "accelerate.yaml"
    file.write_text("num_processes: 3\n")
    environ = RECORDED["accelerate --cpu --num_processes 2"]["environ"]
    launch = detect(environ, [["python", "accelerate", "launch", f"--config-file={file}", "train.py"]])
    assert "asked for 3 processes" in str(launch.doubt)
    assert "asked for several processes" in str(detect(environ, [["bash"]]).doubt)


def test_one_process_of_accelerate_is_one_process_even_where_the_batch_script_exports_an_address():
    environ = RECORDED["accelerate --cpu --num_processes 2"]["environ"]
    launch = detect(environ, [["python", "accelerate", "launch", "--num_processes", "1", "train.py"]])
    assert launch.launcher == "accelerate"
    check(launch, None, "cpu")


def test_the_address_of_a_step_is_its_first_node_unless_one_is_given():
    assert recorded("srun").master_addr == "node1"
    assert recorded("srun", MASTER_ADDR="ib-node1", MASTER_PORT="1234").master_addr == "ib-node1"
    assert recorded("srun", MASTER_ADDR="ib-node1", MASTER_PORT="1234").master_port == 1234
    assert recorded("srun", SLURM_STEP_NODELIST="gpu7,gpu9").master_addr == "gpu7"


def test_a_node_list_that_cannot_be_expanded_asks_for_the_address(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"scontrol cannot expand the Slurm nodes other\[1-9\].*MASTER_ADDR"):
        recorded("srun", SLURM_STEP_NODELIST="other[1-9]")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="cannot be found without scontrol: set MASTER_ADDR"):
        recorded("srun")


def test_two_jobs_and_two_steps_meet_at_different_ports():
    ports = {
        recorded("srun", SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)).master_port
        for job in (5, 6, 123_456)
        for step in (0, 1)
    }
    assert len(ports) == 6
    assert all(port is not None and 1024 < port < 32_768 for port in ports)  # below those given to any program


def test_another_number_of_processes_than_the_settings_ask_for_is_refused():
    with pytest.raises(UserError, match=r"train\.world_size=8, but 4 processes were started by srun: start 8 or"):
        check(recorded("srun"), 8, "cpu")
    with pytest.raises(UserError, match=r"train\.world_size=2, but 1 process was started without a launcher"):
        check(Launch(), 2, "cpu")


def test_a_node_with_fewer_gpus_than_processes_is_refused():
    with pytest.raises(UserError, match="2 processes were started on this node, but it has 1 GPUs"):
        check(recorded("torchrun"), 2, "cuda", gpus=1)
    check(recorded("torchrun"), 2, "cuda", gpus=2)
    check(recorded("srun"), None, "cuda", gpus=2)


def test_slurm_may_show_each_task_its_own_gpu_alone():
    check(recorded("srun"), None, "cuda", gpus=1)
    with pytest.raises(UserError, match="2 processes were started on this node, but it has 1 GPUs"):
        check(replace(recorded("srun"), gpus_on_node=None), None, "cuda", gpus=1)


def test_gpus_that_slurm_counts_and_nobody_uses_are_refused_unless_asked_for():
    one = recorded("srun", SLURM_STEP_TASKS_PER_NODE="1(x2)", SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1")
    with pytest.raises(UserError, match=r"Slurm gave this node 2 GPUs, but 1 process was started on it"):
        check(one, None, "cuda", gpus=2)
    check(one, 2, "cuda", gpus=2)
    check(one, None, "cpu", gpus=0)
