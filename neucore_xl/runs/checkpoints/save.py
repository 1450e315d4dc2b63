"""A checkpoint that all processes write, and DeepSpeed's files inside it.

Every rank writes into one temporary folder, whose name rank 0 chooses, and adds up what it wrote; rank 0 writes the
manifest and renames. A rank that fails makes all fail with its sentence, and the folder vanishes.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import checkpoint as manifest
from neucore_xl.runs.checkpoints.checkpoint import (
    RANK,
    TAG,
    TRAINING,
    ZERO,
    Checkpoint,
    Identity,
    stored_state,
    write_weights,
)
from neucore_xl.runs.checkpoints.find import folders

Writer = Callable[[Path], None]


def weights_writer(composer: nn.Module, backbone: nn.Module, world: World) -> Writer:
    """The writer of plain and DDP runs: rank 0 puts ``model.safetensors`` into the folder it is given."""

    def write(folder: Path) -> None:
        if world.is_main:
            write_weights(stored_state(composer, backbone), folder)

    return write


def deepspeed_writer(engine: Any) -> Writer:
    """The writer of DeepSpeed runs: every rank calls it, and ``engine.save_checkpoint`` fills ``zero/state``.

    Frozen parameters are left out. A full disk is raised when DeepSpeed's collectives are over, so that no rank
    waits for one that has gone.
    """

    def write(folder: Path) -> None:
        with _careful(engine) as failed:
            engine.save_checkpoint(str(folder / ZERO), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
        if failed:
            raise failed[0]

    return write


def write_together(
    path: Path,
    step: int,
    world: World,
    write: Writer,
    *,
    extra: Mapping[str, Any],
    rank_extra: Mapping[str, Any] | None,
    identity: Identity,
    metrics: Mapping[str, float] | None,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Sequence[int]] | None,
) -> Checkpoint:
    """Write the checkpoint folder ``path``, complete or not at all; every rank calls this and gets the checkpoint."""
    if facts.get("strategy") == "deepspeed" and tensors is None:
        raise ValueError("a DeepSpeed checkpoint needs the shapes of its tensors (stored_shapes)")
    doing, folder = "saving a checkpoint", path.parent

    def begin() -> str:
        with files.disk_errors(doing, folder):
            folder.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(folder)  # of a process that was killed here; a run has one writer
            return str(files.temporary_folder(folder))

    temporary = Path(world.on_main(begin))
    try:
        with world.agreed():
            if not temporary.is_dir():
                raise UserError(f"{folder} is not the folder that rank 0 sees: put the run on a disk all nodes share.")
        with world.agreed(), files.disk_errors(doing, folder):
            write(temporary)
        own: dict[str, dict[str, Any]] = {}
        with world.agreed(), files.disk_errors(doing, folder):
            if rank_extra is not None:
                _save(rank_extra, temporary / RANK.format(world.rank))
            if world.is_main:
                _save(extra, temporary / TRAINING)
            own = manifest.describe(temporary, [n for n in _listed(temporary) if manifest.owner(n) == world.rank])
        entries = {name: entry for part in world.gather(own) for name, entry in part.items()}

        def finish() -> Checkpoint:
            with files.disk_errors(doing, folder):
                for name, entry in entries.items():
                    if not (temporary / name).is_file() or (temporary / name).stat().st_size != entry["bytes"]:
                        raise UserError(f"{name} of another rank does not arrive in {folder}: is the disk shared?")
                manifest.write(temporary, step, identity, metrics, _parallel(facts, world), entries, tensors)
                for inner in (p for p in temporary.rglob("*") if p.is_dir()):
                    files.sync_folder(inner)
                files.publish(temporary, path)
            return manifest.read(path)

        return world.on_main(finish)
    except BaseException:
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _parallel(facts: Mapping[str, Any], world: World) -> dict[str, Any]:
    known = {"strategy": "ddp" if world.many else "plain", "zero_stage": 0, **facts, "world_size": world.world_size}
    if known["strategy"] == "deepspeed":
        known["deepspeed"] = importlib.metadata.version("deepspeed")
    return known


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


def save(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    identity: Identity,
    keep: int = 2,
    metrics: Mapping[str, float] | None = None,
    best: bool = False,
) -> Checkpoint:
    """``save_together`` for one process that has all ``weights``."""

    def write(temporary: Path) -> None:
        write_weights(weights, temporary)

    return save_together(
        folder, step, World(), write, extra=extra, identity=identity, keep=keep, metrics=metrics, best=best
    )


def save_together(
    folder: Path,
    step: int,
    world: World,
    write: Writer,
    *,
    extra: Mapping[str, Any],
    identity: Identity,
    rank_extra: Mapping[str, Any] | None = None,
    keep: int = 2,
    metrics: Mapping[str, float] | None = None,
    best: bool = False,
    facts: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Sequence[int]] | None = None,
) -> Checkpoint:
    """Write ``folder/step-<step>`` in one step, then the pointers, then drop all but the ``keep`` newest and the best.

    Every rank calls it. ``write(temporary)`` puts the weights into the folder that becomes the checkpoint, called on
    every rank (``weights_writer``, ``deepspeed_writer``). ``extra`` (rank 0's counts) and ``rank_extra`` (each
    rank's own: its random state) must hold plain containers and tensors: they are read with ``weights_only=True``.
    ``facts``: ``strategy`` and ``zero_stage``. ``tensors``: ``stored_shapes``, needed for DeepSpeed. Raises
    ``UserError``, on every rank, when the disk of any of them is full; every older checkpoint is then still whole.
    """
    path = folder / f"step-{step:08d}"
    saved = write_together(
        path,
        step,
        world,
        write,
        extra=extra,
        rank_extra=rank_extra,
        identity=identity,
        metrics=metrics,
        facts=facts or {},
        tensors=tensors,
    )

    def point() -> None:
        with files.disk_errors("saving a checkpoint", folder):
            files.write_json(folder / "latest.json", {"step": step, "path": path.name})
            if best:
                mark_best(folder, step, metrics)
        _rotate(folder, keep)

    world.on_main(point)
    return saved


def mark_best(folder: Path, step: int, metrics: Mapping[str, float] | None = None) -> None:
    """Point ``best.json`` at the checkpoint of ``step``, which must exist."""
    path = folder / f"step-{step:08d}"
    if not path.is_dir():
        raise FileNotFoundError(path)
    files.write_json(folder / "best.json", {"step": step, "path": path.name, "metrics": dict(metrics or {})})


def _rotate(folder: Path, keep: int) -> None:
    pointer = folder / "best.json"
    best_name = json.loads(pointer.read_text(encoding="utf-8"))["path"] if pointer.is_file() else None
    for path in folders(folder)[max(keep, 1) :]:
        if path.name != best_name:
            shutil.rmtree(path, ignore_errors=True)
