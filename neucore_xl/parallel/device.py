"""Where a process computes: the one place that turns ``train.device`` into a device."""

from __future__ import annotations

import torch

from neucore_xl.errors import UserError


def resolve_device(
    name: torch.device | str, precision: str = "fp32", *, precision_key: str = "train.precision"
) -> torch.device:
    """The device called ``name``: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Call it once a job and carry the result. ``precision`` is what is computed in, and ``precision_key`` the setting
    that says so. Raises ``UserError`` for an unknown name, a GPU that torch does not see, and one that does not
    compute in bf16 where that is asked.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"unknown device {name!r}: cpu, cuda, cuda:1 (and so on) or auto.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"no device {device}: torch sees {_gpus()} here; use `cpu` or `auto` (of a run: train.device)")
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise UserError(f"{precision_key} is `bf16` but this GPU does not compute in it: use {precision_key}=fp32")
    return device


def _gpus() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {0: "no GPU", 1: "one GPU"}.get(count, f"{count} GPUs")
