"""The meeting of all processes of a job, once: a store, a process group, a device for each."""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from neucore_xl.errors import UserError
from neucore_xl.parallel.launch import Launch
from neucore_xl.parallel.world import World

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def start(
    launch: Launch,
    device: str,
    *,
    group: bool = False,
    timeout_minutes: float = 10.0,
    collective_minutes: float = 60.0,
) -> World:
    """Meet the other processes of ``launch``; returns who this one is.

    ``device``: ``cpu`` or ``cuda``, whose current device becomes this process's own. ``group``: make a process group
    for one process too (DeepSpeed wants one). ``timeout_minutes``: how long to wait for the others here;
    ``collective_minutes``: in every later collective operation. RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT are set for libraries. Raises ``UserError`` where the others do not come or a GPU is taken twice.
    """
    world = World(launch.rank, launch.world_size, launch.local_rank)
    index = _take_device(launch) if device == "cuda" else launch.local_rank
    if not (launch.many or group):
        return world
    address = launch.master_addr or "127.0.0.1"
    port = launch.master_port or _free_port()
    os.environ.update(
        RANK=str(launch.rank),
        LOCAL_RANK=str(index),
        WORLD_SIZE=str(launch.world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    if launch.nodes > 1:
        _choose_interface(address, port)
    store = _meet(launch, address, port, timeout_minutes)
    dist.init_process_group(
        BACKENDS[device],
        store=store,
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(minutes=collective_minutes),
    )
    return world


def stop(world: World) -> None:
    """Leave the group (nobody is waited for); nothing to do for one process without one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def backend_name(device: str, world: World) -> str:
    """For the start table."""
    return BACKENDS[device] if dist.is_initialized() else "none"


def _take_device(launch: Launch) -> int:
    # srun can show every task its own GPU and no other, which is then number 0
    index = launch.local_rank if torch.cuda.device_count() > 1 else 0
    torch.cuda.set_device(index)
    return index


def _meet(launch: Launch, address: str, port: int, minutes: float) -> dist.Store:
    """A store that every process of the job has reached."""
    wait = timedelta(minutes=minutes)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves one already
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=launch.rank == 0 and not agent,
            timeout=wait,
            wait_for_workers=False,
            multi_tenant=True,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        meeting = dist.PrefixStore(f"neucore-xl/{attempt}", store)
        meeting.set(f"here/{launch.rank}", socket.gethostname())
    except dist.DistError as error:
        raise UserError(_unreachable(launch, address, port, minutes, error)) from error
    keys = [f"here/{rank}" for rank in range(launch.world_size)]
    try:
        meeting.wait(keys, wait)
    except dist.DistError as error:
        raise UserError(_missing(meeting, launch, address, port, minutes, error)) from error
    return meeting


def _unreachable(launch: Launch, address: str, port: int, minutes: float, error: Exception) -> str:
    if re.search(r"EADDRINUSE|address already in use", str(error), re.IGNORECASE):
        return (
            f"Port {port} of {address}, where the processes were to meet, is taken by another program: set MASTER_PORT "
            "to a free one."
        )
    return (
        f"Rank {launch.rank} on {socket.gethostname()} could not reach rank 0 at {address}:{port} within {minutes:g} "
        "minutes: see whether rank 0 runs there, and whether MASTER_ADDR is a name or address that all nodes reach."
    )


def _missing(meeting: dist.Store, launch: Launch, address: str, port: int, minutes: float, error: Exception) -> str:
    try:
        missing = [rank for rank in range(launch.world_size) if not meeting.check([f"here/{rank}"])]
    except dist.DistError:
        return f"Rank 0 at {address}:{port} went away while rank {launch.rank} waited for the others: see its output."
    names = ", ".join(map(str, missing[:16])) + (", …" if len(missing) > 16 else "")
    return (
        f"Only {launch.world_size - len(missing)} of {launch.world_size} processes met at {address}:{port} within "
        f"{minutes:g} minutes; missing: rank {names}: see the output of those, and whether all were started."
    )


def _choose_interface(address: str, port: int) -> None:
    """Let gloo use the interface that leads to rank 0 where nobody has named one.

    By itself it takes the address that the node's own name stands for, which is 127.0.1.1 on many a system.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    try:
        family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)
            own = probe.getsockname()[0]
    except OSError:
        return
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in addresses) and name != "lo":
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
