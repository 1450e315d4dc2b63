"""A ZeRO checkpoint in DeepSpeed's universal form, which any number of processes and any stage can read."""

from __future__ import annotations

from neucore_xl.runs.manifest import Checkpoint


def needs_universal(checkpoint: Checkpoint, world_size: int, stage: int) -> bool:
    """Whether ``world_size`` processes at ZeRO ``stage`` can read ``checkpoint`` in the universal form only.

    To be asked before ``deepspeed.initialize``: its configuration must then say
    ``"checkpoint": {"load_universal": true}``.
    """
    same = checkpoint.sharded and (checkpoint.zero_stage, checkpoint.world_size) == (stage, world_size)
    return not same and bool(stage or checkpoint.zero_stage)
