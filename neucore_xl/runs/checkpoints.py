"""Checkpoints that are complete or absent, know what they belong to, and notice when they were damaged.

Layout: ``checkpoints/step-00000500/{model.safetensors, training.pt, manifest.json}``, and beside them the pointers
``latest.json`` and ``best.json``, replaced last. ``model.safetensors`` holds what training changes; frozen tower
weights are not stored, their fingerprint is (``Identity.backbone``) and is compared when the checkpoint is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from neucore_xl.errors import UserError
from neucore_xl.runs import files

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, TRAINING, MANIFEST = "model.safetensors", "training.pt", "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: the row, the frozen backbone, and the vocabulary (fingerprints)."""

    row: str
    backbone: str
    vocabulary: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk. ``verify`` says what is damaged, in words; empty when whole."""

    path: Path
    step: int
    identity: Identity
    metrics: Mapping[str, float]
    manifest: Mapping[str, Any]

    def verify(self) -> list[str]:
        problems = []
        for name, expected in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                problems.append(f"{file} is missing")
            elif file.stat().st_size != expected["bytes"]:
                problems.append(f"{file} has {file.stat().st_size} bytes instead of {expected['bytes']}")
            elif _sha256(file) != expected["sha256"]:
                problems.append(f"{file} has another content than was written")
        return problems

    def weights(self) -> dict[str, Tensor]:
        """The stored tensors by name, on the CPU."""
        try:
            return safetensors.torch.load_file(self.path / WEIGHTS)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"checkpoint {self.path} is damaged ({error}): use another one.") from error

    def extra(self) -> dict[str, Any]:
        """What was given as ``extra``: optimiser, random state, position; loaded without running any code."""
        return torch.load(self.path / TRAINING, map_location="cpu", weights_only=True)


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
    """Write ``folder/step-<step>`` in one step, then the pointers, then drop all but the ``keep`` newest and the best.

    ``extra`` must hold plain containers and tensors (it is read with ``weights_only=True``). Raises ``UserError``
    when the disk is full; every older checkpoint is then still there and whole.
    """
    path = folder / f"step-{step:08d}"
    with files.disk_errors("saving a checkpoint", folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(folder)  # of a process that was killed here; a run has one writer
        with files.new_folder(path) as temporary:
            _write_weights(weights, temporary / WEIGHTS)
            _write_training(extra, temporary / TRAINING)
            manifest = {
                "format": FORMAT,
                "step": step,
                "identity": asdict(identity),
                "metrics": dict(metrics or {}),
                "files": {
                    name: {"bytes": (temporary / name).stat().st_size, "sha256": _sha256(temporary / name)}
                    for name in (WEIGHTS, TRAINING)
                },
            }
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        files.write_json(folder / "latest.json", {"step": step, "path": path.name})
        if best:
            mark_best(folder, step, metrics)
    _rotate(folder, keep)
    return _read(path)


def mark_best(folder: Path, step: int, metrics: Mapping[str, float] | None = None) -> None:
    """Point ``best.json`` at the checkpoint of ``step``, which must exist."""
    path = folder / f"step-{step:08d}"
    if not path.is_dir():
        raise FileNotFoundError(path)
    files.write_json(folder / "best.json", {"step": step, "path": path.name, "metrics": dict(metrics or {})})


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none; a damaged newer one is named in a warning."""
    for path in _paths(folder):
        checkpoint = _whole(path)
        if isinstance(checkpoint, Checkpoint):
            return checkpoint
        log.warning("checkpoint %s is damaged (%s); taking the one before it", path, checkpoint)
    return None


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that ``best.json`` names, or None without one; raises ``UserError`` if it is damaged."""
    return _pointed(folder, "best")


def at_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of ``step``; raises ``UserError`` listing the steps that exist, or saying what is damaged."""
    path = folder / f"step-{step:08d}"
    if not path.is_dir():
        steps = ", ".join(str(int(p.name[5:])) for p in reversed(_paths(folder))) or "none"
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


def stored_state(composer: nn.Module, backbone: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold: the composer's state but for the backbone's frozen part, on the CPU."""
    left_out = _frozen_names(composer, backbone)
    return {k: v.detach().cpu() for k, v in composer.state_dict().items() if k not in left_out}


def load_state(composer: nn.Module, backbone: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load what ``stored_state`` gave; every other name or shape is a ``UserError`` that tells both apart."""
    own = {k: v for k, v in composer.state_dict().items() if k not in _frozen_names(composer, backbone)}
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [k for k in sorted(own.keys() & weights.keys()) if own[k].shape != weights[k].shape]
    if missing or unknown or shapes:
        if shapes:
            k = shapes[0]
            detail = f"{k} is {list(weights[k].shape)} there and {list(own[k].shape)} here"
        else:
            detail = f"it lacks {missing[0]}" if missing else f"it has {unknown[0]}, which this model has not"
        raise UserError(f"{source} is a checkpoint of another model: {detail}; check the settings of its run.")
    composer.load_state_dict(dict(weights), strict=False)


def _frozen_names(composer: nn.Module, backbone: nn.Module) -> set[str]:
    """Names, in the composer's state, of the backbone tensors that training never changes.

    Buffers of a trained tower (batch statistics) change, so they count as frozen only if no parameter is trained.
    """
    frozen = {id(p) for p in backbone.parameters() if not p.requires_grad}
    names = {n for n, p in composer.named_parameters(remove_duplicate=False) if id(p) in frozen}
    if not any(p.requires_grad for p in backbone.parameters()):
        buffers = {id(b) for b in backbone.buffers()}
        names |= {n for n, b in composer.named_buffers(remove_duplicate=False) if id(b) in buffers}
    return names


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}  # clone: no shared storage
    try:
        safetensors.torch.save_file(tensors, path)
    except safetensors.SafetensorError as error:  # the operating system's error is in its text alone
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]), str(error)) if found else error from error


def _write_training(extra: Mapping[str, Any], path: Path) -> None:
    with files.plain_writer(path) as file:
        torch.save(dict(extra), file)  # type: ignore[arg-type]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _paths(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [p for p in folder.glob("step-*") if _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return Checkpoint(path, int(manifest["step"]), Identity(**manifest["identity"]), manifest["metrics"], manifest)


def _whole(path: Path) -> Checkpoint | str:
    try:
        checkpoint = _read(path)
        problems = checkpoint.verify()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read: {error}"
    return "; ".join(problems) if problems else checkpoint


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
    for path in _paths(folder)[max(keep, 1) :]:
        if path.name != best_name:
            shutil.rmtree(path, ignore_errors=True)
