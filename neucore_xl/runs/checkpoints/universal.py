"""A checkpoint in DeepSpeed's universal form, which any number of processes and any ZeRO stage can read.

It holds one folder per parameter with the fp32 weight and Adam's moments, lies in ``step-N/universal/`` beside the
shards it was made of, and is made once. DeepSpeed's own converter writes it; what that leaves out for another stage
than the source's (file names, step counts) is added here, and checkpoints of plain and DDP runs get the same form.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import file_name, read_json, regular
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import MANIFEST, TAG, ZERO, Checkpoint
from neucore_xl.runs.checkpoints.trusted import read_shard, taking_in

FOLDER = "universal"
FORM = 2  # of what this file adds: a folder of another form is made again
MODEL_STATES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")  # stages 1 and 2; 3
MOMENTS = ("exp_avg", "exp_avg_sq")
PACKAGE = Path(files.__file__).parent
_POLL = 5.0  # seconds between two signs of life while rank 0 converts


def needs_universal(checkpoint: Checkpoint, world_size: int, stage: int) -> bool:
    """Whether a DeepSpeed engine of ``world_size`` processes at ZeRO ``stage`` needs the universal form.

    To be asked before ``deepspeed.initialize``: its configuration must then say
    ``"checkpoint": {"load_universal": true}``.
    """
    if not stage:
        return False  # such an engine holds everything on every rank: see ``restore.load_engine``
    return not (checkpoint.sharded and (checkpoint.zero_stage, checkpoint.world_size) == (stage, world_size))


def parameter_names(composer: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """Names of the parameters in each group of ``optimizer``, in its order: what tells one moment from another."""
    names = {id(p): n for n, p in reversed(list(composer.named_parameters()))}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def universal_folder(
    checkpoint: Checkpoint, world: World, names: Sequence[Sequence[str]] | None = None, *, force: bool = False
) -> Path:
    """The folder to give to DeepSpeed as ``load_dir`` (tag ``state``), made now unless it is there and whole.

    Every rank calls it; rank 0 works and the others wait. ``names`` (``parameter_names``) is needed for a checkpoint
    of a plain or DDP run. Raises ``UserError`` on every rank.
    """
    path = checkpoint.path / FOLDER
    if world.on_main(lambda: not force and is_whole(path)) and not world.any_of(int(altered(path, world))):
        return path
    if any("offloaded_tensors/" in name for name in checkpoint.manifest["files"]):
        raise UserError(
            f"checkpoint {checkpoint.path} is of a run with offload to NVMe, which only the same number of processes "
            f"({checkpoint.world_size}) at the same stage can go on from."
        )
    doing = "converting a checkpoint"
    process: subprocess.Popen[bytes] | None = None
    temporary: Path | None = None
    try:
        with world.agreed(), files.disk_errors(doing, checkpoint.path):
            if world.is_main:
                temporary = files.temporary_folder(checkpoint.path)
                if checkpoint.zero_stage:
                    process = _start(checkpoint, temporary)
                else:
                    with taking_in(checkpoint.path):
                        _from_whole(checkpoint, temporary / TAG, names)
        _wait(process, world)

        def finish() -> None:
            assert temporary is not None
            if process is not None:
                _check(process, checkpoint, temporary)
                with files.disk_errors(doing, checkpoint.path), taking_in(checkpoint.path):
                    _complete(temporary / TAG, checkpoint.manifest["tensors"])
            with files.disk_errors(doing, checkpoint.path):
                _seal(temporary)
                files.publish(temporary, path)

        world.on_main(finish)
    except BaseException:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` is a universal form that was written to its end, judged by the sizes of its files."""
    try:
        found = read_json(folder / MANIFEST, dict)
        sizes = all(_size(folder / file_name(name, MANIFEST)) == size for name, size in found["files"].items())
        return sizes and found["form"] == FORM and found["files"].keys() == found["checksums"].keys()
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _size(path: Path) -> int | None:
    found = regular(path)
    return None if isinstance(found, str) else found.st_size


def altered(folder: Path, world: World) -> bool:
    """Whether a file of this rank's share has another content than was written; once a process for each folder."""
    try:
        return _differs(folder, (folder / MANIFEST).stat().st_mtime_ns, world.rank, world.world_size)
    except (UserError, OSError, ValueError):
        return True  # this rank does not see what rank 0 sees


@functools.lru_cache(maxsize=16)
def _differs(folder: Path, written: int, rank: int, count: int) -> bool:
    checksums = sorted(read_json(folder / MANIFEST, dict)["checksums"].items())
    return any(files.checksum(folder / name) != checksum for name, checksum in checksums[rank::count])


def optimizer_state(folder: Path, names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The state of a ``torch.optim.AdamW`` over parameters called ``names``, read from a universal folder."""
    root = folder / TAG / "zero"
    groups = read_shard(root / "optimizer_state.pt", dict)["param_groups"]
    state, numbered, number = {}, [], 0
    for group, members in zip(groups, names, strict=True):
        numbered.append({**group, "params": list(range(number, number + len(members)))})
        for name in members:
            entry = {m: _tensor(root / name / f"{m}.pt") for m in MOMENTS}
            step: Any = read_shard(root / name / "step.pt", object)
            state[number] = {**entry, "step": torch.as_tensor(float(step))}
            number += 1
    return {"state": state, "param_groups": numbered}


def model_state(folder: Path) -> dict[str, Any]:
    """What is common to all ranks: buffers (under ``module``), ``lr_scheduler``, ``global_steps``."""
    return read_shard(folder / TAG / MODEL_STATES[0], dict)


def _tensor(path: Path) -> Tensor:
    content: Any = read_shard(path, object)
    found: Tensor = content["param"] if isinstance(content, dict) else content
    return found


def _start(checkpoint: Checkpoint, temporary: Path) -> subprocess.Popen[bytes]:
    """DeepSpeed's converter as a process of its own, so that it may fork and cannot take a GPU or this process.

    Python puts the folder it is started in first on its path; there must be nothing of the checkpoint in it.
    """
    workers = str(max(1, min(4, (os.cpu_count() or 1) // 2)))
    command = [sys.executable, "-m", "neucore_xl.runs.checkpoints.convert", "--inject_missing_state"]
    folder = checkpoint.path.absolute() / ZERO / TAG
    command += ["--input_folder", str(folder), "--output_folder", str(temporary.absolute() / TAG)]
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in launched}
    with (temporary / "converter.log").open("wb") as out:
        return subprocess.Popen(command, cwd=PACKAGE.parent, stdout=out, stderr=out, env=environment)


def _wait(process: subprocess.Popen[bytes] | None, world: World) -> None:
    """Wait for rank 0's ``process``, with a collective every few seconds: no time limit of theirs is ever near."""
    while True:
        running = 0
        if process is not None:
            try:
                process.wait(_POLL)
            except subprocess.TimeoutExpired:
                running = 1
        if not world.any_of(running):
            return


def _check(process: subprocess.Popen[bytes], checkpoint: Checkpoint, temporary: Path) -> None:
    said = (temporary / "converter.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    (temporary / "converter.log").unlink()
    if process.returncode:
        if any("No space left" in line or "Disk quota" in line for line in said):
            raise UserError(f"disk full while converting a checkpoint under {checkpoint.path}: free some space.")
        last = said[-1] if said else f"exit code {process.returncode}"
        raise UserError(f"checkpoint {checkpoint.path} cannot be brought to another number of processes: {last}")


def _complete(state: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Add what a stage other than the source's looks for, and drop what would be stored twice."""
    path = state / "zero" / "optimizer_state.pt"
    content = read_shard(path, dict)
    for name in shapes:
        file_name(name, MANIFEST)
    folders = [state / "zero" / name for name in shapes if (state / "zero" / name / f"{MOMENTS[0]}.pt").is_file()]
    inner = content.get("optimizer_state_dict")
    step = inner["state"][0]["step"] if inner is not None else read_shard(folders[0] / "step.pt", object)
    for folder in folders:
        if inner is None:
            continue
        torch.save(step, folder / "step.pt")  # stage 3 stores none, and its tensors flat and bare
        for file in (folder / f"{kind}.pt" for kind in ("fp32", *MOMENTS)):
            torch.save({"param": _tensor(file).view(*shapes[folder.name])}, file)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in content["param_groups"]]
    source = next(state / n for n in MODEL_STATES if (state / n).is_file())
    model = read_shard(source, dict)
    _write_common(state, groups, step, model, content)


def _write_common(
    state: Path, groups: list[dict[str, Any]], step: Any, model: dict[str, Any], optimizer: Mapping[str, Any]
) -> None:
    import deepspeed

    kept = ("loss_scaler", "dynamic_loss_scale", "overflow", "clip_grad", "ds_version")
    common = {k: optimizer[k] for k in kept if k in optimizer}
    common = {"ds_version": deepspeed.__version__, **common, "param_groups": groups}
    common["optimizer_state_dict"] = {"state": {0: {"step": step}}, "param_groups": groups}
    torch.save(common, state / "zero" / "optimizer_state.pt")
    buffers = set(model["buffer_names"])
    model = {**model, "module": {n: t for n, t in model["module"].items() if n in buffers}, "optimizer": None}
    for old in state.glob("*_model_states.pt"):
        old.unlink()
    for name in MODEL_STATES:
        torch.save(model, state / name)


def _from_whole(checkpoint: Checkpoint, state: Path, names: Sequence[Sequence[str]] | None) -> None:
    """The universal form of a checkpoint whose weights and optimiser are in one piece."""
    if names is None:
        raise UserError(
            f"checkpoint {checkpoint.path} was written without ZeRO: any number of processes reads it as it is."
        )
    weights, engine = checkpoint.weights(), whole_engine_state(checkpoint)
    optimizer = engine["optimizer"]
    flat = [name for members in names for name in members]
    if sorted(optimizer["state"]) != list(range(len(flat))):
        raise UserError(f"checkpoint {checkpoint.path} is of another optimiser: it cannot go on under ZeRO.")
    for number, name in enumerate(flat):
        folder = state / "zero" / name
        folder.mkdir(parents=True)
        torch.save({"param": weights[name].float()}, folder / "fp32.pt")
        for moment in MOMENTS:
            torch.save({"param": optimizer["state"][number][moment].float()}, folder / f"{moment}.pt")
        torch.save(optimizer["state"][number]["step"], folder / "step.pt")
    buffers = {n: t for n, t in weights.items() if n not in set(flat)}
    model = {
        "module": buffers,
        "buffer_names": list(buffers),
        "lr_scheduler": engine["scheduler"],
        "global_steps": checkpoint.step,
        "skipped_steps": 0,
        "dp_world_size": checkpoint.world_size,
        "mp_world_size": 1,
    }
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer["param_groups"]]
    _write_common(state, groups, optimizer["state"][0]["step"], model, {})


def whole_engine_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """``optimizer`` and ``scheduler`` of a checkpoint of a plain or DDP run, or of DeepSpeed's stage 0 in fp32."""
    if not checkpoint.sharded:
        with taking_in(checkpoint.path):
            engine: Any = checkpoint.extra()["engine"]
            return {"optimizer": engine["optimizer"], "scheduler": engine["scheduler"]}
    state = read_shard(checkpoint.path / ZERO / TAG / MODEL_STATES[0], dict)
    with taking_in(checkpoint.path):
        if not isinstance(state["optimizer"], dict) or "param_groups" not in state["optimizer"]:
            raise UserError(
                f"checkpoint {checkpoint.path} is of ZeRO stage 0 in bf16, which only the same strategy can go on from."
            )
        return {"optimizer": state["optimizer"], "scheduler": state["lr_scheduler"]}


def _seal(folder: Path) -> None:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    for name in names:
        files.sync_file(folder / name)
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    checksums = {name: files.checksum(folder / name) for name in sizes}
    files.write_json(folder / MANIFEST, {"form": FORM, "files": sizes, "checksums": checksums})
