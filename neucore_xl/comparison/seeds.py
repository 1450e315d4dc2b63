"""What the seeds of a system give together: an interval, and whether it is behind the strongest by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.comparison.results import Against, Entry, Interval, OverSeeds
from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation.result import Result
from neucore_xl.evaluation.significance import bootstrap_interval, holm, paired_bootstrap, paired_p_value

Key = tuple[str, int]  # system, seed
RESAMPLES = 1999  # of an interval; with the tests, twenty systems and 4,181 queries take about a minute
FLIPS = 9999  # of a test: what is corrected for many systems must be able to be small


def with_over_seeds(
    entries: Sequence[Entry],
    results: Mapping[Key, Result],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> list[Entry]:
    """``entries`` with ``over_seeds`` of their systems; ``results`` holds the evaluation of each.

    A query's value is its headline averaged over the seeds of the system. Every system is held against the one with
    the highest mean, query by query: bootstrap interval of the difference, p-value by sign flips, corrected by Holm
    for the number of systems that are held against it.

    Raises ``UserError`` where two runs were evaluated on different queries.
    """
    values, seeds = _averaged(entries, results)
    if not values:
        return list(entries)
    strata = results[entries[0].system, entries[0].seed].strata
    intervals = {
        name: bootstrap_interval(row, strata=strata, seed=seed, resamples=resamples) for name, row in values.items()
    }
    best = max(values, key=lambda name: intervals[name].value)
    others = [name for name in values if name != best]
    p_values = [
        paired_p_value(values[name], values[best], strata=strata, seed=seed, resamples=flips) for name in others
    ]
    corrected = holm(p_values)
    found = {}
    for name, row in values.items():
        against = None
        if name != best:
            place = others.index(name)
            difference = paired_bootstrap(row, values[best], strata=strata, seed=seed, resamples=resamples)
            against = Against(
                system=best,
                difference=_interval(difference),
                p=p_values[place],
                p_holm=corrected[place],
                comparisons=len(others),
            )
        found[name] = OverSeeds(seeds=seeds[name], headline=_interval(intervals[name]), against=against)
    return [entry.model_copy(update={"over_seeds": found[entry.system]}) for entry in entries]


def _averaged(
    entries: Sequence[Entry], results: Mapping[Key, Result]
) -> tuple[dict[str, NDArray[Any]], dict[str, list[int]]]:
    """Per-query headlines ``[Q]`` averaged over seeds, and the seeds, by system."""
    rows: dict[str, list[NDArray[Any]]] = {}
    seeds: dict[str, list[int]] = {}
    for entry in entries:
        result, first = results[entry.system, entry.seed], results[entries[0].system, entries[0].seed]
        if result.ids != first.ids:
            raise UserError(
                f"{entry.system}, seed {entry.seed}, was evaluated on other queries than {entries[0].system}, seed "
                f"{entries[0].seed}: evaluate both on the same split"
            )
        rows.setdefault(entry.system, []).append(result.per_query[result.headline])
        seeds.setdefault(entry.system, []).append(entry.seed)
    return {name: np.mean(parts, axis=0) for name, parts in rows.items()}, seeds


def _interval(estimate: Estimate) -> Interval:
    return Interval(**estimate.to_json())
