"""``results.json``: one object a finished run, and what its system's seeds give together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neucore_xl.errors import UserError
from neucore_xl.files import json_bytes, output_file, output_json
from neucore_xl.jsonfile import BadContent, read_json

NAME = "results.json"
CAPTIONS = "captions in place of pictures"


class Part(BaseModel):
    """A part of the file. Keys of other versions are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Interval(Part):
    """A value in percent points with its 95 % bootstrap interval over queries."""

    estimate: float
    low: float | None
    high: float | None


class Against(Part):
    """A system against the strongest one: the difference, its p-value, and that corrected for all comparisons."""

    system: str
    difference: Interval
    p: float
    p_holm: float
    comparisons: int


class OverSeeds(Part):
    """The headline of one system: every query's value is the mean over ``seeds``; None against the strongest itself."""

    seeds: list[int]
    headline: Interval
    against: Against | None


class Entry(Part):
    """One finished run. Metrics are percent; ``over_seeds`` is the same in all entries of a system."""

    system: str
    seed: int
    metrics: dict[str, float]
    headline: str = "mean"
    n_queries: int
    protocol: dict[str, Any]
    dataset: str
    features: dict[str, Any]
    budget: dict[str, Any] = Field(default_factory=dict)
    chance: dict[str, float] = Field(default_factory=dict)
    parameters: dict[str, int] = Field(default_factory=dict)
    seconds_per_epoch: float | None = None
    train_seconds: float | None = None
    wall_seconds: float | None = None
    ms_per_query: float | None = None
    device: str | None = None
    one_seed: str = ""
    checkpoint: str = ""
    command: str = ""
    environment: dict[str, Any] = Field(default_factory=dict)
    over_seeds: OverSeeds | None = None

    @property
    def score(self) -> float:
        """The headline, in percent."""
        return self.metrics[self.headline]

    @property
    def captions(self) -> bool:
        """Whether captions stood in for pictures."""
        return says_captions(self.protocol)


def says_captions(protocol: dict[str, Any]) -> bool:
    """Whether the origin of a protocol's features says that they are of captions."""
    features = protocol.get("features")
    origin = features.get("origin") if isinstance(features, dict) else features
    said = str(origin).lower()  # the name of an imported file may hold the word too
    return CAPTIONS in said or said.startswith("captions")


def read_results(path: Path) -> list[Entry]:
    """The entries of a results file; raises ``UserError`` for what is no such file, or not of one protocol."""
    content = read_json(path, list, missing="write it with `neucore-xl compare`")
    entries = []
    for number, item in enumerate(content, 1):
        try:
            entry = Entry.model_validate(item)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"])) or "entry"
            raise BadContent(
                f"{path}, entry {number}: `{key}`: {first['msg'].lower()}; write it with `neucore-xl compare`."
            ) from None
        if entry.headline not in entry.metrics:
            raise BadContent(f"{path}, entry {number} has no measure {entry.headline}: evaluate the run again.")
        entries.append(entry)
    for entry in entries[1:]:
        if problem := apart(entries[0], entry):
            raise UserError(f"{path} mixes results: {_named(entries[0])} and {_named(entry)} differ in {problem}.")
    return entries


def write_results(path: Path, entries: Sequence[Entry]) -> None:
    """Replace the file in one step; raises ``UserError`` as ``output_json`` does."""
    output_json(path, [entry.model_dump(mode="json") for entry in entries])


def write_small_results(path: Path, entries: Sequence[Entry]) -> None:
    """The same to be kept in a repository: a line an entry, measures with four decimals."""
    lines = []
    for entry in entries:
        content = entry.model_dump(mode="json")
        content["metrics"] = {name: round(value, 4) for name, value in entry.metrics.items()}
        lines.append(json_bytes(content, indent=None, allow_nan=False).strip())
    with output_file(path) as temporary:
        temporary.write_bytes(b"[\n" + b",\n".join(lines) + b"\n]\n")


def merged(there: Sequence[Entry], new: Sequence[Entry], path: Path) -> list[Entry]:
    """``new`` in its order, then what ``path`` held of other runs.

    Raises ``UserError`` where those were measured by another protocol, on other queries or on other features.
    """
    mine = {(e.system, e.seed) for e in new}
    kept = [e for e in there if (e.system, e.seed) not in mine]
    for entry in kept:
        if new and (problem := apart(entry, new[0])):
            raise UserError(
                f"{path} holds {_named(entry)}, which differs from these runs in {problem}: choose another --out, or "
                "move the file away."
            )
    return [*new, *kept]


def apart(a: Entry, b: Entry) -> str:
    """In what two entries differ that must not stand in one table, as words; empty where they may."""
    for title, left, right in (
        ("dataset", a.dataset, b.dataset),
        ("headline", a.headline, b.headline),
        ("number of queries", a.n_queries, b.n_queries),
        ("features", a.features, b.features),
        ("protocol", a.protocol, b.protocol),
    ):
        if isinstance(left, dict) and isinstance(right, dict):
            for key in sorted({*left, *right}):
                if (x := _json(left.get(key))) != (y := _json(right.get(key))):
                    return f"{title} ({key}: {x} against {y})"
        elif left != right:
            return f"{title} ({left} against {right})"
    return ""


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _named(entry: Entry) -> str:
    return f"{entry.system}, seed {entry.seed}"
