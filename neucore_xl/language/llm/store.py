"""Planned sentences on disk, each stored for good as soon as its portion is finished, found again by its content.

A folder ``llm-DIGEST`` per planner identity (model, revision, prompt, decoding, …), so that two planners never meet.
In it ``identity.json`` and Parquet parts; a part is written under a temporary name, synced and renamed, so that what
bears its name is whole. A row's key is a digest of the identity and the sentence: a row that was changed, or belongs
to another planner, does not fit its key. Any number of processes may write to one folder: no two parts share a name,
and a sentence that two of them planned counts once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neucore_xl import files
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, parse_json, read_json
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.sequence import FusionSequence, check_sequence
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
                self._write_identity(path)
            try:
                found = read_json(path, dict)
            except BadContent:  # the folder's name says what must stand there
                self._write_identity(path)
                found = self.identity
        except OSError as error:
            raise UserError(
                f"planned sentences cannot be stored in {self.folder} ({error.strerror or error}): give a folder of "
                "annotations that can be written to, or free some room"
            ) from error
        if found != self.identity:
            raise UserError(f"{path} tells of another planner than the folder's name: move the folder away")

    def _write_identity(self, path: Path) -> None:
        files.write_text(path, json.dumps(self.identity, indent=1, sort_keys=True) + "\n")

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

        schema = _schema()
        copied: set[str] = set()
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, schema) as rows:
            while new := [p for p in self._parts() if p.name not in copied]:
                for part in new:
                    copied.add(part.name)
                    with suppress(FileNotFoundError), _opened(part) as file:  # as in `_look`
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
            text: str = json.loads(row["text"])  # held against its key already
            parse_json(row["steps"], f"{where}, steps", list)
            steps = json.loads(row["steps"])  # with half characters as they are in the sentence
            repairs = parse_json(row["repairs"], f"{where}, repairs", dict)
            sequence = FusionSequence(text, tuple(parse_step(f"{where}, step {i}", s) for i, s in enumerate(steps, 1)))
            counts = [*repairs.values(), row["prompt_tokens"], row["tokens"]]
            if not all(type(count) is int and count >= 0 for count in counts):
                raise UserError(f"{where}: a number of repairs or tokens is none")
            if problems := check_sequence(sequence, max_steps=max(1, len(steps))):
                raise UserError(f"{where}: {problems[0]}")
        except UserError as error:
            raise UserError(f"{error}: delete the parts in this folder and plan again") from error
        return Record(sequence, row["fallback"], repairs, row["prompt_tokens"], row["tokens"])

    def _write_part(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({name: [row[name] for row in rows] for name in _COLUMNS}, schema=_schema())
        path = self.folder / f"part-{self._writer}-{self._written:06d}.parquet"
        try:
            with files.new_file(path) as temporary:
                parquet.write_table(table, temporary, write_page_checksum=True)
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


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"string": pa.string(), "large_string": pa.large_string(), "int64": pa.int64(), "float32": pa.float32()}
    return pa.schema([(name, kinds[kind]) for name, kind in _COLUMNS.items()])


@contextmanager
def _opened(part: Path) -> Iterator[Any]:
    """A part to read from; raises ``UserError`` for what is none, ``FileNotFoundError`` if it is gone meanwhile."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        if not stat.S_ISREG(part.stat().st_mode):
            raise UserError(f"{part} is no file: move it away, and its sentences are planned again")
        with ParquetFile(part, page_checksum_verification=True) as file:
            found = file.schema_arrow
            if set(found.names) != set(_COLUMNS) or any(
                found.field(name).type not in (kind.type, _of_earlier(kind.type))
                for name, kind in zip(_COLUMNS, _schema(), strict=True)
            ):
                raise UserError(
                    f"{part} has other columns than planned sentences have: move it away, and they are planned again"
                )
            yield file
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT):  # gone meanwhile; of what is written beside it
            raise
        raise _damaged(part, error) from error
    except (ArrowException, ValueError, TypeError, RecursionError) as error:
        raise _damaged(part, error) from error


def _damaged(part: Path, error: Exception) -> UserError:
    why = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"{part} is damaged ({why}): delete this file, and its sentences are planned again")


def _of_earlier(kind: Any) -> Any:
    """What a library of another version may have made of a column's type."""
    import pyarrow as pa

    return {pa.large_string(): pa.string(), pa.string(): pa.large_string(), pa.float32(): pa.float64()}.get(kind, kind)


def _keys_and_texts(part: Path) -> Iterator[tuple[str, Any]]:
    """Key and sentence of every row; raises as ``_opened`` does."""
    with _opened(part) as file:
        for batch in file.iter_batches(batch_size=1000, columns=["key", "text"]):
            for key, text in zip(batch["key"].to_pylist(), batch["text"].to_pylist(), strict=True):
                yield key, json.loads(text)
