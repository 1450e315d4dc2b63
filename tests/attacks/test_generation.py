"""`data generate` killed, started twice, or pointed at a folder that somebody prepared: nothing half done stays."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neucore_xl.errors import UserError
from neucore_xl.shapes.generate import generate
from tests.support.forks import REPOSITORY, Fork, Forks
from tests.support.promptly import promptly

PATIENCE = 40  # seconds for a busy machine; the processes here take two
SCRIPT = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from neucore_xl.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "generate", "shapes"]
    main()
"""
MANY = ("--train", 600, "--val", 0, "--test", 0, "--size", 32)  # 512 are drawn by several processes
FEW = ("--train", 12, "--val", 0, "--test", 0, "--size", 16)


@pytest.fixture
def start(forks: Forks, tmp_path: Path) -> Callable[..., Fork]:
    script = tmp_path / "generate.py"
    script.write_text(SCRIPT)
    return lambda *words: forks.start([script, *words])


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "nothing has happened"
        time.sleep(0.02)


def of_session(session: int) -> list[int]:
    """The processes that a process of this session has started and left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_call_leaves_no_process_and_the_next_one_no_folder(
    start: Callable[..., Fork], tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    """Slow: five seconds; what a kill leaves behind is seen only by killing."""
    place = tmp_path / "place"
    place.mkdir()
    fork = start(place / "out", *MANY, "--workers", workers)
    until(lambda: fork.poll() is not None or any(place.rglob("*.png")))
    assert fork.poll() is None, fork.said()
    os.kill(fork.pid, number)
    fork.wait()
    try:
        until(lambda: not of_session(fork.pid))
    finally:
        for process in of_session(fork.pid):
            os.kill(process, signal.SIGKILL)
    assert not (place / "out").exists()
    again = start(place / "out", *FEW)
    assert again.wait() == 0, again.said()
    assert [path.name for path in place.iterdir()] == ["out"]
    assert len(list(place.rglob("*.png"))) == 12


def test_of_two_calls_at_once_one_makes_the_folder(start: Callable[..., Fork], tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    both = [start(place / "out", *MANY) for _ in range(2)]
    codes = sorted(fork.wait() for fork in both)
    said = "".join(fork.said() for fork in both)
    assert codes in ([0, 0], [0, 2]), said
    assert "Traceback" not in said
    assert "Another process is generating" in said or "held exactly this already" in said
    assert [path.name for path in place.iterdir()] == ["out"]


def small(out: Path) -> object:
    return generate(out, layout="cirr", train=12, val=0, test=0, seed=1, size=16, workers=1, progress=False)


def prepared(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """A ``generated.json`` of this very call, but for what ``change`` does."""

    def make(out: Path) -> None:
        small(out)
        file = out / "generated.json"
        made = json.loads(file.read_text())
        change(made)
        file.write_text(json.dumps(made))

    return make


def written(content: bytes) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        out.mkdir()
        (out / "generated.json").write_bytes(content)

    return make


def pipe(out: Path) -> None:
    out.mkdir()
    os.mkfifo(out / "generated.json")


def loop(out: Path) -> None:
    out.mkdir()
    (out / "generated.json").symlink_to("generated.json")


def folder(out: Path) -> None:
    (out / "generated.json").mkdir(parents=True)


PREPARED: dict[str, Callable[[Path], None]] = {
    "no number of files": prepared(lambda made: made.pop("files")),
    "a text for the files": prepared(lambda made: made.update(files="many")),
    "null for the files": prepared(lambda made: made.update(files=None)),
    "more files": prepared(lambda made: made.update(files=10**6)),
    "no images": prepared(lambda made: made.pop("images")),
    "a number for the images": prepared(lambda made: made.update(images=3)),
    "another seed": prepared(lambda made: made.update(seed=2)),
    "a long seed": prepared(lambda made: made.update(seed="9" * 5_000)),
    "no settings": prepared(lambda made: made.clear()),
    "a list": written(b"[]"),
    "nothing": written(b""),
    "half": written(b'{"generator": "neucore-xl sha'),
    "a number of 5,000 digits": written(b'{"files": ' + b"9" * 5_000 + b"}"),
    "deep": written(b"[" * 100_000),
    "no text": written(b"\xff\xfe\x00"),
    "a pipe": pipe,
    "a link to itself": loop,
    "a folder": folder,
    "a file": lambda out: out.touch(),
    "a link to nothing in between": lambda out: out.symlink_to(out.parent / "nothing"),
}


@pytest.mark.parametrize("kind", PREPARED)
def test_a_prepared_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    PREPARED[kind](out)
    before = hashes(out)
    with promptly(), pytest.raises(UserError) as caught:
        small(out)
    assert str(out) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert hashes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_that_one_is_in_may_be_generated_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small(Path())
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert (tmp_path / "here" / "generated.json").is_file()
