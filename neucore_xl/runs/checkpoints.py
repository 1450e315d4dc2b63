"""Checkpoints that are complete or absent, know what they belong to, and notice when they were damaged.

Layout: ``checkpoints/step-00000500/{model.safetensors, training.pt, manifest.json}``, of a DeepSpeed run ``zero/``
in place of ``model.safetensors``, with several processes ``rank-00000.pt …``; beside them the pointers
``latest.json`` and ``best.json``, replaced last. Frozen tower weights are not stored, their fingerprint is
(``Identity.backbone``) and is compared when the checkpoint is loaded.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs import files, manifest
from neucore_xl.runs.loading import Source, engine_source, load_engine, whole_state
from neucore_xl.runs.manifest import MANIFEST, TRAINING, WEIGHTS, Checkpoint, Identity
from neucore_xl.runs.sharded import Writer, deepspeed_writer, weights_writer, write_together
from neucore_xl.runs.stored import check_names, load_state, stored_shapes, stored_state, write_weights
from neucore_xl.runs.universal import needs_universal, parameter_names, universal_folder

__all__ = [
    "MANIFEST",
    "TRAINING",
    "WEIGHTS",
    "Checkpoint",
    "Identity",
    "Source",
    "Writer",
    "at_step",
    "best",
    "check_identity",
    "check_names",
    "deepspeed_writer",
    "engine_source",
    "folders",
    "latest",
    "load_engine",
    "load_state",
    "mark_best",
    "needs_universal",
    "parameter_names",
    "save",
    "save_together",
    "stored_shapes",
    "stored_state",
    "universal_folder",
    "weights_writer",
    "whole_state",
]

log = logging.getLogger(__name__)

_STEP = re.compile(r"step-(\d{8,})")


def save(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    identity: Identity,
    keep: int = 2,
    metrics: Mapping[str, float] | None = None,
    best: bool = False,
) -> Checkpoint:
    """``save_together`` for one process that has all ``weights``."""

    def write(temporary: Path) -> None:
        write_weights(weights, temporary)

    return save_together(
        folder, step, World(), write, extra=extra, identity=identity, keep=keep, metrics=metrics, best=best
    )


def save_together(
    folder: Path,
    step: int,
    world: World,
    write: Writer,
    *,
    extra: Mapping[str, Any],
    identity: Identity,
    rank_extra: Mapping[str, Any] | None = None,
    keep: int = 2,
    metrics: Mapping[str, float] | None = None,
    best: bool = False,
    facts: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Sequence[int]] | None = None,
) -> Checkpoint:
    """Write ``folder/step-<step>`` in one step, then the pointers, then drop all but the ``keep`` newest and the best.

    Every rank calls it. ``write(temporary)`` puts the weights into the folder that becomes the checkpoint, called on
    every rank (``weights_writer``, ``deepspeed_writer``). ``extra`` (rank 0's counts) and ``rank_extra`` (each
    rank's own: its random state) must hold plain containers and tensors: they are read with ``weights_only=True``.
    ``facts``: ``strategy`` and ``zero_stage``. ``tensors``: ``stored_shapes``, needed for DeepSpeed. Raises
    ``UserError``, on every rank, when the disk of any of them is full; every older checkpoint is then still whole.
    """
    path = folder / f"step-{step:08d}"
    saved = write_together(
        path,
        step,
        world,
        write,
        extra=extra,
        rank_extra=rank_extra,
        identity=identity,
        metrics=metrics,
        facts=facts or {},
        tensors=tensors,
    )

    def point() -> None:
        with files.disk_errors("saving a checkpoint", folder):
            files.write_json(folder / "latest.json", {"step": step, "path": path.name})
            if best:
                mark_best(folder, step, metrics)
        _rotate(folder, keep)

    world.on_main(point)
    return saved


def mark_best(folder: Path, step: int, metrics: Mapping[str, float] | None = None) -> None:
    """Point ``best.json`` at the checkpoint of ``step``, which must exist."""
    path = folder / f"step-{step:08d}"
    if not path.is_dir():
        raise FileNotFoundError(path)
    files.write_json(folder / "best.json", {"step": step, "path": path.name, "metrics": dict(metrics or {})})


def latest(folder: Path, world: World | None = None) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none; a damaged newer one is named in a warning.

    With ``world``, which every rank then gives, the files are shared out for checking and all get the same answer.
    """
    world = world or World()
    for path in world.on_main(lambda: folders(folder)):
        checkpoint = _whole(path, world)
        if isinstance(checkpoint, Checkpoint):
            return checkpoint
        if world.is_main:
            log.warning("checkpoint %s is damaged (%s); taking the one before it", path, checkpoint)
    return None


def folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that ``best.json`` names, or None without one; raises ``UserError`` if it is damaged."""
    return _pointed(folder, "best")


def at_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of ``step``; raises ``UserError`` listing the steps that exist, or saying what is damaged."""
    path = folder / f"step-{step:08d}"
    if not path.is_dir():
        steps = ", ".join(str(int(p.name[5:])) for p in reversed(folders(folder))) or "none"
        raise UserError(f"no checkpoint of step {step} in {folder}; there are: {steps}.")
    return _whole_or_error(path)


def check_identity(checkpoint: Checkpoint, expected: Identity) -> None:
    """Raise ``UserError`` if the checkpoint is of another model, vocabulary or backbone than ``expected``."""
    found = checkpoint.identity
    if found.row != expected.row:
        raise UserError(
            f"checkpoint {checkpoint.path} is of model {found.row!r}, but model.name is {expected.row!r}: "
            "give the run of that model or set model.name to it."
        )
    if found.vocabulary != expected.vocabulary:
        raise UserError(
            f"checkpoint {checkpoint.path} was trained with another vocabulary ({found.vocabulary[:12]}) than the "
            f"one given ({expected.vocabulary[:12]}): use the vocabulary.json of its own run."
        )
    if found.backbone != expected.backbone:
        raise UserError(
            f"backbone differs: checkpoint {checkpoint.path} stands on frozen weights {found.backbone[:12]}, the "
            f"settings give {expected.backbone[:12]}: check backbone.name, backbone.config and backbone.pretrained."
        )


def _whole(path: Path, world: World | None = None) -> Checkpoint | str:
    world = world or World()
    found = world.on_main(lambda: _readable(path))
    if isinstance(found, str):
        return found
    own = list(found.manifest["files"])[world.rank :: world.world_size]
    try:
        problems = found.verify(own)
    except manifest.UNREADABLE as error:
        problems = [f"it cannot be checked: {error}"]
    problems = [problem for part in world.gather(problems) for problem in part]
    return "; ".join(problems) if problems else found


def _readable(path: Path) -> Checkpoint | str:
    try:
        found = manifest.read(path)
        found.verify([])
        return found
    except manifest.UNREADABLE as error:
        return f"its manifest cannot be read: {error}"


def _whole_or_error(path: Path) -> Checkpoint:
    checkpoint = _whole(path)
    if isinstance(checkpoint, str):
        raise UserError(f"checkpoint {path} is damaged ({checkpoint}): use another one of its run.")
    return checkpoint


def _pointed(folder: Path, name: str) -> Checkpoint | None:
    pointer = folder / f"{name}.json"
    if not pointer.is_file():
        return None
    try:
        path = folder / str(json.loads(pointer.read_text(encoding="utf-8"))["path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{pointer} is damaged: choose a checkpoint of {folder} by its step.") from error
    return _whole_or_error(path)


def _rotate(folder: Path, keep: int) -> None:
    pointer = folder / "best.json"
    best_name = json.loads(pointer.read_text(encoding="utf-8"))["path"] if pointer.is_file() else None
    for path in folders(folder)[max(keep, 1) :]:
        if path.name != best_name:
            shutil.rmtree(path, ignore_errors=True)
