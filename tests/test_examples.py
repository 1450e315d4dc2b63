"""What examples/ holds does what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import typer
from transformers import BertModel

from neucore_xl.config.load import dump_yaml, load_settings
from neucore_xl.config.schema import BackboneSettings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def assembler() -> ModuleType:
    return example("assemble_backbone")


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


def test_captions_become_a_whole_backbone(bert_folder: Path, tmp_path: Path) -> None:
    captions = {"a": "make it red", "b": "two more  dogs", "c": "a dog"}
    (tmp_path / "one.json").write_text(json.dumps({"a": captions["a"]}))
    (tmp_path / "more.json").write_text(json.dumps({"b": captions["b"], "c": captions["c"]}))
    made, out = example("caption_features"), tmp_path / "new" / "features"
    files = [tmp_path / "one.json", tmp_path / "more.json"]
    made.caption_features(files, out, text_dir=bert_folder, context_length=12, batch_size=2)
    assert [p.name for p in out.parent.iterdir()] == ["features"]
    out = out.rename(tmp_path / "moved")  # it needs nothing outside of itself
    settings = BackboneSettings(features=out, name=f"local-dir:{out}", pretrained=None)
    backbone = build_backbone(settings).eval()
    assert backbone.given.folder.manifest.origin == f"captions in place of pictures, {bert_folder.name}"
    texts = backbone.encode_texts(backbone.tokenizer(list(captions.values())))
    images = backbone.given.images(list(captions))
    torch.testing.assert_close(images.pooled, texts.pooled, rtol=1e-4, atol=1e-5)  # an image is what its caption says
    for name, words, mask in zip(captions, texts.words, texts.mask, strict=True):
        stored = torch.from_numpy(backbone.given.folder.tokens(name).astype("f4"))
        torch.testing.assert_close(stored, words[mask], rtol=1e-3, atol=2e-3)

    with pytest.raises(UserError, match="exists already"):
        made.caption_features(files, out, text_dir=bert_folder, context_length=12)
    for content, why in (
        ({"a": ""}, "1 images have no caption"),
        ({"a": "a cat"}, "1 images have two captions, the first is a"),
        ({"a": 3}, "no caption of words"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(content))
        with pytest.raises(typer.BadParameter, match=why):
            made.caption_features([*files, tmp_path / "wrong.json"], tmp_path / "no", text_dir=bert_folder)
    with pytest.raises(typer.BadParameter, match="no folder of a transformers model"):
        made.caption_features(files, tmp_path / "no", text_dir=tmp_path)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["cirr-captions", "fashioniq-captions"])
def test_a_recipe_of_captions_follows_the_folder_of_features(name: str) -> None:
    settings = load_settings(name, ["backbone.features=elsewhere/mine"])
    assert settings.backbone.name == "local-dir:elsewhere/mine"
    assert "${" not in dump_yaml(settings)


def test_the_recipe_for_pictures_of_ones_own_is_valid() -> None:
    settings = load_settings(str(EXAMPLES / "pictures.yaml"), ["backbone.name=local-dir:somewhere"])
    assert settings.backbone.pretrained is None
    assert settings.backbone.freeze == "all"
