"""What spaCy said of sentences, stored in a table that was changed or cut: computed again with one line said."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.errors import UserError
from neucore_xl.language.cache import cached_values
from tests.attacks.test_pickles import BYTES
from tests.support.forks import Forks
from tests.support.spoiled import flip, in_its_place

pytestmark = pytest.mark.usefixtures("nobody_waits_for_a_pipe")
WORDS = ["red dog", "two cats", "a beach at night", "none"]


class Reader:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> list[Any]:
        self.asked += texts
        return [{"words": text.split(), "n": len(text)} for text in texts]


def read(folder: Path) -> tuple[list[Any], list[str]]:
    reader = Reader()
    found = cached_values("words", WORDS, reader, key=["model", 1], cache_dir=folder)
    return found, reader.asked


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The Arrow file of a filled cache."""
    found, asked = read(tmp_path)
    assert asked == WORDS
    assert found == Reader()(WORDS)
    assert read(tmp_path)[1] == []
    return next((tmp_path / "language").glob("*.arrow"))


ARROW: dict[str, Callable[[bytes], bytes]] = {
    **{kind: (lambda content, new=new: new) for kind, new in BYTES.items()},
    "half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-9],
    "a byte less": lambda content: content[:-1],
    "without its beginning": lambda content: content[40:],
    "twice": lambda content: content + content,
    "zeros in the middle": lambda content: content[:400] + bytes(200) + content[600:],
    "a length of 2 GB": lambda content: content[:4] + struct.pack("<i", 2**31 - 1) + content[8:],
    "another text": lambda content: content.replace(b"beach", b"bEach"),
    "other values": lambda content: content.replace(b'"n": 8', b'"n": 9'),
    "no JSON": lambda content: content.replace(b'{\\"words\\"', b'[\\"words\\"').replace(b'{"words"', b'["words"'),
}  # fmt: skip


@pytest.mark.parametrize("damage", ARROW)
def test_a_damaged_table_of_sentences_is_computed_again(
    table: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = table.read_bytes()
    table.write_bytes(ARROW[damage](before))
    assert table.read_bytes() != before
    found, asked = read(tmp_path)
    assert asked == WORDS
    assert found == Reader()(WORDS)
    assert len([r for r in caplog.records if "computed again" in r.getMessage()]) == 1
    assert read(tmp_path) == (Reader()(WORDS), [])


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_of_a_table_never_reach_a_run(table: Path, seed: int, tmp_path: Path) -> None:
    flip(table, first=0, count=1 + 7 * seed, seed=seed)
    assert read(tmp_path) == (Reader()(WORDS), WORDS)


@pytest.mark.parametrize("damage", ["empty", "half", "without its end", "another text"])
def test_a_damaged_table_of_an_older_version_is_computed_again(table: Path, damage: str, tmp_path: Path) -> None:
    for other in table.parent.iterdir():
        if other != table:
            other.unlink()
    assert read(tmp_path)[1] == [], "an older table serves"
    for other in table.parent.iterdir():
        if other != table:
            other.unlink()
    table.write_bytes(ARROW[damage](table.read_bytes()))
    assert read(tmp_path) == (Reader()(WORDS), WORDS)
    assert read(tmp_path)[1] == []


@pytest.mark.parametrize("what", ["a pipe", "a loop of links"])
def test_a_table_that_is_no_file_is_computed_again(table: Path, what: str, tmp_path: Path) -> None:
    table.unlink()
    in_its_place(table, what)
    assert read(tmp_path) == (Reader()(WORDS), WORDS)
    assert read(tmp_path)[1] == []


def test_a_folder_in_the_place_of_a_table_is_one_sentence(table: Path, tmp_path: Path) -> None:
    table.unlink()
    table.mkdir()
    with pytest.raises(UserError, match="cache of sentences") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


SENTENCES = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.attacks.test_tables import Reader, WORDS, read
found, asked = read(Path(sys.argv[2]))
assert found == Reader()(WORDS)
print(len(asked))
"""


@pytest.mark.slow
def test_four_processes_heal_one_table(table: Path, tmp_path: Path, forks: Forks) -> None:
    """Slow: two seconds; four processes must meet at one damaged table."""
    table.write_bytes(b"")
    script = tmp_path / "read.py"
    script.write_text(SENTENCES)
    repository = Path(__file__).resolve().parents[2]
    started = [
        forks.start([script, repository, tmp_path], out=tmp_path / f"{i}.txt", err=tmp_path / f"{i}.err")
        for i in range(4)
    ]
    assert [process.wait(120) for process in started] == [0] * 4, [process.said() for process in started]
    assert sum(int((tmp_path / f"{i}.txt").read_text()) for i in range(4)) == len(WORDS)
