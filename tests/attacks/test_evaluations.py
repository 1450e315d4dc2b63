"""Evaluations that meet in one folder, and files of evaluations that were mixed, damaged or made up."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from neucore_xl import errors
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.encoding.gallery import FORMAT
from neucore_xl.encoding.gallery import Gallery as PictureGallery
from neucore_xl.errors import UserError
from neucore_xl.evaluation import submission
from neucore_xl.evaluation.compare import load
from neucore_xl.evaluation.report import Ranking, ReportRow, SystemRow, write_page
from neucore_xl.evaluation.result import Result, prepare_output

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 25

# A process of two that write into the same folders, one after the other, each folder at the same moment.
RACER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
import numpy as np
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result, prepare_output

root, me, other, force = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "force"
value = {{"a": 25.0, "b": 75.0}}[me]
result = Result({{"dataset": "cirr"}}, {{"mean": value}}, tuple(map(str, range(500))),
                {{"mean": np.full(500, value)}}, environment={{"run": me}})

def meet(number, what):
    (root / f"{{number}}-{{what}}-{{me}}").touch()
    end = time.monotonic() + 10
    while not (root / f"{{number}}-{{what}}-{{other}}").exists():
        assert time.monotonic() < end, "the other has ended"
        time.sleep(0.0002)

for number in range({ROUNDS}):
    out = root / f"out-{{number}}"
    meet(number, "before")
    try:
        prepare_output(out, run=me, force=force)
        meet(number, "between")
        result.save(out, force=force)
    except UserError as error:
        print("refused:", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unasked", "force"])
def test_two_evaluations_into_one_folder_leave_one_of_them_whole(how: str, tmp_path: Path, forks) -> None:
    """Slow: five seconds a way; two processes must meet in one folder."""
    script = tmp_path / "racer.py"
    script.write_text(RACER)
    racers = [forks.start([script, tmp_path, *names, how]) for names in (("a", "b"), ("b", "a"))]
    try:
        codes = [racer.wait(120) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    said = "".join(racer.said() for racer in racers)
    assert codes == [0, 0], said
    for number in range(ROUNDS):
        out = tmp_path / f"out-{number}"
        found = load(out)
        assert found.per_query["mean"].mean() == found.score, "the figures of one beside the queries of the other"
        assert {p.name for p in out.iterdir() if not p.name.startswith(".")} == {"metrics.json", "per_query.npz"}
    assert said.count("refused") == (ROUNDS if how == "unasked" else 0), "one of two is told so"
    assert "Traceback" not in said


def pipe(path: Path) -> None:
    """Nobody writes into it; who waits for that all the same, where no signal reaches, is let go after a while."""
    os.mkfifo(path)
    subprocess.Popen(["sh", "-c", 'sleep 6; [ -p "$0" ] && : <>"$0"', str(path)], start_new_session=True)


KINDS = {
    "folder": lambda path: path.mkdir(),
    "pipe": pipe,
    "loop of links": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "device": lambda path: path.symlink_to(os.devnull),
}
DEEP = 100_000

# What may be wrong with any file of JSON: its bytes.
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "cut": b'{"protocol": {',
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "not utf-8": b'{"protocol": "\xe4"}',
    "utf-16": '{"protocol": {}}'.encode("utf-16"),
    "nul bytes": bytes(40),
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"metrics":' * DEEP + b"1" + b"}" * DEEP,
    "deep and open": b"[" * DEEP,
    "long number": b'{"metrics": {"mean": ' + b"9" * 5000 + b"}}",
    "long negative number": b'{"n_queries": -' + b"9" * 5000 + b"}",
    "long exponent": b'{"n_queries": 1e' + b"9" * 5000 + b"}",
    "two values": b"{} {}",
    "python": b"{'protocol': {}}",
    "escape": b'{"\x1b]0;owned\x07": 1}',
    "binary": bytes(range(256)),
}


class Late(BaseException):
    """No error that a command would handle."""


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """What waits for a pipe ends as an error."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one_sentence(said: str) -> None:
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert len(said) < 1500
    assert all(c.isprintable() for c in said[:-1]), ascii(said)
    assert "Traceback" not in said


def figures(folder: Path, value: float = 50.0, **more: Any) -> Path:
    """An evaluation of four queries."""
    mean = np.array([value, value, 100.0, 0.0])
    result = Result(
        {"dataset": "cirr"},
        {"R@1": 25.0, "mean": float(mean.mean())},
        tuple("abcd"),
        {"mean": mean, "rank": np.arange(1, 5)},
    )
    replace(result, **more).save(folder)
    return folder


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``compare(a, b, …)``: exit code, output and errors of ``eval/compare.py``, run in this process."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "eval"))
    spec = importlib.util.spec_from_file_location("eval_compare", REPOSITORY / "eval" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    guarded = sys.modules["scores"].guarded

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop, soon():
            guarded(module.main, [*map(str, arguments), "--resamples", "50"])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def refused(done: tuple[int, str, str], *, about: Path) -> None:
    code, out, err = done
    assert (code, out) == (2, ""), done
    one_sentence(err)
    assert str(about.parent) in err


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("text", TEXTS)
def test_figures_that_hold_something_else_are_refused(text: str, compare, tmp_path: Path) -> None:
    good, bad = figures(tmp_path / "a"), figures(tmp_path / "b")
    (bad / "metrics.json").write_bytes(TEXTS[text])
    refused(compare(good, bad, "--json", tmp_path / "found.json"), about=bad / "metrics.json")
    refused(compare(bad, good, "--json", tmp_path / "found.json"), about=bad / "metrics.json")
    assert not (tmp_path / "found.json").exists()


FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no protocol": lambda c: c.pop("protocol"),
    "protocol is a list": lambda c: c.update(protocol=[1]),
    "no metrics": lambda c: c.pop("metrics"),
    "metrics is a list": lambda c: c.update(metrics=[1.0]),
    "metrics is null": lambda c: c.update(metrics=None),
    "no measures": lambda c: c.update(metrics={}),
    "no headline": lambda c: c["metrics"].pop("mean"),
    "a measure is a text": lambda c: c["metrics"].update({"R@1": "25"}),
    "a measure is null": lambda c: c["metrics"].update({"R@1": None}),
    "a measure is a list": lambda c: c["metrics"].update({"mean": [50.0]}),
    "a measure is true": lambda c: c["metrics"].update({"mean": True}),
    "a measure is NaN": lambda c: c["metrics"].update({"mean": float("nan")}),
    "a measure is infinite": lambda c: c["metrics"].update({"R@1": float("inf")}),
    "no number of queries": lambda c: c.pop("n_queries"),
    "another number of queries": lambda c: c.update(n_queries=3),
    "a negative number of queries": lambda c: c.update(n_queries=-4),
    "number of queries as text": lambda c: c.update(n_queries="4"),
    "number of queries of thirty digits": lambda c: c.update(n_queries=10**30),
    "another digest": lambda c: c.update(sha256={"per_query.npz": "0" * 64}),
    "a digest that is a number": lambda c: c.update(sha256={"per_query.npz": 7}),
    "digests are a list": lambda c: c.update(sha256=["x"]),
    "control characters in the protocol": lambda c: c["protocol"].update({"\x1b[2J": "\u202e\x9b31m"}),
    "half a character in the protocol": lambda c: c["protocol"].update({"x": "\ud800"}),
    "another protocol": lambda c: c["protocol"].update(labels="soft"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_figures_with_wrong_fields_are_refused(field: str, compare, tmp_path: Path) -> None:
    good, bad = figures(tmp_path / "a"), figures(tmp_path / "b")
    rewritten(bad / "metrics.json", FIELDS[field])
    code, out, err = compare(good, bad)
    assert (code, out) == (2, "")
    one_sentence(err)


HARMLESS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a key more": lambda c: c.update(note="\x1b[2J"),
    "another environment": lambda c: c.update(environment={"run": "[/red]\x1b[2J"}),
    "an environment that is a list": lambda c: c.update(environment=[1]),
    "a measure more": lambda c: c["metrics"].update({"[red]\x1b[2J": 3.0}),
    "a measure less": lambda c: c["metrics"].pop("R@1"),
    "another preprocessing": lambda c: c["protocol"].update(preprocessing="[/red] \x1b[31m"),
}


@pytest.mark.parametrize("field", HARMLESS)
def test_figures_with_odd_words_are_compared_and_tell_the_terminal_nothing(field: str, compare, tmp_path: Path) -> None:
    good, odd = figures(tmp_path / "a"), figures(tmp_path / "[bold]b[/red]", value=0.0)
    rewritten(odd / "metrics.json", HARMLESS[field])
    rewritten(good / "metrics.json", HARMLESS[field])
    for pair in ((good, odd), (odd, good)):
        code, out, err = compare(*pair)
        assert (code, err) == (0, "")
        assert "25.00" in out
        assert all(c.isprintable() for c in out.replace("\n", "")), ascii(out)


def arrays(**more: Any) -> bytes:
    """The content of a file of queries with some arrays changed, or left out (None)."""
    held = {"ids": np.array(list("abcd")), "mean": np.array([50.0, 50.0, 100.0, 0.0]), "rank": np.arange(1, 5)} | more
    out = io.BytesIO()
    np.savez_compressed(out, **{name: a for name, a in held.items() if a is not None})
    return out.getvalue()


def member(name: str, content: bytes) -> bytes:
    """Such a file with one member more, whatever it holds."""
    out = io.BytesIO(arrays())
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return out.getvalue()


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def flipped(place: float) -> bytes:
    content = bytearray(arrays())
    content[int(place * (len(content) - 1))] ^= 0xFF
    return bytes(content)


GOOD_QUERIES = arrays()
QUERIES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"rank mean",
    "nul bytes": lambda: bytes(3000),
    "zip without members": lambda: b"PK\x05\x06" + bytes(18),
    "one array, no zip": lambda: header("(4,)") + bytes(32),
    "pickle": lambda: pickle.dumps([1, 2]),
    **{f"cut at {n} tenths": lambda n=n: GOOD_QUERIES[: len(GOOD_QUERIES) * n // 10] for n in range(1, 10)},
    "no ids": lambda: arrays(ids=None),
    "no mean": lambda: arrays(mean=None),
    "ids are numbers": lambda: arrays(ids=np.arange(4)),
    "ids are bytes": lambda: arrays(ids=np.array([b"a", b"b", b"c", b"d"])),
    "ids in a table": lambda: arrays(ids=np.array([["a"], ["b"], ["c"], ["d"]])),
    "one id": lambda: arrays(ids=np.array("a")),
    "fewer ids": lambda: arrays(ids=np.array(list("abc"))),
    "no queries": lambda: arrays(ids=np.array([], np.str_), mean=np.array([]), rank=np.array([])),
    "fewer values": lambda: arrays(mean=np.array([50.0])),
    "one value": lambda: arrays(mean=np.array(50.0)),
    "values in a table": lambda: arrays(mean=np.full((4, 2), 50.0)),
    "values are texts": lambda: arrays(mean=np.array(list("1234"))),
    "values are complex": lambda: arrays(mean=np.full(4, 1j)),
    "values are dates": lambda: arrays(mean=np.zeros(4, "datetime64[s]")),
    "a value is NaN": lambda: arrays(mean=np.array([50.0, np.nan, 100.0, 0.0])),
    "a value is infinite": lambda: arrays(mean=np.array([50.0, np.inf, 100.0, 0.0])),
    "objects": lambda: arrays(mean=np.array([1.0, "x", None, {}], dtype=object)),
    "ids are objects": lambda: arrays(ids=np.array(["a", "b", "c", "d"], dtype=object)),
    "fewer strata": lambda: arrays(strata=np.array(["x"])),
    "strata are numbers": lambda: arrays(strata=np.arange(4)),
    "strata are objects": lambda: arrays(strata=np.array([{}, 1, "x", None], dtype=object)),
    "a member that is text": lambda: member("note", b"hello"),
    "a member without content": lambda: member("x.npy", b""),
    "an array of 8 exabytes": lambda: member("x.npy", header("(1000000000000000000,)")),
    "an array of 8 terabytes": lambda: member("x.npy", header("(1000000000000,)")),
    "a negative shape": lambda: member("x.npy", header("(-4,)")),
    "a shape of words": lambda: member("x.npy", header("('a',)")),
    "a shape that is code": lambda: member("x.npy", header("__import__('os').getpid()")),
    "an unknown type": lambda: member("x.npy", header("(4,)", "'<q99'")),
    "a header without end": lambda: member("x.npy", b"\x93NUMPY\x01\x00\xff\xff{"),
    "a deep header": lambda: member("x.npy", header("(" * 3000 + ")" * 3000)),
}


@pytest.mark.parametrize("digest", ["digest", "its own digest", "no digest"])
@pytest.mark.parametrize("queries", QUERIES)
def test_queries_that_hold_something_else_are_refused(queries: str, digest: str, compare, tmp_path: Path) -> None:
    good, bad = figures(tmp_path / "a"), figures(tmp_path / "b")
    content = QUERIES[queries]()
    (bad / "per_query.npz").write_bytes(content)
    if digest == "its own digest":
        own = hashlib.sha256(content).hexdigest()
        rewritten(bad / "metrics.json", lambda c: c.update(sha256={"per_query.npz": own}))
    elif digest == "no digest":
        rewritten(bad / "metrics.json", lambda c: c.pop("sha256", None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(compare(good, bad, "--json", tmp_path / "found.json"), about=bad / "per_query.npz")
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("place", [0, 0.2, 0.35, 0.5, 0.65, 0.8, 1])
def test_queries_with_a_flipped_byte_are_refused(place: float, compare, tmp_path: Path) -> None:
    good, bad = figures(tmp_path / "a"), figures(tmp_path / "b")
    (bad / "per_query.npz").write_bytes(flipped(place))
    refused(compare(good, bad), about=bad / "per_query.npz")


@pytest.mark.parametrize("same_length", [True, False], ids=["as many queries", "fewer queries"])
@pytest.mark.parametrize("which", ["metrics.json", "per_query.npz"])
def test_files_of_two_evaluations_are_not_taken_for_one(which: str, same_length: bool, compare, tmp_path: Path) -> None:
    a, b = figures(tmp_path / "a"), figures(tmp_path / "b", value=0.0)
    if not same_length:
        figures(b / "x", ids=("a",), metrics={"mean": 0.0}, per_query={"mean": np.zeros(1)})
        b = b / "x"
    shutil.copy(b / which, a / which)
    refused(compare(a, b), about=a / "per_query.npz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["metrics.json", "per_query.npz"])
def test_no_file_where_figures_belong(which: str, kind: str, compare, tmp_path: Path) -> None:
    good, bad = figures(tmp_path / "a"), figures(tmp_path / "b")
    (bad / which).unlink()
    KINDS[kind](bad / which)
    refused(compare(good, bad), about=bad / which)


@pytest.mark.parametrize("force", [False, True], ids=["unasked", "force"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["metrics.json", "per_query.npz"])
def test_what_is_no_file_is_not_replaced_by_figures(which: str, kind: str, force: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    KINDS[kind](out / which)
    before = os.lstat(out / which)
    with pytest.raises(UserError, match=re.escape(str(out / which))), soon():
        prepare_output(out, run="x", force=force)
    with pytest.raises(UserError, match=re.escape(str(out / which))), soon():
        Result({"dataset": "cirr"}, {"mean": 1.0}, ("a",), {"mean": np.ones(1)}).save(out, force=force)
    after = os.lstat(out / which)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert {p.name for p in out.iterdir()} <= {which, ".evaluation.lock"}


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


def gallery_file(path: Path, tensors: dict[str, Any] | None = None, **metadata: str | None) -> Path:
    """A gallery of two pictures with some of its header changed, or left out (None)."""
    held = {"format": FORMAT, "system": "s", "names": '["a.png", "b.png"]'} | metadata
    rows = {"f": torch.ones(2, 3)} if tensors is None else tensors
    safetensors.torch.save_file(rows, path, {key: value for key, value in held.items() if value is not None})
    return path


def raw_gallery(header: bytes, data: bytes = bytes(24)) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


GALLERIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a gallery"),
    "binary": lambda p: p.write_bytes(bytes(range(256)) * 10),
    "a header of exabytes": lambda p: p.write_bytes(b"\xff" * 8 + b"{}"),
    "a header that is no JSON": lambda p: p.write_bytes(raw_gallery(b"{{{{{{{{")),
    "a deep header": lambda p: p.write_bytes(raw_gallery(b"[" * DEEP)),
    "a tensor outside the file": lambda p: p.write_bytes(
        raw_gallery(b'{"f":{"dtype":"F32","shape":[2,3],"data_offsets":[0,2400]}}')
    ),
    "cut": lambda p: p.write_bytes(gallery_file(p).read_bytes()[:-4]),
    "other tensors": lambda p: safetensors.torch.save_file({"w": torch.ones(2)}, p),
    "another format": lambda p: gallery_file(p, format="neucore-xl gallery 9"),
    "no system": lambda p: gallery_file(p, system=None),
    "no names": lambda p: gallery_file(p, names=None),
    "names are empty": lambda p: gallery_file(p, names=""),
    "names are cut": lambda p: gallery_file(p, names='["a.png", "b'),
    "names are a number": lambda p: gallery_file(p, names="2"),
    "names are null": lambda p: gallery_file(p, names="null"),
    "names are an object": lambda p: gallery_file(p, names='{"a.png": 1, "b.png": 2}'),
    "names are numbers": lambda p: gallery_file(p, names="[1, 2]"),
    "names are long numbers": lambda p: gallery_file(p, names=f"[{'9' * 5000}, 1]"),
    "names are deep": lambda p: gallery_file(p, names="[" * DEEP + "]" * DEEP),
    "a name less": lambda p: gallery_file(p, names='["a.png"]'),
    "a name more": lambda p: gallery_file(p, names='["a.png", "b.png", "\\u001b[2J"]'),
    "no tensors": lambda p: gallery_file(p, {}),
    "tensors of other lengths": lambda p: gallery_file(p, {"f": torch.ones(2, 3), "g": torch.ones(3, 3)}),
    "a tensor without rows": lambda p: gallery_file(p, {"f": torch.tensor(1.0)}),
    **KINDS,
}


@pytest.mark.parametrize("gallery", GALLERIES)
def test_a_gallery_that_holds_something_else_is_refused(gallery: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures.safetensors"
    assert len(PictureGallery.load(gallery_file(path))) == 2
    path.unlink()
    GALLERIES[gallery](path)
    with pytest.raises(UserError, match=re.escape(str(path))) as refusal, soon():
        PictureGallery.load(path)
    one_sentence((errors.one_sentence(refusal.value) or ("", 0))[0] + "\n")


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "end of a comment": "--><svg onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;script&gt;",
    "control characters": "\x1b]0;owned\x07\u202e",
    "half a character": "\ud800",
    "markup": "[/red][bold]",
    "address": "javascript:alert(1)",
}


@pytest.mark.parametrize("thumbnails", ["embed", "link"])
@pytest.mark.parametrize("word", HOSTILE)
def test_a_page_shows_hostile_words_as_text(word: str, thumbnails: Any, tmp_path: Path) -> None:
    text = HOSTILE[word]
    (tmp_path / "a.png").write_bytes(b"")
    row = ReportRow(text, text, text, text, {text: Ranking((text,), 1)})
    page = write_page(
        tmp_path / "page.html", [row], title=text, image_path=lambda name: tmp_path / "a.png",
        systems=[SystemRow(text, {text: 1.0}, notes=text)], protocol={text: text}, thumbnails=thumbnails,
    ).read_text(encoding="utf-8")  # fmt: skip
    seen = Seen()
    seen.feed(page)
    assert not seen.odd
    assert "49" not in "".join(seen.text)


class Seen(HTMLParser):
    """The text of a page, and what only an injection can have put there."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.odd: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "svg", "iframe", "object"):
            self.odd.append(tag)
        self.odd += [key for key, _ in attrs if key.startswith("on")]
        self.odd += [value for key, value in attrs if key in ("href", "src") and value and "javascript:" in value]

    def handle_data(self, data: str) -> None:
        self.text.append(data)
