"""Intervals: agreement with the normal approximation, pairing, strata, and the cases with nothing to resample."""

from __future__ import annotations

import numpy as np
import pytest

from neucore_xl.evaluation.significance import bootstrap_interval, paired_bootstrap


@pytest.fixture
def hits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    hard = rng.random(1500)  # one difficulty per query, shared by both systems
    noise = rng.normal(0, 0.05, (2, 1500))
    return 100.0 * (hard + noise[0] < 0.55), 100.0 * (hard + noise[1] < 0.50)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_interval_of_a_mean_is_near_the_normal_one(hits, method):
    found = bootstrap_interval(hits[0], method=method)
    error = 1.96 * hits[0].std() / np.sqrt(1500)
    assert found.value == pytest.approx(hits[0].mean())
    assert found.low == pytest.approx(found.value - error, abs=0.3)
    assert found.high == pytest.approx(found.value + error, abs=0.3)


def test_pairing_uses_that_queries_are_the_same(hits):
    a, b = hits
    paired = paired_bootstrap(a, b)
    alone = [bootstrap_interval(x) for x in hits]
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.excludes_zero
    assert paired.high - paired.low < 0.7 * min(i.high - i.low for i in alone)
    backwards = paired_bootstrap(b, a)
    assert backwards.high == pytest.approx(-paired.low, abs=0.3)


def test_same_seed_same_interval(hits):
    assert paired_bootstrap(*hits, seed=3) == paired_bootstrap(*hits, seed=3)
    assert paired_bootstrap(*hits, seed=3) != paired_bootstrap(*hits, seed=4)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_strata_give_the_mean_of_the_category_means(method):
    rng = np.random.default_rng(0)
    strata = np.array(["dress"] * 900 + ["shirt"] * 100)
    values = np.where(strata == "dress", 10.0, 90.0) + rng.normal(0, 1, 1000)
    found = bootstrap_interval(values, strata=strata, method=method)
    assert found.value == pytest.approx(50, abs=0.2)
    assert found.high - found.low < 0.5  # categories are not resampled; within them the values hardly differ
    assert bootstrap_interval(values).value == pytest.approx(18, abs=0.5)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_nothing_to_resample(method):
    same = np.ones(7)
    found = paired_bootstrap(same, same, method=method)
    assert (found.value, found.low, found.high, found.excludes_zero) == (0, 0, 0, False)
    assert paired_bootstrap(same, np.zeros(7), method=method).low == 1


def test_wrong_values():
    for values in ([], [float("nan"), 1.0], [[1.0]]):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap_interval(values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the same queries"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="strata"):
        bootstrap_interval([1.0, 2.0], strata=np.array(["a"]))
    with pytest.raises(ValueError, match="method must be one of"):
        bootstrap_interval([1.0, 2.0], method="basic")  # type: ignore[arg-type]
