"""What holds of the batch scripts without a Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLURM = Path(__file__).resolve().parent.parent.parent / "slurm"
BATCH = sorted(SLURM.glob("*.sbatch"))
ALL = sorted([*BATCH, *SLURM.glob("*.sh")])


@pytest.mark.parametrize("script", ALL, ids=lambda p: p.name)
def test_bash_reads_every_script(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing: apt-get install shellcheck")
    done = subprocess.run(
        ["shellcheck", "--external-sources", *(str(p.relative_to(SLURM.parent)) for p in ALL)],
        cwd=SLURM.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_there_is_a_script_for_every_kind_of_job() -> None:
    assert {p.stem for p in BATCH} == {"train", "evaluate", "prepare", "preflight", "compare"}


@pytest.mark.parametrize("script", BATCH, ids=lambda p: p.name)
def test_a_batch_script_names_no_site(script: Path) -> None:
    """Partition, account, nodes, time and CPUs come from the command line: a header would stand in their way."""
    header = re.findall(r"^#SBATCH --([\w-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert "output" in header
    general = {"job-name", "output", "open-mode", "requeue", "no-requeue", "signal"}
    assert set(header) <= general | ({"nodes", "ntasks"} if script.stem in ("prepare", "compare") else set())


def test_the_example_site_file_changes_nothing_until_it_is_edited() -> None:
    text = (SLURM / "site.example.sh").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == []
    assert "# NEUCORE_CONTAINER=(" in text
    assert "# export NCCL_SOCKET_IFNAME=" in text


@pytest.mark.parametrize("script", BATCH, ids=lambda p: p.name)
def test_a_script_outside_of_slurm_ends_with_one_sentence(script: Path) -> None:
    done = subprocess.run(
        ["bash", str(script), "recipe", "--run", "nowhere"],
        cwd=SLURM.parent, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


Array = Callable[..., tuple[int, str, list[list[str]]]]


@pytest.fixture
def array(tmp_path: Path) -> Array:
    """``array(script, task, tasks, *words)``: a task of an array, whose srun writes down what it was to start."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/started\nexit "${{SRUN_ENDS:-0}}"\n')
    (stubs / "scontrol").write_text("#!/bin/bash\necho node1\n")
    for stub in stubs.iterdir():
        stub.chmod(0o755)

    def run(
        script: str, task: int | None, tasks: int, *words: str, ends: int = 0, **more: str
    ) -> tuple[int, str, list[list[str]]]:
        (tmp_path / "started").unlink(missing_ok=True)
        (tmp_path / "site.sh").write_text("NEUCORE_PYTHON=bash\n")
        environ = {
            "PATH": f"{stubs}:/usr/bin:/bin", "NEUCORE_HOME": str(SLURM.parent), "SLURM_SUBMIT_DIR": str(tmp_path),
            "NEUCORE_SITE": str(tmp_path / "site.sh"), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1",
            "SRUN_ENDS": str(ends),
        } | more  # fmt: skip
        if task is not None:
            environ |= {
                "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": str(tasks - 1), "SLURM_ARRAY_TASK_COUNT": str(tasks),
            }  # fmt: skip
        done = subprocess.run(
            ["bash", str(SLURM / script), *words], capture_output=True, text=True, check=False, env=environ
        )
        started = (tmp_path / "started").read_text().splitlines() if (tmp_path / "started").exists() else []
        return done.returncode, done.stdout + done.stderr, [line.split("main() ")[1].split() for line in started]

    return run


@pytest.fixture
def prepare(array: Array, tmp_path: Path) -> Array:
    """``prepare(task, tasks, *words)``: prepare.sbatch on a dataset of three splits."""
    root = tmp_path / "data"
    (root / "captions").mkdir(parents=True)
    for split in ("train", "val", "test1"):
        (root / "captions" / f"cap.rc2.{split}.json").write_text("[]")
    return lambda task, tasks, *words, ends=0: array("prepare.sbatch", task, tasks, str(root), *words, ends=ends)


def test_an_array_shares_splits_out_for_the_clause_planner(prepare: Any, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    code, _, started = prepare(1, 2)
    assert (code, started) == (0, [["prepare", "sequences", root, "--split", "train"]])  # test1, train, val
    code, _, started = prepare(0, 2, "--planner", "clauses")
    assert code == 0
    assert [words[:2] for words in started] == [["data", "doctor"], ["prepare", "sequences"], ["prepare", "sequences"]]
    assert [words[4] for words in started[1:]] == ["test1", "val"]


@pytest.mark.parametrize("planner", [["--planner", "llm"], ["--planner=llm"]])
def test_an_array_shares_sentences_out_for_a_language_model(planner: list[str], prepare: Any, tmp_path: Path) -> None:
    code, said, started = prepare(3, 4, *planner, "--model", "m")
    given = ["prepare", "sequences", str(tmp_path / "data"), *planner, "--model", "m"]
    assert (code, started) == (0, [[*given, "--shard", "3/4"]])
    assert "sentences 3, 7, 11" in said
    code, said, started = prepare(0, 4, *planner, "--model", "m")
    assert [words[0] for words in started] == ["data", "prepare"]
    assert started[1][-2:] == ["--shard", "0/4"]
    started = prepare(0, 4, *planner, "--model", "m", "--split", "val")[2]
    assert [words[0] for words in started] == ["prepare"]  # one split may be all there is: no doctor for training
    code, said, _ = prepare(2, 4, *planner, "--model", "m", ends=143)
    assert code == 143
    assert "submit the same command to go on" in said


def test_a_shard_of_ones_own_is_refused_in_an_array(prepare: Any) -> None:
    code, said, started = prepare(1, 4, "--planner", "llm", "--shard", "0/2")
    assert (code, started) == (2, [])
    assert "leave --shard out" in said


def test_a_task_of_a_comparison_makes_one_run_of_the_plan(array: Array) -> None:
    words = ["recipe", "--systems", "tirg,film", "--seeds", "2", "--out", "runs/c", "train.steps=3"]
    code, said, started = array("compare.sbatch", 3, 4, *words)
    assert (code, started) == (0, [["compare", *words, "--task", "3"]])
    assert "1 nodes x 1 ranks" in said
    code, _, started = array("compare.sbatch", 0, 1, *words, ends=2)
    assert (code, len(started)) == (2, 1)


@pytest.mark.parametrize(
    ("task", "words", "more", "said"),
    [
        (None, ["recipe"], {}, "a comparison is an array"),
        (0, ["recipe", "--task", "1"], {}, "leave --task out"),
        (0, ["recipe", "--collect"], {}, "leave --collect out"),
        (0, ["recipe"], {"SLURM_GPUS_ON_NODE": "2"}, "one process: ask for one node and one GPU, not 1 x 2"),
    ],
)
def test_what_is_no_task_of_a_comparison(
    task: int | None, words: list[str], more: dict[str, str], said: str, array: Array
) -> None:
    code, text, started = array("compare.sbatch", task, 4, *words, **more)
    assert (code, started) == (2, [])
    assert said in text
