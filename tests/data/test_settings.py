"""The dataset of a job's settings: known, with the nearest name otherwise, and able to do what they ask of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import neucore_xl.train as train_module
from neucore_xl import preflight
from neucore_xl.ablation.plan import planned_runs, varied
from neucore_xl.cli import main
from neucore_xl.config.load import dump_yaml, load_settings
from neucore_xl.config.schema import DataSettings, Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.settings import check_dataset, job_settings
from neucore_xl.errors import UserError
from neucore_xl.training.run import train

UNKNOWN = 'data.name must be one of cirr, fashion-iq, not "fashioniq"; did you mean fashion-iq?'
OVERRIDE = "data.name=fashioniq"


@pytest.mark.parametrize(
    ("recipe", "override", "sentence"),
    [
        ("demo", OVERRIDE, UNKNOWN),
        ("demo", "data.name=12", 'data.name must be one of cirr, fashion-iq, not "12".'),
        ("fashioniq-vit-b16", "loss.subset_negatives=2", "loss.subset_negatives=2 needs image sets such as"),
        ("demo", "data.one_category_per_batch=true", "data.one_category_per_batch needs categories such as"),
    ],
)
def test_a_job_that_its_dataset_cannot_do_is_refused(recipe: str, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        job_settings(recipe, [override])
    assert str(refused.value).startswith(sentence)


def test_what_a_dataset_can_do_is_taken() -> None:
    assert job_settings("demo", ["loss.subset_negatives=2"]) == load_settings("demo", ["loss.subset_negatives=2"])
    assert job_settings("fashioniq-vit-b16", ["data.one_category_per_batch=true"]).data.one_category_per_batch


@pytest.mark.parametrize(
    "words",
    [
        ["train", "demo", "--run", "run", OVERRIDE],
        ["train", "demo", "--dry-run", OVERRIDE],
        ["plan", "demo", OVERRIDE],
        ["config", "show", "demo", OVERRIDE],
        ["ablate", "demo", "--vary", "model.name=concat,residual", "--out", "out", OVERRIDE],
        ["ablate", "demo", "--vary", "data.name=cirr,fashioniq", "--commands"],
    ],
    ids=" ".join,
)
def test_every_command_names_the_nearest_dataset(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {UNKNOWN}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_the_nearest_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "doctor", "fashioniq", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: Unknown dataset 'fashioniq'; did you mean fashion-iq? (one of cirr, fashion-iq).\n"


def test_the_module_entries_name_the_nearest_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_module.main(["demo", "--run", str(tmp_path / "run"), OVERRIDE]) == 2
    assert UNKNOWN in capsys.readouterr().err
    assert preflight.main(["demo", "--run", str(tmp_path / "run"), OVERRIDE]) == 2
    captured = capsys.readouterr()
    assert UNKNOWN in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["cirr", "fashion_iq"])
def test_the_evaluation_scripts_name_the_nearest_dataset(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "eval"))
    for name in ("cirr", "fashion_iq", "scores"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(Settings()))
    entry = __import__(script).main
    with pytest.raises(UserError, match="did you mean fashion-iq"):
        entry(["--run", str(tmp_path / "run"), "--data", str(tmp_path), "--out", str(tmp_path / "out"), OVERRIDE])
    assert not (tmp_path / "out").exists()


def test_settings_of_a_dataset_that_is_not_registered_here_can_be_read_but_nothing_opened(tmp_path: Path) -> None:
    settings = load_settings("demo", ["data.name=mine"])  # a run folder's, say
    with pytest.raises(UserError, match=r"data\.name must be one of cirr, fashion-iq, not \"mine\""):
        check_dataset(settings)
    with pytest.raises(UserError, match=r"data\.name must be one of"):
        train(settings, tmp_path / "run")
    with pytest.raises(UserError, match="Unknown dataset 'mine'"):
        open_from_settings(DataSettings(name="mine", root=tmp_path), "train")
    assert not (tmp_path / "run").exists()


def test_an_ablation_over_datasets_is_checked_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean fashion-iq"):
        planned_runs("demo", [], varied(["data.name=cirr,fashioniq"]), 1, tmp_path)
