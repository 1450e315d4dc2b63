"""Reading the features of images from files of others: safetensors, npz, a ``datasets`` folder, pickles.

Every reader yields (name, tokens or None, pooled or None), one image at a time. In safetensors and npz an array is
called ``NAME`` (one dimension: pooled; two: tokens ``[N, Dv]``; three: a map ``[C, H, W]``), or ``NAME/tokens`` and
``NAME/pooled``. A ``datasets`` folder has the columns ``name`` and ``tokens`` or ``pooled``. A pickle holds a dict of
arrays by image name, or one array, whose image has the name of the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neucore_xl.data.features.pickles import read_arrays
from neucore_xl.errors import UserError

Image = tuple[str, Any, Any]
SUFFIXES = {
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "pickle": (".pkl", ".pickle", ".p"),
}
FORMATS = (*SUFFIXES, "datasets")
_DATASETS = ("dataset_info.json", "dataset_dict.json")


def format_of(source: Path) -> str:
    """The format of ``source``, a file or a folder, by its names; raises ``UserError`` where they do not tell."""
    if not source.exists():
        raise UserError(f"{source} does not exist: give a file or a folder of features.")
    if source.is_dir() and any((source / name).is_file() for name in _DATASETS):
        return "datasets"
    found = sorted(name for name in SUFFIXES if files_of(source, name))
    if len(found) != 1:
        what = f"holds files of {' and '.join(found)}" if found else "holds nothing with features by its name"
        raise UserError(f"{source} {what}: name one of them with --format ({', '.join(FORMATS)}).")
    return found[0]


def files_of(source: Path, format: str) -> list[Path]:
    """The files of ``format`` that ``source`` is, or that lie below it, by name."""
    if source.is_file():
        return [source] if source.suffix.lower() in SUFFIXES[format] else []
    return sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES[format] and p.is_file())


def read_source(source: Path, format: str, advance: Callable[[], object] = lambda: None) -> Iterator[Image]:
    """The images of ``source``; ``advance`` is called after every file.

    Raises ``UserError`` for a file that cannot be read as ``format``.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist: give a file or a folder of features.")
    if format == "datasets":
        yield from _dataset(source)
        return
    paths = files_of(source, format) or ([source] if source.is_file() else [])
    if not paths:
        raise UserError(f"{source} holds no file of the format {format} ({', '.join(SUFFIXES[format])}).")
    for path in paths:
        yield from _READERS[format](path)
        advance()


def _safetensors(path: Path) -> Iterator[Image]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield from _by_key(list(file.keys()), file.get_tensor)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({_first(error)}): fetch it again.") from None


def _npz(path: Path) -> Iterator[Image]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an archive of arrays by name")
            yield from _by_key(file.files, lambda key: file[key])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path} cannot be read as npz ({_first(error)}): fetch it again.") from None


def _pickle(path: Path) -> Iterator[Image]:
    content = read_arrays(path)
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield (str(name), *_parts(value, f"{path}: {name}"))
    else:
        yield (path.stem, *_parts(content, str(path)))


def _dataset(source: Path) -> Iterator[Image]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:  # pyarrow and datasets have errors of many kinds
        raise UserError(f"{source} cannot be read as a datasets folder ({_first(error)}).") from None
    for part in loaded.values() if isinstance(loaded, Mapping) else [loaded]:
        columns = set(part.column_names)
        if "name" not in columns or not columns & {"tokens", "pooled"}:
            raise UserError(
                f"{source} has the columns {', '.join(sorted(columns))}: it needs `name`, and `tokens` or `pooled`."
            )
        for row in part:
            yield str(row["name"]), row.get("tokens"), row.get("pooled")


def _by_key(keys: Iterable[str], read: Callable[[str], Any]) -> Iterator[Image]:
    """Images of arrays by key, in the order of their first keys."""
    parts: dict[str, dict[str, str]] = {}
    for key in keys:
        name, _, part = key.rpartition("/")
        if name and part in ("tokens", "pooled"):
            parts.setdefault(name, {})[part] = key
        else:
            parts.setdefault(key, {})[""] = key
    for name, found in parts.items():
        if "" in found:
            if len(found) > 1:
                raise UserError(f"image {name} has an array {name} beside {name}/tokens or {name}/pooled: keep one.")
            yield (name, *_parts(read(found[""]), name))
        else:
            tokens, pooled = (read(found[part]) if part in found else None for part in ("tokens", "pooled"))
            yield name, tokens, pooled


def _parts(value: Any, where: str) -> tuple[Any, Any]:
    """Tokens and pooled of one image's value."""
    if isinstance(value, Mapping):
        if not set(value) <= {"tokens", "pooled"}:
            raise UserError(f"{where}: its keys are {', '.join(map(str, value))[:80]}, not `tokens` and `pooled`.")
        return value.get("tokens"), value.get("pooled")
    dimensions = getattr(value, "ndim", None)
    if dimensions is None:
        raise UserError(f"{where} is a {type(value).__name__} where an array is expected.")
    if dimensions > 1 and value.shape[0] == 1 and dimensions != 2:
        value = value[0]  # a batch of one
    return (None, value) if value.ndim <= 1 else (value, None)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


_READERS: dict[str, Callable[[Path], Iterator[Image]]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "pickle": _pickle,
}
