from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.data.triplets import Gallery, Split
from neucore_xl.encoding.inputs import CachedInputs, PixelInputs, image_paths, make_inputs
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone

Change = Callable[[Settings, dict], Settings]


@pytest.fixture
def val(settings: Settings) -> Split:
    return open_from_settings(settings.data, "val")


def test_cached_features_equal_those_of_pixels(
    settings: Settings, change: Change, backbone: Backbone, val: Split
) -> None:
    cached = make_inputs(settings, backbone, [val], ["dog"])
    pixels = make_inputs(change(settings, {"train": {"cache_features": False}}), backbone, [val])
    assert isinstance(cached, CachedInputs)
    assert isinstance(pixels, PixelInputs)
    names, texts = ["val-3", "val-0", "val-5"], [val.triplets[0].text, "dog"]
    for x in (cached, pickle.loads(pickle.dumps(cached))):
        images, words = x.images(names), x.texts(texts)
        assert isinstance(images, ImageFeatures)
        assert isinstance(words, TextFeatures)
        raw = backbone.encode_images(pixels.images(names))
        torch.testing.assert_close(images.tokens, raw.tokens)
        torch.testing.assert_close(images.pooled, raw.pooled)
        plain = backbone.encode_texts(pixels.texts(texts))
        length = words.mask.shape[1]
        assert torch.equal(words.mask, plain.mask[:, :length])
        assert not plain.mask[:, length:].any()
        torch.testing.assert_close(words.words[words.mask], plain.words[plain.mask])
        torch.testing.assert_close(words.pooled, plain.pooled)


def test_pixel_inputs_survive_pickling(settings: Settings, change: Change, backbone: Backbone, val: Split) -> None:
    pixels = make_inputs(change(settings, {"train": {"cache_features": False}}), backbone, [val])
    again = pickle.loads(pickle.dumps(pixels))
    assert torch.equal(again.images(["val-1"]), pixels.images(["val-1"]))
    assert again.images(["val-1", "val-2"]).shape == (2, 3, 32, 32)
    assert torch.equal(again.texts(["a dog"]), pixels.texts(["a dog"]))


@pytest.mark.parametrize(("freeze", "kinds"), [({"image": 99}, "features ids"), ({"text": 99}, "pixels features")])
def test_the_trained_tower_gets_raw_input(
    settings: Settings, change: Change, val: Split, freeze: dict[str, int], kinds: str
) -> None:
    part = build_backbone(change(settings, {"backbone": {"freeze": freeze}}).backbone)
    assert part.image_frozen != part.text_frozen
    inputs = make_inputs(settings, part, [val])
    images, texts = inputs.images(["val-0"]), inputs.texts([val.triplets[0].text])
    assert isinstance(images, ImageFeatures) == (kinds.split()[0] == "features")
    assert isinstance(texts, TextFeatures) == (kinds.split()[1] == "features")


def test_the_frozen_towers_cache_outlives_training_of_the_other(settings: Settings, change: Change, val: Split) -> None:
    part = build_backbone(change(settings, {"backbone": {"freeze": {"image": 99}}}).backbone)
    make_inputs(settings, part, [val])
    with torch.no_grad():
        for parameter in part.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    part.encode_images = None  # type: ignore[assignment,method-assign]  # nothing may be computed
    make_inputs(settings, part, [val])


def test_nothing_is_computed_twice_and_a_replaced_image_once(
    settings: Settings, backbone: Backbone, val: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = Backbone.encode_images
    monkeypatch.setattr(Backbone, "encode_images", lambda self, x: (seen.append(len(x)), encode(self, x))[1])
    make_inputs(settings, backbone, [val])
    assert seen == [5, 1]
    before = make_inputs(settings, backbone, [val]).images(["val-2"])
    assert seen == [5, 1]
    Image.fromarray(np.full((40, 32, 3), 7, np.uint8)).save(val.image_path("val-2"))
    after = make_inputs(settings, backbone, [val]).images(["val-2"])
    assert seen == [5, 1, 1]
    assert not torch.equal(before.pooled, after.pooled)  # type: ignore[union-attr]


def test_a_training_gallery_may_be_left_out(settings: Settings, backbone: Backbone) -> None:
    split = open_from_settings(settings.data, "train")
    extra = Gallery(
        (*split.galleries[""].names, "unused"), {**split.galleries[""].paths, "unused": Path("nowhere.png")}
    )
    wide = Split(split.dataset, split.name, split.root, split.triplets, {"": extra})
    inputs = make_inputs(settings, backbone, [wide], without_gallery=["train"])
    assert len(inputs.images(["train-0", "train-5"]).pooled) == 2  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="unused"):
        inputs.images(["unused"])
    with pytest.raises(UserError, match=r"nowhere\.png"):
        make_inputs(settings, backbone, [wide])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence_naming_it(
    settings: Settings, change: Change, backbone: Backbone, val: Split, workers: int
) -> None:
    val.image_path("val-4").write_bytes(b"")
    with pytest.raises(UserError, match=r"val-4\.png") as caught:
        make_inputs(change(settings, {"data": {"workers": workers}}), backbone, [val])
    assert "\n" not in str(caught.value)


def test_the_backbone_is_put_back_as_it_was(settings: Settings, change: Change, val: Split) -> None:
    part = build_backbone(change(settings, {"backbone": {"freeze": {"text": 99}}}).backbone).train()
    modes = [m.training for m in part.modules()]
    assert any(modes)
    make_inputs(settings, part, [val])
    assert [m.training for m in part.modules()] == modes


def test_an_unannounced_text_is_named(settings: Settings, backbone: Backbone, val: Split) -> None:
    inputs = make_inputs(settings, backbone, [val])
    with pytest.raises(KeyError, match="never seen"):
        inputs.texts(["never seen"])


def test_one_name_for_two_files_is_refused(val: Split) -> None:
    other = Split("cirr", "train", val.root, (), {"": Gallery(("val-0",), {"val-0": Path("elsewhere.png")})})
    with pytest.raises(UserError, match="'val-0' means two files"):
        image_paths([val, other])


def test_an_unknown_name_is_refused(settings: Settings, change: Change, backbone: Backbone, val: Split) -> None:
    with pytest.raises(UserError, match="'ghost'"):
        make_inputs(change(settings, {"train": {"cache_features": False}}), backbone, [val]).images(["ghost"])
