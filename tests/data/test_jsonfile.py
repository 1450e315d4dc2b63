"""Every way in which a JSON file can be wrong gives one sentence with the file and, where there is one, the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from neucore_xl.data.jsonfile import one_line, read_json
from neucore_xl.errors import UserError


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
    ],
)
def test_wrong_content_is_named_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "cap.json"
    path.write_bytes(content)
    assert words in _message(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "does not exist" in _message(tmp_path / "no.json")
    assert "cannot be read" in _message(tmp_path)


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
