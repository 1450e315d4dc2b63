"""Planned sentences on disk, each stored for good as soon as its portion is finished, found again by its content.

A folder ``llm-DIGEST`` per planner identity (model, revision, prompt, decoding, …), so that two planners never meet.
In it ``identity.json`` and Parquet parts; a part is written under a temporary name, synced and renamed, so that what
bears its name is whole. A row's key is a digest of the identity and the sentence: a row that was changed, or belongs
to another planner, does not fit its key. Any number of processes may write to one folder: no two parts share a name,
and a sentence that two of them planned counts once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.sequence import FusionSequence
from neucore_xl.language.sequence_file import parse_step, step_json

IDENTITY = "identity.json"
SMALL_PARTS = 64  # so many parts of single portions are put together into one …
FULL_PART = 1000  # … which grows to this many sentences
_COLUMNS = {
    "key": "string",  # hexadecimal SHA-256 of identity and sentence
    "text": "large_string",  # JSON, which holds any sentence, lone surrogates included; `steps` and `repairs` too
    "steps": "large_string",
    "fallback": "string",
    "repairs": "string",
    "prompt_tokens": "int64",
    "tokens": "int64",
    "seconds": "float32",  # its share of the time that its portion took
}


class SentenceStore:
    """The stored sentences of one planner; ``parent`` is the folder that holds a folder per planner."""

    def __init__(self, parent: Path, identity: Mapping[str, Any]) -> None:
        self._prefix = _canonical(identity).encode() + b"\x00"
        self.identity = json.loads(_canonical(identity))
        self.folder = Path(parent) / f"llm-{hashlib.sha256(self._prefix).hexdigest()[:12]}"
        self._writer = secrets.token_hex(6)
        self._written = 0
        self._recent: list[dict[str, Any]] = []  # rows of the parts that are not full yet
        self._recent_parts: list[Path] = []
        self._known: set[bytes] = set()
        self._read_parts: set[str] = set()

    def open(self) -> None:
        """Make the folder; raises ``UserError`` where that cannot be done or it is another planner's."""
        path = self.folder / IDENTITY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if not path.exists():
                content = json.dumps(self.identity, indent=1, sort_keys=True) + "\n"
                files.write_text(path, content)
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"planned sentences cannot be stored in {self.folder} ({error.strerror or error}): give a folder of "
                "annotations that can be written to, or free some room"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and it is written again") from error
        if found != self.identity:
            raise UserError(f"{path} tells of another planner than the folder's name: move the folder away")

    def _sweep(self) -> None:
        """Delete what killed processes left half-written; what is younger than an hour may still be at work."""
        for leftover in self.folder.glob(".*"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > 3600:
                    leftover.unlink()

    def key(self, text: str) -> str:
        """What the sentence is stored under."""
        return hashlib.sha256(self._prefix + json.dumps(text).encode()).hexdigest()

    def pending(self, texts: Iterable[str]) -> list[str]:
        """Those of ``texts`` that are not stored, in their order; 16 bytes are held for each that is."""
        self._look()
        return [t for t in texts if _short(self.key(t)) not in self._known]

    def put(self, records: Sequence[Record], seconds: float = 0.0) -> None:
        """Store a finished portion that took ``seconds``; raises ``UserError`` where the disk refuses."""
        rows = [self._row(r, seconds / len(records)) for r in records]
        self._recent_parts.append(self._write_part(rows))
        self._recent += rows
        if len(self._recent_parts) >= SMALL_PARTS:
            self.compact()

    def compact(self) -> None:
        """Put the parts that this process wrote last into one; the old ones go when the new one is there."""
        if len(self._recent_parts) > 1:
            old, self._recent_parts = self._recent_parts, [self._write_part(self._recent)]
            for part in old:
                with suppress(OSError):
                    part.unlink()
        if len(self._recent) >= FULL_PART:
            self._recent, self._recent_parts = [], []

    def read(self, texts: Sequence[str]) -> Iterator[Record]:
        """The records of ``texts``, in their order, a batch in memory at a time.

        Raises ``UserError`` for a part that is damaged or foreign, and ``LookupError`` for a text that is not stored.
        """
        from datasets import Dataset

        place = {_short(self.key(t)): i for i, t in enumerate(texts)}
        rows = [-1] * len(texts)
        with tempfile.TemporaryDirectory(prefix="neucore-xl-") as folder:
            path = Path(folder) / "stored.arrow"  # mapped into memory: rows in any order, of which few are held
            for at, key in enumerate(self._copy(path)):
                if (position := place.get(_short(key))) is not None:
                    rows[position] = at
            if -1 in rows:
                raise LookupError(f"{rows.count(-1)} sentences are not stored in {self.folder}")
            for batch in Dataset.from_file(str(path)).select(rows).iter(batch_size=500):
                for values in zip(*(batch[name] for name in _COLUMNS), strict=True):
                    yield self._record(dict(zip(_COLUMNS, values, strict=True)))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))  # temporary names begin with a dot

    def _look(self) -> None:
        """Learn the keys of the parts that were not read yet, every row held against its key."""
        while new := [p for p in self._parts() if p.name not in self._read_parts]:
            for part in new:
                self._read_parts.add(part.name)
                with suppress(FileNotFoundError):  # put into a larger part meanwhile, which the next look finds
                    for key, text in _keys_and_texts(part):
                        if not isinstance(text, str) or self.key(text) != key:
                            raise UserError(
                                f"{part} holds a sentence that another planner stored or that was changed: "
                                "delete this file, and its sentences are planned again"
                            )
                        self._known.add(_short(key))

    def _copy(self, path: Path) -> Iterator[str]:
        """Copy all the rows into one Arrow file, giving the key of each, in order."""
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        kinds = {"string": pa.string(), "large_string": pa.large_string(), "int64": pa.int64(), "float32": pa.float32()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in _COLUMNS.items()])
        copied: set[str] = set()
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, schema) as rows:
            while new := [p for p in self._parts() if p.name not in copied]:
                for part in new:
                    copied.add(part.name)
                    with suppress(FileNotFoundError), ParquetFile(part) as file:  # as in `_look`
                        for batch in file.iter_batches(batch_size=1000, columns=list(_COLUMNS)):
                            rows.write_batch(batch.cast(schema))
                            yield from batch["key"].to_pylist()

    def _row(self, record: Record, seconds: float) -> dict[str, Any]:
        text = record.sequence.text
        return {
            "key": self.key(text),
            "text": json.dumps(text),
            "steps": json.dumps([step_json(s) for s in record.sequence.steps]),
            "fallback": record.fallback,
            "repairs": json.dumps(dict(record.repairs), sort_keys=True),
            "prompt_tokens": record.prompt_tokens,
            "tokens": record.tokens,
            "seconds": seconds,
        }

    def _record(self, row: Mapping[str, Any]) -> Record:
        where = f"{self.folder}, the sentence {row['text'][:60]}"
        try:
            text, steps, repairs = (json.loads(row[name]) for name in ("text", "steps", "repairs"))
        except ValueError as error:
            raise UserError(f"{where}: damaged ({error}): delete the parts in this folder and plan again") from error
        sequence = FusionSequence(text, tuple(parse_step(f"{where}, step {i}", s) for i, s in enumerate(steps, 1)))
        return Record(sequence, row["fallback"], repairs, row["prompt_tokens"], row["tokens"])

    def _write_part(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        from datasets import Dataset, Features, Value, disable_progress_bars

        disable_progress_bars()  # one per part otherwise
        features = Features({name: Value(kind) for name, kind in _COLUMNS.items()})
        table = Dataset.from_dict({name: [row[name] for row in rows] for name in _COLUMNS}, features=features)
        path = self.folder / f"part-{self._writer}-{self._written:06d}.parquet"
        try:
            with files.new_file(path) as temporary:
                table.to_parquet(str(temporary))
        except OSError as error:
            raise UserError(f"cannot store in {self.folder} ({error.strerror or error}): free some room") from error
        self._written += 1
        self._read_parts.add(path.name)
        self._known.update(_short(row["key"]) for row in rows)
        return path


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))


def _short(key: str) -> bytes:
    return bytes.fromhex(key[:32])


def _keys_and_texts(part: Path) -> Iterator[tuple[str, Any]]:
    """Key and sentence of every row; raises ``UserError`` for what is no part, ``FileNotFoundError`` if it is gone."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(part) as file:
            if set(file.schema_arrow.names) != set(_COLUMNS):
                raise UserError(f"{part} has other columns than planned sentences have: move this file away")
            for batch in file.iter_batches(batch_size=1000, columns=["key", "text"]):
                for key, text in zip(batch["key"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    yield key, json.loads(text)
    except FileNotFoundError:
        raise
    except (ArrowException, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{part} is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
            "delete this file, and its sentences are planned again"
        ) from error
