"""Tiny random backbones of every kind, and batches of random features for the heads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.config.schema import BackboneSettings
from neucore_xl.data.batches import Batch, ImageFeatures, SequenceBatch, TextFeatures
from neucore_xl.models.backbone import Backbone, build_backbone

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "native-vit": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "timm-vit": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 96, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "timm-cnn": {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": TEXT,
    },
    "modified-resnet": {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 8},
        "text_cfg": TEXT,
    },
    "tiny-siglip": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "width": 32},
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 48,
            "head_width": 16,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "attn_pooler_queries": 8,
            "output_tokens": True,
        },
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
    },
}
MakeBackbone = Callable[..., Backbone]


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Path]:
    """Paths of the tiny open_clip configs, the one with a local Hugging Face tower among them."""
    folder = tmp_path_factory.mktemp("configs")
    shutil.copytree(bert_folder, folder / "bert")
    hf = {
        "embed_dim": 20,
        "vision_cfg": CONFIGS["native-vit"]["vision_cfg"],
        "text_cfg": {"hf_model_name": "bert", "hf_tokenizer_name": "bert", "context_length": 12,
                     "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"},
    }  # fmt: skip
    paths = {}
    for name, config in (CONFIGS | {"hf-text": hf}).items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(config))
    return paths


@pytest.fixture
def make_backbone(configs: dict[str, Path]) -> MakeBackbone:
    """``make_backbone(kind, levels=1, **settings)``: a tiny backbone with random weights."""

    def make(kind: str = "native-vit", levels: int = 1, **settings: Any) -> Backbone:
        torch.manual_seed(0)
        named = BackboneSettings(config=configs[kind], **({"pretrained": None} | settings))
        return build_backbone(named, levels=levels)

    return make


@dataclass(frozen=True)
class Names:
    """A vocabulary as the composers read it."""

    names: tuple[str, ...] = ("red", "dog", "two", "cat", "more")


def random_batch(
    backbone: Backbone, *, images: int = 5, queries: int = 3, steps: int = 3, concepts: int = 2, seed: int = 0
) -> Batch:
    """A batch of cached features with masks of every kind: a query of all steps, of some and of none."""
    g, earlier = (torch.Generator().manual_seed(seed) for _ in range(2))

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    length, short = 7, 6
    words = torch.arange(length) < torch.tensor([[length - q % 4] for q in range(queries)])
    step_mask = torch.arange(steps) < torch.tensor([[max(steps - q, 0)] for q in range(queries)])
    concept_mask = torch.arange(concepts) < torch.tensor([[max(concepts - q, 0)] for q in range(queries)])
    sequence = SequenceBatch(
        short_texts=TextFeatures(
            rand(short, 4, backbone.word_width), rand(short, backbone.embed_dim), torch.ones(short, 4, dtype=torch.bool)
        ),
        phrase=torch.randint(0, short, (queries, steps), generator=g) * step_mask,
        operation=torch.randint(0, 9, (queries, steps), generator=g) * step_mask,
        step_mask=step_mask,
        concept=torch.randint(0, short, (queries, concepts), generator=g) * concept_mask,
        concept_mask=concept_mask,
        language_ids=torch.randint(1, 13, (queries, length), generator=earlier).masked_fill(~words, -1),
        words=torch.randint(1, 30, (queries, 4), generator=g) * (torch.rand(queries, 4, generator=g) < 0.8),
    )
    gallery = torch.arange(images)
    return Batch(
        ids=tuple(map(str, range(queries))),
        images=ImageFeatures(
            rand(images, backbone.n_tokens, backbone.token_width),
            rand(images, backbone.embed_dim),
            tuple(
                torch.randn(images, n, d, generator=earlier)
                for n, d in zip(backbone.token_counts[:-1], backbone.token_widths[:-1], strict=True)
            ),
        ),
        reference=torch.randint(0, images, (queries,), generator=g),
        texts=TextFeatures(rand(queries, length, backbone.word_width), rand(queries, backbone.embed_dim), words),
        sequence=sequence,
        gallery=gallery,
        positive=torch.randint(0, images, (queries,), generator=g),
        exclude=torch.zeros(queries, images, dtype=torch.bool),
        concept_labels=(rand(queries, 5) > 0).float(),
    )


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(backbone, images=, queries=, steps=, concepts=, seed=)``: random features and masks."""
    return random_batch


@pytest.fixture
def vocabulary() -> Names:
    return Names()
