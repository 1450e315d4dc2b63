"""Which checkpoints a run has, which of them is meant, and whether it is whole.

Layout: ``checkpoints/step-00000500/{model.safetensors, training.pt, manifest.json}``, of a DeepSpeed run ``zero/``
in place of ``model.safetensors``, with several processes ``rank-00000.pt …``; beside them the pointers
``latest.json`` and ``best.json``, replaced last. A damaged checkpoint is noticed by its checksums; one that belongs
to another system, vocabulary or frozen backbone by its identity.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, read_json, refused
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Identity, read_checkpoint
from neucore_xl.runs.folder import RunFolder

log = logging.getLogger(__name__)

LATEST, BEST = "latest.json", "best.json"
_STEP = re.compile(r"step-(0\d{7}|[1-9]\d{7,17})", re.ASCII)


def latest(folder: Path, world: World = ALONE) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is no checkpoint; a damaged newer one is named in a warning.

    With a ``world`` of several ranks, all of which then call it, the files are shared out for checking and all get
    the same answer. Raises ``UserError`` where there are checkpoints and none is whole, so that nobody begins again
    over what may be mended, and where the system refuses to read one, which is no damage.
    """
    damaged: list[tuple[Path, str]] = []
    for path in world.on_main(lambda: folders(folder)):
        checkpoint = _checked(path, world)
        if isinstance(checkpoint, Checkpoint):
            for newer, problem in damaged if world.is_main else ():
                log.warning("checkpoint %s is damaged (%s); taking the one before it", newer, problem)
            return checkpoint
        damaged.append((path, checkpoint))
    if damaged:
        named = "; ".join(f"{path.name}: {problem}" for path, problem in damaged[:3])
        rest = f"; and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(
            f"no checkpoint in {folder} can be used, though there are {len(damaged)} ({named}{rest}): nothing was "
            "changed; put back a copy of one of them, or begin again in another run folder."
        )
    return None


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that ``best.json`` names, or None without one; raises ``UserError`` if it is damaged."""
    try:
        step = pointed_step(folder / BEST)
    except UserError as error:
        raise UserError(f"{error} Or choose a checkpoint of {folder} by its step.") from error
    return None if step is None else _whole_or_error(step_folder(folder, step))


def pointed_step(pointer: Path) -> int | None:
    """The step that ``pointer`` (``best.json``) names, or None where it is not there; raises ``UserError``."""
    if not os.path.lexists(pointer):
        return None
    content = read_json(pointer, dict, allow_nan=True)
    name = content.get("path")
    if not isinstance(name, str) or not _STEP.fullmatch(name):
        raise BadContent(f"{pointer} names no checkpoint; training writes it again.")
    return int(name[5:])


def at_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of ``step``; raises ``UserError`` listing the steps that exist, or saying what is damaged."""
    path, there = step_folder(folder, step), folders(folder)
    if path not in there:
        steps = ", ".join(str(step_of(p)) for p in reversed(there)) or "none"
        raise UserError(f"no checkpoint of step {step} in {folder}; there are: {steps}.")
    return _whole_or_error(path)


def find_checkpoint(run: RunFolder, which: str) -> Checkpoint:
    """``best`` (the last one if no validation has chosen yet), ``last``, or a step number as text."""
    if which.isascii() and which.isdigit() and len(which) < 19:
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
    return at_step(where.parent, step_of(where))


def paths_of(where: Path) -> list[Path]:
    """The checkpoint folder ``where``, or those of the run ``where``, oldest first; ``UserError`` if there is none."""
    if _is_checkpoint(where):
        return [where]
    paths = folders(where / "checkpoints")[::-1]
    if not paths:
        raise UserError(f"{where} is neither a checkpoint (step-…) nor a run folder with checkpoints.")
    return paths


def folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first; raises ``UserError`` where the system refuses to list them."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 (a glob that may not look finds nothing)
    except FileNotFoundError:
        if not folder.is_symlink():
            return []
        raise UserError(f"{folder} is a link to nothing: put back the folder that it leads to.") from None
    except OSError as error:
        raise refused(folder, error) from error
    paths = [folder / name for name in names if _STEP.fullmatch(name)]
    return sorted(paths, key=step_of, reverse=True)


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies or is to lie."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint folder, by its name."""
    return int(path.name[5:])


def readable(path: Path) -> Checkpoint | str:
    """The checkpoint at ``path``, its files unread, or what is damaged of its manifest.

    Raises ``UserError`` where the system refuses to read it.
    """
    try:
        return read_checkpoint(path)
    except BadContent as error:
        return str(error)


def problems_of(path: Path) -> list[str]:
    """What is damaged at ``path``, one sentence a file; empty when whole. Raises ``UserError`` as ``readable`` does."""
    checkpoint = readable(path)
    return [checkpoint] if isinstance(checkpoint, str) else checkpoint.verify()


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
    problems: list[str] = []
    with world.agreed():
        problems = checkpoint.verify(share)
    problems = [problem for part in world.gather(problems) for problem in part]
    return "; ".join(problems) if problems else checkpoint


def _whole_or_error(path: Path) -> Checkpoint:
    checkpoint = _checked(path, ALONE)
    if isinstance(checkpoint, str):
        raise UserError(f"checkpoint {path} is damaged ({checkpoint}): use another one of its run.")
    return checkpoint


def _is_checkpoint(path: Path) -> bool:
    return bool(_STEP.fullmatch(path.name)) and path.is_dir()
