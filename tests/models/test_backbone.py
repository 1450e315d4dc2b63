"""Every kind of tower gives the same things; freezing, fingerprints and checkpointing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neucore_xl.config.schema import BackboneSettings, FreezeBlocks
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.models.backbone import Backbone, build_backbone

# kind: image tokens, their width, words, their width, width of the joint space, side in pixels
SHAPES = {
    "native-vit": (16, 32, 16, 24, 20, 32),
    "timm-vit": (36, 64, 16, 24, 20, 96),
    "timm-cnn": (4, 64, 16, 24, 20, 64),
    "modified-resnet": (4, 256, 16, 24, 20, 64),
    "tiny-siglip": (100, 96, 16, 32, 96, 160),
    "coca": (16, 48, 16, 24, 32, 32),
    "hf-text": (16, 32, 12, 28, 20, 32),
}
KINDS = tuple(SHAPES)
TEXTS = ["a red dog", "make it two more cats"]


def pixels(backbone: Backbone, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, backbone.image_size, backbone.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_masks_and_pooled_features(kind: str, make_backbone: Any) -> None:
    backbone = make_backbone(kind).eval()
    n, dv, length, dt, d, size = SHAPES[kind]
    assert (backbone.n_tokens, backbone.token_width, backbone.word_width, backbone.embed_dim) == (n, dv, dt, d)
    assert backbone.image_size == size
    x, ids = pixels(backbone), backbone.tokenizer(TEXTS)
    images, texts = backbone.encode_images(x), backbone.encode_texts(ids)
    assert images.tokens.shape == (2, n, dv)
    assert texts.words.shape == (2, length, dt)
    assert texts.mask.sum(1).tolist() == [5, 7]  # the words with their start and end marks
    assert not texts.mask[:, 7:].any()
    options = {"normalize": False}
    torch.testing.assert_close(images.pooled, backbone.clip.encode_image(x, **options))
    torch.testing.assert_close(texts.pooled, backbone.clip.encode_text(ids, **options))


@pytest.mark.parametrize(
    ("kind", "counts", "widths"),
    [
        ("native-vit", (16, 16, 16), (32, 32, 32)),
        ("timm-vit", (36, 36, 36), (64, 64, 64)),
        ("timm-cnn", (64, 16, 4), (32, 48, 64)),  # the last maps of those that shrink
        ("modified-resnet", (64, 16, 4), (64, 128, 256)),
        ("coca", (16, 16), (48, 48)),  # it has two blocks
    ],
)
def test_several_depths_are_given_the_last_as_it_always_was(
    kind: str, counts: tuple[int, ...], widths: tuple[int, ...], make_backbone: Any
) -> None:
    one, three = make_backbone(kind).eval(), make_backbone(kind, levels=3).eval()
    assert (one.token_counts, one.token_widths) == ((one.n_tokens,), (one.token_width,))
    assert (three.token_counts, three.token_widths) == (counts, widths)
    x = pixels(one)
    alone, found = one.encode_images(x), three.images(three.encode_images(x))
    assert alone.levels == ()
    torch.testing.assert_close(found.tokens, alone.tokens)
    torch.testing.assert_close(found.pooled, alone.pooled)
    assert [level.shape for level in found.levels] == [(2, n, d) for n, d in zip(counts, widths, strict=True)][:-1]
    assert not any(torch.allclose(level[:, :4, :8], found.tokens[:, :4, :8]) for level in found.levels)
    assert one.fingerprint() == three.fingerprint()


def test_depths_are_spread_over_a_tower_of_equal_maps(configs: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads(configs["native-vit"].read_text())
    config["vision_cfg"]["layers"] = 6
    (tmp_path / "six.json").write_text(json.dumps(config))
    settings = BackboneSettings(config=tmp_path / "six.json", pretrained=None)
    backbone = build_backbone(settings, levels=3).eval()
    seen: list[torch.Tensor] = []
    for block in backbone.clip.visual.transformer.resblocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda m, x, y: seen.append(y))
    found = backbone.encode_images(pixels(backbone))
    for depth, number in zip((*found.levels, found.tokens), (1, 3, 5), strict=True):  # blocks 2, 4 and 6
        torch.testing.assert_close(depth, backbone.clip.visual.ln_post(seen[number])[:, 1:])  # type: ignore[union-attr, operator]


def test_an_empty_text_and_no_text_at_all(make_backbone: Any) -> None:
    for kind in ("native-vit", "hf-text"):
        backbone = make_backbone(kind)
        assert backbone.encode_texts(backbone.tokenizer([""])).mask.any(1).all()
        none = backbone.encode_texts(backbone.tokenizer(["a"])[:0])
        assert none.words.shape[0] == none.pooled.shape[0] == none.mask.shape[0] == 0
        assert none.pooled.shape[1] == backbone.embed_dim


def test_features_pass_through_as_fp32(make_backbone: Any) -> None:
    backbone = make_backbone()
    images = ImageFeatures(torch.ones(2, 3, 4).half(), torch.ones(2, 5).half())
    texts = TextFeatures(torch.ones(2, 3, 4).half(), torch.ones(2, 5).half(), torch.ones(2, 3, dtype=torch.bool))
    assert backbone.images(images).tokens.dtype == backbone.texts(texts).words.dtype == torch.float32
    x = pixels(backbone)
    assert torch.equal(backbone.images(x).pooled, backbone.encode_images(x).pooled)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_backbone_has_no_gradient_and_stays_in_eval_mode(kind: str, make_backbone: Any) -> None:
    backbone = make_backbone(kind).train()
    assert backbone.image_frozen
    assert backbone.text_frozen
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.clip.modules() if next(m.parameters(), None) is not None)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    images = backbone.encode_images(pixels(backbone))
    assert not images.pooled.requires_grad
    assert not backbone.encode_texts(backbone.tokenizer(TEXTS)).pooled.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())  # BatchNorm statistics too


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_backbone_gets_gradients(kind: str, make_backbone: Any) -> None:
    backbone = make_backbone(kind, freeze="none").train()
    assert not backbone.image_frozen
    assert not backbone.text_frozen
    images, texts = backbone.encode_images(pixels(backbone)), backbone.encode_texts(backbone.tokenizer(TEXTS))
    sum(f.square().sum() for f in (images.tokens, images.pooled, texts.words, texts.pooled)).backward()
    # tokens are read at the last block, so nothing of the tower may be left out but CLIP's own scale and bias
    missing = {n for n, p in backbone.clip.named_parameters() if p.requires_grad and p.grad is None}
    assert missing <= {"visual.attn_pool.ln_k.bias"}
    assert not any(p.requires_grad for n, p in backbone.clip.named_parameters() if n.startswith("logit_"))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "coca"])
def test_freezing_the_first_block_of_each_tower(kind: str, make_backbone: Any) -> None:
    backbone = make_backbone(kind, freeze=FreezeBlocks(image=1, text=1)).train()
    assert not backbone.image_frozen
    assert not backbone.text_frozen
    trained = {n for n, p in backbone.clip.named_parameters() if p.requires_grad}
    visual = list(backbone.clip.visual.named_parameters())
    assert not visual[0][1].requires_grad  # the stem
    assert visual[-1][1].requires_grad
    every = {n for n, p in make_backbone(kind, freeze="none").clip.named_parameters() if p.requires_grad}
    assert trained < every
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    images, texts = backbone.encode_images(pixels(backbone)), backbone.encode_texts(backbone.tokenizer(TEXTS))
    (images.pooled.square().sum() + texts.pooled.square().sum()).backward()
    assert {n for n, p in backbone.clip.named_parameters() if p.grad is not None} <= trained
    norms = [m for m in backbone.clip.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.training == any(p.requires_grad for p in norm.parameters())
    moved = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert len([k for k in moved if k.endswith("running_mean")]) == len([m for m in norms if m.training])


def test_as_many_blocks_as_there_are_freeze_the_whole_tower(make_backbone: Any) -> None:
    backbone = make_backbone("native-vit", freeze=FreezeBlocks(image=3, text=0))
    assert backbone.image_frozen
    assert not backbone.text_frozen
    assert all(p.requires_grad for n, p in backbone.clip.named_parameters() if n.startswith("transformer."))
    text = make_backbone("hf-text", freeze=FreezeBlocks(image=0, text=99))
    assert text.text_frozen
    assert not text.image_frozen


def test_the_fingerprint_is_of_weights_and_architecture(make_backbone: Any, configs: dict[str, Path]) -> None:
    backbone = make_backbone()
    same = make_backbone()
    assert backbone.fingerprint() == same.fingerprint() == make_backbone(freeze="none").fingerprint()
    with torch.no_grad():
        same.clip.token_embedding.weight[5, 3] += 1e-3
    assert backbone.fingerprint() != same.fingerprint()
    assert backbone.fingerprint("text") != same.fingerprint("text")
    assert backbone.fingerprint("image") == same.fingerprint("image") != backbone.fingerprint("text")
    assert make_backbone("coca").fingerprint() != backbone.fingerprint()


def test_activation_checkpointing_changes_no_gradient(make_backbone: Any) -> None:
    gradients = []
    for on in (False, True):
        backbone = make_backbone("native-vit", freeze="none", activation_checkpointing=on).train()
        backbone.encode_images(pixels(backbone)).pooled.square().sum().backward()
        gradients.append(backbone.clip.visual.conv1.weight.grad)
    assert backbone.clip.visual.transformer.grad_checkpointing
    assert backbone.clip.transformer.grad_checkpointing
    torch.testing.assert_close(*gradients)


def test_the_transform_follows_the_tower(configs: dict[str, Path], tmp_path: Path) -> None:
    import json

    wrapped = {
        "model_cfg": json.loads(configs["native-vit"].read_text()),
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    (tmp_path / "wrapped.json").write_text(json.dumps(wrapped))
    backbone = build_backbone(BackboneSettings(config=tmp_path / "wrapped.json", pretrained=None, image_size=48))
    assert backbone.n_tokens == 36
    from PIL import Image

    out = backbone.transform(1.25)(Image.new("RGB", (60, 50), (255, 0, 0)))
    assert out.shape == (3, 48, 48)
    torch.testing.assert_close(out[:, 24, 24], torch.tensor([0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.4]))


def test_padding_changes_no_text_feature(make_backbone: Any) -> None:
    backbone = make_backbone("hf-text").eval()
    ids = backbone.tokenizer(TEXTS)
    long, short = backbone.encode_texts(ids), backbone.encode_texts(ids[:, :7])
    torch.testing.assert_close(long.pooled, short.pooled)
    torch.testing.assert_close(long.words[:, :7][short.mask], short.words[short.mask])
