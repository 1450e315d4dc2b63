"""Throughput and waiting on a clock that the test turns."""

from __future__ import annotations

import pytest

from neucore_xl.training.meters import StepMeter


def test_shares_and_rates_on_a_set_clock() -> None:
    now = 0.0
    meter = StepMeter(clock=lambda: now)
    with meter.waiting():
        now += 1.0
    now += 3.0
    meter.step(8, loss=2.0)
    with meter.paused():
        now += 100.0
    assert meter.read() == {"samples_per_second": pytest.approx(2.0), "data_wait": pytest.approx(0.25)}
    now += 2.0
    meter.step(8, loss=1.0)
    assert meter.read() == {"samples_per_second": pytest.approx(4.0), "data_wait": 0.0}
    assert meter.smoothed_loss == pytest.approx(0.98 * 2.0 + 0.02 * 1.0)
