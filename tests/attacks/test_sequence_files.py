"""Sequence files that somebody damaged or made to do harm: one sentence each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.llm.prompt import load_prompt
from neucore_xl.language.planning import sequences_for
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import read_header, read_sequences, write_sequences
from tests.support.strange import DEEP, DIGITS, ESCAPES, NESTED, STRANGE, told

pytestmark = pytest.mark.usefixtures("nobody_waits")
HEADER = '{"format": "neucore-xl/fusion-sequences", "version": 1, "planner": "hand", "settings": {}}'
LINE = '{"text": "make it red", "steps": [{"operation": "keep", "concepts": [], "phrase": "make it red"}]}'


def header(**changes: str) -> str:
    """The header with JSON put in the place of values."""
    keys = dict.fromkeys(json.loads(HEADER)) | changes
    mine = {key: changes.get(key, json.dumps(json.loads(HEADER).get(key))) for key in keys}
    return "{" + ", ".join(f'"{key}": {value}' for key, value in mine.items()) + "}"


def line(text: str = '"make it red"', operation: str = '"keep"', concepts: str = "[]", phrase: str = '"make it red"',
         **more: str) -> str:  # fmt: skip
    extra = "".join(f', "{key}": {value}' for key, value in more.items())
    step = f'{{"operation": {operation}, "concepts": {concepts}, "phrase": {phrase}}}'
    return f'{{"text": {text}, "steps": [{step}]{extra}}}'


def lines(*parts: str) -> bytes:
    return "\n".join(parts).encode("utf-8", "surrogatepass")


# Contents of a file, each wrong in one place; None where the place is the file as a whole.
FILES: dict[str, tuple[bytes, int | None]] = {
    "empty": (b"", None),
    "blank": (b"\n\n\n", None),
    "binary": (bytes(range(256)) * 10, None),
    "zeros": (b"\x00" * 5000, None),
    "UTF-16": (lines(HEADER, LINE).decode().encode("utf-16"), None),
    "cut in the header": (HEADER[:40].encode(), 1),
    "no header": (lines(LINE), 1),
    "header of a list": (lines("[]", LINE), 1),
    "deep header": (lines(DEEP, LINE), 1),
    "deep settings": (lines(header(settings=NESTED), LINE), 1),
    "settings of a list": (lines(header(settings="[1]"), LINE), 1),
    "version of 5,000 digits": (lines(header(version=DIGITS), LINE), 1),
    "version of escapes": (lines(header(version=f'"{ESCAPES}"'), LINE), 1),
    "version of great length": (lines(header(version='"' + "x" * 100_000 + '"'), LINE), 1),
    "version beyond all numbers": (lines(header(version="1e400"), LINE), 1),
    "version that is no number": (lines(header(version="NaN"), LINE), 1),
    "planner of a number": (lines(header(planner="7"), LINE), 1),
    "planner of a list": (lines(header(planner="[]"), LINE), 1),
    "operations of numbers": (lines(header(operations="[1, 2]"), LINE), 1),
    "operations of an object": (lines(header(operations="{}"), LINE), 1),
    "operations of escapes": (lines(header(operations=f'["{ESCAPES}"]'), LINE), 1),
    "ten thousand operations": (lines(header(operations=json.dumps([f"op-{i}" for i in range(10_000)])), LINE), 1),
    "cut in a line": (lines(HEADER, LINE, LINE[:50]), 3),
    "bytes that are no text": (lines(HEADER, LINE) + b"\n" + LINE.encode()[:20] + b"\xff\xfe\n", 3),
    "NUL in a line": (lines(HEADER, LINE, "\x00" + LINE), 3),
    "two objects in a line": (lines(HEADER, LINE + LINE), 2),
    "deep line": (lines(HEADER, DEEP), 2),
    "deep object": (lines(HEADER, LINE, NESTED), 3),
    "deep notes": (lines(HEADER, line(repairs=NESTED)), 2),
    "deep phrase": (lines(HEADER, line(phrase=DEEP)), 2),
    "line of a list": (lines(HEADER, "[]"), 2),
    "line of null": (lines(HEADER, "null"), 2),
    "line of a long number": (lines(HEADER, DIGITS), 2),
    "text of a number": (lines(HEADER, line(text="7")), 2),
    "text of a list": (lines(HEADER, line(text="[]")), 2),
    "text of null": (lines(HEADER, line(text="null")), 2),
    "steps of a number": (lines(HEADER, '{"text": "a", "steps": 7}'), 2),
    "steps of an object": (lines(HEADER, '{"text": "a", "steps": {"0": {}}}'), 2),
    "steps of texts": (lines(HEADER, '{"text": "a", "steps": ["keep"]}'), 2),
    "steps of lists": (lines(HEADER, '{"text": "a", "steps": [[]]}'), 2),
    "no steps": (lines(HEADER, '{"text": "a", "steps": []}'), 2),
    "operation of a list": (lines(HEADER, line(operation="[[]]")), 2),
    "operation of a long number": (lines(HEADER, line(operation=DIGITS)), 2),
    "operation beyond all numbers": (lines(HEADER, line(operation="1e400")), 2),
    "operation of escapes": (lines(HEADER, line(operation=f'"{ESCAPES}"')), 2),
    "operation of 1 MB": (lines(HEADER, line(operation='"' + "k" * 1_000_000 + '"')), 2),
    "operation of null": (lines(HEADER, line(operation="null")), 2),
    "concepts of a text": (lines(HEADER, line(concepts='"red"')), 2),
    "concepts of numbers": (lines(HEADER, line(concepts="[1]")), 2),
    "concepts of an object": (lines(HEADER, line(concepts="{}")), 2),
    "implied of numbers": (
        lines(HEADER, '{"text": "a", "steps": [{"operation": "keep", "phrase": "a", "implied": 1}]}'), 2
    ),
    "phrase of a number": (lines(HEADER, line(phrase="7")), 2),
    "phrase of blanks": (lines(HEADER, line(phrase='" "')), 2),
    "fallback of a list": (lines(HEADER, line(fallback="[1]")), 2),
    "repairs of texts": (lines(HEADER, line(repairs='{"order": "many"}')), 2),
    "repairs of a list": (lines(HEADER, line(repairs="[1]")), 2),
    "repairs of long numbers": (lines(HEADER, line(repairs=f'{{"order": {DIGITS}}}')), 2),
    "id of a long number": (lines(HEADER, line(id=DIGITS)), 2),
    "the same sentence otherwise": (lines(HEADER, LINE, line(operation='"negation"')), 3),
    "NaN beside it": (lines(HEADER, line(score="NaN")), 2),
}  # fmt: skip

GOOD_FILES: dict[str, bytes] = {
    "a byte-order mark": b"\xef\xbb\xbf" + lines(HEADER, LINE),
    "Windows line ends": lines(HEADER, LINE).replace(b"\n", b"\r\n"),
    "blank lines": lines("", LINE).replace(b"\n", b"\n \n").replace(b"", HEADER.encode(), 1),
    "an id of a list": lines(HEADER, line(id="[[[]]]")),
    "keys that nobody knows": lines(HEADER, line(extra=f'"{ESCAPES}"')),
    "the same line twice": lines(HEADER, LINE, LINE),
}


def place(folder: Path, name: str = "llm.jsonl") -> Path:
    return folder / name


@pytest.mark.parametrize(("content", "number"), FILES.values(), ids=FILES)
def test_a_damaged_sequence_file(content: bytes, number: int | None, tmp_path: Path) -> None:
    path = place(tmp_path)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sequences(path)
    said = told(caught.value, path)
    if number is not None:
        assert re.match(rf"{re.escape(str(path))}, line {number}\b", said), said
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", GOOD_FILES.values(), ids=GOOD_FILES)
def test_an_odd_sequence_file(content: bytes, tmp_path: Path) -> None:
    path = place(tmp_path)
    path.write_bytes(content)
    assert list(read_sequences(path).by_text) == ["make it red"]


PRESENT = ("a folder", "a pipe", "a device", "a socket", "4 TiB of nothing")


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("read", [read_sequences, read_header, load_prompt], ids=["all", "header", "prompt"])
def test_what_is_no_file_is_not_read(make: Callable[[Path], None], read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "strange.yaml"
    make(path)
    with pytest.raises(UserError) as caught:
        read(path)
    told(caught.value, path)


@pytest.mark.parametrize("make", [make for name, make in STRANGE.items() if name != "a folder"],
                         ids=[name for name in STRANGE if name != "a folder"])  # fmt: skip
def test_a_run_that_should_read_it_says_so(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = place(tmp_path)
    make(path)
    with pytest.raises(UserError) as caught:
        sequences_for(["make it red"], FusionSettings(sequence="oracle", file=path), LanguageSettings())
    told(caught.value, path)


@pytest.mark.parametrize("name", ["a\x00b", "x" * 300, "\ud800", "a\x1b[31mb"], ids=ascii)
@pytest.mark.parametrize("read", [read_sequences, load_prompt], ids=["sequences", "prompt"])
def test_a_name_that_no_file_has(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    told(caught.value)


@pytest.mark.parametrize("make", [STRANGE[name] for name in PRESENT],
                         ids=PRESENT)  # fmt: skip
def test_nothing_strange_is_written_over(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = place(tmp_path)
    make(path)
    before = os.lstat(path)
    with pytest.raises(UserError) as caught:
        write_sequences(path, [FusionSequence("a", (Step(Operation.KEEP, (), "a"),))], planner="x", settings={})
    told(caught.value)
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
