"""Every example of docs/extending.md, as it stands on the page, does what the page says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.cli import main
from neucore_xl.config.schema import LossSettings, Settings
from neucore_xl.data import datasets
from neucore_xl.evaluation import protocols
from neucore_xl.models.composer import Composer
from neucore_xl.models.registry import build_composer
from neucore_xl.runs.system import load_run
from neucore_xl.training.journal import read_log
from neucore_xl.training.losses import objective
from neucore_xl.training.run import train
from tests.language.llm.loopback import serving

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {text.split("\n", 1)[0].removeprefix("# "): text for kind, text in BLOCKS if kind in ("python", "yaml")}
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SYSTEMS = dict.fromkeys(name for line in COMMANDS for name in re.findall(r"model\.name=(\S+)", line))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the page, where Python looks for modules."""
    folder = tmp_path / "page"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield folder
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def test_the_page_has_the_files_and_the_systems_that_are_tried_here() -> None:
    assert set(FILES) == {"my_systems.py", "my_losses.py", "my_pairs.py", "short-prompt.yaml"}
    assert list(SYSTEMS) == ["my_systems:Blend", "my_losses:Near"]
    assert {kind for kind, _ in BLOCKS} == {"python", "yaml", "bash", "diff"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_composer_of_the_page_trains_and_is_loaded_again(
    written: Path, tmp_path: Path, tiny: Callable[..., Settings], name: str
) -> None:
    train(tiny(f"model.name={name}", "model.start=image", "train.steps=2", "train.warmup_steps=0"), tmp_path / "run")
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [record["step"] for record in log] == [1, 2]
    for record in log:
        assert record["loss"] == pytest.approx(record["loss_match"] + record.get("loss_moved", 0.0))
    if name == "my_losses:Near":
        assert log[0]["loss_moved"] == pytest.approx(0, abs=1e-9)
        assert log[1]["loss_moved"] > 1e-6
    composer = load_run(tmp_path / "run").composer
    assert type(composer).__name__ == name.split(":")[1]
    head = composer.share if name == "my_systems:Blend" else composer.delta
    assert head[-1].weight.abs().sum() > 0, "zero until it is trained"  # type: ignore[index, operator, union-attr]


def test_the_loss_term_of_one_system_changes_the_total(
    written: Path, make_backbone: Any, make_batch: Any, vocabulary: Any
) -> None:
    backbone = make_backbone()

    def build(name: str) -> Composer:
        torch.manual_seed(0)
        settings = Settings.model_validate({"model": {"name": name, "width": 16, "heads": 2, "dropout": 0}})
        composer = build_composer(settings, backbone, vocabulary)
        with torch.no_grad():
            composer.get_parameter("delta.3.bias").fill_(0.5)
        return composer

    batch = make_batch(backbone)
    plain, near = (
        objective(composer, composer("train", batch), batch, LossSettings())
        for composer in (build("residual"), build("my_losses:Near"))
    )
    assert near.match == plain.match == plain.total
    assert near.total > near.match
    assert near.total == near.match + near.values()["loss_moved"]


@pytest.mark.slow
def test_the_changes_of_the_page_apply_and_work(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "neucore_xl", tmp_path / "neucore_xl", ignore=shutil.ignore_patterns("__pycache__"))
    for kind, text in BLOCKS:
        if kind == "diff":
            command = ["git", "apply", "--whitespace=error", "-"]
            done = subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", TRY_CHANGES], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["package"]).is_relative_to(tmp_path)
    assert found["losses"]["0.5"] == pytest.approx(found["losses"]["0"] + 0.5 * 2.0**2)
    assert found["named"] == pytest.approx(0.5 * 2.0**2)
    assert found["metrics"]["R@1"] == 0.0
    assert found["metrics"]["R@1%"] == 50.0


TRY_CHANGES = """
import json
from pathlib import Path

import numpy as np
import torch

import neucore_xl
from neucore_xl.config.schema import LossSettings
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.evaluation import cirr
from neucore_xl.models.features import ComposerOutput, FeatureSet
from neucore_xl.training.losses import with_row_terms

features = FeatureSet({"vector": torch.ones(2, 3)})
output = ComposerOutput(features, features, torch.tensor([2.0]))
terms = {w: with_row_terms(torch.tensor(1.0), output, None, LossSettings(temperature_weight=w)) for w in (0, 0.5)}

names = tuple(f"image-{n}" for n in range(200))
triplets = tuple(Triplet(str(n), names[0], names[target], "words") for n, target in enumerate((2, 3)))
split = Split("cirr", "val", Path(), triplets, {"": Gallery(names, {})})
scores = -np.tile(np.arange(200, dtype=np.float32), (2, 1))  # ranked by number, the reference left out: ranks 2 and 3
print(json.dumps({
    "package": neucore_xl.__file__,
    "losses": {w: t.total.item() for w, t in terms.items()},
    "named": terms[0.5].values()["loss_temperature"].item(),
    "metrics": cirr.evaluate(split, [(0, scores)]).metrics,
}))
"""


@pytest.fixture
def pairs(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data once more, in the layout of the page's dataset."""
    root = tmp_path / "pairs"
    for split in ("train", "val"):
        shutil.copytree(tiny_data / "img_raw" / split, root / "images" / split)
        rows = json.loads((tiny_data / "captions" / f"cap.rc2.{split}.json").read_text(encoding="utf-8"))
        lines = [f"{row['reference']}.png,{row['target_hard']}.png,{row['caption']}" for row in rows]
        (root / f"{split}.csv").write_text("\n".join(["reference,target,text", *lines, ""]), encoding="utf-8")
    return root


@pytest.fixture
def no_dataset_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten behind it."""
    for registry in (datasets, protocols):
        monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


@pytest.mark.slow
def test_the_dataset_of_the_page_is_examined_trained_on_and_validated(
    written: Path, pairs: Path, tiny_overrides: list[str], no_dataset_stays: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor, training = (shlex.split(line.replace("data/pairs", str(pairs))) for line in COMMANDS if "my_pairs" in line)

    def examine(*more: str) -> tuple[int, str]:
        command = [sys.executable, *doctor[1:], *more]
        done = subprocess.run(command, cwd=written, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    code, said = examine()
    assert code == 0, said
    assert "A training can start from this folder." in said

    monkeypatch.chdir(written)
    importlib.import_module("my_pairs")  # in this process, to load torch once less
    small = [word for word in tiny_overrides if not word.startswith(("data.name=", "data.root="))]
    with pytest.raises(SystemExit) as ended:
        main([*training[2:], *small, "train.steps=2", "train.validate_every=0"])
    assert ended.value.code == 0
    validation = read_log(written / "runs" / "pairs" / "log.jsonl")[-1]["validation"]
    assert set(validation) == {"R@1", "R@5", "mean"}
    assert validation["mean"] == pytest.approx((validation["R@1"] + validation["R@5"]) / 2)

    (pairs / "val.csv").write_text("reference,target\n", encoding="utf-8")
    code, said = examine("--no-images")
    assert code == 1
    assert "has no column text" in said


def test_the_prompt_of_the_page_plans_through_a_server(
    written: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = (line for line in COMMANDS if "--prompt" in line)
    monkeypatch.chdir(written)
    out = tmp_path / "sequences.jsonl"
    arguments = shlex.split(command.replace("data/cirr", str(tiny_data)))[1:]
    with serving() as server, pytest.raises(SystemExit) as ended:
        main([*arguments, "--endpoint", server.url, "--limit", "3", "--out", str(out)])
    assert ended.value.code == 0, capsys.readouterr()
    system = server.requests[0]["messages"][0]["content"]
    assert system.startswith("Split what is to change in a picture into single edits")
    assert "- viewpoint: how it is seen" in system
    assert [message["content"] for message in server.requests[0]["messages"]][1].endswith(
        "Take away the ladder and zoom in"
    )
    header, *lines = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert header["settings"]["prompt"].startswith("short-")
    assert len(lines) == 3
    assert all(line["steps"] for line in lines)
