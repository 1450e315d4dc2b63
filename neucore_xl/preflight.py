"""``python -m neucore_xl.preflight RECIPE --run-dir DIR [key=value …]``: would the job of these words run here?

Started as training is (srun, torchrun, accelerate, or alone). Every node looks at its GPUs, the annotations and
pictures, the run folder and the disk; all ranks add a number up together; then the settings are held against the
number of processes. One line per check and node; exit code 0, or 2 when something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neucore_xl import terminal
from neucore_xl.errors import UserError, check_arguments
from neucore_xl.parallel.ending import ended, hand_over

if TYPE_CHECKING:
    from neucore_xl.config.schema import Settings
    from neucore_xl.parallel.launch import Launch
    from neucore_xl.parallel.world import World

SAMPLE = 16  # pictures of a split that every node reads


def _gibibytes(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):  # NaN neither
        raise argparse.ArgumentTypeError(f"{text} is no size of a disk")
    return value


@dataclass(frozen=True)
class Finding:
    """What one node found in one check; ``same`` must be equal on all nodes."""

    node: str
    check: str
    passed: bool
    text: str
    same: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; returns the exit code. Wrong settings are one sentence on standard error."""
    terminal.prepare()
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        return hand_over(ended(error))
    parser = argparse.ArgumentParser(prog="python -m neucore_xl.preflight", description="Check what a job needs.")
    parser.add_argument("recipe", help="name of a recipe, or path to a YAML file")
    parser.add_argument(
        "--run", "--run-dir", type=Path, required=True, metavar="DIR", help="run folder of the job; not created"
    )
    parser.add_argument(
        "--free-gib", type=_gibibytes, default=5.0, help="least free disk for run and cache (default: 5)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe")
    options = parser.parse_intermixed_args(arguments)

    rank = 0
    try:
        from neucore_xl.data.settings import job_settings
        from neucore_xl.parallel.launch import detect

        launch = detect()
        rank = launch.rank
        settings = job_settings(options.recipe, options.overrides)
        words = {"recipe": options.recipe, "overrides": options.overrides}
        passed = preflight(settings, options.run, launch, free_gib=options.free_gib, **words)
    except Exception as error:
        return hand_over(ended(error, rank), rank)
    return hand_over(0 if passed else 2, rank)


def preflight(
    settings: Settings,
    run: Path,
    launch: Launch,
    *,
    recipe: str = "recipe",
    overrides: Sequence[str] = (),
    free_gib: float = 5.0,
) -> bool:
    """All checks, by all processes of ``launch``; rank 0 prints them. Returns whether all passed, on every rank."""
    import torch

    from neucore_xl.parallel import start as meeting

    cuda = settings.train.device != "cpu" and torch.cuda.is_available()
    gpus = _gpus(settings, launch, cuda)
    device = "cuda" if cuda and gpus.passed else "cpu"
    world = meeting.start(launch, device)
    try:
        mine = [gpus, _all_reduce(world, device)] if launch.local_rank == 0 else []
        if launch.local_rank != 0:
            _all_reduce(world, device)
        folder = _where(run)
        token = world.broadcast(f".preflight-{secrets.token_hex(4)}-{world.host}")  # a file that rank 0 writes
        own = folder / f"{token}-{world.rank}"
        if launch.local_rank == 0:
            mine += [_data(settings, world.host), _free(settings, run, free_gib), _finding("run folder", _writing(own))]
        if world.is_main:
            _finding("shared folder", _writing(folder / token))
        world.barrier()
        if launch.local_rank == 0:
            mine.append(_finding("shared folder", _seeing(folder, token)))
        world.barrier()
        for path in (own, folder / token) if world.is_main else (own,):
            with contextlib.suppress(OSError):
                path.unlink()
        found = [finding for part in world.gather(mine) for finding in part]
        found += world.on_main(lambda: [_settings(settings, launch, recipe, overrides, device == "cuda")])
        found = _compared(found)
    finally:
        meeting.stop(world)
    if world.is_main:
        _print(found, launch)
    return all(finding.passed for finding in found)


def _gpus(settings: Settings, launch: Launch, cuda: bool) -> Finding:
    import torch

    if settings.train.device == "cpu":
        return _finding("GPUs", lambda: f"none needed (train.device=cpu); ranks here: {launch.local_world_size}")

    def look() -> str:
        from neucore_xl.parallel.launch import check

        if not cuda:
            raise UserError(f"torch sees no GPU here (train.device={settings.train.device})")
        check(launch, settings.train.world_size, "cuda")
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return f"{torch.cuda.device_count()} x {', '.join(sorted(names))}; ranks here: {launch.local_world_size}"

    return _finding("GPUs", look)


def _all_reduce(world: World, device: str) -> Finding:
    """Adds the ranks' numbers up, twice: the first time connects."""

    def add() -> str:
        import torch
        import torch.distributed as dist

        if not world.many:
            return "one process, nobody to reach"
        seconds = 0.0
        for _ in range(2):
            numbers = torch.full((1 << 18,), float(world.rank), device=device)
            begin = time.perf_counter()
            dist.all_reduce(numbers)
            total = float(numbers[-1].item())
            seconds = time.perf_counter() - begin
        expected = world.world_size * (world.world_size - 1) / 2
        if total != expected:
            raise UserError(f"{world.world_size} ranks add up to {total:g}, not {expected:g}")
        return f"1 MiB over {world.world_size} ranks in {1000 * seconds:.1f} ms ({dist.get_backend()})"

    return _finding("all-reduce", add)


def _data(settings: Settings, host: str) -> Finding:
    """The annotations of both splits, and some pictures of each."""
    seen: list[str] = []

    def look() -> str:
        from neucore_xl.data.datasets import open_from_settings
        from neucore_xl.runs.environment import data_fingerprint

        said = []
        for name in (settings.data.train_split, settings.data.val_split):
            split = open_from_settings(settings.data, name)
            images = split.image_names
            for image in images[:: max(1, len(images) // SAMPLE)]:
                path = split.image_path(image)
                with path.open("rb") as file:
                    if not file.read(1024):
                        raise UserError(f"picture {path} is empty")
            said.append(f"{name} {len(split.triplets)} triplets, {len(images)} pictures")
        seen.append(str(data_fingerprint(settings.data.root)))
        return f"{settings.data.root}: {'; '.join(said)}"

    finding = _finding("data", look)
    return Finding(host, finding.check, finding.passed, finding.text, "".join(seen))


def _free(settings: Settings, run: Path, least: float) -> Finding:
    def look() -> str:
        from neucore_xl.encoding.cache import cache_root

        said = []
        for what, folder in (("run", _where(run)), ("cache", _where(cache_root(settings.train)))):
            free = shutil.disk_usage(folder).free / 2**30
            if free < least:
                raise UserError(f"{free:.1f} GiB free in {folder} ({what}), less than {least:g} (--free-gib)")
            said.append(f"{free:.0f} GiB free for the {what} ({folder})")
        return ", ".join(said)

    return _finding("disk", look)


def _settings(settings: Settings, launch: Launch, recipe: str, overrides: Sequence[str], cuda: bool) -> Finding:
    """What training would refuse on these processes, found on shapes alone, and the memory it is planned to take."""

    def look() -> str:
        import io

        import torch

        from neucore_xl.parallel.device import resolve_device
        from neucore_xl.parallel.launch import check
        from neucore_xl.sizing.dry_run import dry_run
        from neucore_xl.sizing.plan import Cluster
        from neucore_xl.training.engines.strategy import choose_strategy

        check(launch, settings.train.world_size, "cpu")
        device = resolve_device(settings.train.device, settings.train.precision)
        strategy = choose_strategy(settings.train, launch.world_size, device=device.type)
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if cuda else 80.0
        cluster = Cluster(launch.nodes, launch.world_size // launch.nodes, memory)
        plan = dry_run(settings, cluster, terminal.console(file=io.StringIO()), recipe=recipe, overrides=overrides)
        said = (
            f"{strategy.title}, batch {settings.train.batch_size} on {launch.world_size} ranks, "
            f"{plan.trained:,} of {plan.parameters:,} parameters trained"
        )
        row = next((r for r in plan.rows if (r.file == plan.own if plan.own else r.strategy == strategy.name)), None)
        if row is None or not cuda:
            return said
        if row.total > memory * 1e9:
            raise UserError(f"{said}: {row.total / 1e9:.0f} GB planned on a GPU of {memory:.0f}; see `neucore-xl plan`")
        return f"{said}, {row.total / 1e9:.0f} of {memory:.0f} GB planned on a GPU"

    return _finding("settings", look)


# ------------------------------------------------------------------------------ the run folder, seen from everywhere


def _where(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _writing(path: Path) -> Callable[[], str]:
    def write() -> str:
        path.write_text("preflight", encoding="utf-8")
        return f"{path.parent} can be written"

    return write


def _seeing(folder: Path, token: str) -> Callable[[], str]:
    """Whether this node sees what rank 0 wrote: the folder must be one and the same."""

    def see() -> str:
        if not (folder / token).exists():
            raise UserError(f"{folder} is not the folder that rank 0 writes to: --run-dir must lie on a shared disk")
        return f"{folder} is shared"

    return see


# ------------------------------------------------------------------------------------------------------ findings


def _finding(check: str, look: Callable[[], str]) -> Finding:
    node = os.uname().nodename
    try:
        return Finding(node, check, True, look())
    except (UserError, OSError, RuntimeError) as error:
        return Finding(node, check, False, " ".join(str(error).split()))


def _compared(found: list[Finding]) -> list[Finding]:
    """Checks whose ``same`` must be one for all nodes, held against the first node's."""
    first: dict[str, Finding] = {}
    result = []
    for finding in found:
        known = first.setdefault(finding.check, finding) if finding.passed else finding
        if finding.same != known.same:
            finding = Finding(finding.node, finding.check, False, f"{finding.text}: not what {known.node} sees there")
        result.append(finding)
    return result


def _print(found: list[Finding], launch: Launch) -> None:
    order = {check: i for i, check in enumerate(dict.fromkeys(finding.check for finding in found))}
    for f in sorted(found, key=lambda f: (order[f.check], f.node)):
        terminal.say(f"{'ok  ' if f.passed else 'FAIL'}  {f.node:<12}  {f.check:<13}  {f.text}")
    failed = [f for f in found if not f.passed]
    if failed:
        nodes = ", ".join(sorted({f.node for f in failed}))
        terminal.say(
            f"preflight: {len(failed)} of {len(found)} checks failed (on {nodes}); mend them before you submit."
        )
    else:
        terminal.say(
            f"preflight: all {len(found)} checks passed on {launch.nodes} nodes, world size  {launch.world_size}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
