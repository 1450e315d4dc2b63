"""The demo: what its table and its file say of given results, and the whole of it at toy size."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from neucore_xl import terminal
from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import Settings
from neucore_xl.demo import stages
from neucore_xl.demo.clip import train_clip
from neucore_xl.demo.stages import FLOORS, MEASURES, SYSTEM, Evaluated, Size, run_demo
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result

PROTOCOL = {"dataset": "cirr", "split": "val"}
ROWS = (SYSTEM, *FLOORS)


def result_of(values: np.ndarray) -> Result:
    """A result whose queries have these headlines, in percent; other measures are the system's mean as well."""
    mean = float(values.mean())
    return Result(PROTOCOL, dict.fromkeys(MEASURES, mean), tuple(map(str, range(len(values)))), {"mean": values})


@pytest.fixture
def evaluated() -> dict[str, Evaluated]:
    """The system finds every second query more than `text-only`, and exactly what `concat` finds."""
    settings = load_settings("demo", [])
    system = np.tile([100.0, 50.0], 40)
    values = dict.fromkeys(ROWS, np.zeros(80)) | {
        SYSTEM: system, "concat": system, "text-only": np.tile([100.0, 0.0], 40),
    }  # fmt: skip
    return {row: Evaluated(settings, result_of(values[row]), None) for row in ROWS}


def test_the_file_holds_the_systems_metrics_and_how_far_it_is_ahead(
    evaluated: dict[str, Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(settings: Settings, command: list[str]) -> dict[str, object]:
        return {"command": command, "seed": settings.train.seed}

    monkeypatch.setattr("neucore_xl.runs.environment.describe", described)
    content = stages._summary(evaluated)
    assert content["protocol"] == PROTOCOL
    assert content["n_queries"] == 80
    assert content["metrics"]["mean"] == 75.0
    assert list(content["rows"]) == list(ROWS)
    assert content["rows"]["text-only"]["mean"] == 50.0
    assert set(content["ahead_of"]) == set(FLOORS)
    text_only, concat, image_only = (content["ahead_of"][row] for row in ("text-only", "concat", "image-only"))
    assert text_only["estimate"] == 25.0
    assert 15 < text_only["low"] < 25 < text_only["high"] < 35
    assert (concat["estimate"], concat["low"], concat["high"]) == (0.0, 0.0, 0.0)
    assert image_only["estimate"] == 75.0
    assert text_only["confidence"] == 0.95
    assert content["environment"] == {"command": ["demo"], "seed": 0}
    json.dumps(content)


def printed(content: dict) -> str:
    console = terminal.console(file=io.StringIO(), width=80)
    stages._print(content, console)
    return console.file.getvalue()


def test_the_table_fits_80_columns_and_says_whom_the_system_does_not_beat(evaluated: dict[str, Evaluated]) -> None:
    content = stages._summary(evaluated)
    text = printed(content)
    table = text.split('{"dataset"')[0].splitlines()
    for row in ROWS:
        (line,) = [line for line in table if line.split()[:1] == [row]]
        assert f"{content['rows'][row]['mean']:.2f}" in line
    assert "+25.00 [" in text
    assert "…" not in text, "nothing is cut off"
    assert "80 queries" in text
    assert f"{SYSTEM} is not ahead of concat by more than" in " ".join(text.split())
    for interval in content["ahead_of"].values():
        interval["low"] = 0.01
    assert f"{SYSTEM} is ahead of every floor system" in printed(content)


def test_a_clip_that_cannot_be_trained_is_one_sentence_and_leaves_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"  # in place of seconds of imports
    python.write_text('#!/bin/sh\necho "no trainer for $4 $6"\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("neucore_xl.demo.clip.sys.executable", str(python))
    clip = tmp_path / "clip"
    with pytest.raises(UserError, match=r"could not be trained: see the end of .*train\.log\.$"):
        train_clip(clip, tmp_path / "few.csv", image_size=32, epochs=1, batch_size=2, seed=0)
    assert (clip / "train.log").read_text() == f"no trainer for local-dir:{clip / 'model'} few.csv\n"
    assert not (clip / "demo-clip.pt").exists()


TOY = Size(
    train=36,
    val=36,
    test=12,
    clip_epochs=1,
    clip_batch=12,
    overrides=("train.steps=2", "train.batch_size=8", "train.warmup_steps=1", "model.width=32", "train.log_every=1"),
)


@pytest.mark.slow
def test_the_whole_demo_and_once_more(tmp_path: Path) -> None:
    """Slow: a CLIP and five runs of two steps; that the stages fit together shows only when all are run."""
    out = tmp_path / "demo"
    content = run_demo(out, terminal.console(file=io.StringIO()), TOY)
    stored = json.loads((out / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(content, default=str))
    assert {"protocol", "metrics", "n_queries", "rows", "ahead_of", "environment"} <= set(stored)
    assert {"R@1", "R@5", "R_subset@1", "mAP@5", "mean"} <= set(stored["metrics"])
    assert list(stored["rows"]) == list(ROWS)
    assert stored["metrics"] == stored["rows"][SYSTEM]
    assert set(stored["ahead_of"]) == set(FLOORS)
    assert stored["n_queries"] == len(json.loads((out / "data" / "captions" / "cap.rc2.val.json").read_text())) > 0
    page = (out / "index.html").read_text()
    shown = min(stages.SHOWN, stored["n_queries"])
    assert page.count('<article class="query">') == shown
    assert page.count('<li class="target') == 2 * shown, "the target is marked for the system and for concat"
    assert page.count("data:image/") > 3 * shown

    kept = [p for p in out.rglob("*") if p.is_file() and (p.suffix in {".pt", ".png", ".csv"} or "step-" in str(p))]
    assert len(kept) > 36 + 36 + 12 + len(ROWS)
    before = {p: p.stat().st_mtime_ns for p in kept}
    console = terminal.console(file=io.StringIO())
    again = run_demo(out, console, TOY)
    assert {p: p.stat().st_mtime_ns for p in kept} == before, "nothing is generated or trained again"
    assert again["rows"] == content["rows"]
    assert again["ahead_of"] == content["ahead_of"]

    with pytest.raises(UserError):  # another size does not mix with what is there
        run_demo(out, console, Size(train=48, val=36, test=12))
    assert json.loads((out / "metrics.json").read_text())["rows"] == stored["rows"]
