"""``log.jsonl`` and TensorBoard: one object a logged step, each step once however often the run was broken off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neucore_xl.runs import files

LOG_NAME = "log.jsonl"
TENSORBOARD_NAME = "tensorboard"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log file, up to a line that a kill cut short; ``[]`` where there is no file."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def cut_log(path: Path, last_step: int) -> None:
    """Leave only the records up to ``last_step``: a resumed run writes the later ones again. Atomic."""
    if path.exists():
        kept = [record for record in read_log(path) if record["step"] <= last_step]
        files.write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


class RunLog:
    """Appends records to both logs of ``folder``; ``resumed`` is the step that the run goes on from (0: a new run).

    A record has a ``step``, numbers, and mappings of numbers, which become ``validation/R@1`` and the like in
    TensorBoard. Raises ``UserError`` when the disk is full.
    """

    def __init__(self, folder: Path, resumed: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds: only who trains pays for it

        self.path = folder / LOG_NAME
        with files.disk_errors("opening the log", folder):
            cut_log(self.path, resumed)
            self._file = self.path.open("a", encoding="utf-8")
            # purge_step hides what was logged after the step that is resumed from
            self._board = SummaryWriter(str(folder / TENSORBOARD_NAME), purge_step=resumed + 1 if resumed else None)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is with the system, and so survives a kill, when this returns."""
        with files.disk_errors("writing the log", self.path.parent):
            self._file.write(json.dumps(dict(record)) + "\n")
            self._file.flush()
            for name, value in _scalars(record):
                self._board.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in value.items())
        elif name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"train/{name}", value
