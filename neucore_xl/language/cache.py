"""Computed once: what spaCy says of a list of sentences, kept as a ``datasets`` table keyed by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neucore_xl.errors import UserError

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
    from datasets import Dataset, Features, Value

    fingerprint = content_fingerprint(kind, list(key), list(texts))
    folder = Path(cache_dir) / "language"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _progress(len(texts) >= _VISIBLE_FROM):
            # JSON inside the table: any sentence survives, lone surrogates included.
            table = Dataset.from_dict({"text": [json.dumps(t) for t in texts]}).map(
                lambda batch: {"value": [json.dumps(v) for v in compute([json.loads(t) for t in batch["text"]])]},
                batched=True,
                batch_size=1000,
                new_fingerprint=fingerprint,
                cache_file_name=str(folder / f"{kind}-{fingerprint}.arrow"),
                load_from_cache_file=True,
                features=Features({"text": Value("large_string"), "value": Value("large_string")}),
                desc=f"Reading sentences ({kind})",
            )
            return [json.loads(v) for v in table["value"]]
    except OSError as error:
        raise UserError(
            f"the cache of sentences cannot be written to {folder} ({error.strerror or error}): choose another folder"
        ) from error


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
