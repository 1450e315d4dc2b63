"""Saving figures, refusing to replace others' figures, and comparing two saved evaluations."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neucore_xl import terminal
from neucore_xl.errors import UserError
from neucore_xl.evaluation.compare import compare, load
from neucore_xl.evaluation.result import Result, prepare_output, protocol_line


@pytest.fixture
def result() -> Result:
    return Result(
        protocol={"dataset": "cirr", "split": "val", "labels": "hard", "irregular": {}},
        metrics={"R@1": 100 / 3, "mean": 200 / 3},
        ids=("7", "8", "9"),
        per_query={"rank": np.array([1, 2, 9]), "mean": np.array([100.0, 100.0, 0.0])},
        environment={"run": "runs/a"},
    )


def test_metrics_json_is_exactly_as_promised(result, tmp_path):
    path = result.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "metrics.json"
    queries = path.with_name("per_query.npz")
    assert json.loads(path.read_text()) == {
        "protocol": {"dataset": "cirr", "split": "val", "labels": "hard", "irregular": {}},
        "metrics": {"R@1": 100 / 3, "mean": 200 / 3},
        "n_queries": 3,
        "environment": {"run": "runs/a"},
        "sha256": {"per_query.npz": hashlib.sha256(queries.read_bytes()).hexdigest()},
    }
    assert sorted(p.name for p in path.parent.iterdir()) == [".evaluation.lock", "metrics.json", "per_query.npz"]
    assert "environment" not in replace(result, environment={}).to_json()


def test_saved_and_loaded_results_are_equal(result, tmp_path):
    result = replace(result, strata=np.array(["x", "x", "y"]))
    result.save(tmp_path)
    back = load(tmp_path)
    assert (back.protocol, back.metrics, back.ids) == (result.protocol, result.metrics, result.ids)
    assert back.per_query["rank"].tolist() == [1, 2, 9]
    assert back.strata is not None
    assert back.strata.tolist() == ["x", "x", "y"]


def test_another_run_or_protocol_is_not_replaced_unasked(result, tmp_path):
    path = result.save(tmp_path)
    before = path.read_bytes()
    result.save(tmp_path)  # the same evaluation again
    other_protocol = result.with_context(protocol={"labels": "soft"})
    other_run = result.with_context(environment={"run": "runs/b"})
    for other in (other_protocol, other_run):
        with pytest.raises(UserError, match=r"metrics.json holds figures of another protocol or run: .*--force"):
            other.save(tmp_path)
    assert path.read_bytes() == before
    other_run.save(tmp_path, force=True)
    assert json.loads(path.read_text())["environment"]["run"] == "runs/b"
    path.write_text("{")
    with pytest.raises(UserError, match=r"metrics.json, line 1, column 2: not valid JSON .*--force"):
        result.save(tmp_path)


def test_output_is_refused_before_the_work(result, tmp_path):
    prepare_output(tmp_path / "fresh", run="runs/a")
    assert list((tmp_path / "fresh").iterdir()) == []
    result.save(tmp_path)
    prepare_output(tmp_path, run="runs/a")
    prepare_output(tmp_path, run="runs/b", force=True)
    with pytest.raises(UserError, match=r"holds figures of another run \(runs/a\)"):
        prepare_output(tmp_path, run="runs/b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file or lies below one, so writing figures is impossible"):
        prepare_output(tmp_path / "file", run="runs/a")


def test_the_table_shows_the_protocol(result):
    console = terminal.console(width=100, record=True, file=io.StringIO())
    result.print(console)
    text = console.export_text()
    assert "dataset: cirr · split: val · labels: hard · irregular: none" in text
    assert "33.33" in text
    assert "66.67" in text
    assert "3 queries" in text
    assert protocol_line({"gallery_sizes": {"dress": 3, "shirt": 4}}) == "gallery sizes: dress 3 shirt 4"


def test_compare_aligns_queries_and_refuses_what_cannot_be_compared(result):
    shuffled = replace(result, ids=("9", "7", "8"), per_query={"mean": np.array([0.0, 100.0, 100.0])})
    assert compare(result, shuffled).value == 0
    worse = replace(result, per_query={"mean": np.array([0.0, 100.0, 0.0])})
    assert compare(result, worse).value == pytest.approx(100 / 3)
    with pytest.raises(UserError, match='the protocols differ in labels \\("hard" against "soft"\\)'):
        compare(result, result.with_context(protocol={"labels": "soft"}))
    compare(result, result.with_context(protocol={"preprocessing": {"size": 336}}))
    with pytest.raises(UserError, match="different queries"):
        compare(result, replace(result, ids=("7", "8", "10")))


def without_digest(folder: Path) -> None:
    """As a version wrote it that knew no digest."""
    content = json.loads((folder / "metrics.json").read_text())
    del content["sha256"]
    (folder / "metrics.json").write_text(json.dumps(content))


def test_figures_without_a_digest_are_compared_and_said_to_be_unchecked(result, tmp_path, caplog):
    result.save(tmp_path)
    assert load(tmp_path).score == result.score
    assert caplog.messages == []
    without_digest(tmp_path)
    assert compare(load(tmp_path), result).value == 0
    (said,) = caplog.messages
    assert "without digests" in said
    assert {"metrics.json", "per_query.npz"} <= {Path(word).name for word in said.split()}
    other = replace(result, per_query={"mean": np.array([100.0, 0.0, 0.0])})
    other.save(tmp_path / "other")
    (tmp_path / "other" / "per_query.npz").replace(tmp_path / "per_query.npz")
    with pytest.raises(UserError, match="do not belong together"):  # their mean is not that of the figures
        load(tmp_path)


def test_queries_that_share_an_id_are_compared_in_their_order_only(result):
    a = replace(result, ids=("7", "7", "8"))
    assert compare(a, replace(a, per_query={"mean": np.array([0.0, 100.0, 0.0])})).value == pytest.approx(100 / 3)
    with pytest.raises(UserError, match="queries share an id"):
        compare(a, replace(a, ids=("7", "8", "7")))


def test_loading_what_is_not_there_or_broken(result, tmp_path):
    with pytest.raises(UserError, match=r"metrics.json does not exist: give an output folder"):
        load(tmp_path)
    result.save(tmp_path)
    (tmp_path / "per_query.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="do not belong together"):
        load(tmp_path)
    without_digest(tmp_path)
    with pytest.raises(UserError, match=r"per_query.npz cannot be read \(File is not a zip file\): evaluate again"):
        load(tmp_path)
    replace(result, ids=("7",), per_query={"mean": np.zeros(1)}).save(tmp_path / "other")
    (tmp_path / "per_query.npz").write_bytes((tmp_path / "other" / "per_query.npz").read_bytes())
    with pytest.raises(UserError, match="do not belong together"):
        load(tmp_path)
