"""The meeting of all processes of a job, once: a store, a process group, a device for each."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterable
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
    MASTER_PORT are set for libraries. Raises ``UserError`` where they do not come.
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
    store = _meet(launch, address, port, timeout_minutes)
    if launch.nodes > 1:
        _choose_interface([address, *_other_hosts(store, launch)])
    try:
        dist.init_process_group(
            BACKENDS[device],
            store=store,
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timedelta(minutes=collective_minutes),
        )
    except RuntimeError as error:
        if "connectFullMesh" not in str(error):
            raise
        raise _Apart(
            f"Rank {launch.rank} on {world.host} met the others at {address}:{port} but cannot connect to each of them "
            f"({_remote(error)}): set GLOO_SOCKET_IFNAME to the network interface that joins the nodes."
        ) from error
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
    deadline = time.monotonic() + 60 * minutes
    serves = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun serves one itself
    if not serves:
        _reach(launch, address, port, deadline, minutes)
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=serves,
            timeout=timedelta(minutes=minutes),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        if re.search(r"EADDRINUSE|address already in use", str(error), re.IGNORECASE):
            raise _Apart(
                f"Port {port} of {address}, where the processes were to meet, is taken by another program: set "
                "MASTER_PORT to a free one."
            ) from error
        raise _Apart(_unreachable(launch, address, port, minutes)) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    meeting = dist.PrefixStore(f"neucore-xl/{attempt}", store)
    try:
        meeting.set(f"here/{launch.rank}", socket.gethostname())
        _wait_for_all(meeting, launch, address, port, deadline, minutes)
    except dist.DistError as error:
        raise _Apart(
            f"Rank 0 at {address}:{port} went away while rank {launch.rank} waited for the others: see its output."
        ) from error
    return meeting


def _reach(launch: Launch, address: str, port: int, deadline: float, minutes: float) -> None:
    """Wait until somebody listens (torch would do so too, with pages of traces)."""
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise _Apart(_unreachable(launch, address, port, minutes)) from None
            time.sleep(0.3)


def _wait_for_all(
    meeting: dist.Store, launch: Launch, address: str, port: int, deadline: float, minutes: float
) -> None:
    keys = [f"here/{rank}" for rank in range(launch.world_size)]
    while not meeting.check(keys):
        if meeting.check(["missing"]):
            raise _Apart(meeting.get("missing").decode())
        if launch.rank == 0 and time.monotonic() > deadline:
            missing = [key.removeprefix("here/") for key in keys if not meeting.check([key])]
            names = ", ".join(missing[:16]) + (", …" if len(missing) > 16 else "")
            text = (
                f"Only {launch.world_size - len(missing)} of {launch.world_size} processes met at {address}:{port} "
                f"within {minutes:g} minutes, rank {names} did not come: see their output and whether all started."
            )
            meeting.set("missing", text)
            time.sleep(1)  # rank 0 may serve the store: let the others read why
            raise _Apart(text)
        time.sleep(0.1)


class _Apart(UserError):
    """The processes did not meet: not a wrong setting but a process or a network that fails."""

    exit_code = 1
    on_all_ranks = False  # here they cannot agree: each says what it saw


def _remote(error: Exception) -> str:
    found = re.search(r"remote=\[([^\]]+)\]", str(error))
    return f"not to {found[1]}" if found else "by gloo"


def _unreachable(launch: Launch, address: str, port: int, minutes: float) -> str:
    return (
        f"Rank {launch.rank} on {socket.gethostname()} could not reach rank 0 at {address}:{port} within {minutes:g} "
        "minutes: see whether rank 0 runs there, and whether MASTER_ADDR is a name or address that all nodes reach."
    )


def _choose_interface(hosts: Iterable[str]) -> None:
    """Let gloo use the interface that leads to the first reachable one of ``hosts`` where it would use loopback.

    It takes the address that the node's own name stands for, which is 127.0.1.1 on many a system.
    """
    interfaces = {entry.address: name for name, found in psutil.net_if_addrs().items() for entry in found}
    if os.environ.get("GLOO_SOCKET_IFNAME") or _leads_out(_address(socket.gethostname()), interfaces):
        return
    for host in hosts:
        try:
            family, _, _, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(where)  # sends nothing: it only asks for a route
                own = probe.getsockname()[0]
        except OSError:
            continue
        if _leads_out(own, interfaces):
            os.environ["GLOO_SOCKET_IFNAME"] = interfaces[own]
            return


def _leads_out(address: str | None, interfaces: dict[str, str]) -> bool:
    return address in interfaces and not ipaddress.ip_address(address).is_loopback


def _address(host: str) -> str | None:
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError:
        return None


def _other_hosts(meeting: dist.Store, launch: Launch) -> list[str]:
    own = socket.gethostname()
    hosts = [text.decode() for text in meeting.multi_get([f"here/{rank}" for rank in range(launch.world_size)])]
    return list(dict.fromkeys(host for host in hosts if host != own))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
