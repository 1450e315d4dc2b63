"""What is said of an error, by whom, and with which exit code a process ends."""

from __future__ import annotations

import errno

import pytest

from neucore_xl.errors import UserError
from neucore_xl.parallel import ending
from neucore_xl.parallel.ending import ended, rank_at_start


class Apart(UserError):
    exit_code = 1
    on_all_ranks = False


class Everywhere(UserError):
    on_all_ranks = True


FULL = OSError(errno.ENOSPC, "full", "runs/a")


@pytest.mark.parametrize(
    ("error", "met", "speakers", "code"),
    [
        (UserError("wrong"), False, (0,), 2),
        (UserError("wrong"), True, (0, 1, 2), 2),
        (FULL, False, (0,), 1),
        (FULL, True, (0, 1, 2), 1),
        (Everywhere("wrong"), True, (0,), 2),
        (Apart("nobody came"), False, (0, 1, 2), 1),
    ],
)
def test_who_speaks(
    error: Exception,
    met: bool,
    speakers: tuple[int, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ending, "_met", lambda: met)
    said = {}
    for rank in range(3):
        assert ended(error, rank, name="cirr.py") == code
        said[rank] = capsys.readouterr().err
    assert tuple(rank for rank, text in said.items() if text) == speakers
    assert all(text.startswith("cirr.py: ") and text.count("\n") == 1 for text in said.values() if text)


def test_before_they_meet_the_first_of_each_node_may_speak(capsys: pytest.CaptureFixture[str]) -> None:
    for rank, local in ((0, 0), (1, 1), (2, 0), (3, 1)):
        assert ended(UserError("no GPU here"), rank, before=local) == 2
        assert (capsys.readouterr().err == "error: no GPU here\n") is (local == 0)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "a bug", "file")])
def test_a_fault_of_the_program_keeps_its_trace_and_does_not_linger_where_others_wait(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error), match="a bug"):
        ended(error, 1)

    def left(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(ending, "_met", lambda: True)
    monkeypatch.setattr(ending, "leave", left)
    with pytest.raises(SystemExit) as end:
        ended(error, 1)
    assert end.value.code == 1
    assert "a bug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 0),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        ({"RANK": "1", "SLURM_PROCID": "0"}, 1),
        ({"RANK": "x"}, 0),
    ],
)
def test_the_number_that_the_launcher_gave(environ: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert rank_at_start() == rank
