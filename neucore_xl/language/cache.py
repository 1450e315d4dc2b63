"""Computed once: what spaCy says of a list of sentences, kept as a ``datasets`` table keyed by its content.

Beside each table lies its checksum (``.xxh3``). A table that is damaged, cut or of other sentences is computed
again; one of a version without checksums is examined by Arrow and gets its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neucore_xl import files
from neucore_xl.errors import UserError

log = logging.getLogger(__name__)

_VISIBLE_FROM = 2000  # sentences from which a progress bar is worth its line


def content_fingerprint(*parts: Any) -> str:
    """Hexadecimal digest of JSON-like parts (sentences, settings, versions)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode())  # ASCII: no sentence can break it
        digest.update(b"\x00")
    return digest.hexdigest()[:32]


def cached_values(
    kind: str,
    texts: Sequence[str],
    compute: Callable[[list[str]], list[Any]],
    *,
    key: Sequence[Any],
    cache_dir: Path | None,
) -> list[Any]:
    """``compute(texts)``, one JSON-like value per distinct text, read from ``cache_dir`` when it is already there.

    The table's fingerprint covers the texts and ``key`` (model, version, settings); ``kind`` names the files.
    Without ``cache_dir`` nothing is kept. Raises ``UserError`` when the folder cannot be written.
    """
    if cache_dir is None or not texts:
        return compute(list(texts))
    fingerprint = content_fingerprint(kind, list(key), list(texts))
    folder = Path(cache_dir) / "language"
    path = folder / f"{kind}-{fingerprint}.arrow"
    stored = _stored(path, texts)
    if isinstance(stored, list):
        return stored
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder / f"{kind}.lock", wait=True, waiting=f"waiting for another run that fills {folder}"):
            stored = _stored(path, texts)  # the run that was waited for may have computed it
            if isinstance(stored, list):
                return stored
            if stored:
                log.warning("cache of sentences: %s is damaged (%s) and is computed again", path, stored)
                path.unlink()
            return _computed(path, kind, texts, compute, fingerprint)
    except OSError as error:
        raise UserError(
            f"the cache of sentences cannot be written to {folder} ({error.strerror or error}): choose another folder"
        ) from error


def _computed(
    path: Path, kind: str, texts: Sequence[str], compute: Callable[[list[str]], list[Any]], fingerprint: str
) -> list[Any]:
    """``compute(texts)``, in portions, kept at ``path``."""
    from datasets import Dataset, Features, Value

    with _progress(len(texts) >= _VISIBLE_FROM):
        # JSON inside the table: any sentence survives, lone surrogates included.
        table = Dataset.from_dict({"text": [json.dumps(t) for t in texts]}).map(
            lambda batch: {"value": [json.dumps(v) for v in compute([json.loads(t) for t in batch["text"]])]},
            batched=True,
            batch_size=1000,
            new_fingerprint=fingerprint,
            cache_file_name=str(path),
            load_from_cache_file=False,
            features=Features({"text": Value("large_string"), "value": Value("large_string")}),
            desc=f"Reading sentences ({kind})",
        )
    files.write_text(path.with_suffix(".xxh3"), files.checksum(path))
    return [json.loads(v) for v in table["value"]]


def _stored(path: Path, texts: Sequence[str]) -> list[Any] | str:
    """The values of the table at ``path``, or what is wrong with it in words; no words where there is none."""
    seal = path.with_suffix(".xxh3")
    try:
        if not path.is_file():
            return "it is no file" if path.exists() else ""
        sealed = seal.is_file()
        if sealed and seal.read_text(encoding="ascii").strip() != files.checksum(path):
            return "it has another content than was written"
        from datasets import Dataset

        table = Dataset.from_file(str(path))
        table.data.validate(full=True)
        if list(table["text"]) != [json.dumps(t) for t in texts]:
            return "it is of other sentences"
        values = [json.loads(v) for v in table["value"]]
    except Exception as error:  # Arrow has an error of its own for every kind of damage
        return str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if not sealed:
        with suppress(OSError):  # somebody else's cache, which may be read only
            files.write_text(seal, files.checksum(path))
    return values


@contextmanager
def _progress(visible: bool) -> Iterator[None]:
    """Show or hide the progress bars of ``datasets``, and leave them as they were."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    if not visible:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
