"""An ablation: which runs it plans, that it goes on where it was stopped, and what its table says."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from neucore_xl import terminal
from neucore_xl.ablation.ablate import run_ablation
from neucore_xl.ablation.plan import planned_runs, varied
from neucore_xl.ablation.table import compare_variants
from neucore_xl.config.load import load_settings
from neucore_xl.data.datasets import open_split
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result
from neucore_xl.language.planners.controls import single
from neucore_xl.language.sequence_file import write_sequences
from neucore_xl.training.run import train


def test_all_combinations_in_their_order() -> None:
    found = varied(["fusion.sequence=single,learned", "model.width=8,16"])
    assert [v.name for v in found] == ["single, 8", "single, 16", "learned, 8", "learned, 16"]
    assert found[1].overrides == ("fusion.sequence=single", "model.width=16")
    assert found[1].folder == "single+16"


@pytest.mark.parametrize(
    ("overrides", "vary", "seeds", "said"),
    [
        ([], ["fusion.sequence"], 1, "give a setting and values"),
        ([], ["fusion.sequence=single,single"], 1, "comes twice"),
        ([], ["fusion.sequence=single"], 1, "one combination only"),
        ([], [], 1, "one combination only"),
        ([], ["fusion.sequence=single,magic"], 1, "magic"),
        ([], ["fusion.sequence=single,learned"], 0, "at least one"),
        (["train.seed=3"], ["fusion.sequence=single,learned"], 1, "train.seed is set by --seeds"),
        ([], ["train.seed=1,2"], 1, "train.seed is set by --seeds"),
        ([], ["data.root=a b,a-b"], 1, "share a folder"),
    ],
)
def test_wrong_calls(overrides: list[str], vary: list[str], seeds: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        planned_runs("demo", overrides, varied(vary), seeds, tmp_path)


@pytest.mark.slow
def test_an_ablation_is_resumed_and_reports_pairs(
    tiny_data: Path, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: ten seconds of real runs; that finished ones are not made again is seen by making them."""
    recipe, out = str(tiny_data / "recipe.yaml"), tmp_path / "ablation"
    runs = planned_runs(recipe, [*tiny_overrides, "train.steps=2"], varied(["fusion.sequence=single,shuffled"]), 2, out)
    assert [(r.variant.name, r.seed) for r in runs] == [("single", 0), ("shuffled", 0), ("single", 1), ("shuffled", 1)]
    said = io.StringIO()
    comparison = run_ablation(runs, out, terminal.console(file=said, width=160), arguments=["ablate"])
    stored = json.loads((out / "ablation.json").read_text())
    assert [row["name"] for row in stored["rows"]] == ["single", "shuffled"]
    assert stored["rows"][0]["ahead"] is None
    assert list(stored["rows"][1]["ahead"]) == ["estimate", "low", "high", "confidence", "method", "resamples"]
    assert stored["environment"]["command"]
    single, other = comparison.rows
    assert single.ahead is None
    assert other.ahead is not None
    assert other.ahead.value == pytest.approx(np.mean(other.metrics["mean"]) - np.mean(single.metrics["mean"]))
    assert [len(v) for v in other.metrics.values()] == [2] * len(other.metrics)

    # What is there is taken: only the run that is missing is trained, and nothing is evaluated twice.
    shutil.rmtree(out / "shuffled" / "seed-1")
    from neucore_xl.ablation import run as module

    evaluated: list[object] = []
    monkeypatch.setattr(module, "load_run", lambda *a, load=module.load_run, **k: evaluated.append(a) or load(*a, **k))
    again = run_ablation(runs, out, terminal.console(file=said, width=160), arguments=["ablate"])
    assert len(evaluated) == 1
    assert again.to_json() == comparison.to_json()
    (out / "single" / "seed-0" / "evaluation" / "per_query.npz").write_bytes(b"PK damaged")
    again = run_ablation(runs, out, terminal.console(file=said, width=160), arguments=["ablate"])
    assert len(evaluated) == 2, "figures that lost their queries are made again"
    assert again.to_json() == comparison.to_json()
    comparison.print(terminal.console(file=said, width=160))
    assert "ahead of single" in said.getvalue()


def test_what_cannot_be_planned_is_refused_before_any_training(
    tiny_data: Path, tiny_overrides: list[str], tmp_path: Path
) -> None:
    recipe, out = str(tiny_data / "recipe.yaml"), tmp_path / "ablation"
    runs = planned_runs(recipe, tiny_overrides, varied(["fusion.sequence=single,oracle"]), 1, out)
    with pytest.raises(UserError, match=r"oracle: fusion\.sequence=oracle reads the truth of generated data"):
        run_ablation(runs, out, terminal.console(file=io.StringIO()), arguments=[])
    assert not out.exists()
    wrong = tmp_path / "llm.jsonl"
    wrong.write_text('{"format": "neucore-xl/fusion-sequences", "version": 1, "planner": "llm", "settings": {}}\n')
    runs = planned_runs(
        recipe, [*tiny_overrides, f"fusion.file={wrong}"], varied(["fusion.sequence=single,llm"]), 1, out
    )
    with pytest.raises(UserError, match=r"llm: .* lacks"):
        run_ablation(runs, out, terminal.console(file=io.StringIO()), arguments=[])
    assert not out.exists()


def result(values: list[float], ids: tuple[str, ...] = ("a", "b", "c")) -> Result:
    return Result({"dataset": "x"}, {"mean": float(np.mean(values))}, ids, {"mean": np.array(values)})


def test_pairs_are_queries_averaged_over_seeds() -> None:
    rows = compare_variants(
        {"base": [result([0, 0, 0]), result([0, 100, 0])], "other": [result([100, 0, 0]), result([100, 100, 0])]},
        seeds=[4, 5],
    ).rows
    assert rows[1].ahead is not None
    assert rows[1].ahead.value == pytest.approx(100 / 3)
    assert list(rows[1].ahead_by_seed) == pytest.approx([100 / 3, 100 / 3])
    with pytest.raises(UserError, match="other queries"):
        compare_variants({"base": [result([0, 0, 0])], "other": [result([0, 0, 0], ("a", "b", "d"))]}, seeds=[0])


def test_a_run_goes_on_with_its_own_sequences_only(tiny_data: Path, tiny_overrides: list[str], tmp_path: Path) -> None:
    texts = [t.text for name in ("train", "val") for t in open_split("cirr", tiny_data, name).triplets]
    file, run = tmp_path / "llm.jsonl", tmp_path / "run"
    header = {"prompt": "edit-steps.v1-1", "writer": {"model": "m"}}
    write_sequences(file, single(texts).values(), planner="llm", settings=header)
    overrides = [*tiny_overrides, "train.steps=1", "fusion.sequence=llm", f"fusion.file={file}"]
    settings = load_settings(str(tiny_data / "recipe.yaml"), overrides)
    train(settings, run)
    (recorded,) = json.loads((run / "environment.json").read_text())["sequences"]
    assert recorded["settings"] == header
    with pytest.raises(UserError, match=r"written with the prompt 'edit-steps.v1-1', but fusion.prompt asks for 'x'"):
        train(load_settings(str(tiny_data / "recipe.yaml"), [*overrides, "fusion.prompt=x"]), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    write_sequences(file, single(texts).values(), planner="llm", settings={}, force=True)
    with pytest.raises(UserError, match="sequence files are not those"):
        train(settings, run)
