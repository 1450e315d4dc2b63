from __future__ import annotations

import io

from neucore_xl import terminal
from neucore_xl.progress import track


def shown(total: int, step: int, *, tty: bool = False) -> str:
    stream = io.StringIO()
    with track("image features", total, terminal.console(file=stream, force_terminal=tty, width=80)) as advance:
        for _ in range(0, total, step):
            advance(step)
    return stream.getvalue()


def test_a_log_file_gets_a_line_a_tenth() -> None:
    lines = shown(1000, 50).splitlines()
    assert lines[0] == "image features: 100 of 1000"
    assert lines[-1] == "image features: 1000 of 1000"
    assert len(lines) == 10


def test_a_log_file_gets_a_line_every_so_many_seconds_where_asked_for_and_one_at_the_end() -> None:
    last = "x: 300 of 300, slow"
    for every, expected in ((0.0, ["x: 150 of 300, fast", last, last]), (1e9, [last])):
        stream = io.StringIO()
        with track("x", 300, terminal.console(file=stream, width=80), done=100, every=every) as advance:
            advance(50, "fast")
            advance(150, "slow")
        assert stream.getvalue().splitlines() == expected


def test_who_is_told_to_be_silent_says_nothing() -> None:
    for tty, options in ((True, {"shown": False}), (False, {"shown": False}), (False, {"lines": False})):
        stream = io.StringIO()
        with track("x", 1000, terminal.console(file=stream, force_terminal=tty, width=80), **options) as advance:
            advance(1000)
        assert stream.getvalue() == ""


def test_a_bar_that_stays_is_there_at_the_end_with_its_note() -> None:
    for stays in (True, False):
        stream = io.StringIO()
        console = terminal.console(file=stream, force_terminal=True, width=100)
        with track("training", 4, console, quiet_below=0, done=1, stays=stays) as advance:
            advance(note="loss 0.5")
        last = stream.getvalue().rsplit("\x1b[2K", 1)[-1]  # what was written after the last line was wiped
        assert ("2/4" in last and "loss 0.5" in last) is stays


def test_a_person_gets_a_bar_and_short_work_gets_nothing() -> None:
    assert "image features" in shown(1000, 100, tty=True)
    assert shown(100, 10) == shown(100, 10, tty=True) == ""
