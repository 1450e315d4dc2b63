"""Evaluations that meet in one folder, and files of evaluations that were mixed, damaged or made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from neucore_xl.evaluation.compare import load

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 25

# A process of two that write into the same folders, one after the other, each folder at the same moment.
RACER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
import numpy as np
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result, prepare_output

root, me, other, force = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "force"
value = {{"a": 25.0, "b": 75.0}}[me]
result = Result({{"dataset": "cirr"}}, {{"mean": value}}, tuple(map(str, range(500))),
                {{"mean": np.full(500, value)}}, environment={{"run": me}})

def meet(number, what):
    (root / f"{{number}}-{{what}}-{{me}}").touch()
    end = time.monotonic() + 10
    while not (root / f"{{number}}-{{what}}-{{other}}").exists():
        assert time.monotonic() < end, "the other has ended"
        time.sleep(0.0002)

for number in range({ROUNDS}):
    out = root / f"out-{{number}}"
    meet(number, "before")
    try:
        prepare_output(out, run=me, force=force)
        meet(number, "between")
        result.save(out, force=force)
    except UserError as error:
        print("refused:", error)
"""


@pytest.mark.parametrize("how", ["unasked", "force"])
def test_two_evaluations_into_one_folder_leave_one_of_them_whole(how: str, tmp_path: Path, forks) -> None:
    script = tmp_path / "racer.py"
    script.write_text(RACER)
    racers = [forks.start([script, tmp_path, *names, how]) for names in (("a", "b"), ("b", "a"))]
    try:
        codes = [racer.wait(120) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    said = "".join(racer.said() for racer in racers)
    assert codes == [0, 0], said
    for number in range(ROUNDS):
        out = tmp_path / f"out-{number}"
        found = load(out)
        assert found.per_query["mean"].mean() == found.score, "the figures of one beside the queries of the other"
        assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {"metrics.json", "per_query.npz"}
    assert said.count("refused") == (ROUNDS if how == "unasked" else 0), "one of two is told so"
    assert "Traceback" not in said
