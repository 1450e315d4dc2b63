"""Planned sentences on disk (neucore_xl.language.llm.store)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.language.llm import store as storing
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.sequence import FusionSequence, Operation, Step

IDENTITY = {"model": "small", "revision": "1", "decoding": {"beams": 1}}


def record(text: str, **more: object) -> Record:
    return Record(FusionSequence(text, (Step(Operation.KEEP, ("it",), text, ("cat",)),)), **more)  # type: ignore[arg-type]


def opened(parent: Path, identity: dict[str, object] = IDENTITY) -> SentenceStore:
    made = SentenceStore(parent, identity)
    made.open()
    return made


NASTY = ["half \ud800 of 🐱", '{"steps": []}', "a\u2028b\x00c", "x" * 10_000, "'; --", "Größe → 大"]


def test_what_is_stored_comes_back_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    first = opened(tmp_path)
    kept = {t: record(t, repairs={"phrase": 2}, prompt_tokens=5, tokens=i) for i, t in enumerate(NASTY)}
    kept["fell"] = record("fell", fallback="broken JSON")
    for text in kept:
        first.put([kept[text]], seconds=1.5)
    again = opened(tmp_path)
    order = list(reversed(kept))
    assert list(again.read(order)) == [kept[t] for t in order]
    assert list(again.read(order[2:4])) == [kept[t] for t in order[2:4]]
    assert again.pending([*order, "new", "newer"]) == ["new", "newer"]
    assert json.loads((again.folder / "identity.json").read_text()) == IDENTITY
    with pytest.raises(LookupError, match="1 sentences are not stored"):
        list(again.read(["new", "fell"]))


def test_a_store_of_nothing_gives_nothing(tmp_path: Path) -> None:
    assert list(opened(tmp_path).read([])) == []
    with pytest.raises(LookupError):
        list(opened(tmp_path).read(["one"]))


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, unique=True))
def test_a_key_belongs_to_one_sentence_of_one_planner(texts: list[str]) -> None:
    stores = [SentenceStore(Path("x"), identity) for identity in (IDENTITY, IDENTITY | {"revision": "2"})]
    keys = {s.key(t) for s in stores for t in texts}
    assert len(keys) == 2 * len(texts)
    assert stores[0].folder != stores[1].folder
    same = SentenceStore(Path("x"), dict(reversed(IDENTITY.items())))
    assert (same.folder, same.key(texts[0])) == (stores[0].folder, stores[0].key(texts[0]))


def test_small_parts_become_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "SMALL_PARTS", 4)
    monkeypatch.setattr(storing, "FULL_PART", 10)
    made = opened(tmp_path)
    texts = [f"sentence {i}" for i in range(40)]
    for text in texts:
        made.put([record(text)])
    made.compact()
    assert len(list(made.folder.glob("*.parquet"))) == 4  # of ten sentences or a few more
    other = opened(tmp_path)
    assert other.pending(texts) == []
    assert [r.sequence.text for r in other.read(texts)] == texts


def test_another_process_sees_what_is_put_together_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader lists the parts, then the writer replaces them by one before they are opened."""
    writer, reader = opened(tmp_path), opened(tmp_path)
    texts = ["one", "two", "three"]
    for text in texts:
        writer.put([record(text)])
    listed = SentenceStore._parts
    replaced: list[Path] = []

    def slow(self: SentenceStore) -> list[Path]:
        found = listed(self)
        if self is reader and not replaced:
            replaced.extend(found)
            writer.compact()
        return found

    monkeypatch.setattr(SentenceStore, "_parts", slow)
    assert reader.pending([*texts, "four"]) == ["four"]
    assert len(replaced) == 3
    assert not any(p.exists() for p in replaced)
    again = opened(tmp_path)
    monkeypatch.setattr(SentenceStore, "_parts", listed)
    assert [r.sequence.text for r in again.read(texts)] == texts


def test_what_is_half_written_is_passed_over_and_swept_away_when_it_is_old(tmp_path: Path) -> None:
    made = opened(tmp_path)
    made.put([record("whole")])
    part = next(made.folder.glob("*.parquet"))
    young, old = made.folder / f".{part.name}.12", made.folder / f".{part.name}.34"
    for leftover in (young, old):
        leftover.write_bytes(part.read_bytes()[:50])
    os.utime(old, (time.time() - 7200,) * 2)
    again = opened(tmp_path)
    assert again.pending(["whole", "half"]) == ["half"]
    assert young.exists()
    assert not old.exists()


def test_a_part_that_is_damaged_foreign_or_changed_is_named(tmp_path: Path) -> None:
    made, foreign = opened(tmp_path), opened(tmp_path, IDENTITY | {"model": "other"})
    made.put([record("mine")])
    foreign.put([record("theirs")])
    mine, theirs = (next(s.folder.glob("*.parquet")) for s in (made, foreign))
    whole = mine.read_bytes()

    placed = made.folder / theirs.name
    placed.write_bytes(theirs.read_bytes())
    with pytest.raises(UserError, match=f"{theirs.name} holds a sentence that another planner stored"):
        opened(tmp_path).pending(["mine"])
    placed.unlink()

    for broken in (whole[:60], b"", b"PAR1 not really", whole[:100] + b"\xff" * 40 + whole[140:]):
        mine.write_bytes(broken)
        with pytest.raises(UserError, match=f"{mine.name} (is damaged|holds a sentence)"):
            opened(tmp_path).pending(["mine"])
    mine.unlink()
    assert opened(tmp_path).pending(["mine"]) == ["mine"]

    from datasets import Dataset

    Dataset.from_dict({"a": [1]}).to_parquet(str(mine))
    with pytest.raises(UserError, match="other columns"):
        opened(tmp_path).pending(["mine"])


def test_a_folder_that_is_not_its_own_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    made = opened(tmp_path)
    (made.folder / "identity.json").write_text('{"model": "other"}')
    with pytest.raises(UserError, match="another planner than the folder's name"):
        opened(tmp_path)
    (made.folder / "identity.json").write_text('{"model"')
    opened(tmp_path)  # the folder's name says what must stand there
    assert json.loads((made.folder / "identity.json").read_text()) == IDENTITY
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be stored in"):
        opened(tmp_path / "file")


def test_a_disk_that_refuses_loses_nothing_that_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = opened(tmp_path)
    made.put([record("before")])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            made.put([record("after")])
    assert opened(tmp_path).pending(["before", "after"]) == ["after"]
    assert [p.name for p in made.folder.glob(".*")] == []
