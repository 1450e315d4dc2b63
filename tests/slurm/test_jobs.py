"""Whole jobs on a real Slurm: every launcher, every way to be interrupted, and what is refused.

Training jobs are held against ``unbroken``, one process that nothing disturbs.

Slow: a job starts up to four processes that import everything, some seven seconds of a core for each, and Slurm takes
its time to requeue. Nothing but Slurm shows what it does to a job.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.prepare.sequences import read_sentences

pytestmark = pytest.mark.slow

TWO_BY_TWO = ("--nodes=2", "--gpus-per-node=2")
ONE_EACH = ("--nodes=2", "--gpus-per-node=1")  # half the imports, where the number of ranks on a node is no matter
LONG = "train.steps=60"  # to be interrupted in
SHORT = "train.steps=10"
PATIENCE = 900  # seconds, for an array whose tasks load a model each


def until(what: str, happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE} s"
        time.sleep(0.2)


Losses = Callable[[Path], dict[int, float]]
Unbroken = Callable[[int], dict[int, float]]


def world_sizes(text: str) -> list[int]:
    """What the start tables of a job's output say, one entry a start."""
    return [int(size) for size in re.findall(r"^world size +(\d+)", text, re.MULTILINE)]


# ------------------------------------------------------------------------------------------------- launchers


@pytest.mark.parametrize(("launcher", "strategy"), [("srun", "zero3"), ("torchrun", "ddp"), ("accelerate", "ddp")])
def test_every_launcher_trains_on_two_nodes_as_one_process_does(
    launcher: str,
    strategy: str,
    cluster: Any,
    words: list[str],
    zero3: str,
    unbroken: Unbroken,
    losses: Losses,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    more = [zero3] if strategy == "zero3" else [f"train.strategy={strategy}"]
    job = cluster.submit(
        "train", *words, "--run", str(run), SHORT, *more, sbatch=TWO_BY_TWO, cwd=tmp_path, NEUCORE_LAUNCHER=launcher
    )
    shown = job.ended()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("COMPLETED", "0:0", "0")
    assert world_sizes(job.text) == [4]
    assert re.search(rf"^strategy +.*{'deepspeed' if strategy == 'zero3' else strategy}", job.text, re.MULTILINE)
    assert losses(run) == pytest.approx(unbroken(10), abs=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]  # the file of the exit code is gone


# --------------------------------------------------------------------------------------------- interruptions


def test_a_warning_signal_saves_requeues_and_goes_on(
    cluster: Any, words: list[str], unbroken: Unbroken, losses: Losses, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = cluster.submit(
        "train", *words, "--run", str(run), LONG, "train.checkpoint_every=1000", sbatch=ONE_EACH, cwd=tmp_path
    )
    job.reaches(run, 5)
    cluster.run("scancel", "--batch", "--signal=USR2", job.id)
    shown = job.ended()
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1")
    assert world_sizes(job.text) == [2, 2]
    assert "saved; requeued, restart 1 of at most 20" in job.text
    assert re.search(r"going on after step (\d+) of", job.text)  # a checkpoint that only the signal can have asked for
    assert losses(run) == pytest.approx(unbroken(60), abs=1e-5)


def test_a_lost_node_is_replaced_by_a_spare_one(
    cluster: Any, words: list[str], unbroken: Unbroken, losses: Losses, tmp_path: Path
) -> None:
    """The step ends long before Slurm misses the node, as it does where Slurm waits for minutes."""
    run = tmp_path / "run"
    site = tmp_path / "site.sh"
    site.write_text(f"source {cluster.environ['NEUCORE_SITE']}\nNEUCORE_SRUN_OPTIONS=(--wait=2)\n")
    job = cluster.submit(
        "train", *words, "--run", str(run), LONG, sbatch=ONE_EACH, cwd=tmp_path, NEUCORE_SITE=str(site)
    )
    job.reaches(run, 12)
    lost = cluster.nodes_of(job)[-1]
    cluster.manage("fail", lost)
    try:
        shown = job.ended()
        assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1")
        assert lost not in cluster.nodes_of(job)
        assert "asking every node whether it still answers" in job.text
        assert world_sizes(job.text) == [2, 2]
        assert re.search(r"going on after step \d+0 of", job.text)  # the last checkpoint, of every tenth step
        assert losses(run) == pytest.approx(unbroken(60), abs=1e-5)
    finally:
        cluster.manage("recover", lost)


def test_a_run_of_four_ranks_goes_on_with_two(
    cluster: Any, words: list[str], zero3: str, unbroken: Unbroken, losses: Losses, tmp_path: Path
) -> None:
    """The first job is told by a signal, past torchrun; the second one is started otherwise."""
    run = tmp_path / "run"
    first = cluster.submit(
        "train", *words, "--run", str(run), SHORT, zero3,
        sbatch=TWO_BY_TWO, cwd=tmp_path, NEUCORE_MAX_RESTARTS="0", NEUCORE_LAUNCHER="torchrun",
    )  # fmt: skip
    first.reaches(run, 3)
    cluster.run("scancel", "--batch", "--signal=USR2", first.id)
    shown = first.ended()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "75:0", "0")
    assert "saved, but not requeued" in first.text
    second = cluster.submit(
        "train", *words, "--run", str(run), SHORT, zero3, sbatch=("--nodes=1", "--gpus-per-node=2"), cwd=tmp_path
    )
    assert second.ended()["JobState"] == "COMPLETED"
    assert (world_sizes(first.text), world_sizes(second.text)) == ([4], [2])
    assert losses(run) == pytest.approx(unbroken(10), abs=1e-4)


def test_a_stop_file_ends_the_job_for_good(cluster: Any, words: list[str], losses: Losses, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sbatch = ("--nodes=2", "--ntasks-per-node=1")  # without GPUs: one rank for each task
    job = cluster.submit("train", *words, "--run", str(run), LONG, sbatch=sbatch, cwd=tmp_path)
    job.reaches(run, 2)
    (run / "stop").touch()
    shown = job.ended()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "76:0", "0")
    assert world_sizes(job.text) == [2]
    assert max(losses(run)) < 60


# ------------------------------------------------------------------------------------- preparation, evaluation


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that answers nonsense, saved on disk."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "language" / "llm"))
    from tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("llm") / "tiny")


def test_training_waits_for_an_array_that_prepares_its_data(
    cluster: Any, shapes: Path, words: list[str], losses: Losses, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes / "data", root)
    array = cluster.submit("prepare", str(root), sbatch=("--array=0-1",), cwd=tmp_path)
    run = tmp_path / "run"
    training = cluster.submit(
        "train", *words, "--run", str(run), f"data.root={root}", "train.steps=2",
        sbatch=(f"--dependency=afterok:{array.id}", "--nodes=1", "--ntasks-per-node=2"), cwd=tmp_path,
    )  # fmt: skip
    assert training.ended()["JobState"] == "COMPLETED"
    assert {p.name for p in (root / "sequences").iterdir()} == {"clauses.train.jsonl", "clauses.val.jsonl"}
    prepared = max(p.stat().st_mtime for p in (root / "sequences").iterdir())
    assert prepared < (run / "config.yaml").stat().st_mtime
    assert set(losses(run)) == {1, 2}

    out = tmp_path / "val"
    scored = cluster.submit(
        "evaluate", "cirr", "--run", str(run), "--data", str(root), "--out", str(out), "--device", "cpu",
        sbatch=("--nodes=2", "--ntasks-per-node=1"), cwd=tmp_path,
    )  # fmt: skip
    assert scored.ended()["JobState"] == "COMPLETED"
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["metrics"]["mean"] <= 100


def test_an_array_plans_with_a_model_and_a_lost_task_goes_on(
    cluster: Any, shapes: Path, tiny_llm: Path, tmp_path: Path
) -> None:
    """Four tasks share the sentences; one is requeued in the middle, and the file is complete all the same."""
    root = tmp_path / "data"
    shutil.copytree(shapes / "data", root)
    folder = root / "sequences"
    array = cluster.submit(
        "prepare", str(root), "--planner", "llm", "--model", str(tiny_llm), "--device", "cpu", "--batch-size", "1",
        "--max-new-tokens", "96", sbatch=("--array=0-3",), cwd=tmp_path,
    )  # fmt: skip

    def tasks_at_work() -> int:
        return len({p.name.split("-")[1] for p in folder.glob("llm-*/part-*.parquet")})

    until("a stored sentence of every task", lambda: tasks_at_work() == 4 or not array.queued)
    assert array.queued, array.text
    cluster.run("scontrol", "requeue", f"{array.id}_2")
    until("the end of the array", lambda: not array.queued)
    print(array.text)
    path = folder / "llm.jsonl"
    assert path.exists(), array.text
    read = read_sequences(path)
    asked = read_sentences(root).distinct
    assert list(read.by_text) == asked
    assert array.text.count("planned now: ") >= 4
    assert re.search(r"start 2", array.text), array.text  # the task that was requeued
    asked_again = sum(int(n) for n in re.findall(r"planned now: (\d+) sentences", array.text))
    assert len(asked) / 2 < asked_again < len(asked)  # what the lost task had stored was not planned again


def test_training_does_not_start_on_data_that_an_array_found_broken(
    cluster: Any, shapes: Path, words: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes / "data", root)
    (root / "captions" / "cap.rc2.train.json").write_text("[{]")
    array = cluster.submit("prepare", str(root), sbatch=("--array=0-1",), cwd=tmp_path)
    training = cluster.submit(
        "train", *words, "--run", str(tmp_path / "run"), f"data.root={root}",
        sbatch=(f"--dependency=afterok:{array.id}", "--kill-on-invalid-dep=yes"), cwd=tmp_path,
    )  # fmt: skip
    assert training.ended()["JobState"] == "CANCELLED"
    assert "cap.rc2.train.json" in array.text
    assert training.text == ""


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_wrong_recipe_ends_with_its_sentence_and_is_not_requeued(
    launcher: str, cluster: Any, words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = cluster.submit(
        "train", *words, "--run", str(run), "train.stps=3", sbatch=TWO_BY_TWO, cwd=tmp_path, NEUCORE_LAUNCHER=launcher
    )
    shown = job.ended()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "2:0", "0")
    assert [line for line in job.text.splitlines() if line.startswith("error: ")] == [
        line for line in job.text.splitlines() if "train.stps" in line
    ]
    assert job.text.count("train.stps") == 1
    assert "train.steps" in job.text
    assert "Traceback" not in job.text
    assert not run.exists()


def test_a_site_file_that_is_missing_is_named(cluster: Any, words: list[str], tmp_path: Path) -> None:
    job = cluster.submit(
        "train", *words, "--run", "run", sbatch=(), cwd=tmp_path, NEUCORE_SITE=str(tmp_path / "mine.sh")
    )
    assert job.ended()["ExitCode"] == "2:0"
    assert f"NEUCORE_SITE={tmp_path / 'mine.sh'} does not exist" in job.text


def test_an_environment_that_is_missing_is_named(cluster: Any, words: list[str], tmp_path: Path) -> None:
    site = tmp_path / "mine.sh"
    site.write_text("NEUCORE_PYTHON=python-of-nobody\n")
    job = cluster.submit("train", *words, "--run", "run", sbatch=(), cwd=tmp_path, NEUCORE_SITE=str(site))
    assert job.ended()["ExitCode"] == "2:0"
    assert (
        f"there is no python-of-nobody on this node: name your environment or container in the site file {site}"
        in job.text
    )


# -------------------------------------------------------------------------------------------------- preflight


def test_preflight_passes_and_leaves_nothing_behind(cluster: Any, words: list[str], tmp_path: Path) -> None:
    job = cluster.submit("preflight", *words, "--run", str(tmp_path / "run"), sbatch=TWO_BY_TWO, cwd=tmp_path)
    assert job.ended()["ExitCode"] == "0:0"
    lines = [line.split(maxsplit=3) for line in job.text.splitlines() if line.startswith(("ok ", "FAIL "))]
    checks = {(node, check) for _, node, check, _ in lines}
    for check in ("GPUs", "all-reduce", "data", "disk", "run", "shared"):
        assert {node for node, of in checks if of == check} == {"node1", "node2"}
    assert "world size  4" in job.text
    assert "ddp, batch 8 on 4 ranks" in job.text
    assert list(tmp_path.iterdir()) == []


def test_preflight_names_the_node_that_cannot_read_the_data(
    cluster: Any, shapes: Path, words: list[str], tmp_path: Path
) -> None:
    folder = str(shapes / "data" / "captions")
    cluster.inside("node2", "mount", "-t", "tmpfs", "none", folder)
    try:
        job = cluster.submit(
            "preflight",
            *words,
            "--run",
            str(tmp_path / "run"),
            sbatch=("--nodelist=node1,node2", *ONE_EACH),
            cwd=tmp_path,
        )
        assert job.ended()["ExitCode"] == "2:0"
    finally:
        cluster.inside("node2", "umount", folder)
    failed = [line.split(maxsplit=3) for line in job.text.splitlines() if line.startswith("FAIL ")]
    assert [(node, check) for _, node, check, _ in failed] == [("node2", "data")]
    assert str(shapes / "data") in failed[0][3]


# --------------------------------------------------------------------------------------------- large requests


@pytest.mark.parametrize("script", ["train", "evaluate", "preflight"])
def test_slurm_accepts_requests_of_production_size(script: str, production: Any, tmp_path: Path) -> None:
    path = production.environ["NEUCORE_HOME"] + f"/slurm/{script}.sbatch"
    asked = ("--nodes=8", "--gpus-per-node=8", "--cpus-per-gpu=8", "--time=24:00:00", "--exclusive", "--mem=0")
    done = production.run("sbatch", "--test-only", *asked, path, "cirr-vit-h14-zero3", "--run", "runs/h14", check=False)
    assert done.returncode == 0, done.stderr
    said = re.search(r"using (\d+) processors on nodes (\S+)", done.stderr)
    assert said, done.stderr
    assert (int(said[1]), said[2]) == (512, "node[1-8]")
    refused = production.run("sbatch", "--test-only", "--nodes=9", "--gpus-per-node=8", path, check=False)
    assert refused.returncode != 0


def test_the_runs_of_a_comparison_are_an_array(cluster: Any, words: list[str], tmp_path: Path) -> None:
    """Two systems without training, a task each (about 40 s); the stand-in for srun in test_scripts.py proves the words
    that a task is given, only this one that they do their work under Slurm."""
    out = tmp_path / "compare"
    asked = [*words, "train.steps=2", "--systems", "image-only,text-only", "--seeds", "1", "--out", str(out)]
    array = cluster.submit("compare", *asked, sbatch=("--array=0-1",), cwd=tmp_path)
    until("the end of the array", lambda: not array.queued)
    print(array.text)
    collect = [sys.executable, "-c", "from neucore_xl.cli import main; main()", "compare", *asked, "--collect"]
    collected = subprocess.run(collect, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    results = json.loads((out / "results.json").read_text())
    assert [(r["system"], r["seed"]) for r in results] == [("image-only", 0), ("text-only", 0)]
