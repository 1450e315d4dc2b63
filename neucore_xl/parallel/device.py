"""Where a process computes: the one place that turns ``train.device`` into a device."""

from __future__ import annotations

import torch

from neucore_xl.errors import UserError


def resolve_device(name: str, precision: str = "fp32") -> torch.device:
    """The device of ``train.device`` (``auto``, ``cpu`` or ``cuda``); ``auto`` is the GPU where there is one.

    Call it once a job and carry the result. ``precision`` is ``train.precision``, where something is trained. Raises
    ``UserError`` for a GPU that torch does not see, and for a GPU that does not compute in bf16 where that is asked.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is `cuda` but torch sees no GPU: use train.device=cpu or `auto`")
    device = torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("train.precision is `bf16` but this GPU does not compute in it: use train.precision=fp32")
    return device
