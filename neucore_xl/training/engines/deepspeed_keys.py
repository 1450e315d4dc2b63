"""Which keys a DeepSpeed file may hold here: a list, and for its larger blocks DeepSpeed's own pydantic models.

A test compares the list with what the installed DeepSpeed asks for. Nothing of DeepSpeed is imported until a key is
looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from neucore_xl import errors

if TYPE_CHECKING:
    from pydantic import BaseModel

Tree = dict[str, Any]  # key -> Tree of the block below it, or None for a value

_WRITTEN: Tree = {
    **dict.fromkeys(
        (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "gradient_clipping",
            "gradient_predivide_factor",
            "gradient_allreduce_op",
            "prescale_gradients",
            "communication_data_type",
            "seq_parallel_communication_data_type",
            "disable_allgather",
            "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer",
            "steps_per_print",
            "wall_clock_breakdown",
            "memory_breakdown",
            "dump_state",
            "disable_python_gc",
            "vocabulary_size",
            "log_level",
        )
    ),
    "aio": dict.fromkeys(
        ("block_size", "queue_depth", "intra_op_parallelism", "single_submit", "overlap_events", "use_gds")
    ),
    "flops_profiler": dict.fromkeys(
        (
            "enabled",
            "recompute_fwd_factor",
            "profile_step",
            "module_depth",
            "top_modules",
            "detailed",
            "output_file",
        )
    ),
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

# Blocks whose keys, kinds and ranges are those of a pydantic model of DeepSpeed's: (module, class).
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


@lru_cache(maxsize=1)
def known_keys() -> Tree:
    """Every key that a file may hold without being unknown, those of ``UNUSED`` included."""
    blocks = {block: _fields(model) for block, model in block_models().items()}
    return _WRITTEN | blocks | {key: None for key in UNUSED if "." not in key}


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
