"""Several processes fill one store: who computes what, under which lock, and what becomes of folders that differ."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
from torch import Tensor

from neucore_xl import files
from neucore_xl.encoding.shards import Examined, examine
from neucore_xl.parallel.world import World, in_step

if TYPE_CHECKING:
    from neucore_xl.encoding.store import Store

log = logging.getLogger(__name__)

SHARD_BYTES = 1 << 29  # a killed first pass loses at most this much work of a process

Encode = Callable[[list[str]], Iterator[tuple[list[str], Any]]]
Join = Callable[[list[Any]], dict[str, np.ndarray]]


def fill(store: Store, keys: Sequence[str], encode: Encode, join: Join, world: World, batch: int) -> int:
    """Store the missing ``keys``; returns how many there were. The arguments are those of ``FeatureCache.fill_images``.

    Shards that this job asks for the first time are compared with their checksums; what a damaged one held is missing.
    Every rank computes a share while rank 0 holds the lock. What a rank does not find afterwards (its node has a cache
    folder of its own) that node computes for itself. ``join`` makes one shard's arrays of several chunks' features.
    """
    _examine(store, keys, world)
    if not world.any_of(int(bool(store.missing(keys)))):
        return 0
    with world.agreed(), files.disk_errors("creating the feature cache", store.folder):
        store.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        in_step(world, _take(store, lock if world.is_main else None))
        wanted = world.broadcast(_positions(store, keys))
        share = [keys[i] for i in _share(wanted, batch, world)]
        written: list[str] = []
        in_step(world, _compute(store, store.missing(share), encode, join, written))
        store.refresh(name for names in world.gather(written) for name in names)
    unseen = bool(store.missing(keys))
    if world.any_of(int(unseen)):
        in_step(world, _compute_alone(store, keys if unseen else (), encode, join))
    return len(wanted)


def _examine(store: Store, keys: Sequence[str], world: World) -> None:
    """Read the shards of ``keys`` that nobody has examined, each by one of the ranks that see it.

    Damaged ones count as absent afterwards, on all ranks.
    """
    own = store.unexamined(keys)
    seen = world.gather(own)
    names = sorted({name for part in seen for name in part})
    if not names:
        return
    owners = {name: [rank for rank, part in enumerate(seen) if name in part] for name in names}
    share = [name for i, name in enumerate(names) if owners[name][i % len(owners[name])] == world.rank]
    found: dict[str, Examined] = {}
    in_step(world, _read(store, share, found))
    everything = {name: result for part in world.gather(found) for name, result in part.items()}
    damaged = {name: result.problem for name, result in everything.items() if result.problem}
    store.judge(own, damaged)
    if not world.is_main:
        return
    for name, problem in damaged.items():
        log.warning("feature cache: %s is damaged (%s) and is computed again", store.folder / name, problem)
    trusted = sum(result.trusted for result in everything.values())
    if trusted:
        log.warning(
            "feature cache: %d shards in %s are of a version without checksums; they are taken as they are and get "
            "theirs now", trusted, store.folder,
        )  # fmt: skip


def _read(store: Store, names: Sequence[str], found: dict[str, Examined]) -> Generator[None, None, None]:
    """Examine shards ``names`` into ``found``; yields after every file."""
    for name in names:
        found[name] = yield from examine(store.folder / name)


def _positions(store: Store, keys: Sequence[str]) -> list[int]:
    """Where the missing ones of ``keys`` stand, each once. Ranks of other nodes may name the same file otherwise."""
    missing = set(store.missing(keys))
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return sorted(i for key, i in first.items() if key in missing)


def _share(wanted: Sequence[int], batch: int, world: World) -> list[int]:
    """This rank's part of ``wanted``: neighbouring runs of ``batch``, as many as the others have, give or take one."""
    runs = -(-len(wanted) // batch)
    first, last = (runs * r // world.world_size * batch for r in (world.rank, world.rank + 1))
    return list(wanted[first:last])


def _take(store: Store, lock: ExitStack | None) -> Generator[None, None, None]:
    """Take the store's lock into ``lock`` and look at what is there; yields while another run has it.

    Nothing without ``lock``.
    """
    warned = lock is None
    while lock is not None:
        try:
            with files.disk_errors("locking the feature cache", store.folder):
                lock.enter_context(files.locked(store.folder / "lock", wait=False))
        except filelock.Timeout:
            if not warned:
                log.warning("feature cache: waiting for another run that fills %s", store.folder)
            warned = True
            yield
            time.sleep(0.1)
            continue
        store.refresh()  # the run that was waited for may have computed them
        store.sweep()
        return


def _compute(
    store: Store, missing: list[str], encode: Encode, join: Join, written: list[str]
) -> Generator[None, None, None]:
    """Encode ``missing`` and append shards, whose names go to ``written``; yields after every chunk."""
    names: list[str] = []
    parts: list[Any] = []
    size = 0
    for chunk, features in encode(missing) if missing else ():
        names += chunk
        parts.append(features)
        size += sum(_bytes(value) for value in vars(features).values())
        if size >= SHARD_BYTES:
            written.append(store.append(names, join(parts)))
            names, parts, size = [], [], 0
        yield
    if names:
        written.append(store.append(names, join(parts)))


def _compute_alone(store: Store, keys: Sequence[str], encode: Encode, join: Join) -> Generator[None, None, None]:
    """All missing ``keys`` under the lock, as a process without others does it; nothing without keys."""
    if not keys:
        return
    with ExitStack() as lock:
        yield from _take(store, lock)
        yield from _compute(store, store.missing(keys), encode, join, [])


def _bytes(value: Tensor | tuple[Tensor, ...]) -> int:
    """Of a tensor, or of the tensors of several depths."""
    return value.nbytes if isinstance(value, Tensor) else sum(t.nbytes for t in value)
