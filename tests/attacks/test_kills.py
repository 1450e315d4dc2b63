"""A training that is killed again and again ends with the losses of one that nobody disturbed, to the bit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from neucore_xl.training.journal import read_log
from tests.support.forks import PATIENCE, Fork, Forks
from tests.support.tiny_runs import tiny_run

pytestmark = pytest.mark.slow
KILLS, STEPS, EVERY = 20, 48, 2
RATES = ("samples_per_second", "data_wait")  # of the clock
SAME = ["model.name=neucore", "backbone.freeze={image: 1, text: 2}", "train.validate_every=12",
        f"train.steps={STEPS}", f"train.checkpoint_every={EVERY}"]  # fmt: skip
WAYS: dict[str, tuple[int, list[str]]] = {
    "plain": (1, ["train.accumulate=2", "data.workers=1"]),
    "zero-2": (2, ["train.deepspeed=ds_configs/zero2.json"]),
}


class Training:
    """One command, whose processes begin and are killed together."""

    def __init__(self, forks: Forks, words: Sequence[str], run: Path, ranks: int) -> None:
        self.forks, self.run, self.ranks = forks, run, ranks
        self.command = ["-m", "neucore_xl.train", *words, "--run", str(run)]

    def begin(self) -> list[Fork]:
        if self.ranks == 1:
            return [self.forks.start(self.command)]
        return self.forks.world(self.command, self.ranks)

    def to_its_end(self) -> None:
        processes = self.begin()
        assert [p.wait() for p in processes] == [0] * self.ranks, "\n".join(p.said()[-3000:] for p in processes)

    def records(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k not in RATES} for r in read_log(self.run / "log.jsonl")]

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(p.name[5:]) for p in (self.run / "checkpoints").glob("step-*")), default=0)

    def begun_saves(self) -> set[str]:
        """What a save that is under way has put beside the checkpoints: half of one, or one that nothing names yet."""
        folder = self.run / "checkpoints"
        pointer = folder / "latest.json"
        named = json.loads(pointer.read_text())["path"] if pointer.exists() else "step-00000000"
        return {p.name for p in folder.glob(".tmp-*")} | {p.name for p in folder.glob("step-*") if p.name > named}

    def killed(self, draw: Random, more: int) -> tuple[int, bool]:
        """Begin, kill all ranks a moment after up to ``more`` new lines of the log, or on the way to the first.

        Returns the last logged step, and whether the kill fell into a save.
        """
        path, before, unfinished = self.run / "log.jsonl", self.state(), self.begun_saves()
        lines = draw.randrange(more + 1)
        goal, pause = self.saved() + lines, draw.uniform(0, 0.03 if lines else 0.8)
        processes = self.begin()
        deadline = time.monotonic() + PATIENCE
        while lines and (self.state() == before or f'{{"step": {goal},' not in path.read_text()):
            assert all(p.poll() is None for p in processes), "\n".join(p.said()[-3000:] for p in processes)
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(pause)
        draw.shuffle(processes)
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
        assert [p.wait() for p in processes] == [-signal.SIGKILL] * self.ranks
        return max((r["step"] for r in self.records()), default=0), bool(self.begun_saves() - unfinished)

    def state(self) -> int | None:
        """Which file the log is: a start that goes on writes a new one."""
        path = self.run / "log.jsonl"
        return path.stat().st_ino if path.exists() else None


@pytest.mark.parametrize("way", WAYS)
def test_twenty_kills_change_no_loss(way: str, tiny_data: Path, forks: Forks, tmp_path: Path) -> None:
    """Dropout, trained towers and checkpoints every other step are on; under ZeRO-2 two processes share the work.

    Slow: twenty-two starts and the steps between them, a minute of a core for both ways. One run that
    is broken off once (``tests/training/test_run.py``) cannot show that no moment is a bad one: some of the kills
    fall into a save.
    """
    ranks, more = WAYS[way]
    words = [str(tiny_data / "recipe.yaml"), *tiny_run(tiny_data, tmp_path / "cache"), *SAME, *more]
    whole = Training(forks, words, tmp_path / "whole", ranks)
    whole.to_its_end()
    broken, draw = Training(forks, words, tmp_path / "broken", ranks), Random(10)
    steps, saves = [], 0
    for left in range(KILLS, 0, -1):
        step, in_a_save = broken.killed(draw, more=2 * (STEPS - broken.saved()) // (left + 1))
        steps.append(step)
        saves += in_a_save
    assert steps[-1] < STEPS
    broken.to_its_end()
    assert broken.records() == whole.records()
    assert [r["step"] for r in broken.records()] == list(range(1, STEPS + 1))
    assert saves
    assert {p.name for p in (broken.run / "checkpoints").iterdir()} == {
        p.name for p in (whole.run / "checkpoints").iterdir()
    }
    print(f"\n{way}, {ranks} process(es): {KILLS} kills after steps {steps}, {saves} of them in a save; "
          f"{STEPS} records equal to the bit")  # fmt: skip
