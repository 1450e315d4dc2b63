"""A checkpoint folder as its manifest describes it: what it belongs to, who wrote it, which files it has.

Format 2 of the manifest names every file of the folder with size and SHA-256, and how the processes shared the
work (``parallel``). Format 1, written by one process, has no ``parallel`` and is read as such. How weights get out of
a model and back into one is in ``weights.py``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import refused, regular
from neucore_xl.runs.checkpoints import trusted
from neucore_xl.runs.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    TAG,
    TRAINING,
    WEIGHTS,
    ZERO,
    read_manifest,
)

RANK = "rank-{:05d}.pt"
_OWNER = re.compile(r"(?:rank-(\d+)\.pt|.*zero_pp_rank_(\d+)_mp_rank_.*|.*offloaded_tensors/rank(\d+)/.*)")


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: the system (``row``), its frozen backbone and its vocabulary (fingerprints)."""

    row: str
    backbone: str
    vocabulary: str


@dataclass(frozen=True)
class Contents:
    """What becomes a checkpoint beside the weights, on every rank.

    ``extra`` (rank 0's counts) and ``rank_extra`` (each rank's own: its random state) must hold plain containers
    and tensors: they are read as ``trusted.read`` does. ``metrics``: of the validation at this step, in percent.
    ``tensors``: shapes of what training changed (``stored_shapes``), needed for DeepSpeed, whose shards tell none.
    ``best_step``: the step of the best validation so far, where there was one.
    """

    step: int
    identity: Identity
    strategy: str = "plain"  # or "ddp", "deepspeed"
    zero_stage: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    rank_extra: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tensors: Mapping[str, Sequence[int]] | None = None
    best_step: int | None = None

    def __post_init__(self) -> None:
        if self.strategy == "deepspeed" and self.tensors is None:
            raise ValueError("a DeepSpeed checkpoint needs the shapes of its tensors (stored_shapes)")


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
        """What is wrong with the files ``names`` (default: all that the manifest lists).

        Raises ``UserError`` where the system refuses to read one, which is no damage.
        """
        listed = self.manifest["files"]
        problems = []
        for name in names if names is not None else listed:
            file, expected = self.path / name, listed[name]
            found = regular(file)
            if isinstance(found, str):
                problems.append(f"{file} {found}")
            elif found.st_size != expected["bytes"]:
                problems.append(f"{file} has {found.st_size} bytes instead of {expected['bytes']}")
            elif _sha256(file) != expected["sha256"]:
                problems.append(f"{file} has another content than was written")
        return problems

    def weights(self) -> dict[str, Tensor]:
        """What training changed, by name, on the CPU; the shards of a ZeRO run are put together in fp32."""
        if self.sharded:
            return _consolidated(self)
        try:
            return safetensors.torch.load_file(self.path / WEIGHTS)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"checkpoint {self.path} is damaged ({error}): use another one.") from error

    def extra(self) -> dict[str, Any]:
        """What is the same for all ranks: optimiser and schedule, position; loaded without running any code."""
        return trusted.read(self.path / TRAINING, dict)

    def rank_extra(self, rank: int) -> dict[str, Any] | None:
        """What rank ``rank`` kept for itself, its random state; None if there was no such rank, or it kept nothing."""
        name = RANK.format(rank)
        if name not in self.manifest["files"]:
            return None
        return trusted.read(self.path / name, dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, its files unread; errors as of ``read_manifest``."""
    manifest = read_manifest(path)
    identity = Identity(**{part.name: manifest["identity"][part.name] for part in fields(Identity)})
    return Checkpoint(path, manifest["step"], identity, manifest["metrics"], manifest)


def write_manifest(folder: Path, contents: Contents, world_size: int, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest into the folder that becomes the checkpoint; ``entries`` (``file_entries``): all its files."""
    parallel = {"strategy": contents.strategy, "zero_stage": contents.zero_stage, "world_size": world_size}
    if contents.strategy == "deepspeed":
        parallel["deepspeed"] = importlib.metadata.version("deepspeed")
    content: dict[str, Any] = {
        "format": FORMAT,
        "step": contents.step,
        "identity": asdict(contents.identity),
        "metrics": dict(contents.metrics),
        "parallel": parallel,
        "files": {name: dict(entry) for name, entry in entries.items()},
    }
    if contents.tensors is not None:
        content["tensors"] = {name: list(shape) for name, shape in contents.tensors.items()}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    files.sync_file(folder / MANIFEST)


def file_entries(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files in ``folder``, which are on the disk afterwards."""
    entries = {}
    for name in sorted(names):
        files.sync_file(folder / name)
        entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    return entries


def writing_rank(name: str) -> int:
    """The rank that writes the file ``name`` of a checkpoint."""
    found = _OWNER.fullmatch(name)
    return int(next(g for g in found.groups() if g is not None)) if found else 0


def _consolidated(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The fp32 weights of a DeepSpeed checkpoint, whole, on the CPU, by their names in the composer."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder = checkpoint.path / ZERO
    with trusted.taking_in(checkpoint.path):
        if checkpoint.zero_stage == 0:
            state = trusted.read_shard(folder / TAG / "mp_rank_00_model_states.pt", dict)
            whole = {name: tensor.float() for name, tensor in state["module"].items()}
        else:
            trusted.check(trusted.files_of(folder))
            # It talks of every shard.
            with trusted.weights_only(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                whole = get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG, exclude_frozen_parameters=True)
        return {name: whole[name] for name in checkpoint.manifest["tensors"]}


def _sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; ``UserError`` where the system refuses to read it."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise refused(path, error) from error
    return digest.hexdigest()
