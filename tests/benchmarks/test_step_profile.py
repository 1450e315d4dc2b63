"""The step profile counts every part once and knows what is frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from step_profile import PARTS, StepProfile, profile_steps

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.runs.system import assemble
from neucore_xl.training.engines.engine import PlainEngine
from neucore_xl.training.stream import batch_order, training_stream

Tiny = Callable[..., Settings]


def profile(settings: Settings) -> StepProfile:
    split = open_from_settings(settings.data, "train")
    system = assemble(settings)
    engine = PlainEngine(system.composer, system.backbone, settings.train)
    collator = system.prepare([split]).collator(split)
    stream = training_stream(split, batch_order(split, settings), collator, settings, 0, 0)
    found = profile_steps(engine, system.backbone, stream, settings, steps=2, warmup=1)
    assert "encode_images" not in vars(system.backbone)
    return found


def test_trained_towers_have_both_passes(tiny: Tiny) -> None:
    found = profile(tiny("backbone.freeze=none", "train.accumulate=2"))
    assert tuple(found.seconds) == PARTS
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert sum(found.shares().values()) == pytest.approx(1.0)
    assert 0 < found.tower_share < 1


def test_frozen_towers_have_no_backward_pass_and_cached_ones_none_at_all(tiny: Tiny) -> None:
    frozen = profile(tiny("train.cache_features=false"))
    assert frozen.seconds["towers, backward"] == 0
    assert frozen.seconds["image tower, forward"] > 0
    cached = profile(tiny())
    assert cached.tower_share == 0
    assert cached.seconds["heads, backward"] > 0


def test_the_share_leaves_waiting_out() -> None:
    seconds = dict.fromkeys(PARTS, 0.0) | {
        "data": 6.0,
        "image tower, forward": 1.0,
        "towers, backward": 2.0,
        "loss": 1.0,
    }
    found = StepProfile(1, seconds)
    assert found.tower_share == pytest.approx(0.75)
    assert found.shares()["data"] == pytest.approx(0.6)
