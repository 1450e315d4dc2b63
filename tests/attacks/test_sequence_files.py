"""Sequence files, prompts and stored sentences that somebody damaged or made to do harm: one sentence each."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.errors import UserError, one_sentence
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.llm.prompt import DEFAULT, load_prompt
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.planning import sequences_for
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import read_header, read_sequences, write_sequences
from neucore_xl.prepare.llm import LlmOptions, stored_identity

HEADER = '{"format": "neucore-xl/fusion-sequences", "version": 1, "planner": "hand", "settings": {}}'
LINE = '{"text": "make it red", "steps": [{"operation": "keep", "concepts": [], "phrase": "make it red"}]}'
DEEP = "[" * 50_000 + "]" * 50_000
NESTED = '{"a":' * 50_000 + "1" + "}" * 50_000
DIGITS = "9" * 5000
ESCAPES = "\\u001b]0;owned\\u0007\\u001b[31m"


@pytest.fixture(autouse=True)
def _nobody_waits() -> Iterator[None]:
    """What is waited for (a pipe that nobody writes to) or read for ever (a device) ends in an error and not never."""

    def give_up(*about: Any) -> None:
        raise RuntimeError("waited for")

    before = signal.signal(signal.SIGALRM, give_up)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), hard))
    signal.alarm(20)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGALRM, before)


def told(error: UserError, *parts: object) -> str:
    said = one_sentence(error)
    assert said is not None
    assert said[1] == 2
    assert len(said[0]) < 1500
    assert all(c.isprintable() for c in said[0]), ascii(said[0][:300])
    for part in parts:
        assert str(part) in said[0]
    return said[0]


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


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_long_loop(path: Path) -> None:
    path.symlink_to(path.with_name("b"))
    path.with_name("b").symlink_to(path)


def a_dead_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)  # of which the disk holds nothing


STRANGE: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a pipe": a_pipe,
    "a link to itself": a_loop,
    "two links in a circle": a_long_loop,
    "a link to nothing": a_dead_link,
    "a device": a_device,
    "a socket": a_socket,
    "4 TiB of nothing": a_huge_file,
    "nothing": lambda path: None,
}


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


# ------------------------------------------------------------------------------------------------------- prompts

BOMB = "\n".join(
    [f"a0: &a0 [{', '.join(['boom'] * 10)}]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8))]
)
MERGES = "\n".join(
    ["m0: &m0 {k: v}", *(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 12)}]}}" for i in range(1, 8))]
)


def shipped() -> str:
    import neucore_xl.language.llm.prompt as module

    return (Path(module.__file__).parent / "prompts" / f"{DEFAULT}.yaml").read_text(encoding="utf-8")


def swapped(key: str, value: str) -> str:
    """The shipped prompt with another value for one of its keys."""
    blocks = re.split(r"(?m)^(?=[a-z_]+:)", shipped())
    return "".join(f"{key}: {value}\n" if block.startswith(f"{key}:") else block for block in blocks)


PROMPTS: dict[str, Callable[[], str | bytes]] = {
    "empty": lambda: "",
    "a text": lambda: "hello",
    "a list": lambda: "[1, 2]",
    "a number of 5,000 digits": lambda: DIGITS,
    "not UTF-8": lambda: b"\xff\xfe\x00",
    "NUL": lambda: b"name: a\x00b",
    "escapes": lambda: "name: \x1b[31m",
    "tabs": lambda: "name:\n\t- x",
    "deep lists": lambda: "[" * 20_000 + "]" * 20_000,
    "deep mappings": lambda: "{a: " * 5000 + "1" + "}" * 5000,
    "a bomb of aliases": lambda: BOMB,
    "a bomb of merges": lambda: MERGES,
    "a bomb in the operations": lambda: BOMB + "\n" + swapped("operations", "*a8"),
    "a bomb in one operation": lambda: BOMB + "\n" + shipped().replace("operations:", "operations:\n  keep: *a8", 1),
    "a list that holds itself": lambda: swapped("examples", "&x [*x]"),
    "a mapping that holds itself": lambda: swapped("operations", "&x {keep: *x}"),
    "an alias of nothing": lambda: swapped("name", "*nothing"),
    "an object of Python": lambda: swapped("name", "!!python/object/apply:os.system ['true']"),
    "a key that is a list": lambda: "? [a, b]\n: c\n",
    "two documents": lambda: shipped() + "\n---\nname: other\n",
    "a date that is none": lambda: swapped("examples", "2024-99-99"),
    "a name of a long number": lambda: swapped("question", DIGITS),
    "a question without its place": lambda: swapped("question", "hello"),
    "a question with two places": lambda: swapped("question", "'{sentence} {sentence}'"),
    "an instruction of a list": lambda: swapped("instruction", "[a]"),
    "a question of a mapping": lambda: swapped("question", "{a: b}"),
    "operations of a text": lambda: swapped("operations", "keep"),
    "operations of a list": lambda: swapped("operations", "[keep]"),
    "operations of another name": lambda: swapped("operations", "{hop: x}"),
    "formats of a number": lambda: swapped("formats", "7"),
    "examples of a number": lambda: swapped("examples", "7"),
    "examples of texts": lambda: swapped("examples", "[a, b]"),
    "examples of lists": lambda: swapped("examples", "[[a], [b]]"),
    "an example without steps": lambda: swapped("examples", "[{sentence: a}]"),
    "an example of no steps": lambda: swapped("examples", "[{sentence: a, steps: []}]"),
    "steps of numbers": lambda: swapped("examples", "[{sentence: a, steps: [1, 2]}]"),
    "steps of a mapping": lambda: swapped("examples", "[{sentence: a, steps: {a: b}}]"),
    "an unknown operation": lambda: swapped("examples", "[{sentence: a, steps: [{operation: hop, phrase: a}]}]"),
    "a phrase of a list": lambda: swapped("examples", "[{sentence: a, steps: [{operation: keep, phrase: [a]}]}]"),
    "a phrase from elsewhere": lambda: swapped("examples", "[{sentence: a, steps: [{operation: keep, phrase: b}]}]"),
    "concepts of a mapping": lambda: swapped(
        "examples", "[{sentence: a, steps: [{operation: keep, phrase: a, concepts: {x: y}}]}]"
    ),
    "a key that nobody knows": lambda: shipped() + "\nmore: x\n",
    "a key of escapes": lambda: shipped() + '\n"\\e[31m": x\n',
    "ten thousand keys": lambda: "\n".join(f"k{i}: x" for i in range(10_000)),
    "4 MB of name": lambda: swapped("name", "x" * 4_000_000),
}


@pytest.mark.parametrize("content", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_that_is_none(content: Callable[[], str | bytes], tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    made = content()
    path.write_bytes(made if isinstance(made, bytes) else made.encode())
    with pytest.raises(UserError) as caught:
        load_prompt(path)
    told(caught.value, path)


def test_the_shipped_prompt_is_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(shipped(), encoding="utf-8")
    assert load_prompt(path) == load_prompt(DEFAULT)


# ---------------------------------------------------------------------------------------------- stored sentences

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
