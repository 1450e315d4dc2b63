"""The written folder: the real formats field by field, the project's own readers, determinism and refusals."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from neucore_xl.data.datasets import open_split
from neucore_xl.errors import UserError
from neucore_xl.language.sequence import Operation
from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.shapes import generate as module
from neucore_xl.shapes.generate import GenerateSummary, generate


def quiet(out: Path, layout: str, **changes: int) -> GenerateSummary:
    arguments = {"train": 60, "val": 36, "test": 36, "seed": 7, "size": 32, "workers": 1} | changes
    return generate(out, layout=layout, progress=False, **arguments)


@pytest.fixture(scope="module")
def cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "cirr"
    quiet(out, "cirr")
    return out


@pytest.fixture(scope="module")
def fiq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "fiq"
    quiet(out, "fashion-iq")
    return out


def load(path: Path):  # type: ignore[no-untyped-def]
    return json.loads(path.read_text())


def hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def shape_of(value: object) -> object:
    """A value's types and field names, with free names (soft targets) left out."""
    if isinstance(value, dict):
        return {k: shape_of(v) for k, v in value.items() if k != "target_soft"}
    return [shape_of(value[0])] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("layout", ["cirr", "fashion-iq"])
def test_files_are_the_same_whatever_the_workers(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    quiet(tmp_path / "one", layout, workers=1)
    quiet(tmp_path / "two", layout, workers=2)
    one, two = hashes(tmp_path / "one"), hashes(tmp_path / "two")
    assert one == two
    assert len(one) > 132
    quiet(tmp_path / "other", layout, seed=8)
    other = hashes(tmp_path / "other")
    assert not {one[p] for p in one if p.endswith(".png")} & {other[p] for p in other if p.endswith(".png")}


@pytest.mark.parametrize("split", ["val", "test1"])
def test_cirr_rows_have_the_fields_of_the_real_files(cirr: Path, shared: Path, split: str) -> None:
    for name in (f"captions/cap.rc2.{split}.json", f"captions_ext/cap.ext.rc2.{split}.json"):
        real, made = load(shared / "cirr" / name), load(cirr / name)
        shapes = [shape_of(r) for r in real]
        common = max(shapes, key=shapes.count) if len(shapes) < 50 else max(shapes[:50], key=shapes[:50].count)
        assert all(shape_of(row) == common for row in made)
        assert list(made[0]) == list(real[0])
    images = load(cirr / f"image_splits/split.rc2.{split}.json")
    real_images = load(shared / "cirr" / f"image_splits/split.rc2.{split}.json")
    pattern = re.compile(r"\./(dev|test1)/(dev|test1)-\d+-\d-img[01]\.png")
    assert all(pattern.fullmatch(p) for p in [*images.values(), *real_images.values()])
    assert all(p.endswith(f"/{name}.png") for name, p in images.items())


def test_cirr_train_images_lie_as_the_real_ones(cirr: Path, shared: Path) -> None:
    pattern = re.compile(r"\./train/\d{1,2}/train-\d+-\d-img[01]\.png")
    for root in (cirr, shared / "cirr"):
        assert all(pattern.fullmatch(p) for p in load(root / "image_splits/split.rc2.train.json").values())


def test_cirr_pairs(cirr: Path) -> None:
    rows = load(cirr / "captions/cap.rc2.train.json")
    ranks = [(r["img_set"]["reference_rank"], r["img_set"]["target_rank"]) for r in rows]
    assert ranks == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 2), (0, 3), (0, 4)] * (len(rows) // 9)
    by_rank: dict[tuple[int, int], set[str]] = {}
    positions = set()
    for r in rows:
        s = r["img_set"]
        assert len(set(s["members"])) == 6
        assert {r["reference"], r["target_hard"]} < set(s["members"])
        assert r["target_soft"][r["target_hard"]] == 1.0
        assert set(r["target_soft"]) <= set(s["members"]) - {r["reference"]}
        by_rank.setdefault((s["id"], s["reference_rank"]), set()).add(r["reference"])
        by_rank.setdefault((s["id"], s["target_rank"]), set()).add(r["target_hard"])
        positions.add((s["reference_rank"], s["members"].index(r["reference"])))
    assert all(len(names) == 1 for names in by_rank.values())
    assert len(positions) > 10  # ranks are not positions in `members`
    ids = [r["pairid"] for s in ("train", "val", "test1") for r in load(cirr / f"captions/cap.rc2.{s}.json")]
    assert len(set(ids)) == len(ids)


def test_cirr_is_read_and_its_truth_covers_every_text(cirr: Path) -> None:
    for split, count in (("train", 60), ("val", 36), ("test1", 36)):
        read = open_split("cirr", cirr, split)
        truth = read_sequences(cirr / "truth" / f"sequences.{split}.jsonl")
        assert len(read.galleries[""]) == count
        assert {t.text for t in read.triplets} == set(truth.by_text)
        assert all(s.phrase in seq.text for seq in truth.by_text.values() for s in seq.steps)
        for name in read.image_names:
            with Image.open(read.image_path(name)) as image:
                assert (image.size, image.mode) == ((32, 32), "RGB")
        assert all(set(t.auxiliary) == {"0", "1", "2", "3"} for t in read.triplets)
    hidden = load(cirr / "truth/targets.test1.json")
    read = open_split("cirr", cirr, "test1")
    assert {t.id for t in read.triplets} == set(hidden)
    assert all(t.target is None and hidden[t.id] in t.subset and hidden[t.id] != t.reference for t in read.triplets)


def test_fashion_iq_has_the_fields_of_the_real_files(fiq: Path, shared: Path) -> None:
    for category in ("dress", "shirt", "toptee"):
        for split in ("train", "val", "test"):
            name = f"captions/cap.{category}.{split}.json"
            real, made = load(shared / "fashion-iq" / name), load(fiq / name)
            assert all(shape_of(row) == shape_of(real[0]) and list(row) == list(real[0]) for row in made)
            assert all(len(row["captions"]) == 2 for row in made)
            names = load(fiq / f"image_splits/split.{category}.{split}.json")
            assert len(names) == len(set(names)) == (20 if split == "train" else 12)
            assert all(re.fullmatch(r"B00[0-9A-Z]{7}", n) for n in names)
            assert all((fiq / "images" / f"{n}.png").is_file() for n in names)
    assert sorted(p.name for p in (fiq / "captions").iterdir()) == sorted(
        p.name for p in (shared / "fashion-iq/captions").iterdir()
    )


@pytest.mark.parametrize("captions", ["12", "21"])
def test_fashion_iq_is_read_and_its_truth_covers_every_text(fiq: Path, captions: str) -> None:
    hidden = load(fiq / "truth/targets.test.json")
    for split in ("train", "val", "test"):
        read = open_split("fashion-iq", fiq, split, captions=captions)
        truth = read_sequences(fiq / "truth" / f"sequences.{split}.jsonl")
        assert {t.text for t in read.triplets} <= set(truth.by_text)
        for t in read.triplets:
            target = hidden[t.id] if split == "test" else t.target
            assert target in read.galleries[t.category or ""].paths
            assert target != t.reference


def test_no_image_is_in_two_splits(cirr: Path, fiq: Path) -> None:
    for root in (cirr, fiq):
        pictures = [h for p, h in hashes(root).items() if p.endswith(".png")]
        assert len(set(pictures)) == len(pictures) == 132


def test_descriptions_belong_to_every_image(cirr: Path, fiq: Path) -> None:
    for root, splits in ((cirr, ("train", "val", "test1")), (fiq, ("train", "val", "test"))):
        found = set()
        for split in splits:
            path = root / "descriptions" / f"descriptions.{split}.csv"
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert list(rows[0]) == ["filepath", "title"]
            assert all((path.parent / r["filepath"]).is_file() and len(r["title"].split()) > 5 for r in rows)
            found |= {(path.parent / r["filepath"]).resolve() for r in rows}
        assert len(found) == 132


def test_truth_uses_many_operations(cirr: Path) -> None:
    truth = read_sequences(cirr / "truth/sequences.train.jsonl")
    assert truth.planner == "truth"
    assert {s.operation for q in truth.by_text.values() for s in q.steps} == set(Operation)


def test_summary_and_a_second_call(cirr: Path, tmp_path: Path) -> None:
    first = quiet(tmp_path / "out", "cirr", val=0, test=0)
    assert first.images == {"train": 60}
    assert first.pairs == {"train": len(load(tmp_path / "out/captions/cap.rc2.train.json"))}
    assert first.files == sum(p.is_file() for p in (tmp_path / "out").rglob("*"))
    assert not first.reused
    before = hashes(tmp_path / "out")
    again = quiet(tmp_path / "out", "cirr", val=0, test=0)
    assert again.reused
    assert again.images == first.images
    assert hashes(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out/captions/cap.rc2.val.json").exists()
    assert load(cirr / "captions/cap.rc2.train.json") == load(tmp_path / "out/captions/cap.rc2.train.json")


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert quiet(tmp_path / "out", "cirr", val=0, test=0).files > 60


def test_refusals_lose_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and was not generated here"):
        quiet(taken, "cirr")
    assert (taken / "mine.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is a file"):
        quiet(taken / "mine.txt", "cirr")
    out = tmp_path / "out"
    quiet(out, "cirr", val=0, test=0)
    with pytest.raises(UserError, match="other settings \\(seed=7\\)"):
        quiet(out, "cirr", val=0, test=0, seed=8)
    next(out.rglob("*.png")).unlink()
    with pytest.raises(UserError, match="1 files are gone"):
        quiet(out, "cirr", val=0, test=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "coco"}, "layout must be one of cirr, fashion-iq, not 'coco'"),
        ({"train": 11}, "train must be 0 or at least 12 images"),
        ({"layout": "fashion-iq", "val": 35}, "val must be 0 or at least 36 images"),
        ({"train": 0, "val": 0, "test": 0}, "all 0"),
        ({"train": -1}, "train must be 0 or at least"),
        ({"size": 8}, "size must be from 16 to 1024"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path, changes: dict, message: str) -> None:
    arguments = {"layout": "cirr"} | changes
    with pytest.raises(UserError, match=message):
        quiet(tmp_path / "out", arguments.pop("layout"), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_draw_batch", full)
    with pytest.raises(UserError, match="No space left on device"):
        quiet(tmp_path / "out", "cirr")
    assert not list(tmp_path.iterdir())
