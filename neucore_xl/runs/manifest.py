"""What a checkpoint folder says about itself: the manifest, its checks, and the way back to tensors.

Format 2 of the manifest names every file of the folder with size and SHA-256, and how the processes shared the
work (``parallel``). Format 1, written by one process, has no ``parallel`` and is read as such.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from neucore_xl.errors import UserError
from neucore_xl.runs import files

FORMAT = 2
WEIGHTS, TRAINING, MANIFEST = "model.safetensors", "training.pt", "manifest.json"
ZERO, TAG = "zero", "state"  # DeepSpeed's own files lie in zero/state/
RANK = "rank-{:05d}.pt"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what a damaged manifest raises
_OWNER = re.compile(r"(?:rank-(\d+)\.pt|.*zero_pp_rank_(\d+)_mp_rank_.*|.*offloaded_tensors/rank(\d+)/.*)")


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

    @property
    def strategy(self) -> str:
        """``plain``, ``ddp`` or ``deepspeed``: what trained it."""
        return str(self._parallel.get("strategy", "plain"))

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 without."""
        return int(self._parallel.get("zero_stage", 0))

    @property
    def world_size(self) -> int:
        """Processes that wrote it."""
        return int(self._parallel.get("world_size", 1))

    @property
    def sharded(self) -> bool:
        """Whether its weights are in DeepSpeed's files."""
        return self.strategy == "deepspeed"

    @property
    def _parallel(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest.get("parallel", {})
        return found

    def verify(self, names: Sequence[str] | None = None) -> list[str]:
        """What is wrong with the files ``names`` (default: all that the manifest lists)."""
        listed = self.manifest["files"]
        problems = []
        for name in names if names is not None else listed:
            file, expected = self.path / name, listed[name]
            if not file.is_file():
                problems.append(f"{file} is missing")
            elif file.stat().st_size != expected["bytes"]:
                problems.append(f"{file} has {file.stat().st_size} bytes instead of {expected['bytes']}")
            elif sha256(file) != expected["sha256"]:
                problems.append(f"{file} has another content than was written")
        return problems

    def weights(self) -> dict[str, Tensor]:
        """What training changed, by name, on the CPU; the shards of a ZeRO run are put together in fp32."""
        if self.sharded:
            from neucore_xl.runs.sharded import consolidated

            return consolidated(self)
        try:
            return safetensors.torch.load_file(self.path / WEIGHTS)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"checkpoint {self.path} is damaged ({error}): use another one.") from error

    def extra(self) -> dict[str, Any]:
        """What was given as ``extra``: optimiser, random state, position; loaded without running any code."""
        return torch.load(self.path / TRAINING, map_location="cpu", weights_only=True)

    def rank_extra(self, rank: int) -> dict[str, Any] | None:
        """What rank ``rank`` gave as ``rank_extra``; None if there was no such rank, or it gave nothing."""
        name = RANK.format(rank)
        if name not in self.manifest["files"]:
            return None
        return torch.load(self.path / name, map_location="cpu", weights_only=True)


def owner(name: str) -> int:
    """The rank that writes the file ``name`` of a checkpoint."""
    found = _OWNER.fullmatch(name)
    return int(next(g for g in found.groups() if g is not None)) if found else 0


def describe(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files in ``folder``, which are on the disk afterwards."""
    entries = {}
    for name in sorted(names):
        files.sync_file(folder / name)
        entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    return entries


def write(
    folder: Path,
    step: int,
    identity: Identity,
    metrics: Mapping[str, float] | None,
    parallel: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write the manifest into the folder that becomes the checkpoint; ``tensors``: shapes of what training changed."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "identity": asdict(identity),
        "metrics": dict(metrics or {}),
        "parallel": dict(parallel),
        "files": {name: dict(entry) for name, entry in entries.items()},
    }
    if tensors is not None:
        content["tensors"] = {name: list(shape) for name, shape in tensors.items()}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    files.sync_file(folder / MANIFEST)


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, unverified; any error of reading or of its content passes through."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if int(manifest["format"]) > FORMAT:
        raise ValueError(f"it is of format {manifest['format']}, written by a newer neucore-xl than this one")
    return Checkpoint(path, int(manifest["step"]), Identity(**manifest["identity"]), manifest["metrics"], manifest)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
