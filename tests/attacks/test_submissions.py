"""Files for the test server that were damaged or made up, and what is never written over."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neucore_xl import errors
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation import submission
from tests.support.refusals import KINDS, TEXTS, one_sentence, rewritten, soon

NAMES = tuple(f"test1-{i}-0-img0" for i in range(60))


@pytest.fixture
def split() -> Split:
    triplets = tuple(Triplet(str(11 + i), NAMES[i], None, "one more", subset=NAMES[:6]) for i in range(2))
    return Split("cirr", "test1", Path(), triplets, {"": Gallery(NAMES, {})})


@pytest.fixture
def sent(split: Split, tmp_path: Path) -> Path:
    """A whole submission."""
    return submission.write(tmp_path / "out", split, [(0, np.stack([np.arange(60.0), -np.arange(60.0)]))])[0]


def problems(path: Path, split: Split) -> list[str]:
    """What is wrong with a submission: as the command would say it."""
    with soon():
        try:
            found = submission.problems_of(path, split)
        except UserError as error:
            found = [str(error)]
    said = []
    for problem in found:
        sentence = (errors.one_sentence(UserError(problem)) or ("", 0))[0]
        one_sentence(sentence + "\n")
        said.append(sentence)
    return said


@pytest.mark.parametrize("text", TEXTS)
def test_a_submission_that_holds_something_else_is_refused(text: str, split: Split, sent: Path) -> None:
    sent.write_bytes(TEXTS[text])
    assert problems(sent, split)


ANSWERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version of a megabyte": lambda c: c.update(version="x" * 1_000_000),
    "a metric of a megabyte": lambda c: c.update(metric="x" * 1_000_000),
    "a metric that is an object": lambda c: c.update(metric={"a": ["b"] * 10_000}),
    "a pair of a megabyte": lambda c: c.update({"x" * 1_000_000: []}),
    "a pair with control characters": lambda c: c.update({"\x1b]0;owned\x07\u202e": []}),
    "a pair of half a character": lambda c: c.update({"\ud800": []}),
    "a pair less": lambda c: c.pop("11"),
    "a name less": lambda c: c["11"].pop(),
    "names are null": lambda c: c.update({"11": None}),
    "names are numbers": lambda c: c.update({"11": list(range(50))}),
    "names are one text": lambda c: c.update({"11": "a" * 50}),
    "names are lists": lambda c: c.update({"11": [["a"]] * 50}),
    "names are an object": lambda c: c.update({"11": dict.fromkeys(map(str, range(50)), 1)}),
    "a name of half a character": lambda c: c["11"].__setitem__(0, "\ud800"),
    "a name that is a path": lambda c: c["11"].__setitem__(0, "../../etc/passwd"),
    "the same name fifty times": lambda c: c.update({"11": [NAMES[5]] * 50}),
    "a million names": lambda c: c.update({"11": ["x"] * 1_000_000}),
    "a number of thirty digits": lambda c: c.update({"11": 10**30}),
    "NaN": lambda c: c.update({"11": float("nan")}),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_submission_with_wrong_answers_is_refused(answer: str, split: Split, sent: Path) -> None:
    assert problems(sent, split) == []
    rewritten(sent, ANSWERS[answer])
    assert problems(sent, split)


def test_a_submission_with_a_byte_order_mark_or_a_repeated_pair_is_refused(split: Split, sent: Path) -> None:
    content = sent.read_bytes()
    sent.write_bytes(b"\xef\xbb\xbf" + content)
    assert problems(sent, split)
    sent.write_bytes(content.rstrip()[:-1] + b',"11":[]}')
    assert problems(sent, split)


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_where_a_submission_belongs(kind: str, split: Split, sent: Path) -> None:
    sent.unlink()
    KINDS[kind](sent)
    assert problems(sent, split)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_not_replaced_by_a_submission(kind: str, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "test1.recall_subset.json"
    KINDS[kind](path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=re.escape(str(path))), soon():
        submission.write(tmp_path, split, [(0, np.zeros((2, 60)))])
    assert os.lstat(path).st_ino == before.st_ino
    assert not (tmp_path / "test1.recall.json").exists()


def test_a_submission_that_would_be_refused_replaces_nothing(split: Split, sent: Path) -> None:
    """Names that make the file larger than the server takes."""
    before = {path.name: path.read_bytes() for path in sent.parent.glob("*.json")}
    names = tuple(f"{i}-{'x' * 60_000}" for i in range(60))
    triplets = tuple(replace(t, reference=names[0], subset=names[:6]) for t in split.triplets)
    large = replace(split, triplets=triplets, galleries={"": Gallery(names, {})})
    with pytest.raises(UserError, match="would be refused by the server: the file has"):
        submission.write(sent.parent, large, [(0, np.zeros((2, 60)))], force=True)
    assert {path.name: path.read_bytes() for path in sent.parent.glob("*.json")} == before
