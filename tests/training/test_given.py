"""A run on given image features: no picture lies anywhere, and everything goes on as with frozen towers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neucore_xl.ablation.run import evaluate_run
from neucore_xl.cli import main
from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.features.writer import FeatureFolderWriter
from neucore_xl.encoding.cache import FeatureCache
from neucore_xl.encoding.inputs import GivenInputs, check_features, make_inputs
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone
from neucore_xl.runs.system import load_run
from neucore_xl.training.run import train
from tests.support.small_cirr import write_cirr

Change = Callable[[Settings, dict], Settings]


def write(out: Path, names: tuple[str, ...], seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    with FeatureFolderWriter(out, origin="drawn at random") as writer:
        for i, name in enumerate(names):
            writer.add(name, draw.normal(size=(2 + i % 4, 10)), draw.normal(size=12))
    return out


@pytest.fixture
def given(settings: Settings, change: Change, tmp_path: Path) -> Settings:
    """``settings`` without a picture: features of 12 dimensions beside texts of 16."""
    root = write_cirr(tmp_path / "annotations", {"train": 12, "val": 6})
    for picture in root.rglob("*.png"):
        picture.unlink()
    names = tuple(f"{split}-{i}" for split, n in (("train", 12), ("val", 6)) for i in range(n))
    tree = {
        "data": {"root": str(root)},
        "backbone": {"features": str(write(tmp_path / "features", names))},
        "model": {"tokens": 3},
        "train": {"steps": 3, "validate_every": 0, "log_every": 1, "warmup_steps": 0},
    }
    return change(settings, tree)


def test_inputs_read_images_by_name_and_cache_texts_alone(given: Settings, change: Change) -> None:
    backbone, val = build_backbone(given.backbone, 3), open_from_settings(given.data, "val")
    inputs = make_inputs(given, backbone, [val])
    assert isinstance(inputs, GivenInputs)
    assert inputs.images(["val-3", "val-0"]).tokens.shape == (2, 3, 10)
    assert inputs.images(["val-3"]).pooled.shape == inputs.texts([val.triplets[0].text]).pooled.shape == (1, 16)
    stores = [p.name for p in (given.train.cache_dir / "features").iterdir()]
    assert [name.split("-")[0] for name in stores] == ["texts"]
    ids = make_inputs(change(given, {"train": {"cache_features": False}}), backbone, [val])
    assert isinstance(ids.texts(["a dog"]), torch.Tensor)
    assert torch.equal(ids.images(["val-3"]).tokens, inputs.images(["val-3"]).tokens)


def test_a_run_is_trained_evaluated_exported_and_found_again(given: Settings, change: Change, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(given, run)
    result = evaluate_run(run, given)
    assert result.protocol["features"]["origin"] == "drawn at random"
    assert "preprocessing" not in result.protocol
    system = load_run(run)
    assert not any(name.startswith("backbone.clip.visual") for name in system.composer.state_dict())
    with pytest.raises(UserError, match="pictures can be encoded by a system with an image tower alone"):
        system.encode_images([next(run.glob("*.json"))])
    out = tmp_path / "model.safetensors"
    with pytest.raises(SystemExit, match="0"):
        main(["checkpoint", "export", str(run), "--out", str(out)])
    exported = load_run(out)
    assert exported.fingerprint == system.fingerprint
    split = open_from_settings(given.data, "val")
    one, other = (next(s.scores(split)[""])[1] for s in (system, exported))
    assert np.array_equal(one, other)

    names = exported.backbone.given.folder.names
    others = change(given, {"backbone": {"features": str(write(tmp_path / "others", names, seed=1))}})
    with pytest.raises(UserError, match="backbone"):
        load_run(out, settings=others)
    with pytest.raises(UserError, match="is not there, or no folder"):
        load_run(out, settings=change(given, {"backbone": {"features": str(tmp_path / "nowhere")}}))


def test_images_without_features_stop_a_run_before_its_folder_is_made(
    given: Settings, change: Change, tmp_path: Path
) -> None:
    few = change(given, {"backbone": {"features": str(write(tmp_path / "few", ("val-0", "val-1", "train-0")))}})
    with pytest.raises(UserError, match=r"no features of \d+ of the \d+ images of split train \(train-"):
        train(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"no features of 4 of the 6 images of split val \(val-2, val-3, val-4, …\)"):
        check_features(few, [open_from_settings(few.data, "val")])


def test_damaged_features_stop_a_run(given: Settings, tmp_path: Path) -> None:
    tokens = tmp_path / "features" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[7] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(UserError, match=r"tokens\.bin has another content than was written"):
        train(given, tmp_path / "run")


def test_pooled_tokens_have_a_cache_of_their_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    val, stores = open_from_settings(settings.data, "val"), set()
    original = FeatureCache.image_rows
    monkeypatch.setattr(FeatureCache, "image_rows", lambda c, k: stores.add(c.images.folder) or original(c, k))
    for tokens, shape in ((None, 16), (4, 4), (None, 16)):
        inputs = make_inputs(settings, build_backbone(settings.backbone, tokens), [val])
        assert inputs.images(["val-1"]).tokens.shape == (1, shape, 32)
    assert len(stores) >= 2
