"""Loading weights from files and folders, and one sentence for everything that can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import BackboneSettings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone


def build(**settings: Any) -> Any:
    return build_backbone(BackboneSettings(**settings))


@pytest.mark.parametrize("kind", ["native-vit", "timm-vit", "timm-cnn", "tiny-siglip", "hf-text"])
def test_weights_come_back_from_pt_and_safetensors(
    kind: str, make_backbone: Any, configs: dict[str, Path], tmp_path: Path
) -> None:
    backbone = make_backbone(kind)
    torch.save(backbone.clip.state_dict(), tmp_path / "w.pt")
    save_file({k: v.contiguous() for k, v in backbone.clip.state_dict().items()}, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        torch.manual_seed(1)
        again = build(config=configs[kind], pretrained=str(tmp_path / name))
        assert again.fingerprint() == backbone.fingerprint()


def test_weights_and_tokenizer_come_from_a_folder(make_backbone: Any, configs: dict[str, Path], tmp_path: Path) -> None:
    backbone = make_backbone()
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": json.loads(configs["native-vit"].read_text()), "preprocess_cfg": {}})
    )
    with pytest.raises(UserError, match="cannot be built"):
        build(pretrained=f"local-dir:{tmp_path}")  # the config alone: never random weights instead of pretrained ones
    save_file(backbone.clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    again = build(pretrained=f"local-dir:{tmp_path}")
    assert again.fingerprint("image") == backbone.fingerprint("image")
    assert again.tokenizer(["a dog"]).shape == (1, 16)


def test_a_folder_named_as_the_backbone_brings_its_own_weights(
    make_backbone: Any, configs: dict[str, Path], tmp_path: Path
) -> None:
    kept = make_backbone("hf-text")
    config = json.loads(configs["hf-text"].read_text())
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):  # open_clip looks beside the weights
        shutil.copy(configs["hf-text"].parent / "bert" / file, tmp_path)
    for key in ("hf_model_name", "hf_tokenizer_name"):
        config["text_cfg"][key] = str(configs["hf-text"].parent / "bert")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    weights = {k: v.contiguous() for k, v in kept.clip.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    name = f"local-dir:{tmp_path}"
    for pretrained in (None, name):  # never random weights, in neither tower
        torch.manual_seed(1)
        state = build(name=name, pretrained=pretrained).clip.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[k], weights[k]) for k in weights)
    with pytest.raises(UserError, match=r"brings its own weights and 'openai' is no file; set backbone.pretrained=nul"):
        build(name=name, pretrained="openai")
    other = make_backbone("hf-text").clip
    with torch.no_grad():
        other.visual.conv1.weight.add_(1)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    replaced = build(name=name, pretrained=str(tmp_path / "other.pt"))
    assert torch.equal(replaced.clip.visual.conv1.weight, other.visual.conv1.weight)


def test_weights_of_another_activation_are_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was created")

    monkeypatch.setattr(open_clip, "create_model", never)
    for name, tag in (("ViT-B-16", "openai"), ("ViT-L-14", "openai"), ("RN50", "cc12m"), ("ViT-L-14", "dfn2b")):
        with pytest.raises(UserError, match=f"trained with QuickGELU.*; set backbone.name={name}-quickgelu.$"):
            build(name=name, pretrained=tag)
    # The right pair, weights of plain GELU, and the one model whose list says less than its JSON are let through.
    for name, tag in (
        ("ViT-B-16-quickgelu", "openai"), ("ViT-B-16", "laion2b_s34b_b88k"), ("roberta-ViT-B-32", "laion2b_s12b_b32k"),
    ):  # fmt: skip
        with pytest.raises(UserError, match="a model was created"):
            build(name=name, pretrained=tag)


def test_every_packaged_recipe_names_weights_of_its_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    created = []

    def stop(name: str, **_: Any) -> None:
        created.append(name)
        raise RuntimeError("far enough")

    monkeypatch.setattr(open_clip, "create_model", stop)
    for recipe in ("cirr-vit-b16", "cirr-vit-l14", "fashioniq-vit-b16", "fashioniq-vit-l14"):
        with pytest.raises(UserError, match="far enough"):
            build_backbone(load_settings(recipe, []).backbone)
    assert created == ["ViT-B-16-quickgelu", "ViT-L-14-quickgelu"] * 2


def test_a_timm_tower_takes_weights_of_its_own_size_too(configs: dict[str, Path], tmp_path: Path) -> None:
    native = build(config=configs["timm-vit"], pretrained=None, image_size=160)
    torch.save(native.clip.state_dict(), tmp_path / "native.pt")
    resized = build(config=configs["timm-vit"], pretrained=str(tmp_path / "native.pt"))  # the config says 96
    assert (native.n_tokens, resized.n_tokens, resized.image_size) == (100, 36, 96)


def test_wrong_input_is_one_sentence(make_backbone: Any, configs: dict[str, Path], tmp_path: Path) -> None:
    config = configs["native-vit"]
    other = tmp_path / "other.pt"
    torch.save(make_backbone("coca").clip.state_dict(), other)
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "broken.json").write_text('{"embed_dim": 4,\n oops}')
    (tmp_path / "partial.json").write_text('{"embed_dim": 4}')
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "ViT-B-61", "pretrained": None}, "Unknown backbone 'ViT-B-61'; did you mean ViT-B-16"),
        ({"name": "ViT-B-16", "pretrained": "openia"}, r"no weights 'openia'; did you mean openai\?"),
        ({"config": config, "pretrained": str(tmp_path / "gone.pt")}, "no weights at .*gone.pt"),
        ({"config": config, "pretrained": str(other)}, "weights of another model than native-vit"),
        ({"config": config, "pretrained": str(tmp_path / "noise.pt")}, "cannot be read as weights"),
        ({"config": tmp_path / "gone.json"}, "gone.json does not exist"),
        ({"config": tmp_path / "broken.json"}, r"broken.json, line 2, column \d+: not valid JSON"),
        ({"config": tmp_path / "partial.json"}, "lacks embed_dim, vision_cfg or text_cfg"),
        ({"pretrained": f"local-dir:{tmp_path / 'gone'}"}, "gives no open_clip_config.json"),
    ]
    for settings, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            build(**settings)
        assert "\n" not in str(caught.value)


def test_towers_of_different_spaces_are_refused(configs: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads(configs["tiny-siglip"].read_text()) | {"embed_dim": 64}
    (tmp_path / "odd.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="images have 96 dimensions, texts 64"):
        build(config=tmp_path / "odd.json", pretrained=None)


def test_the_logit_scale_has_a_dimension(make_backbone: Any) -> None:
    assert all(p.dim() > 0 for p in make_backbone("tiny-siglip").parameters())
