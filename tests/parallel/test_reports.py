"""What is printed about ranks that hang, are gone, or lost the others."""

from __future__ import annotations

import pytest

from neucore_xl.parallel.watchdog import Sign, hang_report, lost_peers, silence_report
from neucore_xl.parallel.world import World


def sign(rank: int, phase: str = "forward", step: int = 12, nth: int = 1, **other: object) -> Sign:
    return Sign(rank, f"node{rank // 8}", phase, step, nth, 1803.0, **other)  # type: ignore[arg-type]


def test_a_hang_names_the_rank_that_is_behind_and_those_that_wait():
    late = sign(9, "data", nth=0, where="loop.py:70 in next")
    lines = hang_report([sign(rank) for rank in range(9)] + [late], 1800).splitlines()
    assert lines[0] == "hang: no rank has made progress for 30 minutes (train.hang_minutes)"
    assert lines[1] == "  rank 9 on node1: data, step 12, for 1803 s, at loop.py:70 in next"
    assert lines[2] == "  rank 0-8: forward, step 12, for 1803 s"
    assert lines[3].startswith("  behind: rank 9 on node1; 9 wait; started again, ")
    assert len(lines) == 4


def test_a_thousand_ranks_at_one_point_are_one_line():
    report = hang_report([sign(rank) for rank in range(1000)], 1800)
    assert "rank 0-999: forward" in report
    assert "all at the same point" in report
    assert len(report.splitlines()) == 3


def test_ranks_that_have_finished_are_not_behind():
    report = hang_report([sign(0, "validation"), sign(1, "end", step=3, closed=True)], 90)
    assert "for 1.5 minutes" in report
    assert "rank 1 on node0: finished" in report
    assert "behind" not in report


def test_a_lost_rank_is_named_with_its_last_sign():
    said = silence_report([sign(3, "update")], 120)
    assert said.startswith("lost: rank 3 on node0 was not heard from for 2 minutes (last at update, step 12)")


@pytest.mark.parametrize(
    "message",
    [  # as gloo and NCCL say it
        "[pair.cc:561] Connection closed by peer [127.0.0.1]:32393. This is typically caused by a …",
        "[pair.cc:538] Read error [10.0.0.2]:2260: Connection reset by peer",
        "[unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete",
        "NCCL error: remote process exited or there was a network error, NCCL version 2.21.5\nncclRemoteError: …",
    ],
)
def test_the_end_of_another_rank_is_one_sentence(message: str):
    said = lost_peers(RuntimeError(message), World(2, 4, 0, "node7"))
    assert said is not None
    assert said.startswith("rank 2 on node7 lost the other ranks")
    assert "\n" not in said


def test_other_errors_are_not_taken_for_lost_ranks():
    assert lost_peers(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_peers(ValueError("Connection closed by peer")) is None
