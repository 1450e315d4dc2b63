"""One shard of a store on disk: how it is written, how its keys are read, and whether it is what was written.

Its folder holds plain ``.npy`` arrays and ``shard.json``: the keys, and size and checksum of every array. The checksum
is XXH3 of 128 bits, which costs less than reading the file: it finds what a disk or a program did to a file, and is
no seal against people. Shards of versions without checksums are taken as they are and get theirs when they are
first examined.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_json

FORMAT = 1  # part of the names of stores, so that another format is another store
HEADER = "shard.json"


@dataclass(frozen=True)
class Examined:
    """What came out: ``problem`` in words, None for a shard that is whole; ``trusted``: it had no checksums yet."""

    problem: str | None = None
    trusted: bool = False


def write(folder: Path, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Fill the new ``folder`` with a shard of ``keys``; ``arrays`` as of ``Store.append``."""
    digests = {}
    for name, array in arrays.items():
        with files.plain_writer(folder / f"{name}.npy") as file:
            hashed = _Hashed(file)
            np.save(hashed, array, allow_pickle=False)
        digests[f"{name}.npy"] = hashed.digest.hexdigest()
    header = {"format": FORMAT, "keys": list(keys), "bytes": _sizes(folder), "digests": digests}
    (folder / HEADER).write_text(_sealed(header), encoding="utf-8")


def keys_of(shard: Path) -> list[str] | None:
    """The keys of a shard whose files are all there in full length, else None; what the files hold is not read."""
    header = _header(shard)
    return None if header is None else list(header["keys"])


def arrays_of(shard: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard, memory-mapped; raises ``UserError`` where they have gone since its keys were read."""
    try:
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in shard.glob("*.npy")}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"feature cache: {shard} cannot be read ({error}): start again, to compute it anew.") from error
    if not arrays:
        raise UserError(f"feature cache: {shard} was removed while it was used: start again, to compute it anew.")
    return arrays


def examine(shard: Path) -> Generator[None, None, Examined]:
    """Read a shard from end to end and compare it with its checksums; yields after every file."""
    header = _header(shard)
    if header is None:
        return Examined(f"{HEADER} is damaged or a file is not there in full length")
    known, found = header.get("digests"), {}
    try:
        for name in header["bytes"]:
            found[name] = files.checksum(shard / name)
            yield
            if known is not None and found[name] != known.get(name):
                return Examined(f"{name} has another content than was written")
        if known is not None:
            return Examined()
        arrays = arrays_of(shard)
        if not _consistent(arrays, len(header["keys"])):
            return Examined("its arrays have other lengths than its list of keys")
    except (OSError, UserError) as error:
        return Examined(f"it cannot be read: {error}")
    with suppress(OSError):  # somebody else's cache, which may be read only
        files.write_text(shard / HEADER, _sealed({**header, "digests": found}))
    return Examined(trusted=True)


class _Hashed:
    """``write`` for numpy, which takes the checksum of what passes through."""

    def __init__(self, file: files.PlainWriter) -> None:
        self._file = file
        self.digest = xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def _sizes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.glob("*.npy")}


def _sealed(header: Mapping[str, Any]) -> str:
    """The text of a header, which holds a checksum of itself: a key that changed would name another picture."""
    return json.dumps({**header, "digest": _own(header)})


def _own(header: Mapping[str, Any]) -> str:
    content = {name: value for name, value in header.items() if name != "digest"}
    return str(xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode()))


def _header(shard: Path) -> dict[str, Any] | None:
    try:
        header = read_json(shard / HEADER, dict)
        if header["format"] != FORMAT or ("digest" in header and header["digest"] != _own(header)):
            return None
        whole = all(
            (shard / name).is_file() and (shard / name).stat().st_size == size for name, size in header["bytes"].items()
        )
        right = all(isinstance(key, str) for key in header["keys"]) and isinstance(header.get("digests", {}), dict)
        return header if whole and right and header["bytes"] else None
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _consistent(arrays: Mapping[str, np.ndarray], count: int) -> bool:
    """Whether arrays without checksums have a row a key, or lie flat beside right ``offsets``."""
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if "offsets" not in arrays:
        return set(lengths.values()) == {count}
    offsets = arrays["offsets"]
    if offsets.shape != (count + 1,) or offsets.dtype.kind != "i" or (np.diff(offsets) < 0).any() or offsets[0] != 0:
        return False
    return all(length in (count, int(offsets[-1])) for name, length in lengths.items() if name != "offsets")
