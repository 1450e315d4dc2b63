"""A damaged log.jsonl: good lines are kept, bad ones left out and said, the old file is kept, and nothing stops."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.training.journal import RunLog, read_log
from tests.support.damage import DEEP, NUMBER, SPECIAL, damage

pytestmark = pytest.mark.timeout(60)
BAD: dict[str, bytes] = {
    "blank": b"",
    "blanks": b"   ",
    "cut": b'{"step": 3, "lo',
    "two glued by a power cut": b'{"step": 3, "lo{"step": 4}',
    "zeros": bytes(300),
    "not UTF-8": b'{"step": 3, "loss": 1.0, "\xff\xfe": 1}',
    "another kind of file": b"\x89PNG\r\x1a",
    "a number": b"17",
    "null": b"null",
    "true": b"true",
    "a text": b'"step 3"',
    "a list": b'[{"step": 3}]',
    "no step": b'{"loss": 1.0}',
    "an empty object": b"{}",
    "a step as text": b'{"step": "3", "loss": 1.0}',
    "a step of null": b'{"step": null}',
    "a step as fraction": b'{"step": 3.5}',
    "a step of true": b'{"step": true}',
    "a step below none": b'{"step": -3}',
    "a step without end": b'{"step": Infinity}',
    "a huge step": b'{"step": ' + NUMBER.encode() + b"}",
    "a step as list": b'{"step": [3]}',
    "a loss as text": b'{"step": 3, "loss": "low"}',
    "a loss as list": b'{"step": 3, "loss": [1.0]}',
    "a huge loss": b'{"step": 3, "loss": ' + NUMBER.encode() + b"}",
    "validation as list": b'{"step": 3, "validation": [1, 2]}',
    "validation of texts": b'{"step": 3, "validation": {"R@1": "high"}}',
    "nested deeply": b'{"step": 3, "ids": ' + DEEP.encode() + b"}",
    "deep objects": b'{"step": 3, "validation": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "another log": b'[2026-01-01 10:00:00] step 3 loss 1.0',
    "an answer of a server": b'data: {"id": 1, "choices": []}',
    "YAML": b"step: 3",
}  # fmt: skip


def line(step: int) -> bytes:
    return json.dumps({"step": step, "loss": 1.0 / step, "validation": {"R@1": 50.0}}).encode()


def steps(path: Path) -> list[int]:
    return [json.loads(text)["step"] for text in path.read_text().splitlines()]


@pytest.mark.parametrize("where", ["first", "last but one", "everywhere"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_costs_itself_alone(kind: str, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on from step 4: before, all lines after the bad one were dropped, or the run was stopped."""
    lines = [line(step) for step in (1, 2, 4, 5, 6)]
    for place in {"first": [0], "last but one": [4], "everywhere": [5, 3, 1, 0]}[where]:
        lines.insert(place, BAD[kind])
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(one + b"\n" for one in lines))
    before = path.read_bytes()
    assert [record["step"] for record in read_log(path)] == [1, 2, 4, 5, 6]
    with caplog.at_level(logging.WARNING):
        log = RunLog(tmp_path, resumed=4)
    log.write({"step": 5, "loss": 0.5})
    log.close()
    assert steps(path) == [1, 2, 4, 5]
    assert path.read_bytes().startswith(line(1) + b"\n" + line(2) + b"\n" + line(4) + b"\n")
    kept = [p for p in tmp_path.iterdir() if p.is_file() and p != path]
    assert [p.read_bytes() for p in kept] == [before]
    assert kept[0].name in caplog.text
    assert "line" in caplog.text
    caplog.clear()
    RunLog(tmp_path, resumed=5).close()
    assert not caplog.text
    assert steps(path) == [1, 2, 4, 5]


def test_every_damage_is_kept_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for number in (1, 2, 3):
        path.write_bytes(line(1) + b"\nbad %d\n" % number)
        RunLog(tmp_path, resumed=1).close()
    kept = sorted(p.read_bytes()[-2:-1] for p in tmp_path.iterdir() if p.is_file() and p != path)
    assert kept == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "rest",
    [b'{"step": 5, "lo', b'{"step": 5, "loss": 1.0', b"{", b'{"step": 5, "l\xc3', b"\x00\x00"],
    ids=["in a key", "before its end", "at its beginning", "in a character", "zeros"],
)
def test_a_last_line_that_a_kill_cut_is_dropped_without_a_word(
    rest: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(line(3) + b"\n" + line(4) + b"\n" + rest)
    RunLog(tmp_path, resumed=4).close()
    assert steps(path) == [3, 4]
    assert not caplog.text
    assert not [p for p in tmp_path.iterdir() if p.is_file() and p != path]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null", "1e-300", "0", "-1"])
def test_numbers_that_a_run_writes_are_good(value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    text = f'{{"step": 1, "loss": {value}, "stopped": "the loss is not finite", "ids": ["a"], "checkpoint": null}}\n'
    path.write_text(text)
    RunLog(tmp_path, resumed=1).close()
    assert path.read_text() == text
    assert not caplog.text


@pytest.mark.parametrize("kind", SPECIAL)
def test_something_else_in_its_place_is_one_sentence(kind: str, tmp_path: Path) -> None:
    damage(kind, tmp_path / "log.jsonl")
    with pytest.raises(UserError) as caught:
        RunLog(tmp_path, resumed=4)
    assert "log" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["file", "fifo", "loop", "dangling"])
def test_something_else_in_the_place_of_tensorboards_folder_is_one_sentence(kind: str, tmp_path: Path) -> None:
    damage(kind, tmp_path / "tensorboard")
    (tmp_path / "log.jsonl").write_bytes(line(1) + b"\n")
    with pytest.raises(UserError) as caught:
        RunLog(tmp_path, resumed=1)
    assert "\n" not in str(caught.value)
    assert steps(tmp_path / "log.jsonl") == [1]
