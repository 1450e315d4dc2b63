"""Real DeepSpeed processes: what is saved at one number of ranks and stage goes on at every other.

Slow: one, two and four processes that initialize DeepSpeed some forty times together; nothing else
writes files like its own.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from neucore_xl.cli import main
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find
from neucore_xl.runs.checkpoints.checkpoint import Checkpoint, read_checkpoint
from neucore_xl.runs.checkpoints.universal import universal_folder
from tests.support.forks import Forks

pytestmark = [
    pytest.mark.timeout(3600),  # four starts of DeepSpeed and three conversions
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]

WORKER = Path(__file__).with_name("zero_worker.py")
SAVED, END = 3, 6
STAGES = (1, 2, 3)
# stage that was saved by two ranks ("plain": one rank without DeepSpeed) → stage that one rank goes on with
ACROSS = [(1, 2), (2, 3), (3, 1), (3, 0), (2, 0), (1, None), (3, None), *(("plain", stage) for stage in (0, 1, 2, 3))]
TOLERANCE = 2e-6  # of a loss of about 4: fp32 rounding in another order


def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zero_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(jobs: list[dict[str, Any]], ranks: int, where: Path, forks: Forks) -> None:
    """Do ``jobs`` by ``ranks`` processes, which are gone afterwards."""
    file = where / f"jobs-{ranks}.json"
    file.write_text(json.dumps(jobs))
    forks.together([WORKER, file], ranks, DS_ACCELERATOR="cpu", DEEPSPEED_LOG_LEVEL="error")


class Reports:
    def __init__(self, where: Path) -> None:
        self.where = where

    def job(self, name: str, **settings: Any) -> dict[str, Any]:
        return {"out": str(self.where / f"{name}.json"), "until": END, "resume": True, **settings}

    def __getitem__(self, name: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.where / f"{name}.json").read_text())
        return report

    def folder(self, source: int | str) -> Path:
        return self.where / f"run-{source}" / "checkpoints"

    def checkpoint(self, source: int | str) -> Checkpoint:
        found = find.latest(self.folder(source))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Reports:
    """An unbroken run of one process; saves after three steps by two ranks; continuations by one, two and four."""
    found = Reports(tmp_path_factory.mktemp("sharded"))
    alone = worker()
    for job in (
        found.job("whole", stage=None, folder=str(found.folder("whole")), resume=False),
        found.job("plain", stage=None, folder=str(found.folder("plain")), until=SAVED, resume=False, save=True),
    ):
        Path(job["out"]).write_text(json.dumps(alone.run(job, World())))
    launch(
        [
            *(
                found.job(f"save-{s}", stage=s, folder=str(found.folder(s)), until=SAVED, resume=False, save=True)
                for s in STAGES
            ),
            *(found.job(f"{s}-by-2", stage=s, folder=str(found.folder(s))) for s in STAGES),
            *(
                found.job(f"full-{s}-{r}", stage=s, folder=str(found.folder(s)), until=4, save=True, fails_on=r)
                for s, r in ((1, 0), (3, 0), (2, 1), (3, 1))
            ),
        ],
        2,
        found.where,
        forks,
    )
    launch([found.job(f"{s}-by-4", stage=s, folder=str(found.folder(s))) for s in STAGES], 4, found.where, forks)
    launch(
        [
            *(found.job(f"{s}-by-1", stage=s, folder=str(found.folder(s))) for s in STAGES),
            *(found.job(f"{a}-to-{b}", stage=b, folder=str(found.folder(a))) for a, b in ACROSS),
        ],
        1,
        found.where,
        forks,
    )
    return found


def differences(report: dict[str, Any], whole: dict[str, Any]) -> tuple[float, float]:
    """Greatest difference of a loss, and of a number of the final state, from the unbroken run."""
    expected = whole["losses"][report["start"] :]
    assert len(report["losses"]) == len(expected)
    losses = max(abs(a - b) for a, b in zip(report["losses"], expected, strict=True))
    assert report["end"].keys() == whole["end"].keys()
    ends = max(float((torch.tensor(v) - torch.tensor(whole["end"][k])).abs().max()) for k, v in report["end"].items())
    return losses, ends


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_ranks_goes_on_with_the_losses_of_an_unbroken_one(
    reports: Reports, stage: int, ranks: int
) -> None:
    report, whole = reports[f"{stage}-by-{ranks}"], reports["whole"]
    losses, ends = differences(report, whole)
    assert report["start"] == SAVED
    assert losses < TOLERANCE
    assert ends < 1e-6
    assert report["rates"] == pytest.approx([rate / (1 + 0.3 * SAVED) for rate in (0.05, 0.01, 0.02)])
    assert report["decays"] == [0.1, 0.0, 0.5]
    print(f"stage {stage}, 2 -> {ranks} ranks: loss {losses:.1e}, parameters {ends:.1e}")


@pytest.mark.parametrize(("source", "target"), ACROSS)
def test_a_run_goes_on_under_another_stage_or_strategy(reports: Reports, source: int | str, target: int | None) -> None:
    report = reports[f"{source}-to-{target}"]
    losses, ends = differences(report, reports["whole"])
    assert losses < TOLERANCE
    assert ends < 1e-6
    assert report["decays"] == [0.1, 0.0, 0.5]
    print(f"{source} -> {target}: loss {losses:.1e}, parameters {ends:.1e}")


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_parameters_are_left_as_they_were_built(reports: Reports, stage: int) -> None:
    built = worker().build()[0].state_dict()
    for name in (f"{stage}-by-1", f"{stage}-by-2", f"{stage}-by-4"):
        end = reports[name]["end"]
        for key in ("backbone.stem.weight", "backbone.stem.bias"):
            assert torch.equal(torch.tensor(end[key]), built[key])
        assert end["tied.weight"] == end["out.weight"]


@pytest.mark.parametrize("stage", STAGES)
def test_random_states_come_back_rank_by_rank(reports: Reports, stage: int) -> None:
    saved = reports[f"save-{stage}"]["next_draws"]
    assert len(set(saved)) == 2
    assert reports[f"{stage}-by-2"]["draws"] == saved
    assert reports[f"{stage}-by-4"]["draws"] == [*saved, None, None]


@pytest.mark.parametrize("stage", STAGES)
def test_shards_become_the_weights_of_one_process(reports: Reports, stage: int) -> None:
    expected, found = reports.checkpoint("plain").weights(), reports.checkpoint(stage).weights()
    assert found.keys() == expected.keys()
    assert "backbone.seen" in found
    assert "tied.weight" in found
    assert not [name for name in found if "stem" in name or "scratch" in name]
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_are_in_no_file(reports: Reports, stage: int) -> None:
    for path in (reports.checkpoint(stage).path / "zero").rglob("*_model_states.pt"):
        module = torch.load(path, weights_only=False)["module"]
        assert not [name for name in module if "stem" in name]


@pytest.mark.parametrize(("stage", "rank"), [(1, 0), (3, 0), (2, 1), (3, 1)])
def test_a_disk_that_is_full_for_one_rank_stops_all_with_one_sentence(reports: Reports, stage: int, rank: int) -> None:
    report = reports[f"full-{stage}-{rank}"]
    assert len(set(report["errors"])) == 1
    assert "disk full" in report["errors"][0]
    assert f"rank {rank} on" in report["errors"][0]
    assert reports.checkpoint(stage).step == SAVED
    assert not list(reports.folder(stage).glob(".tmp-*"))


def test_a_checkpoint_is_resharded_once_and_again_when_the_result_is_damaged(
    reports: Reports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / reports.checkpoint(2).path.name
    shutil.copytree(reports.checkpoint(2).path, path)
    shutil.rmtree(path / "universal")

    def made() -> int:
        return (path / "universal" / "manifest.json").stat().st_ino

    main_exits(["checkpoint", "reshard", str(path)], 0)
    assert "ready for any number of processes" in capsys.readouterr().out
    first = made()
    main_exits(["checkpoint", "reshard", str(path)], 0)
    assert "is there already" in capsys.readouterr().out
    assert made() == first
    (path / "universal" / "state" / "zero" / "optimizer_state.pt").write_bytes(b"half")
    main_exits(["checkpoint", "reshard", str(path)], 0)
    assert "ready" in capsys.readouterr().out
    assert not list(path.glob(".tmp-*"))
    main_exits(["checkpoint", "verify", str(path)], 0)


def test_a_checkpoint_that_the_converter_cannot_read_is_one_sentence(reports: Reports, tmp_path: Path) -> None:
    path = tmp_path / "step-00000003"
    shutil.copytree(reports.checkpoint(1).path, path)
    shutil.rmtree(path / "universal", ignore_errors=True)
    next((path / "zero" / "state").glob("*optim_states.pt")).write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be brought to another number of processes") as caught:
        universal_folder(read_checkpoint(path), World())
    assert "\n" not in str(caught.value)
    assert not (path / "universal").exists()
    assert not list(path.glob(".tmp-*"))


def main_exits(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == code
