from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import read_header, read_sequences, write_sequences

SEQUENCES = [
    FusionSequence(
        "Remove the dog\u2028and add a red « cat » 🐱",
        (
            Step(Operation.NEGATION, ("remove", "dog"), "Remove the dog"),
            Step(Operation.ADDITION, ("add", "red", "cat"), "add a red « cat » 🐱"),
        ),
    ),
    FusionSequence("broken \ud800 half", (Step(Operation.DIRECT, ("half",), "broken \ud800 half"),)),
    FusionSequence("   ", ()),
]
READ = [
    SEQUENCES[0],
    FusionSequence("broken ? half", (Step(Operation.DIRECT, ("half",), "broken ? half"),)),  # as annotations are read
    SEQUENCES[2],
]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sequences.jsonl"
    assert write_sequences(path, SEQUENCES, planner="clauses", settings={"max_steps": 6}) == 3
    read = read_sequences(path)
    assert (read.planner, read.settings) == ("clauses", {"max_steps": 6})
    assert list(read.by_text.values()) == READ
    assert [p.name for p in path.parent.iterdir()] == ["sequences.jsonl"]


def test_a_sentence_is_written_once(tmp_path: Path) -> None:
    assert write_sequences(tmp_path / "s", SEQUENCES * 2, planner="x", settings={}) == 3


def test_another_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_sequences(path, SEQUENCES[:1], planner="clauses", settings={})
    before = path.read_bytes()
    write_sequences(path, SEQUENCES[:1], planner="clauses", settings={})  # the same content: nothing to do
    with pytest.raises(UserError, match="exists and differs"):
        write_sequences(path, SEQUENCES, planner="clauses", settings={})
    assert path.read_bytes() == before
    write_sequences(path, SEQUENCES, planner="clauses", settings={}, force=True)
    assert len(read_sequences(path).by_text) == 3


HEADER = '{"format": "neucore-xl/fusion-sequences", "version": 1, "planner": "hand", "settings": {}}\n'
GOOD = '{"text": "a", "steps": [{"operation": "keep", "concepts": [], "phrase": "a"}]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[]\n", "line 1 holds a list where an object is expected"),
        ('{"format": "other"}\n', "line 1: not a sequence file"),
        (HEADER.replace('"version": 1', '"version": 9'), "line 1: version 9"),
        (HEADER.replace('"planner": "hand"', '"planner": 3'), "line 1: the header must name"),
        (HEADER + "\n" + GOOD + "{oops\n", "line 4, column 2: not valid JSON"),
        (HEADER + '{"steps": []}\n', 'line 2: "text" must be'),
        (HEADER + '{"text": "a", "steps": 1}\n', 'line 2: "steps" must be'),
        (HEADER + '{"text": "a", "steps": []}\n', "line 2: a sentence needs"),
        (HEADER + '{"text": "a", "steps": ["x"]}\n', "line 2, step 1: expected an object"),
        (
            HEADER + GOOD.replace("keep", "additon"),
            "line 2, step 1: unknown operation 'additon'; did you mean addition?",
        ),
        (HEADER + GOOD.replace('"keep"', "7"), "unknown operation 7; known are cardinality"),
        (HEADER + GOOD.replace('"concepts": []', '"concepts": [1]'), 'step 1: "concepts" must be'),
        (HEADER + GOOD.replace('"phrase": "a"', '"phrase": " "'), 'step 1: "phrase" must hold'),
        (HEADER + GOOD + GOOD.replace("keep", "negation"), "line 3: the sentence 'a' came before with other steps"),
    ],
)
def test_a_malformed_file_names_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_sequences(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace('"steps"', '"fallback": 3, "steps"'), 'line 2: "fallback" must say why'),
        (GOOD.replace('"steps"', '"repairs": [1], "steps"'), 'line 2: "repairs" must count'),
        (GOOD.replace('"steps"', '"repairs": {"order": "x"}, "steps"'), 'line 2: "repairs" must count'),
    ],
)
def test_malformed_notes(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(HEADER + line)
    with pytest.raises(UserError, match=message):
        read_sequences(tmp_path / "bad.jsonl")


def test_notes_are_written_from_a_stream_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    notes = [{"fallback": "cut short", "repairs": {}}, {"repairs": {"order": 2}, "other": 1}, {"fallback": None}]
    stream = ((s, n) for s, n in zip(SEQUENCES, notes, strict=True))
    assert write_sequences(path, stream, planner="llm", settings={"prompt": "edit-steps.v1-12345678"}) == 3
    read = read_sequences(path)
    assert list(read.by_text.values()) == READ
    first, second, third = (s.text for s in READ)
    assert read.notes == {first: {"fallback": "cut short"}, second: {"repairs": {"order": 2}}}
    assert third not in read.notes
    assert read_header(path)["settings"] == {"prompt": "edit-steps.v1-12345678"}


def test_another_vocabulary_of_operations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_sequences(path, SEQUENCES, planner="llm", settings={})
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"keep"]', '"preserve"]'), encoding="utf-8")
    for read in (read_sequences, read_header):
        with pytest.raises(UserError, match=r"line 1.*\(preserve not known here; keep missing there\): plan .*again"):
            read(path)
    path.write_text(text.replace('"cardinality", "addition"', '"addition", "cardinality"'), encoding="utf-8")
    assert len(read_sequences(path).by_text) == 3  # names, not places, are what a file goes by
    path.write_text(text.replace('["cardinality"', '[1, "cardinality"'), encoding="utf-8")
    with pytest.raises(UserError, match='"operations" must be a list'):
        read_sequences(path)


def test_what_a_stream_breaks_off_with_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[FusionSequence]:
        yield SEQUENCES[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_sequences(tmp_path / "s.jsonl", broken(), planner="llm", settings={})
    assert list(tmp_path.iterdir()) == []


def test_missing_binary_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_sequences(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_sequences(tmp_path / "b.jsonl")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"writing s\.jsonl is impossible"):
        write_sequences(tmp_path / "file" / "s.jsonl", SEQUENCES, planner="x", settings={})
