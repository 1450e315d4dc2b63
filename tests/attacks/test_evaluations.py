"""Evaluations that meet in one folder, and files of evaluations that were mixed, damaged or made up."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neucore_xl.errors import UserError
from neucore_xl.evaluation.compare import load
from neucore_xl.evaluation.result import Result, prepare_output
from tests.support.refusals import KINDS, TEXTS, one_sentence, rewritten, soon

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
