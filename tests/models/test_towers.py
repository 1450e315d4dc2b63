"""Loading weights from files and folders, and one sentence for everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

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
        ({"name": "ViT-B-61", "pretrained": None}, "Unknown backbone 'ViT-B-61'; the nearest known is 'ViT-B-16"),
        ({"name": "ViT-B-16", "pretrained": "openia"}, "nearest known is 'openai'"),
        ({"config": config, "pretrained": str(tmp_path / "gone.pt")}, "no weights at .*gone.pt"),
        ({"config": config, "pretrained": str(other)}, "weights of another model than native-vit"),
        ({"config": config, "pretrained": str(tmp_path / "noise.pt")}, "cannot be read as weights"),
        ({"config": tmp_path / "gone.json"}, "gone.json cannot be read"),
        ({"config": tmp_path / "broken.json"}, "broken.json is not JSON: line 2"),
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
