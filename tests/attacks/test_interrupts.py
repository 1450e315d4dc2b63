"""Ctrl-C at the worst moments of writing the log: what closes it afterwards must not wait for ever."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from neucore_xl.training.journal import RunLog

SECONDS = 3  # for what takes a millisecond
RECORD = {"step": 1, "loss": 1.0, "validation": {"R@1": 50.0}}
Moment = tuple[type, str]

# Python methods that a `with` or a hand-over to another thread goes through, and in which a lock is held when they
# are about to return: an interrupt there finds no block that gives the lock back.
MOMENTS: dict[str, Moment] = {
    "a condition's lock was taken": (threading.Condition, "__enter__"),
    "a condition's lock was taken again": (threading.Condition, "_acquire_restore"),
    "another thread was told": (threading.Condition, "notify"),
}


def interrupted_once(monkeypatch: pytest.MonkeyPatch, where: Moment) -> Callable[[], None]:
    """The main thread is interrupted at the end of the first call of a method; returns what ends that."""
    owner, name = where
    real, main, armed = getattr(owner, name), threading.get_ident(), [True]

    def call(self: object, *args: object) -> object:
        done = real(self, *args)
        if armed and threading.get_ident() == main:
            armed.clear()
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(owner, name, call)
    return monkeypatch.undo


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("doing", ["opening", "writing", "writing much", "closing"])
def test_an_interrupt_does_not_keep_the_log_from_closing(
    doing: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    log = None if doing == "opening" else RunLog(tmp_path)
    calm = interrupted_once(monkeypatch, MOMENTS[moment])
    with suppress(KeyboardInterrupt):
        if log is None:
            log = RunLog(tmp_path)
        elif doing == "closing":
            log.close()
        else:
            for step in range(1, 2 if doing == "writing" else 200):
                log.write({**RECORD, "step": step})
    calm()

    def close() -> None:
        if log is not None:
            log.close()
        ended.set()

    threading.Thread(target=close, daemon=True).start()
    assert ended.wait(SECONDS), "closing the log waits for a lock that nobody gives back"
    lines = (tmp_path / "log.jsonl").read_text().splitlines() if log is not None else []
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    if doing.startswith("writing"):
        assert lines
