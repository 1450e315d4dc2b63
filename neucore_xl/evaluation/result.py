"""``Result``: figures in percent, the protocol they were measured by, and the per-query values behind them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neucore_xl.errors import UserError
from neucore_xl.files import disk_errors, json_bytes, locked, output_file, temporary_folder
from neucore_xl.jsonfile import parse_json, read_json

if TYPE_CHECKING:
    from rich.console import Console

METRICS_FILE = "metrics.json"
QUERIES_FILE = "per_query.npz"
LOCK_FILE = ".evaluation.lock"  # of a folder that figures are written into; stays there, empty


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
        """Write per_query.npz and metrics.json, which holds its digest, into ``directory``; returns the latter's path.

        Both are complete before either takes its name. Of processes that write into one folder one looks and writes
        at a time.

        Raises:
            UserError: the folder cannot be written, or holds figures of another protocol or run and not ``force``.
        """
        arrays: dict[str, Any] = {"ids": np.array(self.ids, dtype=np.str_), **self.per_query}
        if self.strata is not None:
            arrays["strata"] = self.strata
        path = directory / METRICS_FILE
        with one_writer(directory):
            refuse_foreign(directory, self.to_json(), force=force)
            # The inner one takes its name first, so that a metrics.json is always accompanied by its queries.
            with output_file(path) as figures, output_file(directory / QUERIES_FILE) as queries:
                with queries.open("wb") as stream:
                    np.savez_compressed(stream, **arrays)
                digest = hashlib.sha256(queries.read_bytes()).hexdigest()
                figures.write_bytes(json_bytes(self.to_json() | {"sha256": {QUERIES_FILE: digest}}, allow_nan=False))
        return path

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


@contextmanager
def one_writer(directory: Path) -> Iterator[None]:
    """Hold the lock of ``directory``, which is made: what the block finds there is so until its end.

    Raises:
        UserError: the folder cannot be made or written.
    """
    with disk_errors("writing figures", directory):
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / LOCK_FILE, wait=True, waiting=f"another evaluation writes into {directory}: waiting"):
            yield


def refuse_foreign(directory: Path, content: Mapping[str, Any], *, force: bool) -> None:
    """Raise ``UserError`` if ``directory`` holds a metrics.json of another protocol or run, unless ``force``."""
    there = _stored(directory, force=force)
    if there is None:
        return
    mine = _as_read(dict(content))
    if there.get("protocol") != mine["protocol"] or _run(there) != _run(mine):
        raise UserError(
            f"{directory / METRICS_FILE} holds figures of another protocol or run: choose another --out, or replace it "
            "with --force"
        )


def prepare_output(directory: Path, *, run: str, force: bool = False) -> None:
    """Refuse, before the work starts, a folder that cannot be written or holds the figures of another run.

    Raises:
        UserError: as :meth:`Result.save` would after the work.
    """
    there = _stored(directory, force=force)
    if there is not None and (other := _run(there)) != _as_read(run):
        raise UserError(
            f"{directory / METRICS_FILE} holds figures of another run{f' ({other})' if other else ''}: choose another "
            "--out, or replace it with --force"
        )
    with disk_errors("writing figures", directory):
        directory.mkdir(parents=True, exist_ok=True)
        temporary_folder(directory).rmdir()


def _stored(directory: Path, *, force: bool) -> dict[str, Any] | None:
    """The metrics.json of ``directory``; None where there is none, or where it is to be replaced whatever it holds.

    Raises ``UserError`` where it cannot be read, and where something that is no file has one of the two names.
    """
    for name in (METRICS_FILE, QUERIES_FILE):
        path = directory / name
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{path} is no file, and is not replaced: remove it, or choose another --out")
    path = directory / METRICS_FILE
    if force or not path.exists():
        return None
    try:
        return read_json(path, dict)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}: choose another --out, or replace it with --force") from None


def _run(content: Mapping[str, Any]) -> Any:
    environment = content.get("environment")
    return environment.get("run") if isinstance(environment, Mapping) else None


def _as_read(value: Any) -> Any:
    """``value`` after having been written and read: tuples become lists, half characters change."""
    return parse_json(json_bytes(value), "figures", object, allow_nan=True)
