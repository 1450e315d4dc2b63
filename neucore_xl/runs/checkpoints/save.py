"""Saving a checkpoint: all processes write one folder, which is there complete or not at all.

Every rank writes into one temporary folder, whose name rank 0 chooses, and adds up what it wrote; rank 0 writes the
manifest and renames. A rank that fails makes all fail with its sentence, and the folder vanishes. ``latest.json`` and
``best.json`` are replaced last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import (
    RANK,
    TAG,
    TRAINING,
    ZERO,
    Checkpoint,
    Contents,
    file_entries,
    read_checkpoint,
    write_manifest,
    writing_rank,
)
from neucore_xl.runs.checkpoints.find import (
    BEST,
    LATEST,
    folders,
    pointed_step,
    problems_of,
    readable,
    step_folder,
    step_of,
)

log = logging.getLogger(__name__)

Writer = Callable[[Path], Mapping[str, Any] | None]
_DOING = "saving a checkpoint"


def save_together(
    folder: Path, world: World, contents: Contents, write: Writer, *, keep: int = 2, best: bool = False
) -> Checkpoint:
    """Write ``folder/step-<step>`` in one step, then the pointers, then drop all but the ``keep`` newest and the best.

    Of those up to ``step``, that is: the run stands there now, and damaged ones of later steps are put aside. Every
    rank calls it and gets the checkpoint. ``write(temporary)``, such as an engine's ``save``, puts the weights into
    the folder that becomes the checkpoint; what it returns (an optimiser in one piece) is kept beside
    ``contents.extra`` as ``engine``. Raises ``UserError``, on every rank, when the disk of any of them is full; every
    older checkpoint is then still whole.
    """
    saved = _write_together(step_folder(folder, contents.step), world, contents, write)

    def point() -> None:
        with files.disk_errors(_DOING, folder):
            _point(folder / LATEST, {"step": contents.step, "path": saved.path.name})
            if best:
                mark_best(folder, contents.step, contents.metrics)
            kept = settle_best(folder, contents.step if best else contents.best_step)
            _put_aside_damaged(folder, contents.step)
            _rotate(folder, contents.step, keep, kept)

    world.on_main(point)
    return saved


def mark_best(folder: Path, step: int, metrics: Mapping[str, float] | None = None) -> None:
    """Point ``best.json`` at the checkpoint of ``step``, which must exist."""
    path = step_folder(folder, step)
    if not path.is_dir():
        raise FileNotFoundError(path)
    _point(folder / BEST, {"step": step, "path": path.name, "metrics": dict(metrics or {})})


def settle_best(folder: Path, step: int | None) -> int | None:
    """See to it that ``best.json`` names the checkpoint of ``step``, the best so far, as far as there is one.

    Returns the step that it names then. A damaged ``best.json`` is put aside and said; ``step`` of None is not known.
    """
    pointer = folder / BEST
    try:
        named = pointed_step(pointer)
    except UserError as error:
        log.warning("%s It is kept as %s.", error, files.set_aside(pointer).name)
        named = None
    if step is None or step == named or not step_folder(folder, step).is_dir():
        return named
    found = readable(step_folder(folder, step))
    mark_best(folder, step, None if isinstance(found, str) else found.metrics)
    return step


def write_shards(engine: Any, folder: Path) -> None:
    """Let a DeepSpeed ``engine`` fill ``folder/zero/state``, without frozen parameters; every rank calls it.

    A full disk is raised as the ``OSError`` that it is when DeepSpeed's collectives are over, so that no rank waits
    for one that has gone.
    """
    with _careful(engine) as failed:
        engine.save_checkpoint(str(folder / ZERO), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    if failed:
        raise failed[0]


def _write_together(path: Path, world: World, contents: Contents, write: Writer) -> Checkpoint:
    folder = path.parent

    def begin() -> str:
        with files.disk_errors(_DOING, folder):
            folder.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(folder)  # of a process that was killed here; a run has one writer
            return str(files.temporary_folder(folder))

    temporary = Path(world.on_main(begin))
    try:
        with world.agreed():
            if not temporary.is_dir():
                raise UserError(f"{folder} is not the folder that rank 0 sees: put the run on a disk all nodes share.")
        engine_state: Mapping[str, Any] | None = None
        with world.agreed(), files.disk_errors(_DOING, folder):
            engine_state = write(temporary)
        written: dict[str, dict[str, Any]] = {}
        with world.agreed(), files.disk_errors(_DOING, folder):
            written = _write_rest(temporary, world, contents, engine_state)
        entries = {name: entry for part in world.gather(written) for name, entry in part.items()}
        return world.on_main(lambda: _publish(temporary, path, world, contents, entries))
    except BaseException:
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_rest(
    temporary: Path, world: World, contents: Contents, engine_state: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """This rank's files beside the weights; returns the manifest's entries of all that it wrote."""
    if contents.rank_extra is not None:
        _save(contents.rank_extra, temporary / RANK.format(world.rank))
    if world.is_main:
        engine = {} if engine_state is None else {"engine": dict(engine_state)}
        _save({**engine, **contents.extra}, temporary / TRAINING)
    return file_entries(temporary, [name for name in _listed(temporary) if writing_rank(name) == world.rank])


def _publish(
    temporary: Path, path: Path, world: World, contents: Contents, entries: Mapping[str, Mapping[str, Any]]
) -> Checkpoint:
    """Rank 0's part: the manifest, and the folder's final name."""
    with files.disk_errors(_DOING, path.parent):
        for name, entry in entries.items():
            if not (temporary / name).is_file() or (temporary / name).stat().st_size != entry["bytes"]:
                raise UserError(f"{name} of another rank does not arrive in {path.parent}: is the disk shared?")
        write_manifest(temporary, contents, world.world_size, entries)
        for inner in (p for p in temporary.rglob("*") if p.is_dir()):
            files.sync_folder(inner)
        if os.path.lexists(path) and not path.is_dir():
            log.warning("%s is no folder; it is kept as %s", path, files.set_aside(path).name)
        files.publish(temporary, path)
    return read_checkpoint(path)


def _point(pointer: Path, content: Mapping[str, Any]) -> None:
    if pointer.is_dir():
        log.warning("%s is a folder; it is kept as %s.", pointer, files.set_aside(pointer).name)
    files.write_json(pointer, content)


def _put_aside_damaged(folder: Path, step: int) -> None:
    """Damaged checkpoints after ``step``, which the run has gone back behind, are kept under a name of another kind."""
    for path in folders(folder):
        if step_of(path) <= step:
            return
        try:
            problems = problems_of(path)
        except UserError as error:  # not known to be damaged: it stays where it is
            log.warning("%s", error)
            continue
        if problems:
            log.warning(
                "checkpoint %s is damaged (%s): it is kept as %s", path, problems[0], files.set_aside(path).name
            )


def _rotate(folder: Path, step: int, keep: int, best: int | None) -> None:
    earlier = [path for path in folders(folder) if step_of(path) <= step]
    for path in earlier[max(keep, 1) :]:
        if step_of(path) != best:
            with suppress(OSError):
                going = files.temporary_folder(folder)  # a kill while it is removed leaves no half of a checkpoint
                path.replace(going / path.name)
                shutil.rmtree(going, ignore_errors=True)


def _listed(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def _save(content: Mapping[str, Any], path: Path) -> None:
    with files.plain_writer(path) as file:
        torch.save(dict(content), file)  # type: ignore[arg-type]


@contextmanager
def _careful(engine: Any) -> Iterator[list[OSError]]:
    """Inside, ``engine`` writes through torch and keeps what the disk refuses for later; yields what it kept."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    failed: list[OSError] = []

    class Careful(TorchCheckpointEngine):
        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            try:
                Path(path).mkdir(parents=True, exist_ok=exist_ok)
            except OSError as error:
                failed.append(error)

        def save(self, state_dict: Any, path: str) -> None:
            try:
                with files.plain_writer(Path(path)) as file:
                    torch.save(state_dict, file)  # type: ignore[arg-type]
            except OSError as error:
                failed.append(error)

    own = engine.checkpoint_engine
    engine.checkpoint_engine = Careful()
    engine._copy_recovery_script = lambda path: None  # it would fail on rank 0 alone; `checkpoint export` does its work
    try:
        yield failed
    finally:
        engine.checkpoint_engine = own
        del engine._copy_recovery_script
