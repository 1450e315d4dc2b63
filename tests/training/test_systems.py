"""Systems that ask more of a run than a forward: drawn weights, drawn references, losses and a score of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.runs.system import assemble, load_run
from neucore_xl.training.journal import read_log
from neucore_xl.training.run import train
from tests.support.tiny_runs import TOWERS


def deeper(folder: Path) -> Path:
    """The tiny towers with an image tower of three blocks."""
    config = TOWERS | {"vision_cfg": TOWERS["vision_cfg"] | {"layers": 3}}  # type: ignore[operator]
    (folder / "deeper.json").write_text(json.dumps(config))
    return folder / "deeper.json"


@pytest.mark.parametrize("name", ["random", "random-image-text", "composeae", "artemis", "cirplant-pretrained", "val"])
def test_it_trains_is_stored_and_scores_the_same_again(
    name: str, tiny: Callable[..., Settings], tmp_path: Path, bert_folder: Path
) -> None:
    own = {
        "cirplant-pretrained": [f"model.language_model={bert_folder}", "loss.kind=soft-triplet"],
        "val": ["loss.kind=hardest-hinge", f"backbone.config={deeper(tmp_path)}", "backbone.name=deeper"],
    }
    settings = tiny(f"model.name={name}", "train.steps=2", "train.warmup_steps=0", *own.get(name, []))
    train(settings, tmp_path / "run")
    for record in read_log(tmp_path / "run" / "log.jsonl"):
        own = {key: value for key, value in record.items() if key.startswith("loss_") and key != "loss_concept"}
        expected = {"loss_match", "loss_image", "loss_text", "loss_rotation"} if name == "composeae" else {"loss_match"}
        assert set(own) == expected
        assert record["loss"] == pytest.approx(sum(own.values()))
    runs = [load_run(tmp_path / "run", checkpoint="last") for _ in range(2)]
    split = open_from_settings(settings.data, "val")
    first, second = (np.concatenate([rows for _, rows in run.scores(split)[""]]) for run in runs)
    assert first.std() > 0
    assert np.array_equal(first, second)
    if name == "cirplant-pretrained":
        start, end = assemble(settings).composer.state_dict(), runs[0].composer.state_dict()
        words = "language.bert.encoder.layer.0.attention.self.query.weight"
        assert not torch.equal(start[words], end[words])
    if name == "random":
        drawn = assemble(settings).composer.state_dict()
        kept = {n: v for n, v in runs[0].composer.state_dict().items() if n.startswith("composition.")}
        assert kept
        assert all(torch.equal(value, drawn[n]) for n, value in kept.items())
