"""Stored sentences that somebody damaged or made to do harm: read as they were, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.prepare.llm import LlmOptions, stored_identity
from tests.support.strange import (
    DEEP,
    DIGITS,
    ESCAPES,
    NESTED,
    STRANGE,
    a_device,
    a_loop,
    a_pipe,
    a_socket,
    told,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("nobody_waits")
IDENTITY: dict[str, Any] = {
    "writer": {"model": "tiny", "prompt": "x", "decoding": {"form": "objects", "max_new_tokens": 64}}, "max_steps": 6
}  # fmt: skip
TEXTS = ["make it red", "add two dogs", "remove the cat"]


def record(text: str) -> Record:
    return Record(FusionSequence(text, (Step(Operation.KEEP, (), text),)))


def filled(folder: Path) -> SentenceStore:
    store = SentenceStore(folder, IDENTITY)
    store.open()
    store.put([record(text) for text in TEXTS])
    return store


def part_of(store: SentenceStore) -> Path:
    (part,) = store.folder.glob("part-*.parquet")
    return part


def read_again(folder: Path) -> list[Record]:
    """As the same command that is started again would."""
    store = SentenceStore(folder, IDENTITY)
    store.open()
    pending = store.pending(TEXTS)
    return list(store.read([text for text in TEXTS if text not in pending]))


def column(name: str, value: Any) -> Callable[[Path], None]:
    """The part with another value in one column of every row, its type included."""

    def change(path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        table = parquet.read_table(path)
        at = table.schema.get_field_index(name)
        parquet.write_table(table.set_column(at, name, pa.array([value] * len(table))), path)

    return change


def flipped(share: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        at = int(share * len(raw))
        raw[at : at + 4] = bytes(b ^ 0xFF for b in raw[at : at + 4])
        path.write_bytes(bytes(raw))

    return change


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]) and None


def instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


PARTS: dict[str, Callable[[Path], None]] = {
    "empty": cut(0.0), "cut at a third": cut(0.3), "cut at its end": cut(0.99), "one byte short": cut(0.9999),
    "text": lambda path: path.write_text("hello") and None,
    "zeros": lambda path: path.write_bytes(bytes(5000)) and None,
    **{f"flipped at {share:.0%}": flipped(share) for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.999)},
    "a folder": instead(Path.mkdir), "a pipe": instead(a_pipe), "a link to itself": instead(a_loop),
    "a device": instead(a_device), "a socket": instead(a_socket),
    "keys of another planner": column("key", "0" * 64), "keys of numbers": column("key", 7),
    "keys of nothing": column("key", None), "short keys": column("key", "ab"),
    "other sentences": column("text", '"another"'), "sentences of numbers": column("text", 7),
    "sentences that are no JSON": column("text", "hello"), "deep sentences": column("text", DEEP),
    "sentences of long numbers": column("text", DIGITS),
    "steps that are no JSON": column("steps", "hello"), "deep steps": column("steps", DEEP),
    "steps of long numbers": column("steps", f"[{DIGITS}]"), "steps of an object": column("steps", "{}"),
    "steps of null": column("steps", "null"), "steps of nothing": column("steps", None),
    "steps of numbers": column("steps", 7), "steps of texts": column("steps", '["keep"]'),
    "steps of another sentence": column("steps", '[{"operation": "keep", "concepts": [], "phrase": "else"}]'),
    "no steps": column("steps", "[]"),
    "repairs of a list": column("repairs", "[]"), "deep repairs": column("repairs", DEEP),
    "repairs of texts": column("repairs", '{"order": "many"}'),
    "repairs of nothing": column("repairs", None), "fallback of numbers": column("fallback", 7),
    "tokens of texts": column("tokens", "many"), "tokens of nothing": column("tokens", None),
    "tokens below zero": column("prompt_tokens", -5),
}  # fmt: skip


@pytest.mark.parametrize("damage", PARTS.values(), ids=PARTS)
def test_a_damaged_part_is_named_or_read_as_it_was(damage: Callable[[Path], None], tmp_path: Path) -> None:
    part = part_of(filled(tmp_path))
    damage(part)
    try:
        found = read_again(tmp_path)
    except UserError as error:
        told(error, part.parent, "again")
    else:
        assert found == [record(text) for text in TEXTS]


IDENTITIES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "cut": cut(0.5),
    "binary": lambda path: path.write_bytes(b"\xff\xfe") and None,
    "deep": lambda path: path.write_text(DEEP) and None,
    "deep objects": lambda path: path.write_text(NESTED) and None,
    "a list": lambda path: path.write_text("[]") and None,
    "null": lambda path: path.write_text("null") and None,
    "a long number": lambda path: path.write_text(f'{{"writer": {DIGITS}}}') and None,
    "another planner": lambda path: path.write_text('{"writer": {}}') and None,
    "decoding of a text": lambda path: path.write_text('{"writer": {"decoding": "x"}}') and None,
    "a model of a number": lambda path: path.write_text(json.dumps(IDENTITY).replace('"tiny"', "7")) and None,
    "a model of NUL": lambda path: path.write_text(json.dumps(IDENTITY).replace("tiny", "\\u0000")) and None,
    "a model of escapes": lambda path: path.write_text(json.dumps(IDENTITY).replace("tiny", ESCAPES)) and None,
    **{name: instead(make) for name, make in STRANGE.items()},
}


@pytest.mark.parametrize("damage", IDENTITIES.values(), ids=IDENTITIES)
def test_a_damaged_identity_heals_or_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = filled(tmp_path / "sequences").folder / "identity.json"
    before = path.read_bytes()
    damage(path)
    with pytest.raises(UserError) as caught:
        stored_identity(tmp_path, LlmOptions("tiny", endpoint="http://x/v1", max_new_tokens=64))
    told(caught.value)
    try:
        found = read_again(tmp_path / "sequences")
    except UserError as error:
        told(error, path.parent)
    else:
        assert found == [record(text) for text in TEXTS]
        assert path.read_bytes() == before
