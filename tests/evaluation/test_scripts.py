"""The scripts of eval/ end to end: generated data in both layouts, a tiny run, figures, files, refusals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neucore_xl.config.load import dump_yaml
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_split
from neucore_xl.errors import UserError
from neucore_xl.evaluation import submission

REPOSITORY = Path(__file__).resolve().parents[2]
TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "eval" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def call(monkeypatch):
    """``call(script, *arguments)`` runs a script's ``main`` here, without starting Python and torch again."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "eval"))

    def main(name: str, *arguments: object) -> None:
        spec = importlib.util.spec_from_file_location(f"eval_{name}", REPOSITORY / "eval" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main([str(a) for a in arguments])

    return main


@pytest.mark.parametrize("name", ["cirr", "fashion_iq", "compare"])
def test_help_imports_no_torch(name):
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "eval" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout
    assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--system", "prodct", "--backbone", "RN50"], "did you mean product"),
        (["--system", "neucore-xl", "--backbone", "RN50"], "need no training"),
        (["--system", "sum"], "needs --backbone"),
        (["--system", "sum", "--backbone", "RN50", "--checkpoint", "last"], "belongs to --run"),
        (["--run", ".", "--backbone", "RN50"], "belongs to --system"),
    ],
)
def test_a_wrong_choice_of_an_untrained_system_is_one_sentence(options, said, call, tmp_path):
    with pytest.raises(UserError, match=said):
        call("cirr", *options, "--data", tmp_path, "--out", tmp_path / "out")


@pytest.mark.slow
def test_hidden_labels_and_missing_runs_are_one_sentence(shared, tmp_path):
    """Slow: three processes of their own, since the entry of each script turns errors into exit codes."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(Settings()))
    common = ("--run", tmp_path / "run", "--data", shared / "cirr", "--out", tmp_path / "out")
    done = script("cirr", *common, "--split", "test1", "--labels", "soft")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--labels soft: the labels of test1 are hidden" in done.stderr
    done = script("cirr", "--run", tmp_path / "none", *common[2:])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is no run folder" in done.stderr
    done = script("compare", tmp_path / "a", tmp_path / "b")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "tiny-towers.json"
    path.write_text(json.dumps(TOWERS))
    return path


@pytest.fixture(scope="module", params=["cirr", "fashion-iq"])
def trained(request, towers, tmp_path_factory) -> tuple[str, Path, Path, Path]:
    """(layout, data, a run of neucore-xl, a run of text-only) on generated shapes."""
    from neucore_xl.config.load import load_settings
    from neucore_xl.shapes.generate import generate
    from neucore_xl.training.run import train

    folder = tmp_path_factory.mktemp(request.param)
    generate(folder / "data", layout=request.param, train=120, val=90, test=90, seed=1, size=48, progress=False)
    runs = []
    for row in ("neucore-xl", "text-only"):
        overrides = [
            f"data.name={request.param}", f"data.root={folder / 'data'}", "data.workers=0", f"model.name={row}",
            f"backbone.config={towers}", "backbone.name=tiny-towers", "backbone.pretrained=null", "model.width=32",
            "model.heads=2", "model.exchange_layers=1", "train.steps=3", "train.batch_size=8", "train.warmup_steps=1",
            f"train.cache_dir={folder / 'cache'}", "train.device=cpu", "train.validate_every=0",
        ]  # fmt: skip
        train(load_settings("demo", overrides), folder / row)
        runs.append(folder / row)
    return request.param, folder / "data", runs[0], runs[1]


@pytest.mark.slow
def test_evaluate_compare_and_submit(trained, tmp_path, call):
    """Slow: two runs are trained and scored by whole scripts, one in a process of its own; units test the parts."""
    layout, data, ours, floor = trained
    name = "cirr" if layout == "cirr" else "fashion_iq"

    def evaluate(run: Path, out: str, *more: object) -> dict:
        call(name, "--run", run, "--data", data, "--out", tmp_path / out, *more)
        return json.loads((tmp_path / out / "metrics.json").read_text())

    evaluate(floor, "floor")
    stored = evaluate(ours, "ours", "--batch-size", 7)
    assert set(stored) == {"protocol", "metrics", "n_queries", "environment", "sha256"}
    assert stored["n_queries"] == len(open_split(layout, data, "val").triplets)
    assert stored["protocol"]["preprocessing"]["target_pad"] == 1.25
    assert stored["environment"]["row"] == "neucore-xl"
    # In other batches and chunks, a process later: the same figures (the published code's differ from run to run).
    again = script(name, "--run", ours, "--data", data, "--out", tmp_path / "again", "evaluation.chunk=5")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["metrics"] == pytest.approx(stored["metrics"])

    with pytest.raises(UserError, match="holds figures of another run"):
        evaluate(floor, "ours")
    call("compare", tmp_path / "ours", tmp_path / "floor", "--json", tmp_path / "c.json")
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["low"] <= record["estimate"] <= record["high"]
    difference = (
        stored["metrics"]["mean"] - json.loads((tmp_path / "floor" / "metrics.json").read_text())["metrics"]["mean"]
    )
    assert record["estimate"] == pytest.approx(difference)

    if layout == "fashion-iq":
        second = json.loads((tmp_path / "ours" / "val-drop-12-macro" / "metrics.json").read_text())
        assert (second["protocol"]["gallery"], second["protocol"]["reference"]) == ("val", "drop")
        assert second["metrics"]["R@10"] >= stored["metrics"]["R@10"]  # fewer images to be confused with
        with pytest.raises(UserError, match="the protocols differ in gallery"):
            call("compare", tmp_path / "ours", tmp_path / "ours" / "val-drop-12-macro")
        assert evaluate(ours, "both", "--captions", "both")["n_queries"] == 2 * stored["n_queries"]
        mean = evaluate(ours, "mean", "--captions", "mean", "--average", "micro")
        assert mean["n_queries"] == stored["n_queries"]
        assert (mean["protocol"]["captions"], mean["protocol"]["average"]) == ("mean", "micro")
        return
    assert evaluate(ours, "soft", "--labels", "soft")["protocol"]["labels"] == "soft"
    call(name, "--run", ours, "--data", data, "--split", "test1", "--out", tmp_path / "test1")
    split = open_split("cirr", data, "test1")
    for file in submission.file_names("test1").values():
        assert submission.problems_of(tmp_path / "test1" / file, split) == []


@pytest.mark.slow
def test_systems_that_are_not_trained_need_no_run(trained, towers, tmp_path, call, capsys):
    """Slow: on the data of the runs above; the weight of `sum` is chosen on the training split (3 s a layout)."""
    layout, data, _, _ = trained
    name = "cirr" if layout == "cirr" else "fashion_iq"
    tower = ["--backbone", "tiny-towers", f"backbone.config={towers}", "backbone.pretrained=null"]
    for system in ("product", "sum"):
        call(name, "--system", system, *tower, "--data", data, "--out", tmp_path / system)
        stored = json.loads((tmp_path / system / "metrics.json").read_text())
        assert (stored["environment"]["run"], stored["environment"]["row"]) == (f"untrained {system}", system)
        assert stored["n_queries"] == len(open_split(layout, data, "val").triplets)
    assert "start: 1 image" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds figures of another run"):
        call(name, "--system", "product", *tower, "--data", data, "--out", tmp_path / "sum")


@pytest.mark.slow
def test_two_processes_write_the_figures_of_one(trained, tmp_path, forks):
    """Slow: three processes for each layout, as one process cannot show that several write the same files."""
    layout, data, ours, _ = trained
    path = REPOSITORY / "eval" / ("cirr.py" if layout == "cirr" else "fashion_iq.py")
    options = ("--run-dir", ours, "--data", data, "--batch-size", 16, "train.cache_features=false")
    one = forks.start([path, *options, "--out", tmp_path / "one"], out=tmp_path / "said", err=tmp_path / "errors")
    assert one.wait() == 0, one.said()
    two = forks.world([path, *options, "--out", tmp_path / "two"], 2, apart=True)
    assert [process.wait() for process in two] == [0, 0], [process.said() for process in two]
    said = one.out.read_text().replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert [process.out.read_text() for process in two] == [said, ""]
    first, second = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("one", "two"))
    assert first["metrics"] == second["metrics"]
    with np.load(tmp_path / "one" / "per_query.npz") as a, np.load(tmp_path / "two" / "per_query.npz") as b:
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_of_many_processes_that_are_wrong_alike_the_first_speaks(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = script("cirr", "--run", tmp_path / "none", "--data", tmp_path, "--out", tmp_path / "out")
        assert done.returncode == 2
        said.append(done.stderr)
    assert "is no run folder" in said[0]
    assert said[1] == ""
