"""What a run tells: one record a logged step, for the log and for whoever watches.

A record goes into the run folder (``log.jsonl`` and TensorBoard) and becomes a line or a progress bar for the person
at the terminal. A resumed run drops what was logged after the step that it goes on from and writes it again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, parse_json, read_bytes, regular
from neucore_xl.progress import track
from neucore_xl.training.events import EventFile

LOG_NAME = "log.jsonl"
TENSORBOARD_NAME = "tensorboard"
_WORDS = ("stopped", "ids", "checkpoint")  # of the record of a run that ended by a fault

log = logging.getLogger(__name__)


class Journal:
    """Open it as a context; ``write`` takes one record a logged step, ``advance`` is called after every step.

    ``resumed`` is the step that the run goes on from (0: a new run). On a terminal there is a progress bar;
    elsewhere (a file, a scheduler's log) every record becomes one plain line. All processes but the first have
    ``log=None`` and ``console=None``: they write and say nothing.
    """

    def __init__(self, log: RunLog | None, steps: int, resumed: int = 0, console: Console | None = None) -> None:
        self._log = log
        self._console = console
        self._step = resumed
        self._bar_runs = console is not None and console.is_terminal
        self._bar = track(
            "training", steps, console, shown=self._bar_runs, done=resumed, quiet_below=0, lines=False, stays=True
        )

    def __enter__(self) -> Journal:
        self._advance_bar = self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        if self._log is not None:
            self._log.close()

    def advance(self, step: int, smoothed_loss: float | None) -> None:
        """Show that ``step`` steps are done."""
        self._advance_bar(step - self._step, "" if smoothed_loss is None else f"loss {smoothed_loss:.3f}")
        self._step = step

    def write(self, record: Mapping[str, Any]) -> None:
        """Append ``record``, which has a ``step``, to the log."""
        if self._log is not None:
            self._log.write(record)
        if not self._bar_runs or "validation" in record:
            self.say(_sentence(record))

    def say(self, text: str) -> None:
        """A line for the person watching, above the progress bar."""
        if self._console is not None:
            self._console.print(text, soft_wrap=True)


class RunLog:
    """Appends records to both logs of ``folder``; ``resumed`` is the step that the run goes on from (0: a new run).

    A record has a ``step``, numbers, and mappings of numbers, which become ``validation/R@1`` and the like in
    TensorBoard. Raises ``UserError`` when the disk is full.
    """

    def __init__(self, folder: Path, resumed: int = 0) -> None:
        self.path = folder / LOG_NAME
        with files.disk_errors("opening the log", folder):
            cut_log(self.path, resumed)
            self._file = self.path.open("a", encoding="utf-8")
            self._board = EventFile(folder / TENSORBOARD_NAME, resumed)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is with the system, and so survives a kill, when this returns."""
        with files.disk_errors("writing the log", self.path.parent):
            self._file.write(json.dumps(dict(record)) + "\n")
            self._file.flush()
            self._board.add(int(record["step"]), dict(_scalars(record)))

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log file, without lines that are none; ``[]`` where there is no file."""
    return [record for record, _ in _lines(path)[0]] if os.path.lexists(path) else []


def cut_log(path: Path, last_step: int) -> None:
    """Leave only the records up to ``last_step``: a resumed run writes the later ones again. Atomic.

    A last line that a kill cut short goes too. Where other lines are no records the old file is kept beside the new
    one, and a warning names them.
    """
    if not os.path.lexists(path):
        return
    records, bad = _lines(path)
    if bad:
        kept = files.aside_name(path)
        files.write_bytes(kept, read_bytes(path, limit=sys.maxsize))
        named = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        log.warning("%s is damaged: left out line %s, kept the others; the old file is %s", path, named, kept.name)
    files.write_bytes(path, b"".join(line + b"\n" for record, line in records if record["step"] <= last_step))


def _lines(path: Path) -> tuple[list[tuple[dict[str, Any], bytes]], list[int]]:
    """The records with their lines, and the numbers of the lines that are none, but for a last one without its end."""
    if isinstance(found := regular(path), str):
        raise UserError(f"{path} {found}: move it away, or put the log back in its place.")
    records, bad = [], []
    lines = read_bytes(path, limit=sys.maxsize).split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            records.append((_record(line, f"{path}, line {number}"), line))
        except BadContent:
            if number < len(lines):
                bad.append(number)
    return records, bad


def _record(line: bytes, where: str) -> dict[str, Any]:
    """What ``RunLog.write`` was given; raises ``BadContent`` for a line that cannot be one of its own."""
    record = parse_json(line, where, dict, allow_nan=True)
    if type(record.get("step")) is not int or record["step"] < 0:
        raise BadContent(f"{where} has no step")
    for name, value in record.items():
        if name not in _WORDS and not all(
            isinstance(number, int | float | None)
            for number in (value.values() if isinstance(value, dict) else [value])
        ):
            raise BadContent(f"{where}: `{name}` is no number")
    return record


def _sentence(record: Mapping[str, Any]) -> str:
    parts = [f"step {record['step']}"]
    if record.get("loss") is not None:
        parts.append(
            f"loss {record['loss']:.4f} (match {record['loss_match']:.4f}, concept {record['loss_concept']:.4f})"
        )
        parts.append(f"lr {record['lr']:.2e}")
        parts.append(f"{record['samples_per_second']:.1f} samples/s, {record['data_wait']:.0%} waiting for data")
    parts += [f"{name} {value:.2f}" for name, value in record.get("validation", {}).items()]
    return " · ".join(parts)


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in value.items())
        elif name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"train/{name}", value
