"""What holds of the batch scripts without a Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

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
