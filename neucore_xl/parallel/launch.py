"""How this process was started: torchrun, accelerate, deepspeed or srun, each with its own variables, or nothing.

Recognised once, before anything is loaded. What cannot be meant (a launcher that was asked for two processes and
started one, one world per node instead of one over all nodes) is a sentence in ``Launch.doubt``, which ``check`` raises
unless the settings say that exactly this many processes are wanted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from neucore_xl.errors import UserError

Launcher = Literal["none", "environment", "torchrun", "accelerate", "deepspeed", "slurm"]

_FIRST_PORT, _PORTS = 20_000, 12_000  # below the range that systems hand out to whoever asks for any port


@dataclass(frozen=True)
class Launch:
    """``rank`` of ``world_size``; ``local_rank`` of ``local_world_size`` on this one of ``nodes``.

    ``launcher`` is ``environment`` where RANK and WORLD_SIZE were set by something else. ``master_addr`` and
    ``master_port`` are None for one process that was given none.
    """

    launcher: Launcher = "none"
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    nodes: int = 1
    master_addr: str | None = None
    master_port: int | None = None
    gpus_on_node: int | None = None  # counted by Slurm
    doubt: str | None = None  # why the number of processes cannot be what was meant

    @property
    def many(self) -> bool:
        """Whether there are other processes to meet."""
        return self.world_size > 1


def detect(environ: Mapping[str, str] = os.environ, ancestors: Sequence[Sequence[str]] | None = None) -> Launch:
    """The launch that ``environ`` tells of; ``ancestors`` are command lines of the processes above (read if None).

    Raises ``UserError`` where a variable is no number, is missing beside another, or contradicts it.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        launch = _from_ranks(environ)
    elif _is_step(environ):
        launch = _from_step(environ)
    else:
        launch = Launch()
    launch = _with_accelerate(launch, environ, ancestors)
    if launch.launcher == "none" and (sentence := _mpi_doubt(environ)):
        launch = replace(launch, doubt=sentence)
    if launch.doubt is None and (sentence := _slurm_doubt(launch, environ)):
        launch = replace(launch, doubt=sentence)
    if "SLURM_GPUS_ON_NODE" in environ:
        launch = replace(launch, gpus_on_node=_number(environ, "SLURM_GPUS_ON_NODE"))
    return launch


def check(launch: Launch, expected: int | None, device: str, gpus: int | None = None) -> None:
    """Refuse a number of processes that is not what was asked.

    ``expected``: ``train.world_size``; ``device``: ``cpu`` or ``cuda``; ``gpus``: devices that this process sees
    (counted if None). Raises ``UserError``; call it before anything is loaded.
    """
    if expected is not None and expected != launch.world_size:
        raise UserError(
            f"train.world_size={expected}, but {_said(launch)}: "
            + (launch.doubt or f"start {expected} or change train.world_size.")
        )
    if expected is None and launch.doubt:
        raise UserError(launch.doubt)
    if device != "cuda":
        return
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    here = launch.local_world_size
    one_each = launch.launcher == "slurm" and gpus == 1 and (launch.gpus_on_node or 0) >= here
    if gpus < here and not one_each:
        raise UserError(
            f"{here} processes were started on this node, but it has {gpus} GPUs for them: start one process per GPU, "
            "ask for more GPUs, or set train.device=cpu."
        )
    if expected is None and launch.gpus_on_node is not None and launch.gpus_on_node > here:
        raise UserError(
            f"Slurm gave this node {launch.gpus_on_node} GPUs, but {here} "
            f"{'process was' if here == 1 else 'processes were'} started on it: start one per GPU "
            f"(srun --ntasks-per-node={launch.gpus_on_node}), or set train.world_size={launch.world_size} if the "
            "others are to stay idle."
        )


def _said(launch: Launch) -> str:
    by = {"none": "without a launcher", "environment": "by RANK and WORLD_SIZE", "slurm": "by srun"}
    how = by.get(launch.launcher, f"by {launch.launcher}")
    return f"{launch.world_size} {'process was' if launch.world_size == 1 else 'processes were'} started {how}"


# ---------------------------------------------------------------- launchers that set RANK and WORLD_SIZE


def _from_ranks(environ: Mapping[str, str]) -> Launch:
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE", least=1)
    if rank >= world:
        raise UserError(f"RANK={rank} and WORLD_SIZE={world} contradict each other: ranks count from 0.")
    address = environ.get("MASTER_ADDR") or None
    port = _number(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else None
    if world > 1 and (address is None or port is None):
        raise UserError(
            f"RANK={rank} and WORLD_SIZE={world} are set without MASTER_ADDR and MASTER_PORT: set both, or start the "
            "processes with torchrun, accelerate launch or srun, which do."
        )
    launcher: Launcher = "environment"
    local_size = "LOCAL_WORLD_SIZE"
    nodes = None
    if "TORCHELASTIC_RUN_ID" in environ:
        launcher, nodes = "torchrun", "GROUP_WORLD_SIZE"
    elif "CROSS_SIZE" in environ:
        launcher, nodes, local_size = "deepspeed", "CROSS_SIZE", "LOCAL_SIZE"
    local_world = _number(environ, local_size, least=1) if local_size in environ else world
    count = _number(environ, nodes, least=1) if nodes and nodes in environ else max(1, world // local_world)
    local_rank = _number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else rank % local_world
    return Launch(launcher, rank, world, local_rank, local_world, count, address, port)


# ---------------------------------------------------------------- Slurm

# A batch script and `salloc` carry SLURM_PROCID or SLURM_NTASKS too; only the tasks of a step have these three.
_STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
_INTERACTIVE_STEP = "4294967290"  # the shell that `salloc` opens on a node: a step, but not one of the job's tasks


def _is_step(environ: Mapping[str, str]) -> bool:
    return all(name in environ for name in _STEP) and environ.get("SLURM_STEP_ID") != _INTERACTIVE_STEP


def _from_step(environ: Mapping[str, str]) -> Launch:
    world = _number(environ, "SLURM_STEP_NUM_TASKS", least=1)
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", least=1) if "SLURM_STEP_NUM_NODES" in environ else 1
    counts = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
    here = counts[node] if node < len(counts) else max(1, world // nodes)
    launch = Launch(
        "slurm",
        rank=_number(environ, "SLURM_PROCID"),
        world_size=world,
        local_rank=_number(environ, "SLURM_LOCALID") if "SLURM_LOCALID" in environ else 0,
        local_world_size=here,
        nodes=nodes,
    )
    if world == 1:
        return launch
    address = environ.get("MASTER_ADDR") or _first_host(environ["SLURM_STEP_NODELIST"])
    port = _number(environ, "MASTER_PORT") if environ.get("MASTER_PORT") else _port(environ)
    return replace(launch, master_addr=address, master_port=port)


def _port(environ: Mapping[str, str]) -> int:
    """A port that all tasks of a step derive alike, and that two jobs on one node hardly share."""
    job = _number(environ, "SLURM_JOB_ID")
    step = _number(environ, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environ else 0
    return _FIRST_PORT + (job * 16 + step % 16) % _PORTS


def _first_host(nodelist: str) -> str:
    if "[" not in nodelist:
        return nodelist.split(",")[0]
    if shutil.which("scontrol") is None:
        raise UserError(
            f"The first host of the Slurm nodes {nodelist} cannot be found without scontrol: set MASTER_ADDR in the "
            "batch script to the host of task 0."
        )
    done = subprocess.run(
        ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=False, timeout=60
    )
    hosts = done.stdout.split()
    if done.returncode or not hosts:
        raise UserError(
            f"scontrol cannot expand the Slurm nodes {nodelist} ({done.stderr.strip() or 'no output'}): set "
            "MASTER_ADDR in the batch script to the host of task 0."
        )
    return hosts[0]


def _tasks_per_node(text: str) -> list[int]:
    """``2(x3),1`` as ``[2, 2, 2, 1]``."""
    counts: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(times or 1)
    return counts


def _slurm_doubt(launch: Launch, environ: Mapping[str, str]) -> str | None:
    """A sentence where Slurm gave room for more processes than belong to this world."""
    if "SLURM_JOB_ID" not in environ or launch.launcher == "slurm":
        return None
    nodes = _number(environ, "SLURM_NNODES") if "SLURM_NNODES" in environ else 1
    in_step = _is_step(environ)
    if launch.launcher in ("none", "accelerate") and not launch.many and not in_step:
        tasks = _number(environ, "SLURM_NTASKS") if "SLURM_NTASKS" in environ else nodes
        if tasks > 1:
            return (
                f"The Slurm job has {tasks} tasks, but this is one process outside of them: start it with srun, or set "
                "train.world_size=1 if one is meant."
            )
        return None
    if in_step:
        nodes = _number(environ, "SLURM_STEP_NUM_TASKS")  # one launcher per task
    if launch.launcher in ("torchrun", "accelerate", "deepspeed") and nodes != launch.nodes:
        where = f"{nodes} times by srun" if in_step else f"in a Slurm job of {nodes} nodes"
        return (
            f"{launch.launcher} was started {where}, but this world of {launch.world_size} "
            f"{'process' if launch.world_size == 1 else 'processes'} spans {launch.nodes}: give every node's launcher "
            f"the number of nodes ({_NODES_OPTION[launch.launcher]}) and one rendezvous, or set "
            f"train.world_size={launch.world_size} if separate worlds are meant."
        )
    return None


def _mpi_doubt(environ: Mapping[str, str]) -> str | None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        size = environ.get(name, "")
        if size.isdecimal() and int(size) > 1:
            return (
                f"mpirun started {size} processes that do not know of each other: use torchrun, accelerate launch or "
                "srun, or set train.world_size=1 if separate runs are meant."
            )
    return None


_NODES_OPTION = {"torchrun": "--nnodes", "accelerate": "--num_machines", "deepspeed": "--hostfile"}


# ---------------------------------------------------------------- accelerate


def _with_accelerate(launch: Launch, environ: Mapping[str, str], ancestors: Sequence[Sequence[str]] | None) -> Launch:
    if "ACCELERATE_MIXED_PRECISION" not in environ:  # the one variable that every kind of `accelerate launch` sets
        return launch
    if launch.launcher != "slurm":
        launch = replace(launch, launcher="accelerate")
    if "RANK" in environ or "MASTER_ADDR" not in environ:
        return launch
    # Its launcher for one process sets MASTER_ADDR where it was asked for several, and starts one all the same.
    asked = _asked_of_accelerate(_command_lines() if ancestors is None else ancestors)
    if asked == 1:
        return launch
    return replace(
        launch,
        doubt=f"accelerate launch was asked for {asked or 'several'} processes but started one (with --cpu and without "
        "MPI it always does): give it --multi_gpu in the place of --cpu, which starts processes on CPUs too, and "
        "train.device=cpu, or use torchrun.",
    )


def _asked_of_accelerate(ancestors: Sequence[Sequence[str]]) -> int | None:
    """``--num_processes`` of the nearest ``accelerate launch`` among command lines, or of its configuration file."""
    for words in ancestors:
        if not any("accelerate" in Path(word).name or "accelerate.commands" in word for word in words[:4]):
            continue
        if (given := _option(words, "num_processes")) is not None:
            return int(given) if given.isdecimal() else None
        path = _option(words, "config_file")
        if path is None:
            return None
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return int(content["num_processes"])
        except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError):
            return None
    return None


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of ``--name value`` or ``--name=value``, with ``_`` or ``-``."""
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if key.startswith("--") and key[2:].replace("-", "_") == name:
            return value if equals else (words[i + 1] if i + 1 < len(words) else None)
    return None


def _command_lines() -> list[list[str]]:
    import psutil

    lines = []
    for process in psutil.Process().parents():
        try:
            lines.append(process.cmdline())
        except psutil.Error:  # gone, or somebody else's
            continue
    return lines


# ---------------------------------------------------------------- values


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environ.get(name)
    if text is None:
        others = " and ".join(other for other in ("RANK", "WORLD_SIZE") if other in environ and other != name)
        raise UserError(f"{name} is not set, but {others or 'its companions are'}: set both or neither.")
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"{name}={text} is not a number from {least} on.")
    return value
