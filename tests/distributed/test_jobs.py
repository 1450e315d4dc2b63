"""Whole jobs of several processes: the same run, stopped, killed, resumed by others, and refused in one sentence.

Slow: trainings of six steps from the start of the processes to their end, a few seconds of a core for each rank.
Everything else tests the parts; here they have to work together.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from neucore_xl.errors import STOPPED
from tests.support.forks import free_port

pytestmark = pytest.mark.slow
ZERO3 = "train.deepspeed=ds_configs/zero3.json"
CLOSE = {"rel": 1e-5, "abs": 1e-5}


@pytest.fixture(scope="module")
def whole(jobs: Any) -> list[float]:
    """Losses of an unbroken run in one process."""
    code, said = jobs.run("whole")
    assert code == 0, said
    assert "\nworld size  1\n" in said
    return jobs.losses("whole")


@pytest.fixture(scope="module")
def sharded(jobs: Any) -> str:
    """A run of two processes under ZeRO-3, from one start to its end; what it printed."""
    code, said = jobs.run("sharded", ZERO3, ranks=2, launcher="torchrun")
    assert code == 0, said
    return said


def test_two_processes_under_zero_3_leave_the_run_folder_of_one(jobs: Any, whole: list[float], sharded: str) -> None:
    assert sharded.count("\nworld size  2\n") == 1
    assert re.search(r"\nstrategy +deepspeed, ZeRO 3\n", sharded)
    assert jobs.losses("sharded") == pytest.approx(whole, **CLOSE)
    one, two = ([r["validation"] for r in jobs.log(name) if "validation" in r] for name in ("whole", "sharded"))
    assert len(one) == 2
    assert one == two
    for file in ("config.yaml", "environment.json", "vocabulary.json", "log.jsonl"):
        assert (jobs.folder / "sharded" / file).is_file()


def test_its_checkpoint_is_evaluated_and_exported_by_one_process(jobs: Any, sharded: str) -> None:
    run, data = jobs.folder / "sharded", jobs.folder / "data"
    process = jobs.fork(
        ["eval/cirr.py", "--run", str(run), "--data", str(data), "--checkpoint", "last",
         "--out", str(jobs.folder / "result"), "--device", "cpu"]
    )  # fmt: skip
    code, said = jobs.end(process)
    assert code == 0, said
    found = json.loads((jobs.folder / "result" / "metrics.json").read_text())["metrics"]
    last = [r["validation"] for r in jobs.log("sharded") if "validation" in r][-1]
    assert {k: found[k] for k in ("R@1", "R@5", "mean")} == pytest.approx({k: last[k] for k in ("R@1", "R@5", "mean")})
    out = jobs.folder / "model.safetensors"
    command = [Path(sys.executable).parent / "neucore-xl", "checkpoint", "export", run, "--out", out]
    code, said = jobs.end(jobs.fork(command))
    assert code == 0, said
    assert len(load_file(out)) > 20


@pytest.mark.parametrize(("strategy", "ranks"), [("train.strategy=plain", 1), (ZERO3, 4)])
def test_a_run_stopped_by_a_file_goes_on_with_other_processes(
    strategy: str, ranks: int, jobs: Any, whole: list[float]
) -> None:
    name = f"stopped-{ranks}"
    folder = jobs.folder / name
    if not (jobs.folder / "halted").exists():
        process = jobs.begin("halted", ZERO3, ranks=2)
        jobs.until(lambda: len(jobs.log("halted")) >= 1, process)
        (jobs.folder / "halted" / "stop").touch()
        code, said = jobs.end(process)
        assert "error" not in said.split("stopped after step")[0]
        assert re.search(r"stopped after step \d of 6, saved: the file .*stop asks for it", said), said
        assert code == STOPPED
        assert not (jobs.folder / "halted" / "stop").exists()
    shutil.copytree(jobs.folder / "halted", folder)
    assert len(jobs.log(name)) < 6
    code, said = jobs.run(name, strategy, ranks=ranks)
    assert code == 0, said
    assert "going on after step" in said
    assert jobs.losses(name) == pytest.approx(whole, **CLOSE)


def test_a_warning_signal_and_the_wall_clock_save_and_ask_for_another_start(jobs: Any, whole: list[float]) -> None:
    process = jobs.begin("warned")
    jobs.until(lambda: len(jobs.log("warned")) >= 1, process)
    os.kill(process.processes[0].pid, signal.SIGUSR2)
    code, said = jobs.end(process)
    assert code == 75, said
    assert "SIGUSR2 was received" in said
    code, said = jobs.run("warned", "train.wall_minutes=1e-6")
    assert code == 75 or len(jobs.log("warned")) == 6, said
    code, said = jobs.run("warned")
    assert code == 0, said
    assert jobs.losses("warned") == pytest.approx(whole, **CLOSE)


def test_a_killed_process_takes_the_job_down_and_the_run_goes_on(jobs: Any, whole: list[float]) -> None:
    process = jobs.begin("killed", ranks=2, launcher="torchrun")
    jobs.until(lambda: len(jobs.log("killed")) >= 3, process)
    (torchrun,) = process.processes
    children = psutil.Process(torchrun.pid).children(recursive=True)
    workers = [c for c in children if any("neucore_xl.train" in word for word in c.cmdline())]
    (second,) = [c for c in workers if c.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGKILL)
    assert torchrun.wait(120) != 0  # far below any timeout of a collective operation
    code, said = jobs.run("killed", ranks=2)
    assert code == 0, said
    assert jobs.losses("killed") == pytest.approx(whole, **CLOSE)


def test_processes_with_different_settings_are_refused_by_one_sentence(jobs: Any) -> None:
    port = str(free_port())
    processes = []
    for rank in (0, 1):
        words = jobs.words("unequal", [f"train.lr={1e-3 * (rank + 1)}"])
        environ = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(jobs.start([sys.executable, "-m", "neucore_xl.train", *words], **environ))
    ends = [jobs.end(p) for p in processes]
    assert [code for code, _ in ends] == [2, 2], ends
    assert "rank 1 on" in ends[0][1]
    assert "train.lr is 0.002, on rank 0 0.001" in ends[0][1]
    assert "error" not in ends[1][1]  # rank 0 speaks for all
    assert not (jobs.folder / "unequal").exists()


def test_a_picture_that_one_process_cannot_read_is_everybodys_sentence(jobs: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(jobs.folder / "data", data)
    for picture in sorted(data.rglob("train*/**/*.png"))[:3] or sorted(data.rglob("*.png"))[:3]:
        picture.write_bytes(picture.read_bytes()[:40])
    code, said = jobs.run("unreadable", f"data.root={data}", ZERO3, ranks=2)
    assert code != 0
    assert said.count("error: ") == 1, said
    assert re.search(r"error: .*rank [01] on .*\.png", said), said
    assert f'File "{Path("neucore_xl").resolve()}' not in said  # torchrun prints a trace of its own, of itself


@pytest.mark.parametrize(
    ("more", "ranks", "sentence"),
    [
        (("train.batch_size=15",), 2, "2 processes do not divide a batch of 15 queries"),
        (("train.strategy=plain",), 2, "train.strategy=plain is one process, but 2 were started"),
    ],
)
def test_a_wrong_start_is_one_sentence(more: tuple[str, ...], ranks: int, sentence: str, jobs: Any) -> None:
    code, said = jobs.run("wrong", *more, ranks=ranks)
    assert code != 0
    assert said.count("error: ") == 1, said
    assert sentence in said
    assert not (jobs.folder / "wrong").exists()


def test_a_slip_in_a_deepspeed_file_is_named_before_anything_starts(jobs: Any, tmp_path: Path) -> None:
    config = json.loads(Path("ds_configs/zero3.json").read_text())
    config["zero_optimisation"] = config.pop("zero_optimization")
    (tmp_path / "slip.json").write_text(json.dumps(config))
    code, said = jobs.run("slip", f"train.deepspeed={tmp_path / 'slip.json'}")
    assert code == 2
    assert re.search(r"error: .*zero_optimisation.*zero_optimization", said)
    assert not (jobs.folder / "slip").exists()


def test_a_checkpoint_of_another_frozen_backbone_is_refused(jobs: Any, whole: list[float]) -> None:
    code, said = jobs.run("based", "backbone.freeze=all", "train.steps=2")
    assert code == 0, said
    # the same settings, but the towers' random weights come from another seed: as if a file had been replaced
    config = jobs.folder / "based" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    code, said = jobs.run("based", "backbone.freeze=all", "train.steps=2", "train.seed=1")
    assert code == 2, said
    assert "backbone differs" in said


def test_accelerate_with_its_deepspeed_configuration_starts_the_same_job(jobs: Any, whole: list[float]) -> None:
    scripts = Path(sys.executable).parent
    command = [str(scripts / "accelerate"), "launch", "--config_file", "ds_configs/accelerate_zero2.yaml"]
    command += ["--num_processes=2", f"--main_process_port={free_port()}"]
    process = jobs.start([*command, "-m", "neucore_xl.train", *jobs.words("accelerated", ())])
    code, said = jobs.end(process)
    assert code == 0, said
    assert "\nworld size  2\n" in said
    assert re.search(r"\nstrategy +deepspeed, ZeRO 2\n", said)
    assert jobs.losses("accelerated") == pytest.approx(whole, **CLOSE)
