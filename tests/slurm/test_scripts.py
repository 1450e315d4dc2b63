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
    assert {p.stem for p in BATCH} == {"train", "evaluate", "prepare", "preflight"}


@pytest.mark.parametrize("script", BATCH, ids=lambda p: p.name)
def test_a_batch_script_names_no_site(script: Path) -> None:
    """Partition, account, nodes, time and CPUs come from the command line: a header would stand in their way."""
    header = re.findall(r"^#SBATCH --([\w-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert "output" in header
    general = {"job-name", "output", "open-mode", "requeue", "no-requeue", "signal"}
    assert set(header) <= general | ({"nodes", "ntasks"} if script.stem == "prepare" else set())


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


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., tuple[int, str, list[list[str]]]]:
    """``prepare(task, tasks, *words)``: prepare.sbatch with an srun that writes down what it was to start."""
    root = tmp_path / "data"
    (root / "captions").mkdir(parents=True)
    for split in ("train", "val", "test1"):
        (root / "captions" / f"cap.rc2.{split}.json").write_text("[]")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/started\nexit "${{SRUN_ENDS:-0}}"\n')
    (stubs / "scontrol").write_text("#!/bin/bash\necho node1\n")
    for stub in stubs.iterdir():
        stub.chmod(0o755)

    def run(task: int, tasks: int, *words: str, ends: int = 0) -> tuple[int, str, list[list[str]]]:
        (tmp_path / "started").unlink(missing_ok=True)
        (tmp_path / "site.sh").write_text("NEUCORE_PYTHON=bash\n")
        environ = {
            "PATH": f"{stubs}:/usr/bin:/bin", "NEUCORE_HOME": str(SLURM.parent), "SLURM_SUBMIT_DIR": str(tmp_path),
            "NEUCORE_SITE": str(tmp_path / "site.sh"), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1",
            "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": str(tasks - 1),
            "SLURM_ARRAY_TASK_COUNT": str(tasks), "SRUN_ENDS": str(ends),
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(SLURM / "prepare.sbatch"), str(root), *words],
            capture_output=True, text=True, check=False, env=environ,
        )  # fmt: skip
        started = (tmp_path / "started").read_text().splitlines() if (tmp_path / "started").exists() else []
        return done.returncode, done.stdout + done.stderr, [line.split("main() ")[1].split() for line in started]

    return run


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
