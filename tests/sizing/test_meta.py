"""The model of a recipe on the meta device is the real one, in everything but its numbers."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import BackboneSettings, Settings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.registry import build_composer, composer_class
from neucore_xl.sizing.meta import meta_backbone, meta_composer
from neucore_xl.sizing.rehearsal import Rehearsal


class Names:
    names = ("red", "dog", "two")


def outline(composer: Composer) -> dict[str, tuple[object, ...]]:
    parameters = {n: (tuple(p.shape), p.dtype, p.requires_grad) for n, p in composer.named_parameters()}
    return parameters | {n: (tuple(b.shape), b.dtype) for n, b in composer.named_buffers()}


def measured(backbone: Backbone) -> tuple[int, ...]:
    return backbone.image_size, backbone.n_tokens, backbone.token_width, backbone.word_width, backbone.embed_dim


def same(settings: Settings) -> None:
    real_backbone = build_backbone(settings.backbone, levels=composer_class(settings.model.name).levels)
    real = build_composer(settings, real_backbone, Names())  # type: ignore[arg-type]
    meta, meta_backbone_ = meta_composer(settings, len(Names.names))
    assert outline(meta) == outline(real)
    assert list(outline(meta)) == list(outline(real))
    assert measured(meta_backbone_) == measured(real_backbone)
    for kind in ("token_counts", "token_widths"):
        assert getattr(meta_backbone_, kind) == getattr(real_backbone, kind)
    assert {t.device.type for t in [*meta.parameters(), *meta.buffers()]} == {"meta"}


@pytest.mark.parametrize(
    "kind", ["native-vit", "timm-vit", "timm-cnn", "modified-resnet", "tiny-siglip", "coca", "hf-text"]
)
@pytest.mark.parametrize("row", ["neucore-xl", "neucore"])
def test_every_kind_of_tower_has_the_parameters_of_the_real_one(kind: str, row: str, configs: dict[str, Path]) -> None:
    backbone = BackboneSettings(config=configs[kind], pretrained=None, freeze={"image": 1, "text": 1})  # type: ignore[arg-type]
    settings = load_settings("demo", [f"model.name={row}"]).model_copy(update={"backbone": backbone})
    same(settings)


@pytest.mark.parametrize(
    ("kind", "row"), [("native-vit", "val"), ("timm-cnn", "maaf-bert"), ("hf-text", "cirplant-pretrained")]
)
def test_systems_of_several_depths_or_a_bert_have_the_parameters_of_the_real_one(
    kind: str, row: str, configs: dict[str, Path], bert_folder: Path
) -> None:
    backbone = BackboneSettings(config=configs[kind], pretrained=None)
    settings = load_settings("demo", [f"model.name={row}", f"model.language_model={bert_folder}"])
    settings = settings.model_copy(update={"backbone": backbone})
    same(settings)
    batch, output = Rehearsal(*meta_composer(settings, 3), settings, gpu=False, bf16_parameters=False).shapes(2)
    assert len(batch.images.levels) == {"val": 2, "maaf-bert": 1}.get(row, 0)  # type: ignore[union-attr]
    assert output.queries.rows == 2


@pytest.mark.slow
def test_vit_b16_has_the_parameters_of_the_real_one() -> None:
    """Slow: 150 million real parameters; the fast test has towers of every kind, this one the shape that is used."""
    same(load_settings("cirr-vit-b16", ["backbone.pretrained=null", "backbone.freeze=none"]))


def test_a_model_of_2_5_billion_parameters_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backbone = meta_backbone(BackboneSettings(name="ViT-bigG-14", pretrained="laion2b_s39b_b160k"))
    assert sum(p.numel() for p in backbone.parameters()) > 2.5e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9  # its weights are 10 GB


def test_siglip_needs_no_tokenizer_of_the_hub() -> None:
    backbone = meta_backbone(BackboneSettings(name="ViT-L-16-SigLIP-256", pretrained="webli"))
    assert backbone.tokenizer(["a", "b"]).shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("ViT-H-41", None, "Unknown backbone 'ViT-H-41'; did you mean "),
        ("ViT-H-14", "laion2b_s32b_b97k", "ViT-H-14 has no weights 'laion2b_s32b_b97k'; did you mean "),
        ("ViT-B-16", "openai", "trained with QuickGELU"),
    ],
)
def test_a_wrong_name_is_refused_as_by_the_real_build(name: str, pretrained: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        meta_backbone(BackboneSettings(name=name, pretrained=pretrained))


def test_a_folder_of_weights_is_read_for_its_architecture_alone(configs: dict[str, Path], tmp_path: Path) -> None:
    content = {"model_cfg": json.loads(configs["native-vit"].read_text()), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    backbone = meta_backbone(BackboneSettings(name=f"local-dir:{tmp_path}", pretrained=None))
    assert backbone.embed_dim == 20
