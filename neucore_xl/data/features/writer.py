"""Writing a folder of features, one image after the other, in one step and never over anything.

>>> with FeatureFolderWriter("features/mine", origin="ResNet-152, pool5") as writer:
...     writer.add("dev-0-0-img0", tokens=grid, pooled=vector)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from neucore_xl import files
from neucore_xl.data.features.folder import FILES, MANIFEST, NAMES, OFFSETS, POOLED, TOKENS, Manifest, first_of
from neucore_xl.errors import UserError

_LONGEST_NAME = 1000
_ONE = {"have": "has", "are": "is"}


class FeatureFolderWriter:
    """A new folder at ``out``, which appears when the block ends well, complete, and not at all otherwise.

    ``origin`` says in words where the features come from; every table made with them prints it. ``half`` stores
    tokens in 16 bits. Images that cannot be used are counted on the way; if there are any, the block ends with a
    ``UserError`` that names the first of a kind and how many there are. ``folder``: the temporary folder, for further
    files that belong to the features. Raises ``UserError`` where ``out`` exists or the disk refuses.
    """

    def __init__(self, out: Path | str, *, origin: str, half: bool = False) -> None:
        self.out, self.origin, self.half = Path(out), " ".join(origin.split()), half
        self._rows: dict[str, None] = {}
        self._lengths: list[int] = []
        self._pooled: list[np.ndarray] = []
        self._grids = True
        self._widths: dict[str, tuple[int, str]] = {}
        self._problems: dict[str, list[str]] = {}
        self._held = ExitStack()
        check_free(self.out)

    def __enter__(self) -> FeatureFolderWriter:
        with files.disk_errors("writing features", self.out.parent):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder = self._held.enter_context(files.new_folder(self.out))
            self._file = self._held.enter_context(files.plain_writer(self.folder / TOKENS))
        return self

    def add(self, name: str, tokens: Any = None, pooled: Any = None) -> None:
        """The features of image ``name``: ``tokens [N, Dv]`` (or a map ``[C, H, W]``: H·W tokens of width C), ``pooled
        [D]``. Without ``pooled`` it is the mean of the tokens; without ``tokens`` the pooled vector is the one token.
        """
        problem = self._taken(name, tokens, pooled)
        if problem is not None:
            self._problems.setdefault(problem, []).append(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            if error is None:
                self._finish()
        except BaseException as own:
            self._held.__exit__(type(own), own, own.__traceback__)
            raise
        with files.disk_errors("writing features", self.out.parent):
            return self._held.__exit__(kind, error, trace)

    def _taken(self, name: str, tokens: Any, pooled: Any) -> str | None:
        """Write one image; what is wrong with it, in words that go on "N images …", and then nothing is written."""
        if not name or len(name) > _LONGEST_NAME:
            return "have no name, or one that is too long"
        if name in self._rows:
            return "are given more than once"
        try:
            given = None if tokens is None else as_numbers(tokens)
            vector = None if pooled is None else as_numbers(pooled)
        except (TypeError, ValueError):
            return "have features that are no numbers"
        grid = given is not None and given.ndim == 3
        if grid and given is not None:
            grid = given.shape[1] == given.shape[2]
            given = given.reshape(len(given), -1).T
        if (given is not None and given.ndim != 2) or (vector is not None and vector.ndim != 1):
            return "have features of another form than tokens [N, width] and pooled [width]"
        if given is None:
            given = None if vector is None else vector[None]
        if given is None or not given.size or (vector is not None and not vector.size):
            return "have no features"
        vector = given.mean(0, dtype=np.float64).astype(np.float32) if vector is None else vector
        stored = given.astype("<f2" if self.half else "<f4")
        if not (np.isfinite(stored).all() and np.isfinite(vector).all()):
            return "have values that are not finite numbers"
        for what, width in (("tokens", given.shape[1]), ("pooled", len(vector))):
            first, owner = self._widths.setdefault(what, (width, name))
            if width != first:
                return f"have {what} of another width than the {first} of the first image, {owner}"
        with files.disk_errors("writing features", self.out.parent):
            self._file.write(np.ascontiguousarray(stored).tobytes())
        self._rows[name] = None
        self._lengths.append(len(given))
        self._pooled.append(vector)
        self._grids = self._grids and grid
        return None

    def _finish(self) -> None:
        """Refuse what was wrong, else write what lies beside the tokens."""
        for problem, names in self._problems.items():
            others = sum(map(len, self._problems.values())) - len(names)
            further = f"; images with other faults: {others}" if others else ""
            verb, rest = problem.split(" ", 1)
            many = f"{len(names)} images {verb}" if len(names) > 1 else f"1 image {_ONE[verb]}"
            raise UserError(f"{many} {rest}: {first_of(list(dict.fromkeys(names)))}{further}; nothing was written.")
        if not self._rows:
            raise UserError("there are no features of any image: nothing was written.")
        with files.disk_errors("writing features", self.out.parent):
            self._write(NAMES, lambda file: file.write(files.json_bytes(list(self._rows), indent=None)))
            offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype("<i8")
            self._write(OFFSETS, lambda file: np.save(file, offsets, allow_pickle=False))
            self._write(POOLED, lambda file: np.save(file, np.stack(self._pooled).astype("<f4"), allow_pickle=False))
            manifest = Manifest(
                origin=self.origin,
                count=len(self._rows),
                token_width=self._widths["tokens"][0],
                pooled_width=self._widths["pooled"][0],
                total_tokens=sum(self._lengths),
                fewest=min(self._lengths),
                most=max(self._lengths),
                grid=self._grids,
                dtype="float16" if self.half else "float32",
                bytes={name: (self.folder / name).stat().st_size for name in FILES},
                checksums={name: files.checksum(self.folder / name) for name in FILES},
            )
            (self.folder / MANIFEST).write_bytes(files.json_bytes(manifest.sealed().model_dump()))
            check_free(self.out)  # somebody may have been faster

    def _write(self, name: str, fill: Callable[[Any], object]) -> None:
        with files.plain_writer(self.folder / name) as file:
            fill(file)


def check_free(out: Path) -> None:
    """Raise ``UserError`` where something has the name ``out``."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists already and is not replaced: name a new folder.")


def as_numbers(array: Any) -> np.ndarray:
    """``array`` (numpy, torch, a list) as float32; raises ``ValueError`` for what are no real numbers."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().float().numpy()
    found = np.asarray(array)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"no numbers but {found.dtype}")
    return found.astype(np.float32)
