"""Image features that were given take the place of a tower; an image's tokens are pooled to a number."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.config.load import validate
from neucore_xl.config.schema import BackboneSettings, FreezeBlocks, LoraSettings
from neucore_xl.data.features.folder import FeatureFolder
from neucore_xl.data.features.writer import FeatureFolderWriter
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.given import GivenImages, orthonormal
from neucore_xl.models.grid import pooled_to
from neucore_xl.models.towers import open_model
from neucore_xl.sizing.meta import meta_backbone


def features(out: Path, lengths: tuple[int, ...] = (3, 9, 1, 9), width: int = 5, pooled: int = 20) -> Path:
    draw = np.random.default_rng(0)
    with FeatureFolderWriter(out, origin="a test") as writer:
        for i, length in enumerate(lengths):
            writer.add(f"i{i}", draw.normal(size=(length, width)), draw.normal(size=pooled))
    return out


def slowly(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Cell c of ``count`` holds the old tokens from ⌊c N / count⌋ up to ⌈(c + 1) N / count⌉, exclusive."""
    n = len(tokens)
    cells = [(c * n // count, -(-(c + 1) * n // count)) for c in range(count)]
    return torch.stack([sum(tokens[i] for i in range(a, b)) / (b - a) for a, b in cells])  # type: ignore[misc]


@given(st.integers(1, 12), st.integers(1, 12))
def test_tokens_in_a_row_are_means_of_their_cells(n: int, count: int) -> None:
    tokens = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n))
    found = pooled_to(tokens, count, square=False)
    torch.testing.assert_close(found, torch.stack([slowly(t, count) for t in tokens]))
    assert n != count or torch.equal(found, tokens)


@given(st.integers(1, 5), st.integers(1, 5))
def test_a_square_map_stays_a_map(n: int, count: int) -> None:
    tokens = torch.randn(n * n, 3, generator=torch.Generator().manual_seed(n))
    rows = [slowly(row, count) for row in tokens.view(n, n, 3)]  # along a row, then along the columns
    expected = slowly(torch.stack(rows).flatten(1), count).reshape(-1, 3)
    torch.testing.assert_close(pooled_to(tokens[None], count * count)[0], expected)


@pytest.mark.parametrize("kind", ["native-vit", "timm-cnn", "modified-resnet"])
def test_a_tower_hands_out_as_many_tokens_as_were_asked_for(kind: str, configs: dict[str, Path]) -> None:
    torch.manual_seed(0)
    settings = BackboneSettings(config=configs[kind], pretrained=None)
    plain = build_backbone(settings).eval()
    for tokens in (4, 3):
        pooled = build_backbone(settings, tokens).eval()
        pooled.load_state_dict(plain.state_dict())
        assert pooled.n_tokens == tokens
        x = torch.randn(2, 3, plain.image_size, plain.image_size)
        one, other = plain.encode_images(x), pooled.encode_images(x)
        torch.testing.assert_close(other.tokens, pooled_to(one.tokens, tokens))
        assert torch.equal(one.pooled, other.pooled)
        assert pooled.fingerprint("image") != plain.fingerprint("image")
        assert pooled.fingerprint("text") == plain.fingerprint("text")
        assert pooled.fingerprint() == plain.fingerprint()  # the weights are the same


@given(st.integers(1, 9), st.integers(0, 9))
def test_the_matrix_keeps_inner_products_and_is_the_same_every_time(narrow: int, more: int) -> None:
    matrix = orthonormal(narrow + more, narrow)
    torch.manual_seed(narrow)
    assert torch.equal(matrix, orthonormal(narrow + more, narrow))
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(narrow), atol=1e-5, rtol=1e-5)


def test_images_of_many_lengths_become_one_tensor(tmp_path: Path) -> None:
    folder = FeatureFolder(features(tmp_path / "f"))
    images = GivenImages(folder)
    assert images.n_tokens == 9
    found = pickle.loads(pickle.dumps(images)).images(["i1", "i0", "i2", "i1"])
    assert torch.equal(found.tokens[0], torch.from_numpy(np.array(folder.tokens("i1"))))
    assert torch.equal(found.tokens[0], found.tokens[3])
    torch.testing.assert_close(found.tokens[1], slowly(torch.from_numpy(np.array(folder.tokens("i0"))), 9))
    assert GivenImages(FeatureFolder(features(tmp_path / "long", (99, 2)))).n_tokens == 64
    images.widen_to(25)
    pooled = images.images(["i0", "i1"]).pooled
    assert pooled.shape == (2, 25)
    torch.testing.assert_close(pooled @ pooled.T, found.pooled[[1, 0]] @ found.pooled[[1, 0]].T)
    with pytest.raises(UserError, match=r"no features of 4 of the 5 images of split val \(a, b, c, …\): import these"):
        images.check(["a", "i0", "b", "c", "d"], "split val")


def test_texts_are_stored_without_padding_that_a_tower_would_not_read(configs: dict[str, Path]) -> None:
    for kind in ("hf-text", "native-vit"):
        backbone = build_backbone(BackboneSettings(config=configs[kind], pretrained=None)).eval()
        ids = backbone.tokenizer(["make it red", "a dog", ""])
        short = backbone.without_padding(ids)
        assert short.shape == ((3, 5) if kind == "hf-text" else ids.shape)
        one, other = backbone.encode_texts(ids), backbone.encode_texts(short)
        assert torch.equal(one.mask[:, : short.shape[1]], other.mask)
        torch.testing.assert_close(one.words[one.mask], other.words[other.mask], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-4, atol=1e-5)


def without_images(configs: dict[str, Path], kind: str, out: Path, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(config=configs[kind], pretrained=None, features=out, **settings), 4).eval()


@pytest.mark.parametrize(
    ("kind", "pooled"), [("native-vit", 7), ("native-vit", 200), ("hf-text", 20), ("coca", 96), ("tiny-siglip", 96)]
)
def test_the_text_tower_alone_is_kept(kind: str, pooled: int, configs: dict[str, Path], tmp_path: Path) -> None:
    out = features(tmp_path / "f", pooled=pooled)
    backbone = without_images(configs, kind, out)
    torch.manual_seed(0)
    whole = build_backbone(BackboneSettings(config=configs[kind], pretrained=None)).eval()
    assert not any(name.startswith("clip.visual") for name in backbone.state_dict())
    assert backbone.image_frozen
    assert backbone.embed_dim == max(pooled, whole.embed_dim)
    assert (backbone.n_tokens, backbone.token_width) == (4, 5)
    ids = whole.tokenizer(["make it red", "two more dogs"])
    ours, theirs = backbone.encode_texts(ids), whole.encode_texts(ids)
    assert torch.equal(ours.words, theirs.words)
    torch.testing.assert_close(ours.pooled @ ours.pooled.T, theirs.pooled @ theirs.pooled.T, rtol=1e-4, atol=1e-4)
    images = backbone.given.images(["i0", "i1"])
    assert images.pooled.shape == (2, backbone.embed_dim)
    assert backbone.images(images).pooled.shape == ours.pooled.shape
    copy.deepcopy(backbone)
    for call in (lambda: backbone.encode_images(torch.zeros(1, 3, 8, 8)), lambda: backbone.transform(1.25)):
        with pytest.raises(UserError, match="no image tower, it reads features by image name"):
            call()
    settings = BackboneSettings(config=configs[kind], pretrained=None, features=out)
    meta = meta_backbone(settings, 4)
    assert (meta.n_tokens, meta.token_width, meta.embed_dim) == (4, 5, backbone.embed_dim)
    assert [n for n, _ in meta.named_parameters()] == [n for n, _ in backbone.named_parameters()]


def test_other_features_are_another_backbone(configs: dict[str, Path], tmp_path: Path) -> None:
    one = without_images(configs, "native-vit", features(tmp_path / "a"))
    same = without_images(configs, "native-vit", features(tmp_path / "b"))
    other = without_images(configs, "native-vit", features(tmp_path / "c", (2, 2)))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert one.fingerprint("text") == other.fingerprint("text")  # its cache is shared
    wide = without_images(configs, "native-vit", features(tmp_path / "d", pooled=30))
    assert wide.fingerprint("text") != one.fingerprint("text")


def test_the_text_tower_is_trained_or_adapted_as_ever(configs: dict[str, Path], tmp_path: Path) -> None:
    out = features(tmp_path / "f", pooled=64)
    trained = without_images(configs, "native-vit", out, freeze=FreezeBlocks(image=1, text=1))
    assert not trained.text_frozen
    trained.encode_texts(trained.tokenizer(["a dog"])).pooled.sum().backward()
    adapted = without_images(configs, "hf-text", out, lora=LoraSettings(rank=2, towers=("text",)))
    assert not adapted.text_frozen
    tree = {"backbone": {"features": str(out), "lora": {"rank": 2}}}
    with pytest.raises(UserError, match=r"set backbone\.lora\.towers to \[text\]"):
        validate(tree)


def test_a_folder_of_a_text_tower_alone_needs_features(
    configs: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    whole = open_model(BackboneSettings(config=configs["hf-text"], pretrained=None)).model
    folder = tmp_path / "texts"
    shutil.copytree(bert_folder, folder / "text")
    text = {"hf_model_name": "text", "hf_tokenizer_name": "text", "context_length": 12, "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler", "hf_model_pretrained": False}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 20, "text_cfg": text}}))
    settings = BackboneSettings(name=f"local-dir:{folder}", pretrained=None, features=features(tmp_path / "f"))
    with pytest.raises(UserError, match="holds no weights"):
        build_backbone(settings)
    with pytest.raises(UserError, match=r"is that of a text tower alone: set backbone\.features"):
        build_backbone(settings.model_copy(update={"features": None}))
    weights = {name: tensor for name, tensor in whole.state_dict().items() if name.startswith("text.")}
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    backbone = build_backbone(settings)
    assert all(torch.equal(backbone.clip.state_dict()[name], tensor) for name, tensor in weights.items())
    digest = backbone.fingerprint()
    moved = folder.rename(tmp_path / "moved")
    settings = settings.model_copy(update={"name": f"local-dir:{moved}"})
    assert build_backbone(settings).fingerprint() == digest
    assert meta_backbone(settings).embed_dim == 20
    torch.save({"text.other": torch.ones(1)}, moved / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="does not hold the weights of the text tower"):
        build_backbone(settings)
