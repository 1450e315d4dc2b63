"""What is wrong with a DeepSpeed file, in one sentence, before DeepSpeed sees it.

DeepSpeed ignores an unknown key at the top, takes a left-over "auto" for its default and an NVMe offload without a
path for granted. Which keys there are is in ``deepspeed_keys.py``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neucore_xl import errors
from neucore_xl.errors import UserError
from neucore_xl.training.engines.deepspeed_keys import (
    REMOVED,
    UNUSED,
    Tree,
    block_models,
    known_keys,
    nearest,
    renamed_keys,
)

# Switches that another part of the trainer relies on: (dotted key, the only value, why).
_FIXED: tuple[tuple[str, Any, str], ...] = (
    ("fp16.enabled", False, "train.precision of the recipe is fp32 or bf16"),
    ("torch_autocast.enabled", False, "train.precision of the recipe sets the precision"),
    ("zero_allow_untested_optimizer", True, "the optimizer is torch's AdamW"),
    ("zero_force_ds_cpu_optimizer", False, "the optimizer is torch's AdamW, on the CPU too"),
    ("gradient_allreduce_op", "mean", "the loss is averaged over processes"),
    ("checkpoint.load_universal", False, "the trainer sets it when it resumes on another number of processes"),
    ("checkpoint.use_node_local_storage", False, "checkpoints lie in the run folder"),
    ("zero_optimization.offload_optimizer.ratio", 1.0, "a part of it needs DeepSpeed's CPU Adam"),
    ("zero_optimization.offload_optimizer.super_offload", False, "it needs DeepSpeed's CPU Adam"),
)


@dataclass(frozen=True)
class Offload:
    """Where model states lie: ``none`` (the GPU), ``cpu`` or ``nvme``."""

    parameters: str = "none"
    optimizer: str = "none"


def check_config(config: dict[str, Any], source: Path | str, *, paths: bool = True) -> None:
    """Refuse with one sentence what DeepSpeed would misread, ignore or die of; ``source`` names the file in it.

    ``paths`` also asks that the folders of an NVMe offload are there, on this machine. Imports DeepSpeed.
    """
    _check_keys(config, known_keys(), source)
    zero = config.get("zero_optimization", {})
    _check_stage(zero, source)
    for key, only, why in _FIXED:
        value = get(config, key)
        if value is not None and value != only:
            raise UserError(f"{source}: {key} is {json.dumps(value)}, but {why}: remove it.")
    for key, setting in (
        ("optimizer", "train.lr and its neighbours"),
        ("scheduler", "train.warmup_steps and train.lr"),
    ):
        if key in config:
            raise UserError(f"{source}: remove `{key}`, it belongs to the recipe ({setting}).")
    _check_values(config, source)
    _check_offload(config, source)
    if paths:
        _check_nvme(config, source)


def stage_of(config: dict[str, Any]) -> int:
    """The ZeRO stage, 0 to 3; a file without one is stage 0."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def offload_of(config: dict[str, Any]) -> Offload:
    """Where parameters and optimizer states lie."""
    zero = config.get("zero_optimization", {})
    return Offload(*(_device(zero, key) for key in ("offload_param", "offload_optimizer")))


def get(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def expanded(path: str) -> str:
    """An ``nvme_path`` with its variables and ``~`` filled in."""
    return str(Path(os.path.expandvars(path)).expanduser())


def _check_keys(tree: dict[str, Any], known: Tree, source: Path | str, prefix: str = "") -> None:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if path in REMOVED:
            raise UserError(f"{source}: DeepSpeed has no `{path}` any more: {REMOVED[path]}.")
        if key not in known:
            hint = errors.did_you_mean(nearest(path), "; remove it, DeepSpeed would ignore it.")
            raise UserError(f"{source}: unknown key {path}{hint}")
        if path in UNUSED:
            raise UserError(f"{source}: `{path}` has no use here ({UNUSED[path]}): remove it.")
        if path in renamed_keys():
            raise UserError(f"{source}: {path} is an old name: write {renamed_keys()[path]}.")
        if value == "auto" and path != "data_types.keep_in_fp32_modules":
            raise UserError(
                f'{source}: {path} is left at "auto", which DeepSpeed takes for its default: write the value, '
                "or remove the key (batch, precision, clipping and optimizer come from the recipe)."
            )
        below = known[key]
        if below is None:
            continue
        if value is None and prefix:
            continue  # "offload_param": null
        if not isinstance(value, dict):
            raise UserError(f"{source}: {path} must be a block of keys ({', '.join(sorted(below))}), not {value!r}.")
        if key not in ("params",):
            _check_keys(value, below, source, f"{path}.")


def _check_stage(zero: dict[str, Any], source: Path | str) -> None:
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise UserError(f"{source}: zero_optimization.stage must be 0, 1, 2 or 3, not {json.dumps(stage)}.")


def _check_values(config: dict[str, Any], source: Path | str) -> None:
    """What DeepSpeed's own models refuse: kinds and ranges of values."""
    from pydantic import ValidationError

    for block, model in block_models().items():
        if block not in config:
            continue
        try:
            model(**config[block])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([block, *map(str, first["loc"])])
            raise UserError(
                f"{source}: {where} is {json.dumps(first['input'], default=str)}: {first['msg']}."
            ) from None


def _check_offload(config: dict[str, Any], source: Path | str) -> None:
    stage, offload = stage_of(config), offload_of(config)
    for key, device, least in (
        ("offload_param", offload.parameters, 3),
        ("offload_optimizer", offload.optimizer, 3 if offload.optimizer == "nvme" else 1),
    ):
        if device != "none" and stage < least:
            needed = "stage 3" if least == 3 else "stage 1, 2 or 3"
            raise UserError(
                f"{source}: zero_optimization.{key} with device `{device}` needs {needed}, but the stage is {stage}: "
                "remove the block or change the stage."
            )


def _check_nvme(config: dict[str, Any], source: Path | str) -> None:
    for key in ("offload_param", "offload_optimizer"):
        block = get(config, f"zero_optimization.{key}") or {}
        if block.get("device") != "nvme":
            continue
        where = f"{source}: zero_optimization.{key}.nvme_path"
        path = block.get("nvme_path")
        if not path:
            raise UserError(f"{where} is missing: write the folder of the node's own NVMe drive.")
        real = expanded(path)
        if "$" in real:
            raise UserError(
                f"{where} is {path}, and that variable is not set: export it as the folder of the node's own NVMe "
                f"drive, on every node, or write the folder into the file."
            )
        if not Path(real).is_dir():
            raise UserError(f"{where}: {real} is no folder on this machine: make it, or write another.")
        if not os.access(real, os.W_OK | os.X_OK):
            raise UserError(f"{where}: {real} cannot be written to: choose another folder.")


def _device(zero: dict[str, Any], key: str) -> str:
    return str((zero.get(key) or {}).get("device", "none"))
