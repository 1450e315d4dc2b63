"""Two evaluated systems on the same queries: read back what ``Result.save`` wrote, and compare query by query."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate
from neucore_xl.evaluation.result import METRICS_FILE, QUERIES_FILE, Result
from neucore_xl.evaluation.significance import Method, paired_bootstrap
from neucore_xl.jsonfile import LIMIT, read_bytes, read_json

log = logging.getLogger(__name__)

#: Belongs to a system as much as to the protocol (towers differ in input size): it may differ between two systems.
MAY_DIFFER = ("preprocessing",)


def load(directory: Path) -> Result:
    """The result that :meth:`Result.save` wrote into ``directory``, its queries checked against their digest.

    Figures of a version that wrote no digest are held to the mean of their queries, with a warning.

    Raises:
        UserError: a file is missing, is not what was written, or belongs to another evaluation than the other file.
    """
    figures, queries = directory / METRICS_FILE, directory / QUERIES_FILE
    for path in (figures, queries):
        if not os.path.lexists(path):
            raise UserError(f"{path} does not exist: give an output folder of eval/cirr.py or eval/fashion_iq.py")
    stored = read_json(figures, dict)
    protocol, metrics, count = (stored.get(key) for key in ("protocol", "metrics", "n_queries"))
    if not isinstance(protocol, dict) or not isinstance(metrics, dict) or not isinstance(count, int):
        raise UserError(f"{figures} does not hold protocol, metrics and n_queries: evaluate again")
    for name in dict.fromkeys((*metrics, "mean")):
        if isinstance(metrics.get(name), bool) or not isinstance(metrics.get(name), int | float):
            raise UserError(f"{figures}: the measure {name} is missing or no number: evaluate again")

    raw = read_bytes(queries)
    digests = stored.get("sha256")
    digest = digests.get(QUERIES_FILE) if isinstance(digests, dict) else digests
    apart = UserError(
        f"{figures} and {queries} do not belong together, one was replaced or changed after the other: evaluate again"
    )
    if digest is not None and digest != hashlib.sha256(raw).hexdigest():
        raise apart
    per_query = _arrays(raw, queries)
    ids, strata = per_query.pop("ids"), per_query.pop("strata", None)
    if len(ids) != count:
        raise apart
    environment = stored["environment"] if isinstance(stored.get("environment"), dict) else {}
    result = Result(protocol, metrics, tuple(map(str, ids)), per_query, strata=strata, environment=environment)
    if digest is None:
        groups = [slice(None)] if strata is None else [strata == name for name in np.unique(strata)]
        means = [per_query[result.headline][group].mean() for group in groups]
        if not math.isclose(float(np.mean(means)), result.score, abs_tol=1e-6):
            raise apart
        log.warning("%s is of a version without digests: whether %s belongs to it was not checked", figures, queries)
    return result


def _arrays(raw: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the file with the content ``raw``: ``ids``, ``mean`` and others, all of one length."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > LIMIT:
            raise ValueError(f"it unpacks to {size:,} bytes")
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
    except Exception as error:  # whatever zipfile, zlib and numpy make of damage
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read ({why[:120]}): evaluate again") from error
    for name in dict.fromkeys(("ids", "mean", *arrays)):
        array, kinds = arrays.get(name), "U" if name in ("ids", "strata") else "biuf"
        if array is None or array.ndim == 0 or array.dtype.kind not in kinds or len(array) != len(arrays["ids"]):
            raise UserError(f"{path}: {name} is missing, of another kind or of another length: evaluate again")
    rows = [arrays[name] for name in ("ids", "mean", "strata") if name in arrays]
    if any(array.ndim != 1 for array in rows) or not len(arrays["mean"]) or not np.isfinite(arrays["mean"]).all():
        raise UserError(f"{path} must hold an id and a finite mean for every query: evaluate again")
    return arrays


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
    if len(order) != len(a.ids) and a.ids != b.ids:
        raise UserError("queries share an id and stand in another order in the two: evaluate both by one version")
    aligned = b.per_query[b.headline]
    if a.ids != b.ids:
        aligned = aligned[[order[query] for query in a.ids]]
    return paired_bootstrap(
        a.per_query[a.headline],
        aligned,
        strata=a.strata,
        confidence=confidence,
        resamples=resamples,
        method=method,
        seed=seed,
    )
