"""The two files that CIRR's evaluation server takes for test1, and a check of such a file before it is sent."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation.ranking import ABSENT, Chunk, checked, columns, padded, top_k
from neucore_xl.evaluation.result import one_writer
from neucore_xl.files import json_bytes, output_file
from neucore_xl.jsonfile import BadContent, parse_json, read_bytes

VERSION = "rc2"
NAMES_PER_QUERY = {"recall": 50, "recall_subset": 3}
MAX_BYTES = 5_000_000  # the server says 5 MB; the smaller reading of it
EXAMPLES = 3  # of a problem that many queries share, this many are named


def file_names(split: str) -> dict[str, str]:
    """Metric → name of the file that :func:`write` makes for it."""
    return {metric: f"{split}.{metric}.json" for metric in NAMES_PER_QUERY}


def write(directory: Path, split: Split, chunks: Iterable[Chunk], *, force: bool = False) -> tuple[Path, Path]:
    """Write ``<split>.recall.json`` (50 names per query) and ``<split>.recall_subset.json`` (3 of the subset).

    Args:
        split: a CIRR split, labelled or not; rows are ``split.triplets``, columns its gallery's names.
        chunks: consecutive ``(first query, scores [q, G])``. Equal scores stand in gallery order.

    Returns:
        The two paths, both checked. A gallery of fewer than 51 images gives all of them but the reference.

    Raises:
        UserError: a file is there already (and not ``force``), cannot be written, or fails its own check.
    """
    refuse_existing(directory, split, force=force)
    paths = {metric: directory / name for metric, name in file_names(split.name).items()}
    gallery = split.galleries[""].names
    triplets = split.triplets
    reference = columns([t.reference for t in triplets], gallery)
    members = padded([[int(c) for c in columns(_others(t), gallery) if c != ABSENT] for t in triplets], 1)
    files: dict[str, dict[str, Any]] = {m: {"version": VERSION, "metric": m} for m in NAMES_PER_QUERY}
    for rows, scores in checked(chunks, [t.id for t in triplets], len(gallery)):
        best = top_k(scores, NAMES_PER_QUERY["recall"], reference[rows])
        slots = members[rows]
        inside = np.take_along_axis(scores, np.where(slots >= 0, slots, 0), axis=1)
        nearest = top_k(inside, NAMES_PER_QUERY["recall_subset"], slots < 0)
        for i, t in enumerate(triplets[rows]):
            files["recall"][t.id] = [gallery[c] for c in best[i] if c != ABSENT]
            files["recall_subset"][t.id] = [gallery[slots[i, c]] for c in nearest[i] if c != ABSENT]
    with one_writer(directory), ExitStack() as complete:
        refuse_existing(directory, split, force=force)  # another evaluation may have written since
        for metric, path in paths.items():
            temporary = complete.enter_context(output_file(path))  # both take their names at the end
            temporary.write_bytes(json_bytes(files[metric], indent=None, allow_nan=False))
            if problems := problems_of(temporary, split):
                raise UserError(f"{path} would be refused by the server: {problems[0]}")
    return paths["recall"], paths["recall_subset"]


def refuse_existing(directory: Path, split: Split, *, force: bool = False) -> None:
    """Raise ``UserError`` where :func:`write` would replace a file unasked."""
    for name in () if force else file_names(split.name).values():
        if os.path.lexists(directory / name):
            raise UserError(f"{directory / name} is there already: choose another --out, or replace it with --force")


def problems_of(file: Path, split: Split) -> list[str]:
    """Everything that is wrong with a submission file for ``split``, one sentence each; empty when it can be sent.

    Raises:
        UserError: the file cannot be read at all.
    """
    raw = read_bytes(file, limit=20 * MAX_BYTES)
    problems = []
    if len(raw) > MAX_BYTES:
        problems.append(f"the file has {len(raw):,} bytes; the server takes at most {MAX_BYTES:,}")
    if raw.startswith(BOM_UTF8):
        problems.append("the file begins with a byte-order mark; save it as UTF-8 without one")
    repeated: list[str] = []
    try:
        content = parse_json(raw, str(file), dict, clashes=repeated)
    except BadContent as error:
        return [*problems, str(error)]
    if content.get("version") != VERSION:
        problems.append(f'"version" must be "{VERSION}", not {_short(json.dumps(content.get("version")))}')
    metric = content.get("metric")
    if not isinstance(metric, str) or metric not in NAMES_PER_QUERY:
        allowed = " or ".join(f'"{m}"' for m in NAMES_PER_QUERY)
        return [*problems, f'"metric" must be {allowed}, not {_short(json.dumps(metric))}']
    answers = {k: v for k, v in content.items() if k not in ("version", "metric")}
    expected = {t.id: t for t in split.triplets}
    problems += _listed("twice in the file", repeated)
    problems += _listed("missing", [i for i in expected if i not in answers])
    problems += _listed(f"not a pair id of {split.name}", [i for i in answers if i not in expected])
    known = frozenset(split.galleries[""].names)
    found: dict[str, list[str]] = {}
    for pair, names in answers.items():
        if pair in expected:
            for problem in _answer_problems(names, metric, expected[pair], known):
                found.setdefault(problem, []).append(pair)
    for problem, pairs in found.items():
        problems += _listed(problem, pairs)
    return problems


def _others(triplet: Triplet) -> list[str]:
    return [m for m in dict.fromkeys(triplet.subset) if m != triplet.reference]


def _answer_problems(names: Any, metric: str, triplet: Triplet, known: frozenset[str]) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return ["not a list of image names"]
    candidates = set(known if metric == "recall" else _others(triplet)) & known - {triplet.reference}
    wanted = min(NAMES_PER_QUERY[metric], len(candidates))
    tests: Sequence[tuple[str, Callable[[], bool]]] = (
        (f"not exactly {wanted} names", lambda: len(names) != wanted),
        ("the same name twice", lambda: len(set(names)) < len(names)),
        ("the reference image among the names", lambda: triplet.reference in names),
        ("a name that is not an image of the split", lambda: not known.issuperset(names)),
        (
            "a name from outside the query's subset",
            lambda: metric == "recall_subset" and not set(names) & known <= set(triplet.subset),
        ),
    )
    return [problem for problem, holds in tests if holds()]


def _listed(problem: str, pairs: Sequence[str]) -> list[str]:
    """One sentence for a problem of many queries, naming the first few; nothing for none."""
    if not pairs:
        return []
    named = ", ".join(map(_short, pairs[:EXAMPLES])) + (", …" if len(pairs) > EXAMPLES else "")
    return [f"{problem}: {len(pairs)} {'query' if len(pairs) == 1 else 'queries'} ({named})"]


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
