"""What examples/ holds does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import typer
from transformers import BertModel

from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import BackboneSettings
from neucore_xl.models.backbone import build_backbone

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def assembler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("assemble_backbone", EXAMPLES / "assemble_backbone.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image_network(path: Path, name: str = "test_efficientnet") -> dict[str, torch.Tensor]:
    """Random weights with a classifier, stored under names of another library; returns them under timm's."""
    torch.manual_seed(3)
    state = timm.create_model(name, num_classes=7).state_dict()
    torch.save({f"theirs.{i}": tensor for i, tensor in enumerate(state.values())}, path)
    return state


def test_two_towers_that_never_met_become_one_backbone(
    assembler: ModuleType, bert_folder: Path, tmp_path: Path
) -> None:
    image = image_network(tmp_path / "image.pth")
    out = tmp_path / "made" / "backbone"
    arguments = {"timm": "test_efficientnet", "image_weights": tmp_path / "image.pth", "text_dir": bert_folder}
    assembler.assemble(out, **arguments, image_size=64, context_length=12)
    assert sorted(p.name for p in out.parent.iterdir()) == ["backbone"]

    torch.manual_seed(9)
    backbone = build_backbone(BackboneSettings(name=f"local-dir:{out}", pretrained=None)).eval()
    trunk = backbone.clip.visual.trunk.state_dict()
    assert set(trunk) < set(image)
    assert all(torch.equal(trunk[name], image[name]) for name in trunk)
    bert = BertModel.from_pretrained(bert_folder, add_pooling_layer=False).eval()
    theirs, ours = bert.state_dict(), backbone.clip.text.transformer.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert (backbone.image_size, backbone.word_width, backbone.embed_dim) == (64, 28, trunk["bn2.weight"].numel())

    # The joint width only turns the sentence space: inner products between sentences stay what the encoder says.
    ids = backbone.tokenizer(["make it red", "two more dogs", "a dog"])
    texts = backbone.encode_texts(ids)
    with torch.no_grad():
        hidden = bert(input_ids=ids, attention_mask=texts.mask.long()).last_hidden_state
    mean = (hidden * texts.mask.unsqueeze(-1)).sum(1) / texts.mask.sum(1, keepdim=True)
    torch.testing.assert_close(texts.pooled @ texts.pooled.T, mean @ mean.T, rtol=1e-4, atol=1e-4)
    network = timm.create_model("test_efficientnet", num_classes=0)
    network.load_state_dict({name: image[name] for name in trunk})
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_images(pixels).pooled, network.eval()(pixels))

    with pytest.raises(typer.BadParameter, match="exists already"):
        assembler.assemble(out, **arguments)
    for other, why in (("test_vit", r"\d+ tensors, not \d+"), ("test_resnet", "differs in shape")):
        image_network(tmp_path / "image.pth", other)
        with pytest.raises(typer.BadParameter, match=f"another architecture: .*{why}"):
            assembler.assemble(tmp_path / "wrong", **arguments)
        assert not (tmp_path / "wrong").exists()


def test_the_recipe_for_pictures_of_ones_own_is_valid() -> None:
    settings = load_settings(str(EXAMPLES / "pictures.yaml"), ["backbone.name=local-dir:somewhere"])
    assert settings.backbone.pretrained is None
    assert settings.backbone.freeze == "all"
