"""A DeepSpeed file, checked before DeepSpeed sees it and completed with what the recipe owns.

A file says how states are sharded and offloaded. Batch sizes, precision, clipping, optimizer and schedule belong to
the recipe: they are filled in here, and a file that states another value is refused. Every refusal is one sentence.
Importing this module imports neither torch nor DeepSpeed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.jsonfile import read_json
from neucore_xl.training.engines.deepspeed_check import expanded, get, offload_of, stage_of

ROOT = Path(__file__).resolve().parents[3]  # the folder that holds the package and ds_configs/
NEVER = 2**31 - 1  # steps_per_print: the trainer has a log of its own


def shipped_names() -> tuple[str, ...]:
    """The files that come with the repository, as ``ds_configs/zero1.json``."""
    return tuple(sorted(f"ds_configs/{path.name}" for path in (ROOT / "ds_configs").glob("*.json")))


def find_config(path: Path) -> Path:
    """The file of ``train.deepspeed``: as given, else below the folder that holds the package.

    Raises ``UserError`` naming what was tried, the shipped files and the nearest of them.
    """
    tried = list(dict.fromkeys((path.expanduser().absolute(), (ROOT / path.expanduser()).absolute())))
    for candidate in tried:
        if candidate.is_file():
            return candidate
    by_stem = {Path(name).stem: name for name in shipped_names()}
    hint = did_you_mean([by_stem[stem] for stem in nearest(path.stem, by_stem)], ".")
    raise UserError(
        f"DeepSpeed file {path} does not exist{hint} Looked for {' and '.join(map(str, tried))}; "
        f"shipped files are {', '.join(shipped_names())}."
    )


def read_config(path: Path) -> dict[str, Any]:
    """The object of a DeepSpeed JSON file, unchecked; raises ``UserError`` with the line of a fault."""
    twice: list[str] = []
    loaded = read_json(path, dict, clashes=twice)
    if twice:
        raise UserError(f"{path} holds the key {twice[0]} twice: remove one.")
    return loaded


def resolve_config(
    config: dict[str, Any],
    *,
    source: Path | str,
    global_batch: int,
    local_batch: int,
    world_size: int,
    bf16: bool,
    clip_norm: float,
) -> dict[str, Any]:
    """A checked ``config`` with what the recipe owns: the dictionary for ``deepspeed.initialize``.

    ``global_batch``: ``train.batch_size``. ``local_batch``: queries of one process in one part of a step, so that
    ``global_batch = parts · world_size · local_batch``. The trainer drives the boundary of a step itself, hence one
    accumulation step for DeepSpeed. Raises ``UserError`` with the numbers for a file that states others.
    """
    together = local_batch * world_size
    if together < 1 or global_batch % together:
        raise UserError(
            f"train.batch_size={global_batch} is not a multiple of {local_batch} queries on each of {world_size} "
            "processes: change train.batch_size, train.accumulate or the number of processes."
        )
    parts = global_batch // together
    precision = "bf16" if bf16 else "fp32"
    for key, allowed, setting in (
        ("train_batch_size", (global_batch,), f"train.batch_size={global_batch}"),
        ("train_micro_batch_size_per_gpu", (local_batch,), f"a process's share of a step, {local_batch} queries"),
        ("gradient_accumulation_steps", (parts, 1), f"train.accumulate={parts}"),
        ("gradient_clipping", (clip_norm,), f"train.clip_norm={clip_norm:g}"),
        ("bf16.enabled", (bf16,), f"train.precision={precision}"),
        ("bfloat16.enabled", (bf16,), f"train.precision={precision}"),
    ):
        value = get(config, key)
        if value is not None and value not in allowed:
            raise UserError(f"{source}: {key} is {json.dumps(value)}, but the recipe says {setting}: remove the key.")
    final = copy.deepcopy(config)
    zero = final.setdefault("zero_optimization", {})
    zero.setdefault("stage", 0)
    _check_partition(zero, source, world_size)
    for block in _nvme_blocks(final):
        block["nvme_path"] = expanded(block["nvme_path"])
    final["bf16"] = {**final.pop("bfloat16", {}), **final.get("bf16", {}), "enabled": bf16}
    final["fp16"] = {"enabled": False}
    _set_gradient_type(final, source, bf16)
    final.setdefault("steps_per_print", NEVER)
    final.setdefault("wall_clock_breakdown", False)
    return final | {
        "train_batch_size": together,
        "train_micro_batch_size_per_gpu": local_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": float(clip_norm),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def describe(config: dict[str, Any]) -> str:
    """One phrase for the start table, such as ``ZeRO 3, parameters and optimizer on the CPU``."""
    stage, offload = stage_of(config), offload_of(config)
    places = {"cpu": "on the CPU", "nvme": "on NVMe"}
    parts = [f"ZeRO {stage}" if stage else "ZeRO 0 (nothing sharded)"]
    if offload.parameters == offload.optimizer != "none":
        parts.append(f"parameters and optimizer {places[offload.parameters]}")
    else:
        named = (("parameters", offload.parameters), ("optimizer", offload.optimizer))
        parts += [f"{what} {places[where]}" for what, where in named if where != "none"]
    second = config.get("zero_optimization", {}).get("zero_hpz_partition_size", 1)
    if stage == 3 and second > 1:
        parts.append(f"second copy of the parameters within {second} ranks")
    return ", ".join(parts)


def from_accelerate(environ: Mapping[str, str]) -> Path | None:
    """The DeepSpeed file that ``accelerate launch`` was given, or None where it was started without DeepSpeed.

    Raises ``UserError`` for DeepSpeed options without a file: accelerate's own plugin, which fills them in, is not
    used here, and a stage that nobody reads would train without ZeRO.
    """
    file = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "").strip()
    if file.lower() not in ("", "none"):
        return Path(file)
    if environ.get("ACCELERATE_USE_DEEPSPEED", "").strip().lower() not in ("1", "true", "yes", "on", "y", "t"):
        return None
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "").strip()
    asked = f"zero_stage {stage}" if stage else "DeepSpeed"
    near = (
        f"ds_configs/zero{stage}.json" if f"ds_configs/zero{stage}.json" in shipped_names() else "ds_configs/zero2.json"
    )
    raise UserError(
        f"accelerate was asked for {asked} without a DeepSpeed file: give one with "
        f"`accelerate launch --config_file ds_configs/accelerate_{Path(near).stem}.yaml`, "
        f"`--deepspeed_config_file {near}`, or train.deepspeed={near}."
    )


def _check_partition(zero: dict[str, Any], source: Path | str, world_size: int) -> None:
    size = zero.get("zero_hpz_partition_size", 1)
    if size > 1 and zero["stage"] != 3:
        raise UserError(
            f"{source}: zero_optimization.zero_hpz_partition_size needs stage 3, but it is {zero['stage']}."
        )
    if size > 1 and world_size % size:
        raise UserError(
            f"{source}: zero_optimization.zero_hpz_partition_size={size} does not divide {world_size} processes: "
            "write the number of GPUs of a node."
        )


def _set_gradient_type(final: dict[str, Any], source: Path | str, bf16: bool) -> None:
    """Gradients of bf16 parts are added up in fp32, where DeepSpeed can do it with the optimizer class in use."""
    stage = final["zero_optimization"]["stage"]
    types = final.get("data_types", {})
    stated = types.get("grad_accum_dtype")
    if bf16 and stage < 2 and stated in ("fp32", "float32"):
        raise UserError(
            f"{source}: data_types.grad_accum_dtype=fp32 does not work with bf16 and ZeRO {stage}: remove it, or use "
            "stage 2 or 3."
        )
    if bf16 and stage >= 2 and stated is None:
        final["data_types"] = {**types, "grad_accum_dtype": "fp32"}


def _nvme_blocks(config: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = (get(config, f"zero_optimization.{key}") for key in ("offload_param", "offload_optimizer"))
    return [block for block in blocks if block and block.get("device") == "nvme"]
