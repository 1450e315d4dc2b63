"""A job as small as one can be: it meets the others, counts steps, and does to itself what a test asks for.

``python worker.py RUN_DIR TASK``, TASK being what the last rank does at step 3: ``nothing``, ``hang``, or the name of
a signal that it sends itself. What is printed and returned is what a training job prints and returns; it prints it by
itself, since the training's own code takes seconds to import.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from neucore_xl.errors import UserError
from neucore_xl.parallel.launch import check, detect
from neucore_xl.parallel.start import start, stop
from neucore_xl.parallel.stopping import Reason, Stopping, StopSignals
from neucore_xl.parallel.watchdog import Watchdog, lost_peers
from neucore_xl.parallel.world import World


def work(run: Path, task: str) -> int:
    launch = detect()
    check(launch, int(os.environ["EXPECT"]) if "EXPECT" in os.environ else None, os.environ.get("DEVICE", "cpu"))
    world = start(launch, "cpu", group="GROUP" in os.environ, timeout_minutes=float(os.environ.get("MEET", 5)))
    if world.is_main:
        print(f"launcher    {launch.launcher}\nworld size  {world.world_size}\nnodes       {launch.nodes}")
    assert world.gather(world.rank) == list(range(launch.world_size))
    try:
        reason = steps(world, run, task)
    except RuntimeError as error:
        said = lost_peers(error, world)
        if said is None:
            raise
        print(said, file=sys.stderr, flush=True)
        os._exit(1)
    stop(world)
    return reason.exit_code if reason else 0


def steps(world: World, run: Path, task: str) -> Reason | None:
    hang, silent = float(os.environ.get("HANG", 10)), float(os.environ.get("SILENT", 300))
    with StopSignals() as signals, Watchdog(world, hang, silent_seconds=silent) as watchdog:
        stopping = Stopping(world, run, signals=signals)
        for step in range(1, int(os.environ.get("STEPS", 5)) + 1):
            watchdog.mark("data", step)
            if step == 3:
                act(world, run, task)
            time.sleep(float(os.environ.get("PACE", 0)))
            watchdog.mark("forward", step)
            if reason := stopping.poll():
                print(f"rank {world.rank} stopped after step {step}: {reason.text}")
                stopping.obeyed(reason)
                return reason
    return None


def act(world: World, run: Path, task: str) -> None:
    (run / f"at-step-3.{world.rank}").touch()
    if world.rank != world.world_size - 1:
        return
    if task == "hang":
        time.sleep(3600)
    elif task != "nothing":
        os.kill(os.getpid(), signal.Signals[task])


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]  # deepspeed adds one
    try:
        sys.exit(work(Path(arguments[0]), arguments[1]))
    except UserError as refused:
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(refused.exit_code)
