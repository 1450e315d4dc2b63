"""Where a run writes what it measures: ``log.jsonl``, TensorBoard, and one line of progress for the person watching."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_NAME = "log.jsonl"
TENSORBOARD_NAME = "tensorboard"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log file; a last line that a kill cut short is left out. ``[]`` where there is no file."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def cut_log(path: Path, last_step: int) -> None:
    """Leave only the records up to ``last_step``: a resumed run writes the later ones again. Atomic."""
    if not path.exists():
        return
    kept = [r for r in read_log(path) if r["step"] <= last_step]
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    fresh.replace(path)


class Journal:
    """Open it as a context; ``write`` takes one record a logged step, ``advance`` is called after every step.

    ``resumed`` is the step of the checkpoint that the run goes on from (0: a new run). On a terminal there is a
    progress bar; elsewhere (a file, a scheduler's log) every record becomes one plain line. ``console=None`` is silent.
    """

    def __init__(self, folder: Path, steps: int, resumed: int = 0, console: Console | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG_NAME
        cut_log(self.path, resumed)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / TENSORBOARD_NAME), purge_step=resumed + 1 if resumed else None)
        self._console = console
        self._progress: Progress | None = None
        if console is not None and console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("training", total=steps, completed=resumed, note="")

    def __enter__(self) -> Journal:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._file.close()
        self._board.close()

    def advance(self, step: int, smoothed_loss: float | None) -> None:
        """Show that ``step`` steps are done."""
        if self._progress is not None:
            note = "" if smoothed_loss is None else f"loss {smoothed_loss:.3f}"
            self._progress.update(self._task, completed=step, note=note)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append ``record`` (it has ``step``) as one line, and its numbers as TensorBoard scalars."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        step = int(record["step"])
        for name, value in record.items():
            if name == "validation":
                for metric, percent in value.items():
                    self._board.add_scalar(f"validation/{metric}", percent, step)
            elif name != "step" and isinstance(value, int | float):
                self._board.add_scalar(f"train/{name}", value, step)
        if self._console is not None:
            if self._progress is None:
                self._console.print(_sentence(record), highlight=False, soft_wrap=True)
            elif "validation" in record:
                self._console.print(_sentence(record), highlight=False)

    def say(self, text: str) -> None:
        """A line for the person watching, above the progress bar."""
        if self._console is not None:
            self._console.print(text, highlight=False, soft_wrap=True)


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
