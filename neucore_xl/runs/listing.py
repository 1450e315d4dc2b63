"""Finding checkpoints for the command line: a run folder or one checkpoint folder, whole or damaged."""

from __future__ import annotations

from pathlib import Path

from neucore_xl.errors import UserError
from neucore_xl.runs import checkpoints, manifest
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.load import find_checkpoint
from neucore_xl.runs.manifest import Checkpoint


def paths_of(where: Path) -> list[Path]:
    """The checkpoint folder ``where``, or those of the run ``where``, oldest first; ``UserError`` if there is none."""
    if _is_checkpoint(where):
        return [where]
    found = checkpoints.folders(where / "checkpoints")[::-1]
    if not found:
        raise UserError(f"{where} is neither a checkpoint (step-…) nor a run folder with checkpoints.")
    return found


def readable(path: Path) -> Checkpoint | str:
    """The checkpoint at ``path``, its files unread, or why its manifest cannot be read."""
    try:
        return manifest.read(path)
    except manifest.UNREADABLE as error:
        return f"its manifest cannot be read: {error}"


def problems_of(path: Path) -> list[str]:
    """What is damaged at ``path``, one sentence a file; empty when whole."""
    found = readable(path)
    if isinstance(found, str):
        return [f"{path / manifest.MANIFEST}: {found}"]
    return found.verify()


def chosen(where: Path, which: str) -> Checkpoint:
    """The checkpoint folder ``where``, or ``which`` (best, last, a step) of the run ``where``; checked.

    Raises ``UserError`` if it is damaged or not there.
    """
    if not _is_checkpoint(where):
        paths_of(where)
        return find_checkpoint(RunFolder(where), which)
    return checkpoints.at_step(where.parent, int(where.name[5:]))


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and path.name.startswith("step-") and path.name[5:].isdigit()
