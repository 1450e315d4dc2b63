"""Two evaluated systems on the same queries: read back what ``Result.save`` wrote, and compare query by query."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation.result import METRICS_FILE, QUERIES_FILE, Result
from neucore_xl.evaluation.significance import Method, paired_bootstrap

#: Belongs to a system as much as to the protocol (towers differ in input size): it may differ between two systems.
MAY_DIFFER = ("preprocessing",)


def load(directory: Path) -> Result:
    """The result that :meth:`Result.save` wrote into ``directory``.

    Raises:
        UserError: a file is missing or is not what was written.
    """
    try:
        stored = json.loads((directory / METRICS_FILE).read_text("utf-8"))
        with np.load(directory / QUERIES_FILE, allow_pickle=False) as arrays:
            per_query = {name: arrays[name] for name in arrays.files}
        ids = tuple(str(i) for i in per_query.pop("ids"))
        strata = per_query.pop("strata", None)
        if len(ids) != stored["n_queries"] or any(len(v) != len(ids) for v in per_query.values()):
            raise UserError(f"{directory}: {METRICS_FILE} and {QUERIES_FILE} do not belong together; evaluate again")
        return Result(stored["protocol"], stored["metrics"], ids, per_query, strata=strata)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} does not exist: give an output folder of eval/cirr.py or eval/fashion_iq.py"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"the evaluation in {directory} cannot be read ({error}): evaluate again") from error


def compare(
    a: Result,
    b: Result,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    method: Method = "percentile",
    seed: int = 0,
) -> Estimate:
    """The headline of ``a`` minus that of ``b`` with its interval, in percent points (see ``paired_bootstrap``).

    Raises:
        UserError: the two were measured by different protocols or on different queries.
    """
    if a.headline != b.headline:
        raise UserError(f"the headline measures differ ({a.headline}, {b.headline}): their difference means nothing")
    for key in sorted({*a.protocol, *b.protocol} - set(MAY_DIFFER)):
        left, right = (json.dumps(r.protocol.get(key), sort_keys=True) for r in (a, b))
        if left != right:
            raise UserError(f"the protocols differ in {key} ({left} against {right}): evaluate both by the same one")
    order = {query: i for i, query in enumerate(b.ids)}
    if len(a.ids) != len(b.ids) or set(a.ids) != set(b.ids):
        odd = next(iter(set(a.ids) ^ set(b.ids)), "?")
        raise UserError(f"the two were evaluated on different queries (first difference: {odd}): use the same split")
    aligned = b.per_query[b.headline][[order[query] for query in a.ids]]
    return paired_bootstrap(
        a.per_query[a.headline],
        aligned,
        strata=a.strata,
        confidence=confidence,
        resamples=resamples,
        method=method,
        seed=seed,
    )
