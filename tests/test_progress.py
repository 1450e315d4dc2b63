from __future__ import annotations

import io

from rich.console import Console

from neucore_xl.progress import track


def shown(total: int, step: int, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    with track("image features", total, Console(file=stream, force_terminal=terminal, width=80)) as advance:
        for _ in range(0, total, step):
            advance(step)
    return stream.getvalue()


def test_a_log_file_gets_a_line_a_tenth() -> None:
    lines = shown(1000, 50).splitlines()
    assert lines[0] == "image features: 100 of 1000"
    assert lines[-1] == "image features: 1000 of 1000"
    assert len(lines) == 10


def test_a_person_gets_a_bar_and_short_work_gets_nothing() -> None:
    assert "image features" in shown(1000, 100, terminal=True)
    assert shown(100, 10) == shown(100, 10, terminal=True) == ""
