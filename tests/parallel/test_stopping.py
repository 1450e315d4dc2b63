"""Warning signals, the stop file and the wall clock, in one process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from neucore_xl.errors import REQUEUE, STOPPED
from neucore_xl.parallel.stopping import Stopping, StopSignals
from neucore_xl.parallel.world import World
from tests.support.forks import Forks

ALONE = World()


def test_nothing_stops_a_run_that_nobody_wants_to_stop(tmp_path: Path):
    with StopSignals() as signals:
        assert Stopping(ALONE, tmp_path, 60.0, signals=signals).poll() is None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_signal_is_noted_and_asks_to_be_started_again(number: signal.Signals, tmp_path: Path):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        stopping = Stopping(ALONE, tmp_path, signals=signals)
        os.kill(os.getpid(), number)
        reason = stopping.poll()
    assert reason is not None
    assert (reason.kind, reason.exit_code) == ("signal", REQUEUE)
    assert number.name in reason.text
    assert signal.getsignal(number) == before


def test_ctrl_c_stays_an_interruption():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, it is ignored
    try:
        with StopSignals(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_terminations_together_are_one_because_slurm_and_torchrun_both_send_it(tmp_path: Path):
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


@pytest.mark.slow
def test_a_second_termination_later_acts_at_once(forks: Forks, tmp_path: Path):
    """Slow: a process that dies of the signal."""
    script = """
import signal, time
from neucore_xl.parallel import stopping
stopping._TOGETHER = 0.2
with stopping.StopSignals():
    signal.raise_signal(signal.SIGTERM)
    print("noted", flush=True)
    time.sleep(0.5)
    signal.raise_signal(signal.SIGTERM)
    print("still there", flush=True)
"""
    (tmp_path / "terminated.py").write_text(script)
    process = forks.start([tmp_path / "terminated.py"])
    assert process.wait() == -signal.SIGTERM
    assert process.said() == "noted\n"


def test_a_stop_file_is_obeyed_once_and_then_gone(tmp_path: Path):
    stopping = Stopping(ALONE, tmp_path)
    (tmp_path / "stop").touch()
    reason = stopping.poll()
    assert reason is not None
    assert (reason.kind, reason.exit_code) == ("file", STOPPED)
    assert "there before this start" not in reason.text
    assert (tmp_path / "stop").exists()  # until the state is saved
    stopping.obeyed(reason)
    assert not (tmp_path / "stop").exists()
    assert Stopping(ALONE, tmp_path).poll() is None


def test_a_stop_file_from_before_the_start_is_obeyed_and_said_to_be_one(tmp_path: Path):
    (tmp_path / "stop").touch()
    reason = Stopping(ALONE, tmp_path).poll()
    assert reason is not None
    assert "it was there before this start" in reason.text


def test_a_stop_file_wins_over_a_signal_so_that_the_job_is_not_started_again(tmp_path: Path):
    (tmp_path / "stop").touch()
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGUSR2)
        reason = Stopping(ALONE, tmp_path, signals=signals).poll()
    assert reason is not None
    assert reason.exit_code == STOPPED


def test_the_wall_clock_counts_from_the_start_of_the_job(tmp_path: Path):
    assert Stopping(ALONE, tmp_path, 10.0, started=time.monotonic() - 500).poll() is None
    reason = Stopping(ALONE, tmp_path, 10.0, started=time.monotonic() - 601).poll()
    assert reason is not None
    assert (reason.kind, reason.exit_code) == ("wall", REQUEUE)
    assert "train.wall_minutes=10" in reason.text
