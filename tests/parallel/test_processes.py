"""Real processes that meet, die, hang, are warned and are stopped.

Slow because they wait: for a port where nobody comes, for a limit that has to pass. The processes are forked and cost
little.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from neucore_xl.errors import REQUEUE, STOPPED
from tests.support.forks import Fork, Forks, clean_environment

from .conftest import WORKER, Ranks, ended

pytestmark = pytest.mark.slow


def test_processes_that_meet_know_their_number(ranks: Ranks):
    results = [ended(process) for process in ranks(2, "nothing")]
    assert [result.code for result in results] == [0, 0], results
    assert "world size  2" in results[0].out.splitlines()
    assert results[1].out == ""


def alone(forks: Forks, run: Path, task: str, **settings: str) -> Fork:
    """A worker that nothing has told of others."""
    (run / "err").touch()
    environment = clean_environment(**settings)
    return forks.start([WORKER, run, task], environment=environment, out=run / "out", err=run / "err")


def test_one_process_can_have_a_group_of_its_own(forks: Forks, tmp_path: Path):
    result = ended(alone(forks, tmp_path, "nothing", GROUP="1"))
    assert result.code == 0, result.err
    assert "world size  1" in result.out.splitlines()


def test_a_rank_that_is_killed_takes_the_others_down_at_once(ranks: Ranks):
    first, second, killed = [ended(process) for process in ranks(3, "SIGKILL")]
    assert killed.code == -signal.SIGKILL
    assert (first.code, second.code) == (1, 1)
    assert "rank 0 on" in first.err
    assert "lost the other ranks: one of them ended" in first.err


def test_a_hang_is_reported_once_with_who_is_behind_and_ends_the_job(ranks: Ranks):
    results = [ended(process) for process in ranks(2, "hang", HANG="0.1")]
    assert [result.code for result in results] == [1, 1]
    said = "".join(result.err for result in results)
    assert said.count("hang: no rank has made progress for 6 s") == 1
    assert re.search(r"rank 1 on \S+: data, step 3, for \d+ s, at worker\.py:\d+ in act", said)
    assert re.search(r"rank 0 on \S+: forward, step 3, for \d+ s", said)
    assert re.search(r"behind: rank 1 on \S+; 1 wait", said)


def test_a_rank_that_no_longer_breathes_is_named(ranks: Ranks):
    first, stopped = ranks(2, "SIGSTOP", SILENT="5")
    result = ended(first)
    assert result.code == 1
    assert re.search(r"lost: rank 1 on \S+ was not heard from for 5 s", result.err)
    stopped.kill()


def test_a_single_process_that_hangs_ends_too(forks: Forks, tmp_path: Path):
    result = ended(alone(forks, tmp_path, "hang", HANG="0.05"))
    assert result.code == 1
    assert "hang: no rank has made progress for 3 s" in result.err


@pytest.mark.parametrize("warning", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_signal_that_reaches_one_rank_stops_all_after_the_same_step(warning: str, ranks: Ranks):
    results = [ended(process) for process in ranks(2, warning)]
    assert [result.code for result in results] == [REQUEUE, REQUEUE], results
    for rank, result in enumerate(results):
        assert f"rank {rank} stopped after step 3: {warning} was received" in result.out


def test_a_stop_file_stops_all_ranks_and_is_gone(ranks: Ranks, tmp_path: Path):
    processes = ranks(2, "nothing", STEPS="100000", PACE="0.01")
    while not all((tmp_path / f"at-step-3.{rank}").exists() for rank in range(2)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    (tmp_path / "stop").touch()
    results = [ended(process) for process in processes]
    assert [result.code for result in results] == [STOPPED, STOPPED]
    steps = [re.findall(r"stopped after step (\d+): the file \S+stop asks for it$", r.out, re.M) for r in results]
    assert len(steps[0]) == 1
    assert steps[0] == steps[1]
    assert not (tmp_path / "stop").exists()


def test_processes_that_do_not_come_are_named_to_those_that_did(ranks: Ranks):
    results = [ended(process) for process in ranks(4, "nothing", numbers=[0, 3], MEET="0.2")]
    for result in results:
        assert result.code == 1
        assert re.fullmatch(
            r"error: Only 2 of 4 processes met at 127\.0\.0\.1:\d+ within 0\.2 minutes, rank 1, 2 did not come: .*\n",
            result.err,
        )


def test_an_address_where_nobody_is_gets_one_sentence(ranks: Ranks):
    (result,) = [ended(process) for process in ranks(2, "nothing", numbers=[1], MEET="0.05")]
    assert result.code == 1
    assert re.fullmatch(r"error: Rank 1 on \S+ could not reach rank 0 at 127\.0\.0\.1:.*MASTER_ADDR.*\n", result.err)
