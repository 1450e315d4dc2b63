"""The server's two files: what is written passes, and every kind of wrong file is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neucore_xl.data.datasets import open_split
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation import submission

NAMES = tuple(f"test1-{i}-0-img0" for i in range(60))
SUBSET = NAMES[:6]


@pytest.fixture
def split() -> Split:
    triplets = (
        Triplet("11", NAMES[0], None, "one more", subset=SUBSET),
        Triplet("12", NAMES[1], None, "one less", subset=SUBSET),
    )
    return Split("cirr", "test1", Path(), triplets, {"": Gallery(NAMES, {})})


@pytest.fixture
def written(split, tmp_path) -> tuple[Path, Path]:
    scores = np.stack([np.arange(60.0), -np.arange(60.0)])
    return submission.write(tmp_path / "out", split, [(0, scores[:1]), (1, scores[1:])])


def changed(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_content_of_the_files(written, split):
    recall, subset = (json.loads(p.read_text()) for p in written)
    assert [p.name for p in written] == ["test1.recall.json", "test1.recall_subset.json"]
    assert list(recall) == ["version", "metric", "11", "12"]
    assert (recall["version"], recall["metric"], subset["metric"]) == ("rc2", "recall", "recall_subset")
    assert recall["11"] == list(NAMES[:9:-1])  # best first: 59 down to 10
    assert recall["12"] == [NAMES[0], *NAMES[2:51]]  # its reference, NAMES[1], is left out
    assert subset["11"] == [NAMES[5], NAMES[4], NAMES[3]]
    assert subset["12"] == [NAMES[0], NAMES[2], NAMES[3]]
    assert [submission.problems_of(p, split) for p in written] == [[], []]


def test_ties_give_one_definite_order_without_repeats(split, tmp_path):
    paths = submission.write(tmp_path, split, [(0, np.zeros((2, 60)))])
    assert json.loads(paths[0].read_text())["11"] == list(NAMES[1:51])
    assert json.loads(paths[1].read_text())["12"] == [NAMES[0], NAMES[2], NAMES[3]]


@pytest.mark.parametrize(
    ("which", "change", "problem"),
    [
        (0, lambda c: c.update(version="rc1"), '"version" must be "rc2", not "rc1"'),
        (0, lambda c: c.pop("version"), '"version" must be "rc2", not null'),
        (0, lambda c: c.update(metric="accuracy"), '"metric" must be "recall" or "recall_subset", not "accuracy"'),
        (0, lambda c: c.update(metric=["recall"]), '"metric" must be "recall" or "recall_subset", not ["recall"]'),
        (0, lambda c: c.pop("11"), "missing: 1 query (11)"),
        (0, lambda c: c.update({"99": c["11"]}), "not a pair id of test1: 1 query (99)"),
        (0, lambda c: c["12"].pop(), "not exactly 50 names: 1 query (12)"),
        (0, lambda c: c["12"].__setitem__(3, c["12"][4]), "the same name twice: 1 query (12)"),
        (0, lambda c: c["12"].__setitem__(3, NAMES[1]), "the reference image among the names: 1 query (12)"),
        (0, lambda c: c["12"].__setitem__(3, "dev-1"), "a name that is not an image of the split: 1 query (12)"),
        (0, lambda c: c["12"].__setitem__(3, 7), "not a list of image names: 1 query (12)"),
        (0, lambda c: c.update({"12": "all"}), "not a list of image names: 1 query (12)"),
        (1, lambda c: c["11"].append(NAMES[1]), "not exactly 3 names: 1 query (11)"),
        (1, lambda c: c["11"].__setitem__(0, NAMES[40]), "a name from outside the query's subset: 1 query (11)"),
        (1, lambda c: c["11"].__setitem__(0, NAMES[0]), "the reference image among the names: 1 query (11)"),
    ],
)
def test_each_kind_of_wrong_file_is_named(written, split, which, change, problem):
    assert submission.problems_of(changed(written[which], change), split) == [problem]


def test_files_that_cannot_be_parsed(split, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"version": "rc2",\n "metric" "recall"}')
    (problem,) = submission.problems_of(path, split)
    assert problem.startswith(f"{path}, line 2, column 11: not valid JSON (Expecting ':' delimiter)")
    path.write_text("[1]")
    (problem,) = submission.problems_of(path, split)
    assert problem.startswith(f"{path} holds a list where an object is expected")
    path.write_bytes(b"\xff\xfe\x00")
    (problem,) = submission.problems_of(path, split)
    assert problem.startswith(f"{path}, line 1: not UTF-8 text")
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        submission.problems_of(tmp_path / "none.json", split)


def test_a_repeated_pair_and_a_file_too_large(written, split):
    text = written[1].read_text().rstrip().rstrip("}")
    written[1].write_text(text + ',"11":["a"]}' + " " * submission.MAX_BYTES)
    problems = submission.problems_of(written[1], split)
    assert problems[0].startswith("the file has 5,000,")
    assert "twice in the file: 1 query (11)" in problems


def test_an_existing_file_is_kept(written, split, tmp_path):
    before = written[0].read_bytes()
    with pytest.raises(UserError, match=r"test1.recall.json is there already: .* --force"):
        submission.write(tmp_path / "out", split, [(0, np.zeros((2, 60)))])
    assert written[0].read_bytes() == before
    submission.write(tmp_path / "out", split, [(0, np.zeros((2, 60)))], force=True)
    assert written[0].read_bytes() != before


def test_the_real_test1_fits_the_servers_limit(shared, tmp_path):
    split = open_split("cirr", shared / "cirr", "test1")
    n, g = len(split.triplets), len(split.galleries[""])
    assert (n, g) == (4148, 2315)
    rng = np.random.default_rng(0)
    chunks = ((i, rng.random((min(512, n - i), g), dtype=np.float32)) for i in range(0, n, 512))
    paths = submission.write(tmp_path, split, chunks)
    assert [submission.problems_of(p, split) for p in paths] == [[], []]
    assert [len(json.loads(p.read_text())) for p in paths] == [n + 2, n + 2]
    assert max(p.stat().st_size for p in paths) < submission.MAX_BYTES


def test_a_smaller_subset_is_not_filled_up_with_other_images(split, tmp_path):
    small = Triplet("13", NAMES[4], None, "two", subset=NAMES[3:6])
    split = Split("cirr", "test1", Path(), (*split.triplets, small), split.galleries)
    scores = np.tile(-np.arange(60.0), (3, 1))  # the first image of the gallery is every query's best
    _, subset = submission.write(tmp_path, split, [(0, scores)])
    assert json.loads(subset.read_text())["13"] == [NAMES[3], NAMES[5]]
