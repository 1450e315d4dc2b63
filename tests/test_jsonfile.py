"""Every way in which a JSON file can be wrong gives one sentence with the file and, where there is one, the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import DEPTH, BadContent, file_name, one_line, parse_json, read_bytes, read_json


def _message(path: Path, expect: type = list) -> str:
    with pytest.raises(UserError) as caught:
        read_json(path, expect)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[\n{"a": 1},\n{"a": }\n]', "line 3, column 7: not valid JSON"),
        (b'[\n{"a": 1},\n', "line 3"),  # cut off
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b'["a",\n"\xff\xfe"]', "line 2: not UTF-8"),
        (b'{"a": 1}', "holds an object where a list is expected"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "nested too deeply"),
        (b'[\n{"a": ' + b"9" * 5000 + b"}]", "line 2: the number 999999999999… of 5,000 digits is too large"),
        (b'[{"a":\n\n-1e400}]', "line 3: the number -1e400 is too large"),
        (b'[{"a": NaN}]', "line 1: the number NaN"),
        (b"[-Infinity]", "line 1: the number -Infinity"),
    ],
)
def test_wrong_content_is_named_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "cap.json"
    path.write_bytes(content)
    assert words in _message(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "does not exist" in _message(tmp_path / "no.json")
    assert "is a folder, not a file" in _message(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert "is a pipe or a device" in _message(tmp_path / "pipe.json")
    assert "is a pipe or a device" in _message(Path("/dev/zero"))
    (tmp_path / "loop.json").symlink_to("loop.json")
    assert "is a link to itself" in _message(tmp_path / "loop.json")
    with pytest.raises(UserError, match="not a name that a file can have"):
        read_json(tmp_path / "a\0b", list)
    with pytest.raises(UserError, match="not a name that a file can have"):
        read_json(tmp_path / "a\ud800b", list)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[1, 2]")
    assert read_bytes(tmp_path / "a.json", limit=6) == b"[1, 2]"
    with pytest.raises(UserError, match="has 6 bytes, more than the 5 that are read"):
        read_json(tmp_path / "a.json", list, limit=5)


def test_wrong_content_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadContent):
        parse_json(b"{", "the answer", dict)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "no.json", dict)
    assert not isinstance(caught.value, BadContent)


def test_nesting_and_numbers_that_fit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" * DEPTH + b"-1234567890123456789, 1e-400, 1e300" + b"]" * DEPTH)
    read_json(path, list)
    assert parse_json("[NaN, Infinity]", "x", list, allow_nan=True)[1] == float("inf")


def test_half_characters_become_question_marks_and_pairs_stay() -> None:
    value = parse_json(r'{"a\ud800": ["\udfffx", "\ud83d\ude00"]}', "x", dict)
    assert value == {"a?": ["?x", "\U0001f600"]}


@pytest.mark.parametrize("name", ["", " ", "/etc/passwd", "../x", "a/../../b", "a\0b", "a\x1b[2J", "a\ud800"])
def test_names_that_lead_elsewhere_or_cannot_exist_are_refused(name: str) -> None:
    with pytest.raises(BadContent, match="row 3"):
        file_name(name, "row 3")


def test_names_of_the_datasets_are_file_names() -> None:
    for name in ("./dev/dev-0-0-img0.png", "B005X4PL1G", "a..b.png", "ü/ñ.jpg"):
        assert file_name(name, "row 3") == name


def test_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path, list) == [1]


def test_repeated_keys_are_collected(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": 1, "y": {"z": 1, "z": 2, "z": 3}, "x": 2}', encoding="utf-8")
    clashes: list[str] = []
    assert read_json(path, dict, clashes=clashes) == {"x": 2, "y": {"z": 3}}
    assert sorted(clashes) == ["x", "z", "z"]


def test_one_line_survives_half_characters() -> None:
    assert one_line(" a\t\nb \ud800 ") == "a b ?"
