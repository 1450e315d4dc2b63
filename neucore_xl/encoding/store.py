"""A store: named arrays on disk that are written once, found by key and read by memory map.

Its folder holds immutable shards ``shard-<n>-<random>/`` (see ``shards``). A shard is written under a temporary name
and renamed, so it exists completely or not at all. One whose files do not have the recorded sizes, or that turns out
to be damaged when it is first examined, counts as absent, and what it held is computed again. Several processes fill
a store together, each with shards of its own.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl import files
from neucore_xl.encoding import shards

log = logging.getLogger(__name__)


class Store:
    """The shards of one folder: a key leads to the arrays of its shard and to its row in them.

    Row i of an array belongs to key i of its shard. Arrays of another length per key are stored flat, and an array
    ``offsets`` of one row more than there are keys says where each begins: those of key i are
    ``offsets[i]:offsets[i + 1]``. Picklable; memory maps are opened again in every process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[str, int]] = {}
        self._known: set[str] = set()
        self._examined: set[str] = set()
        self._damaged: set[str] = set()
        self._maps: dict[str, dict[str, np.ndarray]] = {}
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self, announced: Iterable[str] = ()) -> None:
        """Take in shards that were written since (by this process or another).

        Shards ``announced`` by name were written just now and need not be examined. They are looked for even where
        the folder's listing does not show them yet: network file systems keep listings for up to a minute.
        """
        listed = {shard.name for shard in self.folder.glob("shard-*")}
        fresh = {name for name in announced if (self.folder / name / shards.HEADER).exists()}
        self._examined |= fresh
        for name in sorted((listed | fresh) - self._known - self._damaged):
            keys = shards.keys_of(self.folder / name)
            if keys is None:
                log.warning("feature cache: %s is incomplete and is computed again", self.folder / name)
                continue
            self._known.add(name)
            self._rows.update((key, (name, row)) for row, key in enumerate(keys))

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct ``keys`` that are not stored, in first-seen order."""
        return [key for key in dict.fromkeys(keys) if key not in self._rows]

    def unexamined(self, keys: Iterable[str]) -> list[str]:
        """Names of the shards that hold ``keys`` and that nobody has compared with their checksums yet."""
        held = {self._rows[key][0] for key in keys if key in self._rows}
        return sorted(held - self._examined)

    def judge(self, names: Iterable[str], damaged: Iterable[str]) -> None:
        """Shards ``names`` were examined; those that are ``damaged`` count as absent until they are swept away."""
        gone = set(damaged)
        self._examined |= set(names) - gone
        self._damaged |= gone
        self._known -= gone
        self._rows = {key: place for key, place in self._rows.items() if place[0] not in gone}

    def row(self, key: str) -> tuple[dict[str, np.ndarray], int]:
        """The arrays of the key's shard (memory-mapped) and its row in them; ``KeyError`` for a key that is absent."""
        shard, row = self._rows[key]
        arrays = self._maps.get(shard)
        if arrays is None:
            arrays = self._maps[shard] = shards.arrays_of(self.folder / shard)
        return arrays, row

    def append(self, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> str:
        """Write one shard of ``keys`` and return its name.

        ``arrays`` have a row for each key, or are flat beside ``offsets``. Raises ``UserError`` when the disk is full
        or the folder refuses to be written, with the store as before.
        """
        target = self.folder / f"shard-{len(self._known):05d}-{uuid.uuid4().hex[:8]}"
        with files.disk_errors("writing features", self.folder), files.new_folder(target) as folder:
            shards.write(folder, keys, arrays)
        self.refresh([target.name])
        return target.name

    def sweep(self) -> None:
        """Delete leftovers, damaged and incomplete shards; call only while holding the store's lock."""
        files.remove_leftovers(self.folder)
        for shard in self.folder.glob("shard-*"):
            if shard.name in self._damaged or (shard.name not in self._known and shards.keys_of(shard) is None):
                shutil.rmtree(shard, ignore_errors=True)
