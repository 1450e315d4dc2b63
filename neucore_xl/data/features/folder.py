"""A folder of image features that any network computed: how it is laid out, opened, checked and read.

| file | what |
|---|---|
| ``tokens.bin`` | the tokens of all images one after the other, float32 or float16, ``[T, Dv]`` |
| ``offsets.npy`` | int64 ``[U + 1]``: image u has the tokens ``offsets[u]`` to ``offsets[u + 1]``, at least one |
| ``pooled.npy`` | float32 ``[U, D]`` |
| ``names.json`` | the U names, in the order of the rows |
| ``manifest.json`` | format, widths, counts, where they come from, size and checksum of every file, and its own |

Arrays are memory-mapped. Checksums are XXH3 of 128 bits: they find damage, and are no seal against people. Further
files (a text tower beside the features) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_json, text_list

FORMAT = "neucore-xl features 1"
MANIFEST, NAMES, TOKENS, OFFSETS, POOLED = "manifest.json", "names.json", "tokens.bin", "offsets.npy", "pooled.npy"
FILES = (NAMES, TOKENS, OFFSETS, POOLED)
SHOWN = 3  # names in a sentence about many


class Manifest(BaseModel):
    """What a folder says of itself. ``fewest`` and ``most``: tokens of an image; ``grid``: each image's are a square
    map, row by row. ``digest`` is over everything else, so it names the features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["neucore-xl features 1"] = "neucore-xl features 1"
    origin: str
    count: int = Field(ge=1)
    token_width: int = Field(ge=1)
    pooled_width: int = Field(ge=1)
    total_tokens: int = Field(ge=1)
    fewest: int = Field(ge=1)
    most: int = Field(ge=1)
    grid: bool
    dtype: Literal["float32", "float16"]
    bytes: dict[str, int]
    checksums: dict[str, str]
    digest: str = ""

    def sealed(self) -> Manifest:
        """The same with its digest."""
        return self.model_copy(update={"digest": self._own()})

    @property
    def whole(self) -> bool:
        """Whether it is what was written."""
        return self.digest == self._own() and set(self.bytes) == set(self.checksums) == set(FILES)

    def _own(self) -> str:
        return xxhash.xxh3_128_hexdigest(files.json_bytes(self.model_dump(exclude={"digest"}), sort_keys=True))


class FeatureFolder:
    """The features at ``path``, opened; picklable, memory maps are opened again in every process.

    Raises ``UserError`` where ``path`` is no whole folder of features; what the files hold is compared by ``check``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._rows: dict[str, int] | None = None
        self._maps: dict[str, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None, "_maps": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureFolder:
        return self  # nothing in it changes

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name these features."""
        return self.manifest.digest

    @property
    def names(self) -> tuple[str, ...]:
        """Image names in the order of the rows."""
        return tuple(self._index)

    def missing(self, names: Iterable[str]) -> list[str]:
        """The distinct ``names`` that have no features here, in first-seen order."""
        return [name for name in dict.fromkeys(names) if name not in self._index]

    def pooled(self, names: Sequence[str]) -> np.ndarray:
        """Pooled features ``[U, D]`` float32 of ``names``, a copy; ``KeyError`` for a name that is not here."""
        rows = [self._index[name] for name in names]
        return np.asarray(self._arrays[POOLED][rows], np.float32)

    def tokens(self, name: str) -> np.ndarray:
        """The tokens ``[N, Dv]`` of one image as they are stored, read from the map; ``KeyError`` if not here."""
        row, offsets = self._index[name], self._arrays[OFFSETS]
        return self._arrays[TOKENS][offsets[row] : offsets[row + 1]]

    def check(self) -> None:
        """Read everything and compare it with its checksums; raises ``UserError`` naming the file that differs."""
        for name, known in self.manifest.checksums.items():
            try:
                found = files.checksum(self.path / name)
            except OSError as error:
                raise UserError(f"{self.path / name} cannot be read ({error.strerror}): mend the disk.") from error
            if found != known:
                raise UserError(f"{self.path / name} has another content than was written: make the features again.")

    @property
    def _index(self) -> dict[str, int]:
        if self._rows is None:
            names = text_list(read_json(self.path / NAMES, list), str(self.path / NAMES))
            self._rows = {name: row for row, name in enumerate(names)}
            if len(self._rows) != self.manifest.count:
                raise _damaged(self.path, f"{NAMES} has not {self.manifest.count} names")
        return self._rows

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        if self._maps is None:
            self._maps = _mapped(self.path, self.manifest)
        return self._maps


def read_manifest(path: Path) -> Manifest:
    """The manifest of the folder at ``path``; ``UserError`` where it is none, is damaged, or a file of it is cut."""
    if not (path / MANIFEST).is_file():
        what = "holds no features (it has no manifest.json)" if path.is_dir() else "is not there, or no folder"
        raise UserError(f"the feature folder {path} {what}: make one with `neucore-xl features import SOURCE OUT`.")
    raw = read_json(path / MANIFEST, dict)
    if raw.get("format") != FORMAT:
        raise UserError(f"{path / MANIFEST} is of another format than {FORMAT!r}: make the features again.")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise _damaged(path, f"{MANIFEST}: {where} is not as it was written") from None
    if not manifest.whole:
        raise _damaged(path, f"{MANIFEST} is not as it was written")
    for name, size in manifest.bytes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise _damaged(path, f"{name} is not there in full length")
    return manifest


def first_of(names: Sequence[str]) -> str:
    """The first three of ``names``, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _mapped(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    shape = (manifest.total_tokens, manifest.token_width)
    try:
        arrays: dict[str, np.ndarray] = {
            TOKENS: np.memmap(path / TOKENS, manifest.dtype, "r", shape=shape),
            OFFSETS: np.load(path / OFFSETS, allow_pickle=False),
            POOLED: np.load(path / POOLED, mmap_mode="r", allow_pickle=False),
        }
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    offsets, pooled = arrays[OFFSETS], arrays[POOLED]
    ends = offsets.shape == (manifest.count + 1,) and offsets[0] == 0 and offsets[-1] == manifest.total_tokens
    if not ends or np.diff(offsets).min() < 1 or pooled.shape != (manifest.count, manifest.pooled_width):
        raise _damaged(path, "its arrays do not fit each other")
    return arrays


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"the feature folder {path} is damaged ({what}): make it again.")
