"""A dataset of one's own in one file, this one: from the doctor to metrics, and no other file knows it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from neucore_xl.cli import main
from neucore_xl.data import datasets
from neucore_xl.data.datasets import Dataset, open_split, register
from neucore_xl.data.settings import job_settings
from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation import protocols
from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.training.run import train

NAME = "marbles"
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (120, 120, 120)}


def splits(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (root / "pairs").glob("*.csv")))


def open_marbles(root: Path, split: str, switches: Switches) -> Split:
    """``pairs/SPLIT.csv`` with the columns from, to, words; the gallery is all of ``pictures/SPLIT/``."""
    table = root / "pairs" / f"{split}.csv"
    if not table.is_file():
        raise UserError(f"Split {split!r} has no pairs: {table} does not exist ({', '.join(splits(root))} are there).")
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    paths = {path.stem: path for path in sorted((root / "pictures" / split).iterdir())}
    triplets = []
    for number, row in enumerate(rows):
        if not row["words"].strip() and switches.empty_text == "refuse":
            raise UserError(f"{table}, row {number} has no words; write some or pass data.empty_text=keep.")
        triplets.append(Triplet(f"{split}-{number}", row["from"], row["to"], row["words"]))
    return Split(NAME, split, root, tuple(triplets), {"": Gallery(tuple(paths), paths)})


@pytest.fixture
def marbles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset registered for one test, and a folder of 16 training and 8 validation pictures."""
    monkeypatch.setattr(datasets, "_REGISTERED", dict(datasets._REGISTERED))
    monkeypatch.setattr(protocols, "_REGISTERED", dict(protocols._REGISTERED))
    register(Dataset(NAME, "Marbles", splits, open_marbles))
    protocols.register(NAME, protocols.recall_at(1, 3))
    root = tmp_path / "marbles"
    for split, copies in (("train", 4), ("val", 2)):
        names = []
        for number in range(copies):
            for colour, value in COLOURS.items():
                path = root / "pictures" / split / f"{colour}-{split}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), tuple(c + number for c in value)).save(path)
                names.append(path.stem)
        lines = ["from,to,words"]
        for i, name in enumerate(names):
            target = names[(i + 1) % len(names)]
            lines.append(f"{name},{target},make it {target.split('-')[0]} instead of {name.split('-')[0]}")
        (root / "pairs").mkdir(exist_ok=True)
        (root / "pairs" / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return int(stop.value.code or 0)


def test_from_the_doctor_to_metrics(
    marbles: Path, tmp_path: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert command("data", "doctor", NAME, str(marbles), "--json", str(report)) == 0
    assert "A training can start from this folder." in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert [(s["name"], s["rows"], s["images"]) for s in found["splits"]] == [("train", 16, 16), ("val", 8, 8)]
    assert found["images"]["checked"] == 24

    assert command("prepare", "sequences", str(marbles)) == 0
    sequences = read_sequences(marbles / "sequences" / "clauses.jsonl")
    assert "make it green instead of red" in sequences.by_text

    overrides = [*tiny_overrides, f"data.name={NAME}", f"data.root={marbles}"]
    settings = job_settings("demo", overrides)
    summary = train(settings, tmp_path / "run")
    assert summary.steps == 10
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    validation = [line["validation"] for line in log if "validation" in line]
    assert len(validation) == 2
    for metrics in validation:
        assert set(metrics) == {"R@1", "R@3", "mean"}
        assert metrics["mean"] == pytest.approx((metrics["R@1"] + metrics["R@3"]) / 2)


def test_what_is_wrong_with_it_is_told(marbles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = marbles / "pairs" / "train.csv"
    table.write_text(table.read_text() + "nowhere,grey-train-0,x\nred-train-0,red-train-0,same same\nred-train-1,,\n")
    (marbles / "pictures" / "val" / "red-val-0.png").write_bytes(b"")
    assert command("data", "doctor", NAME, str(marbles)) == 1
    printed = " ".join(capsys.readouterr().out.split())
    for kind in ("reference-not-listed", "target-is-reference", "text-empty"):
        assert kind in printed
    assert "Images that train or val needs cannot be decoded: 1" in printed
    table.unlink()
    assert command("data", "doctor", NAME, str(marbles)) == 1
    assert "There is no split train." in " ".join(capsys.readouterr().out.split())


def test_the_doctor_of_another_dataset_recognises_it(marbles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("data", "doctor", "cirr", str(marbles), "--no-images") == 1
    assert f"in the format of {NAME}" in " ".join(capsys.readouterr().out.split())


def test_it_is_one_of_the_names_that_are_offered(marbles: Path) -> None:
    with pytest.raises(UserError, match="did you mean marbles"):
        open_split("marble", marbles, "train")
    with pytest.raises(UserError, match="A dataset 'marbles' is registered already"):
        register(Dataset(NAME, "Other marbles", splits, open_marbles))
    with pytest.raises(UserError, match="needs image sets"):
        job_settings("demo", [f"data.name={NAME}", "loss.subset_negatives=1"])
    with pytest.raises(UserError, match="needs categories"):
        job_settings("demo", [f"data.name={NAME}", "data.one_category_per_batch=true"])
