"""What a checkpoint folder says about itself: the manifest, its checks, and the way back to tensors.

Format 2 of the manifest names every file of the folder with size and SHA-256, and how the processes shared the
work (``parallel``). Format 1, written by one process, has no ``parallel`` and is read as such.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from neucore_xl import files
from neucore_xl.errors import UserError

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


def consolidated(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The fp32 weights of a DeepSpeed checkpoint, whole, on the CPU, by their names in the composer."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder = checkpoint.path / ZERO
    try:
        if checkpoint.zero_stage == 0:
            state = torch.load(folder / TAG / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
            found = {name: tensor.float() for name, tensor in state["module"].items()}
        else:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it talks of every shard
                found = get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG, exclude_frozen_parameters=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"checkpoint {checkpoint.path} is damaged ({error}): use another one.") from error
    return {name: found[name] for name in checkpoint.manifest["tensors"]}


def stored_state(composer: nn.Module, backbone: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold: the composer's state but for the backbone's frozen part, on the CPU."""
    left_out = frozen_names(composer, backbone)
    return {k: v.detach().cpu() for k, v in composer.state_dict().items() if k not in left_out}


def stored_shapes(composer: nn.Module, backbone: nn.Module) -> dict[str, list[int]]:
    """Names and whole shapes of ``stored_state``, also where ZeRO-3 keeps a shard of each parameter only."""
    left_out = frozen_names(composer, backbone)
    whole = {n: getattr(p, "ds_shape", p.shape) for n, p in composer.named_parameters(remove_duplicate=False)}
    state = composer.state_dict(keep_vars=True)
    return {k: list(whole.get(k, v.shape)) for k, v in state.items() if k not in left_out}


def load_state(composer: nn.Module, backbone: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load what ``stored_state`` gave; every other name or shape is a ``UserError`` that tells both apart."""
    check_names(composer, backbone, {k: list(v.shape) for k, v in weights.items()}, source)
    composer.load_state_dict(dict(weights), strict=False)


def check_names(composer: nn.Module, backbone: nn.Module, shapes: Mapping[str, list[int]], source: Path) -> None:
    """Raise ``UserError`` if a checkpoint with tensors of these ``shapes`` is of another model."""
    own = stored_shapes(composer, backbone)
    missing, unknown = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    differ = [k for k in sorted(own.keys() & shapes.keys()) if own[k] != list(shapes[k])]
    if missing or unknown or differ:
        if differ:
            k = differ[0]
            detail = f"{k} is {list(shapes[k])} there and {own[k]} here"
        else:
            detail = f"it lacks {missing[0]}" if missing else f"it has {unknown[0]}, which this model has not"
        raise UserError(f"{source} is a checkpoint of another model: {detail}; check the settings of its run.")


def frozen_names(composer: nn.Module, backbone: nn.Module) -> set[str]:
    """Names, in the composer's state, of the backbone tensors that training never changes.

    Buffers of a trained tower (batch statistics) change, so they count as frozen only if no parameter is trained.
    """
    frozen = {id(p) for p in backbone.parameters() if not p.requires_grad}
    names = {n for n, p in composer.named_parameters(remove_duplicate=False) if id(p) in frozen}
    if not any(p.requires_grad for p in backbone.parameters()):
        buffers = {id(b) for b in backbone.buffers()}
        names |= {n for n, b in composer.named_buffers(remove_duplicate=False) if id(b) in buffers}
    return names


def write_weights(
    weights: Mapping[str, Tensor], folder: Path, name: str = WEIGHTS, metadata: dict[str, str] | None = None
) -> None:
    """Write ``weights`` as one safetensors file; what goes wrong with the disk is an ``OSError``."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}  # clone: no shared storage
    try:
        safetensors.torch.save_file(tensors, folder / name, metadata)
    except safetensors.SafetensorError as error:  # the operating system's error is in its text alone
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]), str(error)) if found else error from error
    files.usual_permissions(folder / name)  # safetensors keeps its files to the user alone
