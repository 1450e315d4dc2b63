"""Which checkpoints a run has, which of them is meant, and whether it is whole.

Layout: ``checkpoints/step-00000500/{model.safetensors, training.pt, manifest.json}``, of a DeepSpeed run ``zero/``
in place of ``model.safetensors``, with several processes ``rank-00000.pt …``; beside them the pointers
``latest.json`` and ``best.json``, replaced last. A damaged checkpoint is noticed by its checksums; one that belongs
to another system, vocabulary or frozen backbone by its identity.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from neucore_xl.errors import UserError
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.runs.checkpoints.checkpoint import MANIFEST, UNREADABLE, Checkpoint, Identity, read_checkpoint
from neucore_xl.runs.folder import RunFolder

log = logging.getLogger(__name__)

_STEP = re.compile(r"step-(\d{8,})")


def latest(folder: Path, world: World = ALONE) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none; a damaged newer one is named in a warning.

    With a ``world`` of several ranks, all of which then call it, the files are shared out for checking and all get
    the same answer.
    """
    for path in world.on_main(lambda: folders(folder)):
        checkpoint = _checked(path, world)
        if isinstance(checkpoint, Checkpoint):
            return checkpoint
        if world.is_main:
            log.warning("checkpoint %s is damaged (%s); taking the one before it", path, checkpoint)
    return None


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that ``best.json`` names, or None without one; raises ``UserError`` if it is damaged."""
    pointer = folder / "best.json"
    if not pointer.is_file():
        return None
    try:
        path = folder / str(json.loads(pointer.read_text(encoding="utf-8"))["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{pointer} is damaged: choose a checkpoint of {folder} by its step.") from error
    return _whole_or_error(path)


def at_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of ``step``; raises ``UserError`` listing the steps that exist, or saying what is damaged."""
    path = step_folder(folder, step)
    if not path.is_dir():
        steps = ", ".join(str(int(p.name[5:])) for p in reversed(folders(folder))) or "none"
        raise UserError(f"no checkpoint of step {step} in {folder}; there are: {steps}.")
    return _whole_or_error(path)


def find_checkpoint(run: RunFolder, which: str) -> Checkpoint:
    """``best`` (the last one if no validation has chosen yet), ``last``, or a step number as text."""
    if which.isdigit():
        return at_step(run.checkpoints, int(which))
    if which not in ("best", "last"):
        raise UserError(f"unknown checkpoint {which!r}: best, last or a step number.")
    checkpoint = best(run.checkpoints) if which == "best" else None
    checkpoint = checkpoint or latest(run.checkpoints)
    if checkpoint is None:
        raise UserError(f"run {run.path} has no usable checkpoint yet: train it until its first checkpoint.")
    return checkpoint


def chosen(where: Path, which: str) -> Checkpoint:
    """The checkpoint folder ``where``, or ``which`` (best, last, a step) of the run ``where``; checked.

    Raises ``UserError`` if it is damaged or not there.
    """
    if not _is_checkpoint(where):
        paths_of(where)
        return find_checkpoint(RunFolder(where), which)
    return at_step(where.parent, int(where.name[5:]))


def paths_of(where: Path) -> list[Path]:
    """The checkpoint folder ``where``, or those of the run ``where``, oldest first; ``UserError`` if there is none."""
    if _is_checkpoint(where):
        return [where]
    paths = folders(where / "checkpoints")[::-1]
    if not paths:
        raise UserError(f"{where} is neither a checkpoint (step-…) nor a run folder with checkpoints.")
    return paths


def folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    paths = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda p: int(p.name[5:]), reverse=True)


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies or is to lie."""
    return folder / f"step-{step:08d}"


def readable(path: Path) -> Checkpoint | str:
    """The checkpoint at ``path``, its files unread, or why its manifest cannot be read."""
    try:
        checkpoint = read_checkpoint(path)
        checkpoint.verify([])
        return checkpoint
    except UNREADABLE as error:
        return f"its manifest cannot be read: {error}"


def problems_of(path: Path) -> list[str]:
    """What is damaged at ``path``, one sentence a file; empty when whole."""
    checkpoint = readable(path)
    if isinstance(checkpoint, str):
        return [f"{path / MANIFEST}: {checkpoint}"]
    return checkpoint.verify()


def check_identity(checkpoint: Checkpoint, expected: Identity) -> None:
    """Raise ``UserError`` if the checkpoint is of another model, vocabulary or backbone than ``expected``."""
    identity = checkpoint.identity
    if identity.row != expected.row:
        raise UserError(
            f"checkpoint {checkpoint.path} is of model {identity.row!r}, but model.name is {expected.row!r}: "
            "give the run of that model or set model.name to it."
        )
    if identity.vocabulary != expected.vocabulary:
        raise UserError(
            f"checkpoint {checkpoint.path} was trained with another vocabulary ({identity.vocabulary[:12]}) than the "
            f"one given ({expected.vocabulary[:12]}): use the vocabulary.json of its own run."
        )
    if identity.backbone != expected.backbone:
        raise UserError(
            f"backbone differs: checkpoint {checkpoint.path} stands on frozen weights {identity.backbone[:12]}, the "
            f"settings give {expected.backbone[:12]}: check backbone.name, backbone.config and backbone.pretrained."
        )


def _checked(path: Path, world: World) -> Checkpoint | str:
    """The checkpoint if all its files are whole, else what is wrong; every rank of ``world`` checks some of them."""
    checkpoint = world.on_main(lambda: readable(path))
    if isinstance(checkpoint, str):
        return checkpoint
    share = list(checkpoint.manifest["files"])[world.rank :: world.world_size]
    try:
        problems = checkpoint.verify(share)
    except UNREADABLE as error:
        problems = [f"it cannot be checked: {error}"]
    problems = [problem for part in world.gather(problems) for problem in part]
    return "; ".join(problems) if problems else checkpoint


def _whole_or_error(path: Path) -> Checkpoint:
    checkpoint = _checked(path, ALONE)
    if isinstance(checkpoint, str):
        raise UserError(f"checkpoint {path} is damaged ({checkpoint}): use another one of its run.")
    return checkpoint


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and path.name.startswith("step-") and path.name[5:].isdigit()
