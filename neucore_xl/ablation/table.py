"""Variants side by side: means over seeds, and paired differences from the first variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation.result import Result, protocol_line
from neucore_xl.evaluation.significance import paired_bootstrap

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class VariantRow:
    """One variant: every measure per seed (percent), and the headline's difference from the first variant.

    ``ahead`` is the mean over seeds with its 95 % interval by paired bootstrap over queries, each query's value
    averaged over seeds first; ``ahead_by_seed`` shows what the interval leaves out, the spread from seed to seed.
    """

    name: str
    metrics: Mapping[str, Sequence[float]]
    ahead: Estimate | None
    ahead_by_seed: Sequence[float]


@dataclass(frozen=True)
class Comparison:
    """The rows of an ablation; all were measured by ``protocol`` on the same ``queries``."""

    rows: Sequence[VariantRow]
    seeds: Sequence[int]
    headline: str
    queries: int
    protocol: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; every measure per seed, in percent with full precision."""
        rows = [asdict(row) | {"ahead": row.ahead.to_json() if row.ahead else None} for row in self.rows]
        return asdict(self) | {"rows": rows}

    def print(self, console: Console) -> None:
        """One table; the spread behind ± is the standard deviation over seeds."""
        from rich import box
        from rich.table import Table

        shown = [next(iter(self.rows[0].metrics)), self.headline]  # what fits 80 columns; the file holds all
        table = Table(title=f"{self.queries} queries, seeds {', '.join(map(str, self.seeds))}", box=box.SIMPLE_HEAD)
        table.add_column("variant", no_wrap=True)
        for measure in shown:
            table.add_column(measure, justify="right", no_wrap=True)
        table.add_column(f"ahead of {self.rows[0].name}", justify="right", no_wrap=True)
        table.add_column("by seed", justify="right")
        for row in self.rows:
            cells = [_mean(row.metrics[m], spread=m == self.headline) for m in shown]
            by_seed = " ".join(f"{d:+.2f}" for d in row.ahead_by_seed)
            table.add_row(row.name, *cells, row.ahead.signed() if row.ahead else "", by_seed if row.ahead else "")
        console.print(table)
        console.print(protocol_line(self.protocol), soft_wrap=True)


def compare_variants(results: Mapping[str, Sequence[Result]], *, seeds: Sequence[int], seed: int = 0) -> Comparison:
    """Rows in the order of ``results``, which maps a variant's name to its results, one for each of ``seeds``.

    Raises ``UserError`` where the results were not measured by one protocol on the same queries.
    """
    names = list(results)
    base = results[names[0]]
    for name in names:
        for result in results[name]:
            if result.ids != base[0].ids or result.headline != base[0].headline:
                raise UserError(f"{name} was evaluated on other queries than {names[0]}: vary no setting of the data")
    rows = []
    for name in names:
        metrics = {m: [float(r.metrics[m]) for r in results[name]] for m in base[0].metrics}
        by_seed = [r.score - b.score for r, b in zip(results[name], base, strict=True)]
        ahead = None
        if name != names[0]:
            ahead = paired_bootstrap(_per_query(results[name]), _per_query(base), strata=base[0].strata, seed=seed)
        rows.append(VariantRow(name, metrics, ahead, by_seed))
    return Comparison(rows, list(seeds), base[0].headline, base[0].n_queries, dict(base[0].protocol))


def _per_query(results: Sequence[Result]) -> np.ndarray:
    """The headline of every query, averaged over seeds ``[Q]``."""
    return np.mean([r.per_query[r.headline] for r in results], axis=0)


def _mean(values: Sequence[float], *, spread: bool) -> str:
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if spread and len(values) > 1 else mean
