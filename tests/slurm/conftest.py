"""A real Slurm on this machine, with nodes that have their own addresses, and a training job small enough for it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from neucore_xl.training.journal import read_log
from tests.support.forks import Forks

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
PATIENCE = 600  # seconds for anything; never what a test asserts

TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def until(what: str, happened: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for ``happened``; the test fails if it does not."""
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen within {patience:g} s"
        time.sleep(0.1)


@dataclass(frozen=True)
class Job:
    """A submitted job; ``output`` holds what it has written over all its starts."""

    cluster: Cluster
    id: str
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def show(self) -> dict[str, str]:
        """``scontrol show job`` as a mapping; a controller that is busy is asked again."""
        for _ in range(20):
            done = self.cluster.run("scontrol", "show", "job", "-o", self.id, check=False)
            if done.returncode == 0 and "JobState=" in done.stdout:
                return dict(re.findall(r"(\w+)=(\S*)", done.stdout))
            time.sleep(1)
        raise AssertionError(f"scontrol does not know job {self.id}: {done.stderr}")

    @property
    def queued(self) -> bool:
        done = self.cluster.run("squeue", "-h", "-j", self.id, check=False)
        return done.returncode != 0 or bool(done.stdout.strip())

    def reaches(self, run: Path, step: int) -> None:
        """Wait until the run has logged ``step``; the job must not have ended before."""

        def reached() -> bool:
            if step in losses_of(run):
                return True
            assert self.queued, self.text
            return False

        until(f"step {step} of job {self.id}", reached)

    def says(self, text: str) -> None:
        """Wait until the job has written ``text``; it must not have ended before."""

        def said() -> bool:
            assert text in self.text or self.queued, self.text
            return text in self.text

        until(f"{text!r} in the output of job {self.id}", said)

    def ended(self) -> dict[str, str]:
        """What ``scontrol`` shows once the job has left the queue for good."""
        until(f"the end of job {self.id}", lambda: not self.queued)
        shown = self.show()
        print(f"--- job {self.id}: {shown['JobState']}, restarts {shown['Restarts']}, {shown['RunTime']}\n{self.text}")
        return shown


@dataclass
class Cluster:
    """Four nodes of two GPUs, of which only Slurm's bookkeeping exists."""

    folder: Path
    environ: dict[str, str]
    jobs: list[Job] = field(default_factory=list)

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, check=check, capture_output=True, text=True, env=self.environ | variables, timeout=120
        )

    def manage(self, *words: str) -> None:
        """A subcommand of the script that made the cluster."""
        done = self.run("bash", str(HERE / "slurm_cluster.sh"), *words, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def submit(self, script: str, *words: str, sbatch: Sequence[str], cwd: Path, **variables: str) -> Job:
        """``sbatch SBATCH… slurm/SCRIPT WORDS…`` in ``cwd``."""
        output = Path(tempfile.mkdtemp(dir=self.folder)) / "log"
        path = REPOSITORY / "slurm" / f"{script}.sbatch"
        done = subprocess.run(
            ["sbatch", "--parsable", f"--output={output}", *sbatch, str(path), *words],
            capture_output=True, text=True, cwd=cwd, env=self.environ | variables, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        job = Job(self, done.stdout.strip().split(";")[0], output)
        self.jobs.append(job)
        return job

    def nodes_of(self, job: Job) -> list[str]:
        return self.run("scontrol", "show", "hostnames", job.show()["NodeList"]).stdout.split()

    def inside(self, node: str, *command: str) -> None:
        """Run a command in the mount namespace of a node."""
        holder = int((self.folder / "run" / f"{node}.pid").read_text().split()[0])  # unshare; its child is the node
        first = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0]
        subprocess.run(["nsenter", f"--target={first}", "--mount", *command], check=True, timeout=60)


def missing_tools(addresses: bool = True) -> str | None:
    """Why there can be no cluster here, or None; ``addresses``: one whose nodes have their own."""
    if os.geteuid() != 0:
        return "a cluster of namespaces needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if lacking:
        return f"{', '.join(lacking)} is missing: apt-get install slurmctld slurmd slurm-client munge iproute2"
    if addresses and any(_pids_of_node(i) for i in range(1, 5)):
        return "another simulated cluster with nodes of their own addresses is up"
    return None


def _pids_of_node(number: int) -> str:
    done = subprocess.run(
        ["ip", "netns", "pids", f"slurmsim-node{number}"], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip()


def _free_port() -> int:
    """One that nothing listens on, below those that the kernel hands out and outside those of jobs."""
    for port in range(31_000 + os.getpid() % 700, 32_700, 10):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def bring_up(folder: Path, nodes: int, gpus: int, **settings: str) -> Cluster:
    """A cluster in ``folder``; whoever calls this brings it down."""
    variables = {"SLURM_SIM_DIR": str(folder), "SLURM_SIM_CPUS": "64", "SLURM_SIM_TIMEOUT": "180"} | settings
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "NEUCORE"))} | variables
    environ |= {"SLURM_CONF": str(folder / "etc" / "slurm.conf"), "NEUCORE_HOME": str(REPOSITORY)}
    environ |= {"PATH": f"{environ['PATH']}:/usr/sbin:/sbin", "NEUCORE_SITE": str(folder / "site.sh")}
    folder.chmod(0o755)  # munged refuses a socket that others cannot reach
    (folder / "site.sh").write_text(
        f"NEUCORE_PYTHON={sys.executable}\nexport OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1\n"
        "export DS_ACCELERATOR=cpu\n"
    )
    cluster = Cluster(folder, environ)
    cluster.manage("up", str(nodes), str(gpus))
    return cluster


def tear_down(folder: Path) -> None:
    """Stop what runs in ``folder``, by the pids that are noted there, and remove it."""
    environ = os.environ | {"SLURM_SIM_DIR": str(folder), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["bash", str(HERE / "slurm_cluster.sh"), "down"], check=True, env=environ, timeout=120)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes with two GPUs each; one such cluster at a time on a machine."""
    with Path("/tmp/neucore-xl-slurm-tests.lock").open("w") as lock:  # wherever TMPDIR points
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in Path("/tmp").glob("ncs-*/etc/cluster"):  # of a test run that was killed: it held this lock
            tear_down(stale.parent.parent)
        if reason := missing_tools():
            pytest.skip(reason)
        folder = Path(tempfile.mkdtemp(prefix="ncs-", dir="/tmp"))  # short: it holds UNIX sockets
        made = bring_up(folder, 4, 2, SLURM_SIM_NET="netns", SLURM_SIM_PORT=str(_free_port()))
        try:
            yield made
        finally:
            tear_down(folder)


@pytest.fixture(scope="module")
def production() -> Iterator[Cluster]:
    """Eight nodes of eight GPUs and 64 CPUs that run nothing: for ``sbatch --test-only``."""
    if reason := missing_tools(addresses=False):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="ncp-", dir="/tmp"))
    made = bring_up(folder, 8, 8, SLURM_SIM_PORT=str(_free_port()), SLURM_SIM_PROCTRACK="linuxproc")
    try:
        yield made
    finally:
        tear_down(folder)


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" not in request.fixturenames:
        return
    made: Cluster = request.getfixturevalue("cluster")
    for job in made.jobs:
        made.run("scancel", job.id, check=False)
    for job in made.jobs:
        until(f"the end of job {job.id}", lambda job=job: not job.queued)
    made.jobs.clear()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """144 training and 45 validation queries in CIRR's layout, beside a tiny model and an empty recipe."""
    from neucore_xl.shapes.generate import generate

    root = tmp_path_factory.mktemp("shapes")
    generate(root / "data", layout="cirr", train=48, val=18, test=0, seed=0, size=32, workers=1)
    (root / "towers.json").write_text(json.dumps(TOWERS))
    (root / "recipe.yaml").write_text("{}\n")
    return root


@pytest.fixture(scope="session")
def words(shapes: Path) -> list[str]:
    """Recipe and settings of a run on CPUs: fp32, no dropout, towers trained in part."""
    return [
        str(shapes / "recipe.yaml"),
        "data.name=cirr",
        f"data.root={shapes / 'data'}",
        "data.workers=0",
        f"backbone.config={shapes / 'towers.json'}",
        "backbone.name=towers",
        "backbone.pretrained=null",
        "backbone.freeze={image: 1, text: 1}",
        "model.width=32",
        "model.heads=4",
        "model.dropout=0",
        "model.correction_dropout=0",
        "model.exchange_layers=1",
        "fusion.max_steps=3",
        "train.batch_size=8",
        "train.lr=1e-4",
        "train.device=cpu",
        "train.warmup_steps=2",
        "train.log_every=1",
        "train.validate_every=0",
        "train.checkpoint_every=10",
        f"train.cache_dir={shapes / 'cache'}",
    ]


@pytest.fixture(scope="session")
def zero3(shapes: Path) -> str:
    """The shipped ZeRO-3 file with thresholds of 0, so that a model as small as this one is really sharded."""
    config = json.loads((REPOSITORY / "ds_configs" / "zero3.json").read_text(encoding="utf-8"))
    for threshold in (
        "param_persistence_threshold",
        "max_live_parameters",
        "max_reuse_distance",
        "prefetch_bucket_size",
    ):
        config["zero_optimization"][f"stage3_{threshold}"] = 0
    path = shapes / "zero3.json"
    path.write_text(json.dumps(config))
    return f"train.deepspeed={path}"


def losses_of(run: Path) -> dict[int, float]:
    """Step → loss; nothing while there is no log."""
    return {record["step"]: record["loss"] for record in read_log(run / "log.jsonl")}


@pytest.fixture(scope="session")
def losses() -> Callable[[Path], dict[int, float]]:
    """``losses(run)``: step → loss."""
    return losses_of


@pytest.fixture(scope="session")
def unbroken(
    words: list[str], forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[int, float]]:
    """``unbroken(steps)``: the losses of a run of so many steps by one process that nothing disturbs."""

    @cache
    def train(steps: int) -> dict[int, float]:
        run = tmp_path_factory.mktemp("unbroken") / "run"
        process = forks.start(["-m", "neucore_xl.train", words[0], "--run", run, *words[1:], f"train.steps={steps}"])
        assert process.wait() == 0, process.said()
        found = losses_of(run)
        assert sorted(found) == list(range(1, steps + 1))
        return found

    return train
