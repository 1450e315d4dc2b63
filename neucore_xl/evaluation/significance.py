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


def paired_p_value(
    a: Values, b: Values, *, strata: NDArray[Any] | None = None, seed: int = 0, resamples: int = 9999
) -> float:
    """Two-sided p of the mean difference of two systems on the same queries, by sign flips (scipy's permutation test).

    ``a`` and ``b`` are per-query values ``[Q]``. Under the null hypothesis the sign of every query's difference is a
    coin's; all 2^Q flips where they are at most ``resamples``, else so many drawn with ``seed``, which cannot give
    less than 2 / (resamples + 1). With ``strata`` the mean is that of the categories' means, as in
    :func:`bootstrap_interval`. Raises ``ValueError`` for values of other shapes or that are not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"paired values need the same queries, got {first.shape} and {second.shape}")
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("a test needs finite values")
    if strata is not None:
        names, group, sizes = np.unique(strata, return_inverse=True, return_counts=True)
        difference = difference * len(difference) / (len(names) * sizes[group])
    difference = difference[difference != 0]  # no flip changes them
    if len(difference) < 2:  # both flips of a single difference are as far from zero
        return 1.0
    result = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _RESAMPLED_VALUES // len(difference)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """``p_values`` of m comparisons corrected for their number (Holm, 1979), in their order, each in [0, 1].

    The k-th smallest is multiplied by m - k + 1 and is at least what the one before it became: the chance that any
    true null hypothesis falls below a level is at most that level, however the comparisons depend on each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values are in [0, 1], got {p_values}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return [float(value) for value in corrected]
