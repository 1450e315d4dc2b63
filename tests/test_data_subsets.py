"""``neucore-xl data subsets`` as a user calls it: what it prints, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neucore_xl.cli import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(60):
        colour, noise = draw.integers(0, 255, 3), draw.integers(-30, 30, (32, 32, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def options(tower_config: Path, tmp_path: Path) -> list[str]:
    """A random tower, which sees all noise alike."""
    return [
        "--near-identical", "1.1", "--step", "0.000001", "--pretrained", "null", "data.workers=0", "train.device=cpu",
        f"backbone.config={tower_config}", f"train.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip


def test_a_folder_of_pictures_becomes_annotations_to_fill_in(
    pictures: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (pictures / "notes.txt").touch()
    for i in range(12):
        (pictures / f"empty-{i:02}.jpg").touch()
    out = tmp_path / "out"
    assert run("data", "subsets", pictures, out, *options) == 0
    printed = capsys.readouterr().out.splitlines()
    skipped = [line for line in printed if line.startswith("skipped ")]
    assert len(skipped) == 10
    assert skipped[0].startswith("skipped empty-00.jpg: Image ")
    assert f"12 pictures were skipped, all in {out / 'subsets.json'}" in printed
    assert "left aside, no pictures by their names: 1 .txt" in printed
    record = json.loads((out / "subsets.json").read_text(encoding="utf-8"))
    assert len(record["skipped"]) == 12
    for split in ("train", "val", "test1"):
        rows = json.loads((out / "captions" / f"cap.rc2.{split}.json").read_text(encoding="utf-8"))
        assert {row["caption"] for row in rows} == {""}
        (line,) = (line for line in printed if line.startswith(f"{split}: "))
        assert f", {len(rows)} pairs, " in line
    assert run("data", "doctor", "cirr", out) == 1
    assert "no words at all" in " ".join(capsys.readouterr().out.split())

    path = out / "captions" / "cap.rc2.train.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"caption": ""', '"caption": "make it red"'))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert run("data", "subsets", pictures, out, *options) == 2
    assert "with captions that somebody wrote" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_fewer_subsets_than_were_asked_for_are_said(
    pictures: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        run("data", "subsets", pictures, tmp_path / "out", *options, "--subsets", 400, "--test", 0, "--val", 0.25) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("train: ") and " of 300, no more can be formed, " in line]
    assert [line for line in lines if line.startswith("val: ") and " of 100, no more can be formed, " in line]


def test_a_backbone_that_is_unknown_gets_the_nearest_name(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("data", "subsets", pictures, tmp_path / "out", "--backbone", "ViT-B-33") == 2
    assert capsys.readouterr().err == "error: Unknown backbone 'ViT-B-33'; did you mean ViT-B-32?\n"


def test_a_folder_of_weights_needs_no_word_about_them(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    backbone = f"local-dir:{tmp_path / 'clip'}"
    assert run("data", "subsets", pictures, tmp_path / "out", "--backbone", backbone) == 2
    assert "gives no open_clip_config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "out"], "The image folder nowhere does not exist"),
        (["pictures", "pictures/out"], "lies within the image folder pictures"),
        (["pictures", "pictures/0.png"], "pictures/0.png is a file"),
        (["pictures", "out", "--val", "0.01"], "which leaves 1 for val"),
        (["pictures", "out", "--subsets", "2"], "--subsets 2 is less than one subset for each"),
        (["pictures", "out", "backbon.name=x"], "backbone"),
        (["pictures", "out", "--subsets", "0"], "--subsets"),
        (["pictures", "out", "--top", "4"], "--top"),
        (["pictures", "out", "--seed", "-1"], "--seed"),
        (["pictures", "out", "--seed", "1" * 30], "--seed"),
        (["pictures", "out", "--step", "nan"], "--step"),
        (["pictures", "out", "--near-identical", "nan"], "--near-identical"),
        (["pictures", "out", "--val", "nan"], "--val"),
        (["empty", "out"], "0 pictures are below empty, and a subset takes 6"),
    ],
)
def test_wrong_calls_are_refused_with_one_sentence(
    arguments: list[str],
    said: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("data", "subsets", *arguments) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "pictures"]
