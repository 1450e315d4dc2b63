"""The table at the start of a job."""

from __future__ import annotations

from neucore_xl.training.announce import start_table


def test_a_log_holds_the_world_size_on_a_plain_line_of_its_own():
    text = start_table([("launcher", "srun"), ("world size", 16), ("parameters per rank", "1–2 M")])
    assert text.splitlines() == ["launcher    srun", "world size  16", "parameters per rank  1–2 M"]
