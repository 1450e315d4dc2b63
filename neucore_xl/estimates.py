"""A measured value with its bootstrap interval, and the share or mean over sentences with the percentile one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A measured value and its interval, which is None where it cannot be computed (one sentence).

    ``confidence``, ``method`` and ``resamples`` say which bootstrap the interval is of. ``str`` reads the value as a
    share in [0, 1] and prints per cent; ``number`` prints it as it is, ``signed`` with its sign.
    """

    value: float
    interval: tuple[float, float] | None
    confidence: float = 0.95
    method: str = "percentile"
    resamples: int = 2000

    @property
    def low(self) -> float:
        """Lower end of the interval; minus infinity where there is none."""
        return self.interval[0] if self.interval else -math.inf

    @property
    def high(self) -> float:
        """Upper end of the interval; infinity where there is none."""
        return self.interval[1] if self.interval else math.inf

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is more than chance."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the ends of the interval by name."""
        return {
            "estimate": self.value,
            "low": self.interval and self.interval[0],
            "high": self.interval and self.interval[1],
            "confidence": self.confidence,
            "method": self.method,
            "resamples": self.resamples,
        }

    def signed(self) -> str:
        """The value in its own unit, with its sign and two decimals: a difference."""
        if self.interval is None:
            return f"{self.value:+.2f}"
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

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
        return Estimate(1.0, None, resamples=resamples)
    value = float(a.sum() / b.sum())
    if len(a) < 2:
        return Estimate(value, None, resamples=resamples)

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
    interval = result.confidence_interval
    return Estimate(value, (float(interval.low), float(interval.high)), resamples=resamples)


def mean(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """Mean of ``values`` ``[N]`` with its bootstrap interval; None of an empty list."""
    x = np.asarray(values, dtype=np.float64)
    return ratio(x, np.ones(len(x)), resamples=resamples, seed=seed) if len(x) else None
