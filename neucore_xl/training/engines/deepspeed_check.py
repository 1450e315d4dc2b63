"""What is wrong with a DeepSpeed file, in one sentence, before DeepSpeed sees it.

DeepSpeed ignores an unknown key at the top, takes a left-over "auto" for its default and an NVMe offload without a
path for granted. Nothing of it is imported until something is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from neucore_xl import errors
from neucore_xl.errors import UserError

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


if TYPE_CHECKING:
    from pydantic import BaseModel

Tree = dict[str, Any]  # key -> Tree of the block below it, or None for a value

# Keys of older DeepSpeed releases, with what to do. Dotted where they stood in a block.
REMOVED: dict[str, str] = {
    "amp": "remove it, train.precision of the recipe sets the precision",
    "compression_training": "remove it, DeepSpeed compresses no more",
    "curriculum_learning": "remove it, the order of the data belongs to the recipe",
    "eigenvalue": "remove it, it served quantised training only",
    "elasticity": "remove it, a run is resumed on another number of processes from its checkpoint",
    "graph_harvesting": "remove it, there is nothing in its place",
    "nebula": "remove it, checkpoints lie in the run folder",
    "progressive_layer_drop": "remove it, there is nothing in its place",
    "quantize_training": "remove it, train.precision of the recipe sets the precision",
    "sparse_attention": "remove it, the attention belongs to the model",
    "sparse_gradients": "remove it, gradients of embeddings are dense",
    "zero_optimization.mics_hierarchical_params_gather": "remove it, zero_hpz_partition_size keeps gathers in a node",
    "zero_optimization.mics_shard_size": "write zero_hpz_partition_size, the number of GPUs of a node, instead",
    "zero_optimization.zeropp_loco_param": "remove it, zero_quantized_gradients works without it",
}

# Keys that DeepSpeed knows and this trainer has no use for: they would be ignored, or change what is computed.
UNUSED: dict[str, str] = {
    "activation_checkpointing": "backbone.activation_checkpointing of the recipe recomputes activations",
    "autotuning": "`neucore-xl plan` says what fits",
    "compile": "train.compile of the recipe compiles the model",
    "data_efficiency": "the order of the data belongs to the recipe",
    "dataloader_drop_last": "the data belong to the recipe",
    "datastates_ckpt": "checkpoints are written by this program",
    "expert_parallel": "the models have no experts",
    "hybrid_engine": "it is for generation",
    "managed_gradient_accumulation": "the trainer decides when gradients are complete",
    "pipeline": "the models are not cut into pipeline stages",
    "sequence_parallel_size": "sequences are not cut",
    "tensor_parallel": "matrices are not cut",
    "use_data_before_expert_parallelism": "the models have no experts",
    "weight_quantization": "it is for inference",
    "zero_optimization.zenflow": "it needs an optimizer of DeepSpeed's, and the recipe's is torch's AdamW",
}

# Names in deepspeed.runtime.constants of single values at the top level.
_VALUES = (
    "TRAIN_BATCH_SIZE",
    "TRAIN_MICRO_BATCH_SIZE_PER_GPU",
    "GRADIENT_ACCUMULATION_STEPS",
    "GRADIENT_CLIPPING",
    "STEPS_PER_PRINT",
    "DUMP_STATE",
    "DISABLE_PYTHON_GC",
    "DISABLE_ALLGATHER",
    "COMMUNICATION_DATA_TYPE",
    "SEQ_PARALLEL_COMMUNICATION_DATA_TYPE",
    "PRESCALE_GRADIENTS",
    "GRADIENT_PREDIVIDE_FACTOR",
    "GRADIENT_ALLREDUCE_OP",
    "ZERO_ALLOW_UNTESTED_OPTIMIZER",
    "ZERO_FORCE_DS_CPU_OPTIMIZER",
    "WALL_CLOCK_BREAKDOWN",
    "MEMORY_BREAKDOWN",
    "VOCABULARY_SIZE",
    "LOG_LEVEL",
)

# Blocks that DeepSpeed reads through a pydantic model: (module, class).
_MODELS: dict[str, tuple[str, str]] = {
    "zero_optimization": ("deepspeed.runtime.zero.config", "DeepSpeedZeroConfig"),
    "bf16": ("deepspeed.runtime.precision_config", "DeepSpeedBF16Config"),
    "bfloat16": ("deepspeed.runtime.precision_config", "DeepSpeedBF16Config"),
    "fp16": ("deepspeed.runtime.precision_config", "DeepSpeedFP16Config"),
    "comms_logger": ("deepspeed.comm.config", "CommsLoggerConfig"),
    "tensorboard": ("deepspeed.monitor.config", "TensorBoardConfig"),
    "wandb": ("deepspeed.monitor.config", "WandbConfig"),
    "csv_monitor": ("deepspeed.monitor.config", "CSVConfig"),
    "comet": ("deepspeed.monitor.config", "CometConfig"),
}

# Blocks that DeepSpeed reads key by key: (module, prefix of the constants that name the keys).
_CONSTANTS: dict[str, tuple[str, str]] = {
    "aio": ("deepspeed.runtime.swap_tensor.constants", "AIO_"),
    "flops_profiler": ("deepspeed.profiling.constants", "FLOPS_PROFILER_"),
}

# Blocks without either; a test compares them with what the installed DeepSpeed asks for.
_WRITTEN: Tree = {
    "checkpoint": {
        "tag_validation": None,
        "load_universal": None,
        "use_node_local_storage": None,
        "checkpoint_serialization": None,
        "parallel_write": {"pipeline_stage": None},
        "writer": dict.fromkeys(
            (
                "type",
                "io_buffer_size",
                "io_buffer_double",
                "show_statistics",
                "data_parallel",
                "decoupled",
                "io_multiplier",
            )
        ),
    },
    "data_types": dict.fromkeys(("grad_accum_dtype", "param_dtype", "buffer_dtype", "keep_in_fp32_modules")),
    "torch_autocast": dict.fromkeys(("enabled", "dtype", "lower_precision_safe_modules")),
    "timers": {"throughput": {"enabled": None, "synchronized": None}},
    "optimizer": dict.fromkeys(("type", "params", "legacy_fusion")),
    "scheduler": dict.fromkeys(("type", "params")),
}


@lru_cache(maxsize=1)
def known_keys() -> Tree:
    """Every key that a file may hold without being unknown, those of ``UNUSED`` included."""
    constants = import_module("deepspeed.runtime.constants")
    tree: Tree = {getattr(constants, name): None for name in _VALUES if hasattr(constants, name)}
    tree |= {block: _fields(model) for block, model in block_models().items()}
    tree |= {block: _named(*where) for block, where in _CONSTANTS.items()}
    tree |= _WRITTEN
    return tree | {key: None for key in UNUSED if "." not in key}


@lru_cache(maxsize=1)
def block_models() -> dict[str, type[BaseModel]]:
    """DeepSpeed's own pydantic models of the top-level blocks that have one."""
    return {block: getattr(import_module(module), name) for block, (module, name) in _MODELS.items()}


@lru_cache(maxsize=1)
def renamed_keys() -> dict[str, str]:
    """Deprecated keys of ``zero_optimization`` and the key to write instead, both dotted."""
    extras = {name: info.json_schema_extra for name, info in block_models()["zero_optimization"].model_fields.items()}
    return {
        f"zero_optimization.{name}": f"zero_optimization.{extra['new_param']}"
        for name, extra in extras.items()
        if isinstance(extra, dict) and extra.get("deprecated")
    }


def dotted(tree: Tree, prefix: str = "") -> Iterator[str]:
    """The dotted path of every key of a tree, blocks included."""
    for key, below in tree.items():
        yield prefix + key
        if below:
            yield from dotted(below, f"{prefix}{key}.")


def nearest(path: str) -> list[str]:
    """The dotted keys that an unknown dotted ``path`` may mean, the likeliest first; empty where none is near."""
    *blocks, word = path.split(".")
    siblings: Tree = known_keys()
    for block in blocks:
        siblings = siblings[block]
    prefix = path[: len(path) - len(word)]
    elsewhere = [key for key in dotted(known_keys()) if key.rsplit(".", 1)[-1] == word]
    if elsewhere:  # the right word in the wrong place, or a slip that makes another block's word
        return [prefix + key for key in errors.nearest(word, siblings, cutoff=0.75)] + elsewhere
    near = errors.nearest(word, siblings)
    if near:
        return [prefix + key for key in near]
    by_word = {key.rsplit(".", 1)[-1]: key for key in dotted(known_keys())}
    return [by_word[key] for key in errors.nearest(word, by_word)]


def _fields(model: type[BaseModel]) -> Tree:
    tree: Tree = {}
    for name, info in model.model_fields.items():
        below = next((_fields(kind) for kind in _alternatives(info.annotation) if hasattr(kind, "model_fields")), None)
        tree |= dict.fromkeys({name, info.alias or name}, below)
    return tree


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _named(module: str, prefix: str) -> Tree:
    constants = vars(import_module(module))
    return {
        value: None
        for name, value in constants.items()
        if name.startswith(prefix) and not name.endswith(("_DEFAULT", "_FORMAT")) and isinstance(value, str)
    }
