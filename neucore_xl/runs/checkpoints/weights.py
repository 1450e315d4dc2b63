"""What of a model goes into a checkpoint, and the way in and out: everything that training changes, by name.

Frozen tower weights are left out; a checkpoint's ``Identity`` vouches for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.runs.checkpoints.checkpoint import WEIGHTS


def stored_state(composer: nn.Module, backbone: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold: the composer's state but for the backbone's frozen part, on the CPU."""
    left_out = _frozen_names(composer, backbone)
    return {k: v.detach().cpu() for k, v in composer.state_dict().items() if k not in left_out}


def stored_shapes(composer: nn.Module, backbone: nn.Module) -> dict[str, list[int]]:
    """Names and whole shapes of ``stored_state``, also where ZeRO-3 keeps a shard of each parameter only."""
    left_out = _frozen_names(composer, backbone)
    whole = {n: getattr(p, "ds_shape", p.shape) for n, p in composer.named_parameters(remove_duplicate=False)}
    state = composer.state_dict(keep_vars=True)
    return {k: list(whole.get(k, v.shape)) for k, v in state.items() if k not in left_out}


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
