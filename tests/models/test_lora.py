"""Adapters on every kind of tower: what they start as, what is trained, what is merged, what is refused."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torch import nn

from neucore_xl.config.load import validate
from neucore_xl.config.schema import LoraSettings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.lora import is_adapter, merged_state

TEXTS = ["a red dog", "make it two more cats"]
ADAPTED = {  # kind: layers of the image tower, layers of the text tower
    "native-vit": ({"c_fc", "c_proj"}, {"c_fc", "c_proj"}),
    "timm-vit": ({"qkv", "proj", "fc1", "fc2"}, {"c_fc", "c_proj"}),
    "tiny-siglip": ({"qkv", "proj", "fc1", "fc2"}, {"c_fc", "c_proj"}),
    "coca": ({"c_fc", "c_proj"}, {"c_fc", "c_proj"}),
    "hf-text": ({"c_fc", "c_proj"}, {"query", "key", "value", "dense"}),
}


def pixels(backbone: Backbone) -> torch.Tensor:
    side = backbone.image_size
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def outputs(backbone: Backbone) -> dict[str, torch.Tensor]:
    images, texts = backbone.encode_images(pixels(backbone)), backbone.encode_texts(backbone.tokenizer(TEXTS))
    return {"tokens": images.tokens, "image": images.pooled, "words": texts.words, "text": texts.pooled}


def disturb(backbone: Backbone) -> None:
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))


def unscaled(backbone: Backbone) -> Backbone:
    """Layer scales start near zero, which would hide what the layers do."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(".gamma"):
                parameter.fill_(1.0)
    return backbone.eval()


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_start_as_nothing_are_all_that_is_trained_and_merge_into_a_plain_model(
    kind: str, make_backbone: Any
) -> None:
    plain = unscaled(make_backbone(kind))
    adapted = unscaled(make_backbone(kind, lora=LoraSettings(rank=3)))
    before = outputs(plain)
    for name, tensor in outputs(adapted).items():
        torch.testing.assert_close(tensor, before[name], msg=name)
    trained = {n: p for n, p in adapted.clip.named_parameters() if p.requires_grad}
    assert all(is_adapter(name) and p.ndim == 2 and 3 in p.shape for name, p in trained.items())
    layers = {(n.startswith("visual."), n.split(".lora_")[0].rsplit(".", 1)[-1]) for n in trained}
    assert tuple({name for visual, name in layers if visual == side} for side in (True, False)) == ADAPTED[kind]
    assert (adapted.image_frozen, adapted.text_frozen) == (False, False)

    assert adapted.fingerprint() == plain.fingerprint()
    disturb(adapted)
    assert adapted.fingerprint() == plain.fingerprint()
    after = outputs(adapted)
    assert all((after[name] - before[name]).abs().max() > 1e-3 for name in before)
    plain.clip.load_state_dict(merged_state(adapted), strict=True)
    for name, tensor in outputs(plain).items():
        torch.testing.assert_close(tensor, after[name], rtol=1e-5, atol=1e-5, msg=name)


def test_every_adapter_receives_a_gradient_with_and_without_checkpointing_and_in_bf16(make_backbone: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = make_backbone(lora=LoraSettings(rank=2), activation_checkpointing=checkpointing).train()
        disturb(backbone)
        sum(tensor.square().mean() for tensor in outputs(backbone).values()).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.requires_grad})
        assert all(g is not None and g.abs().sum() > 0 for g in gradients[-1].values())
        assert all(p.grad is None for p in backbone.parameters() if not p.requires_grad)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = outputs(backbone)
        for name, tensor in outputs(backbone).items():
            torch.testing.assert_close(half[name].float(), tensor, rtol=0.1, atol=0.1, msg=name)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_one_tower_alone_and_the_other_stays_frozen(make_backbone: Any) -> None:
    """Names of a native text tower end like those of the image tower's layers."""
    text = make_backbone(lora=LoraSettings(towers=("text",), modules=("c_fc",)))
    assert (text.image_frozen, text.text_frozen) == (True, False)
    names = [n for n, p in text.clip.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 3
    assert not any(n.startswith("visual.") or "c_proj" in n for n in names)
    assert not text.encode_images(pixels(text)).pooled.requires_grad
    image = make_backbone(lora=LoraSettings(towers=("image",), dropout=0.5)).train()
    assert (image.image_frozen, image.text_frozen) == (False, True)
    dropouts = [m for m in image.clip.visual.modules() if isinstance(m, nn.Dropout) and m.p == 0.5]
    assert dropouts
    assert all(m.training for m in dropouts)
    assert not image.clip.transformer.training


def test_what_cannot_be_adapted_is_one_sentence_with_what_can(make_backbone: Any) -> None:
    for settings, words in (
        ({"modules": ("out_proj",)}, "the image tower has none of out_proj to adapt (it has c_fc, c_proj)"),
        ({"modules": ("c_fc", "query")}, "no layer 'query' to adapt (there are, image tower: c_fc, c_proj; text tower"),
    ):
        with pytest.raises(UserError) as caught:
            make_backbone(lora=LoraSettings(**settings))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="the image tower has no linear layer in its blocks"):
        make_backbone("modified-resnet", lora=LoraSettings())


def test_a_missing_peft_is_named(make_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(UserError, match=r"backbone\.lora needs the package peft"):
        make_backbone(lora=LoraSettings())


@pytest.mark.parametrize("freeze", ["none", {"image": 2, "text": 0}])
def test_adapters_beside_trained_towers_are_refused(freeze: Any) -> None:
    with pytest.raises(UserError, match=r"backbone\.lora trains adapters on frozen towers: set"):
        validate({"backbone": {"lora": {"rank": 4}, "freeze": freeze}})
