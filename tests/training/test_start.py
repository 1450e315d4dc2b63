"""A run finds its start before the first step, records it, stores it with its weights and does not look again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neucore_xl.config.load import dump_yaml, load_file
from neucore_xl.config.schema import LATER, Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.models.head import Head
from neucore_xl.runs import fitting
from neucore_xl.runs.fitting import fit, fitted, told
from neucore_xl.runs.system import assemble, load_run
from neucore_xl.training.run import train

Tiny = Callable[..., Settings]


def test_a_run_starts_at_what_it_found_and_goes_on_from_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    settings = tiny("model.name=residual", "train.steps=2", "train.warmup_steps=0")
    train(settings, run)
    report = json.loads((run / "start.json").read_text())
    assert {"weights", "centred", "scale", "reciprocal_rank", "held_out", "pairs", "seconds"} <= set(report)
    assert report["pairs"] == 48
    assert any(report["weights"].values())

    loaded = load_run(run, checkpoint="last").composer
    start = loaded.fitted()
    assert start is not None
    assert start.weights.tolist() == pytest.approx([report["weights"][part] for part in start.parts])
    drawn, split = assemble(settings), open_from_settings(settings.data, "train")
    same = fit(drawn, drawn.prepare([split]), split)
    assert same is not None
    assert same | {"seconds": 0} == report | {"seconds": 0}
    again = drawn.composer.fitted()
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(start.buffers(), again.buffers(), strict=True))
    assert isinstance(drawn.composer, Head)
    assert drawn.composer.temperature().exp().item() == pytest.approx(report["scale"], rel=1e-5)

    monkeypatch.setattr(fitting, "search", lambda *a, **k: pytest.fail("a finished run looks for no start"))
    train(settings, run)


def test_what_was_found_is_said_in_a_line() -> None:
    report = {
        "weights": {"image": 0.5, "text": 4.0, "ridge": 0.0}, "centred": True, "scale": 20.0, "reciprocal_rank": 40.26,
        "held_out": 1024, "pairs": 28225, "seconds": 12.3,
    }  # fmt: skip
    assert told(report) == (
        "start: 0.5 image + 4 text, centred; scale 20; mean reciprocal rank 40.3 on 1,024 of 28,225 pairs (12 s)"
    )
    assert "too few pairs" in told({})
    assert "no longer says" in told({"weights": 3})


def test_systems_without_a_start_and_runs_that_ask_for_none_fit_nothing(tiny: Tiny) -> None:
    for overrides in (["model.name=concat"], ["model.name=residual", "model.start=image"]):
        system = assemble(tiny(*overrides))
        assert system.composer.fitted() is None
        assert not [name for name in system.composer.state_dict() if name.startswith("start.")]


def test_an_untrained_system_is_fitted_on_the_training_split(tiny: Tiny) -> None:
    system, report = fitted(tiny("model.name=ridge-words"))
    assert report is not None
    assert report["weights"] == {"words": 1.0}
    assert not system.composer.training
    assert fitted(tiny("model.name=product"))[1] is None


def test_a_run_from_before_there_was_a_start_is_read_as_what_it_was(tmp_path: Path) -> None:
    """Its config.yaml lacks the keys; the defaults of today would ask for weights that it does not have."""
    lines = dump_yaml(Settings()).splitlines()
    old = [line for line in lines if not line.startswith(tuple(f"  {key.split('.')[1]}:" for key in LATER))]
    assert len(old) == len(lines) - len(LATER)
    (tmp_path / "config.yaml").write_text("\n".join(old))
    settings = load_file(tmp_path / "config.yaml")
    assert (settings.model.start, settings.model.explicit, settings.train.lr_scalars) == ("image", "weighted", None)
    now = Settings()
    assert (now.model.start, now.model.explicit, now.train.lr_scalars) == ("auto", "change", 5e-3)
