"""A checkpoint of one process that has all weights, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, Contents, Identity
from neucore_xl.runs.checkpoints.save import save_together
from neucore_xl.runs.checkpoints.weights import write_weights


def save_weights(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    identity: Identity,
    *,
    extra: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    keep: int = 2,
    best: bool = False,
) -> Checkpoint:
    """Save ``weights`` into ``folder`` as plain training does."""
    contents = Contents(step, identity, extra=extra or {}, metrics=metrics or {})
    return save_together(folder, World(), contents, lambda into: write_weights(weights, into), keep=keep, best=best)
