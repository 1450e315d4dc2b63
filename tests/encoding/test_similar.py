"""From pictures to annotation files: what is dealt where, what is refused, and what goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neucore_xl.config.schema import Settings
from neucore_xl.data.cirr import read_split
from neucore_xl.data.subsets.draft import RECORD
from neucore_xl.data.subsets.folder import pictures_below
from neucore_xl.data.subsets.plan import Plan
from neucore_xl.data.subsets.procedure import Rule, subset_of
from neucore_xl.encoding import similar
from neucore_xl.encoding.cache import cache_root
from neucore_xl.encoding.similar import Made, make_subsets
from neucore_xl.encoding.vectors import PictureVectors
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone

LOOSE = Rule(near_identical=1.1, step=1e-6)  # random towers see all noise alike
PLAN = Plan(rule=LOOSE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("noise") / "pictures"
    draw = np.random.default_rng(0)
    for i in range(80):
        path = root / f"{i % 4}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = draw.integers(0, 255, 3)
        noise = draw.integers(-30, 30, (32, 32, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)
    (root / "cut.png").write_bytes(b"\x89PNG")
    return root


def make(folder: Path, out: Path, settings: Settings, backbone: Backbone, plan: Plan = PLAN) -> Made:
    return make_subsets(pictures_below(folder), out, settings, backbone, plan)


def files_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_splits_share_no_picture_and_subsets_follow_the_procedure(
    folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone
):
    plan = Plan(val=0.25, test=0.25, rule=LOOSE)
    made = make(folder, tmp_path / "out", settings, backbone, plan)
    assert made.skipped.keys() == {"cut.png"}
    names = {split: set(chosen.names) for split, chosen in made.chosen.items()}
    assert {split: len(of) for split, of in names.items()} == {"train": 40, "val": 20, "test1": 20}
    assert len(set.union(*names.values())) == 80
    vectors = PictureVectors(settings, backbone, pictures_below(folder).paths, next(backbone.parameters()).device)
    vectors.fill()
    for split, chosen in made.chosen.items():
        matrix = np.asarray(vectors.matrix(chosen.names))
        assert len(chosen.members) > 0
        for members in chosen.members.tolist():
            assert subset_of(matrix @ matrix[members[0]], members[0], LOOSE) == tuple(members)
        read = read_split(tmp_path / "out", split, empty_text="keep")
        assert len(read.triplets) == made.counts(split)["pairs"]
        assert set(read.galleries[""].names) <= names[split]
    record = json.loads((tmp_path / "out" / RECORD).read_text(encoding="utf-8"))
    assert record["splits"] == {split: made.counts(split) for split in names}
    assert record["plan"]["rule"]["near_identical"] == 1.1
    assert list(record["skipped"]) == ["cut.png"]


def test_the_seed_decides_and_nothing_else(folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(folder, tmp_path / name, settings, backbone, Plan(seed=seed, rule=LOOSE))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != files_of(tmp_path / "c")


def test_a_number_is_dealt_like_the_pictures(folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone):
    made = make(folder, tmp_path / "out", settings, backbone, Plan(number=8, val=0.25, test=0, rule=LOOSE))
    assert {split: len(chosen.members) for split, chosen in made.chosen.items()} == {"train": 6, "val": 2}
    assert not (tmp_path / "out" / "captions" / "cap.rc2.test1.json").exists()


def test_a_killed_search_goes_on_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    out, work = tmp_path / "out", cache_root(settings.train) / "subsets"
    make(folder, tmp_path / "whole", settings, backbone)
    draw = similar.draw_subsets

    def killed(matrix: np.ndarray, *args: object, **options: object) -> object:
        drawn = draw(matrix, *args, **options)  # type: ignore[arg-type]
        if len(matrix) < 20:
            raise KeyboardInterrupt
        return drawn

    monkeypatch.setattr(similar, "draw_subsets", killed)
    with pytest.raises(KeyboardInterrupt):
        make(folder, out, settings, backbone)
    assert not out.exists()
    assert len(list(work.glob("found-*"))) == 2
    monkeypatch.setattr(similar, "draw_subsets", draw)
    backbone.encode_images = None  # type: ignore[assignment,method-assign]  # no vector may be computed
    searched: list[int] = []

    def counted(matrix: np.ndarray, firsts: np.ndarray, *args: object, **options: object) -> object:
        searched.append(len(firsts) - len(options["journal"].read(firsts)))  # type: ignore[attr-defined]
        return draw(matrix, firsts, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(similar, "draw_subsets", counted)
    make(folder, out, settings, backbone)
    assert searched == [0, 0, 8]
    assert files_of(out) == files_of(tmp_path / "whole")
    assert [p.name for p in work.iterdir()] == ["lock"]


def test_another_rule_or_seed_is_another_search(
    folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    journals: set[str] = set()
    monkeypatch.setattr(similar, "draw_subsets", lambda *a, journal, **o: journals.add(journal.path.name) or 1 / 0)
    for plan in (Plan(), Plan(seed=1), Plan(rule=LOOSE), Plan(rule=Rule(distinct=True)), Plan(max_shared=0)):
        with pytest.raises(ZeroDivisionError):
            make(folder, tmp_path / "out", settings, backbone, plan)
    assert len(journals) == 4, "what two subsets may share decides nothing that is kept"


def test_no_similar_pictures_is_one_sentence(folder: Path, tmp_path: Path, settings: Settings, backbone: Backbone):
    with pytest.raises(UserError, match=r"no subset of 6 similar pictures .* the 64 of train.*--near-identical"):
        make(folder, tmp_path / "out", settings, backbone, Plan(rule=Rule(step=0.9)))
    assert not (tmp_path / "out").exists()


def test_too_few_readable_pictures_are_one_sentence(
    tmp_path: Path, settings: Settings, backbone: Backbone, folder: Path
):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(4):
        (few / f"{i}.png").write_bytes((folder / "0" / f"{4 * i}.png").read_bytes())
        (few / f"cut-{i}.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"4 pictures below .* can be read \(4 cannot\), and a subset takes 6"):
        make(few, tmp_path / "out", settings, backbone, Plan(val=0, test=0))
