"""``Result``: figures in percent, the protocol they were measured by, and the per-query values behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError
from neucore_xl.files import output_file

if TYPE_CHECKING:
    from rich.console import Console

METRICS_FILE = "metrics.json"
QUERIES_FILE = "per_query.npz"


@dataclass(frozen=True)
class Result:
    """What an evaluation returns.

    ``metrics`` are percent with full precision, ``headline`` names the one that chooses checkpoints. ``per_query``
    holds arrays aligned with ``ids``: ``rank`` (from 1; ``ranking.UNRANKED`` for a target that was not ranked) and
    ``mean``, the headline of the single query, so that two systems can be compared query by query. ``strata``
    names each query's category where the figures are macro averages.
    """

    protocol: Mapping[str, Any]
    metrics: Mapping[str, float]
    ids: tuple[str, ...]
    per_query: Mapping[str, NDArray[Any]]
    headline: str = "mean"
    strata: NDArray[np.str_] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_queries(self) -> int:
        return len(self.ids)

    @property
    def score(self) -> float:
        """The headline measure, in percent."""
        return self.metrics[self.headline]

    def with_context(
        self, *, protocol: Mapping[str, Any] | None = None, environment: Mapping[str, Any] | None = None
    ) -> Result:
        """A copy with more of the protocol (preprocessing, ...) or of the environment (run, versions, revision)."""
        return replace(
            self,
            protocol={**self.protocol, **(protocol or {})},
            environment={**self.environment, **(environment or {})},
        )

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json."""
        out: dict[str, Any] = {
            "protocol": dict(self.protocol),
            "metrics": {k: float(v) for k, v in self.metrics.items()},
            "n_queries": self.n_queries,
        }
        if self.environment:
            out["environment"] = dict(self.environment)
        return out

    def save(self, directory: Path, *, force: bool = False) -> Path:
        """Write metrics.json and per_query.npz into ``directory`` atomically; returns the path of metrics.json.

        Raises:
            UserError: the folder cannot be written, or holds figures of another protocol or run and not ``force``.
        """
        refuse_foreign(directory, self.to_json(), force=force)
        arrays: dict[str, Any] = {"ids": np.array(self.ids, dtype=np.str_), **self.per_query}
        if self.strata is not None:
            arrays["strata"] = self.strata
        with output_file(directory / QUERIES_FILE) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        # Last, so that a metrics.json is always accompanied by its queries.
        return write_json(directory / METRICS_FILE, self.to_json(), indent=2)

    def print(self, console: Console) -> None:
        """The table with the protocol above it."""
        from rich.table import Table

        console.print(protocol_line(self.protocol), style="bold")
        table = Table(show_header=True, header_style="bold")
        plain = {k: v for k, v in self.metrics.items() if "/" not in k}
        groups = dict.fromkeys(k.split("/", 1)[0] for k in self.metrics if "/" in k)
        table.add_column("" if groups else "measure")
        if groups:
            for name in plain:
                table.add_column(name, justify="right")
            for group in groups:
                cells = [self.metrics.get(f"{group}/{name}") for name in plain]
                table.add_row(group, *("" if c is None else f"{c:.2f}" for c in cells))
            table.add_row("average", *(f"{v:.2f}" for v in plain.values()), style="bold")
        else:
            table.add_column("%", justify="right")
            for name, value in plain.items():
                table.add_row(name, f"{value:.2f}", style="bold" if name == self.headline else None)
        console.print(table)
        console.print(f"{self.n_queries} queries")


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line: every key with its value."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return " ".join(f"{k} {text(v)}" for k, v in value.items()) or "none"
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return " · ".join(f"{key.replace('_', ' ')}: {text(value)}" for key, value in protocol.items())


def refuse_foreign(directory: Path, content: Mapping[str, Any], *, force: bool) -> None:
    """Raise ``UserError`` if ``directory`` holds a metrics.json of another protocol or run, unless ``force``."""
    path = directory / METRICS_FILE
    if force or not path.exists():
        return
    try:
        there = json.loads(path.read_text("utf-8"))
        same = there["protocol"] == json.loads(json.dumps(content["protocol"])) and there.get("environment", {}).get(
            "run"
        ) == content.get("environment", {}).get("run")
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        same = False
    if not same:
        raise UserError(
            f"{path} holds figures of another protocol or run: choose another --out, or replace it with --force"
        )


def prepare_output(directory: Path, *, run: str, force: bool = False) -> None:
    """Refuse, before the work starts, a folder that cannot be written or holds the figures of another run.

    Raises:
        UserError: as :meth:`Result.save` would after the work.
    """
    path = directory / METRICS_FILE
    if path.exists() and not force:
        try:
            there = json.loads(path.read_text("utf-8"))["environment"]["run"]
        except (ValueError, KeyError, TypeError, OSError):
            there = None
        if there != run:
            raise UserError(
                f"{path} holds figures of another run{f' ({there})' if there else ''}: choose another --out, or "
                "replace it with --force"
            )
    writable = directory / ".writable"
    with output_file(writable) as temporary:
        temporary.touch()
    writable.unlink()


def write_json(path: Path, content: Any, *, indent: int | None = None) -> Path:
    """``content`` as UTF-8 JSON at ``path``, atomically; without ``indent`` in its most compact form."""
    separators = None if indent else (",", ":")
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators) + "\n"
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
