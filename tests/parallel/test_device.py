"""Where a process computes."""

from __future__ import annotations

import pytest
import torch

from neucore_xl.errors import UserError
from neucore_xl.parallel.device import resolve_device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"no device cuda: torch sees no GPU here; use `cpu` or `auto` .*train\.device"):
        resolve_device("cuda")
    with pytest.raises(UserError, match=r"unknown device 'gpu'"):
        resolve_device("gpu")
    assert resolve_device("auto").type == resolve_device("cpu", "bf16").type == "cpu"


def test_a_gpu_without_bf16_is_refused_where_bf16_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(UserError, match=r"train\.precision"):
        resolve_device("auto", "bf16")
    with pytest.raises(UserError, match=r"evaluation\.precision"):
        resolve_device("cuda", "bf16", precision_key="evaluation.precision")
    with pytest.raises(UserError, match=r"no device cuda:1: torch sees one GPU here"):
        resolve_device("cuda:1")
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu", "bf16").type == "cpu"
