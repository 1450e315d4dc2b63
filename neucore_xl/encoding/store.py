"""A store: named arrays on disk that are written once, found by key and read by memory map.

Its folder holds immutable shards ``shard-<n>-<random>/``, each of plain ``.npy`` arrays and a ``shard.json`` that
lists its keys and the sizes of its files. A shard is written under a temporary name and renamed, so it exists
completely or not at all; one whose files do not have the recorded sizes counts as absent, and what it held is
computed again. Several processes fill a store together, each with shards of its own.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl import files

log = logging.getLogger(__name__)

FORMAT = 1  # of a shard; part of the names of stores, so that another format is another store


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

        Shards ``announced`` by name are looked for even where the folder's listing does not show them yet: network
        file systems keep listings for up to a minute.
        """
        listed = {shard.name for shard in self.folder.glob("shard-*")}
        fresh = {name for name in announced if (self.folder / name / "shard.json").exists()}
        for shard in (self.folder / name for name in sorted(listed | fresh)):
            if shard.name in self._known:
                continue
            keys = _complete_shard(shard)
            if keys is None:
                log.warning("feature cache: %s is incomplete and is computed again", shard)
                continue
            self._known.add(shard.name)
            self._rows.update((key, (shard.name, row)) for row, key in enumerate(keys))

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct ``keys`` that are not stored, in first-seen order."""
        return [key for key in dict.fromkeys(keys) if key not in self._rows]

    def row(self, key: str) -> tuple[dict[str, np.ndarray], int]:
        """The arrays of the key's shard (memory-mapped) and its row in them; ``KeyError`` for a key that is absent."""
        shard, row = self._rows[key]
        arrays = self._maps.get(shard)
        if arrays is None:
            arrays = {p.stem: np.load(p, mmap_mode="r") for p in (self.folder / shard).glob("*.npy")}
            self._maps[shard] = arrays
        return arrays, row

    def append(self, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> str:
        """Write one shard of ``keys`` and return its name.

        ``arrays`` have a row for each key, or are flat beside ``offsets``. Raises ``UserError`` when the disk is full
        or the folder refuses to be written, with the store as before.
        """
        target = self.folder / f"shard-{len(self._known):05d}-{uuid.uuid4().hex[:8]}"
        with files.disk_errors("writing features", self.folder), files.new_folder(target) as folder:
            for name, array in arrays.items():
                with files.plain_writer(folder / f"{name}.npy") as file:
                    np.save(file, array, allow_pickle=False)
            sizes = {p.name: p.stat().st_size for p in folder.glob("*.npy")}
            header = {"format": FORMAT, "keys": list(keys), "bytes": sizes}
            (folder / "shard.json").write_text(json.dumps(header), encoding="utf-8")
        self.refresh([target.name])
        return target.name

    def sweep(self) -> None:
        """Delete leftovers and incomplete shards; call only while holding the store's lock."""
        files.remove_leftovers(self.folder)
        for shard in self.folder.glob("shard-*"):
            if shard.name not in self._known and _complete_shard(shard) is None:
                shutil.rmtree(shard, ignore_errors=True)


def _complete_shard(shard: Path) -> list[str] | None:
    """The keys of a shard whose files are all there in full length, else None."""
    try:
        header = json.loads((shard / "shard.json").read_text(encoding="utf-8"))
        whole = header["format"] == FORMAT and all(
            (shard / name).stat().st_size == size for name, size in header["bytes"].items()
        )
        return list(header["keys"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
