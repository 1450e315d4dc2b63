"""A measured share or mean with its 95 % interval: the percentile bootstrap over sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % interval; the interval is None where it cannot be computed (one sentence).

    ``str`` reads the value as a share in [0, 1] and prints per cent; ``number`` prints it as it is.
    """

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{100 * self.value:.1f} %"
        return f"{100 * self.value:.1f} % [{100 * self.interval[0]:.1f}, {100 * self.interval[1]:.1f}]"

    def number(self, digits: int = 2) -> str:
        """The value in its own unit, with ``digits`` decimals."""
        if self.interval is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.interval[0]:.{digits}f}, {self.interval[1]:.{digits}f}]"


def ratio(above: ArrayLike, below: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Sum of ``above`` over sum of ``below``, both ``[N]``, with its percentile bootstrap over the N entries.

    1 where ``below`` sums to zero: there was nothing to find. With ``below`` all ones it is the mean of ``above``.
    """
    from scipy.stats import bootstrap

    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if b.sum() == 0:
        return Estimate(1.0, None)
    value = float(a.sum() / b.sum())
    if len(a) < 2:
        return Estimate(value, None)

    def statistic(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        total = y.sum(axis=axis)
        return x.sum(axis=axis) / np.where(total == 0, 1, total)

    result = bootstrap(
        (a, b),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Estimate(value, (float(result.confidence_interval.low), float(result.confidence_interval.high)))


def mean(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """Mean of ``values`` ``[N]`` with its bootstrap interval; None of an empty list."""
    x = np.asarray(values, dtype=np.float64)
    return ratio(x, np.ones(len(x)), resamples=resamples, seed=seed) if len(x) else None
