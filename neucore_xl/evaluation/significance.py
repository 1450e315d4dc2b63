"""Confidence intervals by bootstrap over queries; two systems are compared on the same queries (paired).

The headline measures are means of per-query values — (R@5 + R_subset@1)/2 is the mean of (hit@5 + hit_subset@1)/2 —
so the difference of two systems is the mean of the differences query by query. A macro average over categories
is the mean of the categories' means, and each category is resampled on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from neucore_xl.estimates import Estimate

Method = Literal["percentile", "BCa"]
Values = NDArray[np.floating] | Sequence[float]

_RESAMPLED_VALUES = 4_000_000  # values resampled at a time: 32 MB, whatever the number of queries


def bootstrap_interval(
    values: Values,
    *,
    strata: NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = 9999,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Estimate:
    """Mean, with its interval, of per-query ``values [Q]``.

    Args:
        strata: ``[Q]`` categories: the mean is then the mean of their means, resampled within each.
        seed: the same seed gives the same interval.
        confidence: in (0, 1).
        method: ``percentile``, or ``BCa`` (bias-corrected and accelerated; slower on thousands of queries).

    Raises:
        ValueError: no values, values that are not finite, or shapes that differ.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0 or not np.isfinite(data).all():
        raise ValueError(f"a bootstrap needs a non-empty row of finite values, got shape {data.shape}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}")
    if strata is not None and np.shape(strata) != data.shape:
        raise ValueError(f"strata {np.shape(strata)} do not fit values {data.shape}")
    groups = (data,) if strata is None else tuple(data[strata == s] for s in np.unique(strata))
    estimate = float(np.mean([g.mean() for g in groups]))
    if all(np.ptp(g) == 0 for g in groups):  # nothing to resample: scipy would warn and answer NaN
        return Estimate(estimate, (estimate, estimate), confidence, method, resamples)

    def mean_of_means(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return sum((s.mean(axis=axis) for s in samples), start=np.float64(0)) / len(samples)  # type: ignore[return-value]

    result = stats.bootstrap(
        groups,
        mean_of_means,
        n_resamples=resamples,
        batch=max(1, _RESAMPLED_VALUES // len(data)),
        vectorized=True,
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Estimate(estimate, (float(interval.low), float(interval.high)), confidence, method, resamples)


def paired_bootstrap(
    a: Values,
    b: Values,
    *,
    strata: NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = 9999,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Estimate:
    """Mean, with its interval, of ``a - b``, the per-query values ``[Q]`` of two systems on the same queries.

    ``a`` is ahead by more than chance when ``low > 0``. Other arguments as in :func:`bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values need the same queries, got {first.shape} and {second.shape}")
    return bootstrap_interval(
        first - second, strata=strata, seed=seed, resamples=resamples, confidence=confidence, method=method
    )
