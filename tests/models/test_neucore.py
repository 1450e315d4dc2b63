"""What is NEUCORE's and NEUCORE-XL's own, beyond what every system must do (test_composers.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from neucore_xl.config.schema import BackboneSettings, Settings
from neucore_xl.data.batches import Batch
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.registry import build_composer
from tests.support.composing import build, queries, stir

BOTH = ("neucore-xl", "neucore")


@pytest.fixture(scope="module")
def backbone(configs: dict[str, Path]) -> Backbone:
    """One frozen backbone for all tests of this file: none may change it."""
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(config=configs["native-vit"], pretrained=None))


def test_the_text_gate_starts_the_query_at_image_plus_text(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = build(backbone, vocabulary, "neucore-xl", text_gate=1.0)
    batch: Batch = make_batch(backbone)
    i, t = (F.normalize(x, dim=-1) for x in (batch.images.pooled[batch.reference], batch.texts.pooled))
    torch.testing.assert_close(queries(composer, batch)["vector"], F.normalize(i + t, dim=-1))


@pytest.mark.parametrize(
    ("start", "explicit", "learned"),
    [("auto", "change", False), ("image", "change", True), ("auto", "weighted", True)],
)
def test_the_gate_is_learned_where_no_start_holds_the_text(
    start: str, explicit: str, learned: bool, backbone: Any, vocabulary: Any
) -> None:
    """And in a run that was begun when it always was: its optimiser holds a state of it."""
    composer = build(backbone, vocabulary, "neucore-xl", start=start, explicit=explicit)
    assert composer.text_gate.requires_grad == learned


def test_queries_that_go_without_a_part_do_not_train_it(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    """The stirred head has all parts; with a dropout of nearly 1 no query of a training batch sees one of the three."""
    torch.manual_seed(0)
    composer = stir(build(backbone, vocabulary, "neucore-xl", part_dropout=0.999999)).train()
    batch: Batch = make_batch(backbone)
    out = composer("train", batch)
    composer.score(out.queries, out.targets).square().sum().backward()

    def moved(name: str) -> bool:
        gradients = [p.grad for n, p in composer.named_parameters() if n.startswith(name)]
        return any(g is not None and bool(g.any()) for g in gradients)

    assert {n: moved(n) for n in ("fused", "fusion", "edit", "background_weight", "direct", "explicit")} == {
        "fused": False, "fusion": False, "edit": False, "background_weight": False, "direct": True, "explicit": True,
    }  # fmt: skip


def test_neucore_xl_contains_the_residual_row(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    residual = stir(build(backbone, vocabulary, "residual")).eval()
    full = build(backbone, vocabulary, "neucore-xl").eval()
    joint = 2 * backbone.embed_dim
    with torch.no_grad():
        for mine, theirs in zip(full.direct, residual.delta, strict=True):  # type: ignore[arg-type]
            if isinstance(mine, torch.nn.Linear):
                mine.bias.copy_(theirs.bias)
                mine.weight[:, joint:] = 0
                mine.weight[:, : theirs.weight.shape[1]] = theirs.weight
    batch: Batch = make_batch(backbone)
    a, b = full("train", batch), residual("train", batch)
    torch.testing.assert_close(full.score(a.queries, a.targets), residual.score(b.queries, b.targets))


def test_gradient_reaches_the_concept_embeddings_through_the_fusion(
    backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    for name in BOTH:
        composer = stir(build(backbone, vocabulary, name))
        queries(composer, make_batch(backbone))["vector"].square().sum().backward()
        assert composer.concept.weight.grad is not None  # type: ignore[union-attr]
        probe = torch.randn_like(queries(composer, make_batch(backbone))["vector"])
        composer.zero_grad()
        (queries(composer, make_batch(backbone))["vector"] * probe).sum().backward()
        assert composer.concept.weight.grad.abs().sum() > 1e-6  # type: ignore[union-attr]


def test_evaluation_is_repeatable_for_neucore(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = build(backbone, vocabulary, "neucore").eval()
    batch: Batch = make_batch(backbone)
    first, second = queries(composer, batch), queries(composer, batch)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_unseen_concepts_have_embeddings_of_their_own(backbone: Any, vocabulary: Any) -> None:
    composer = build(backbone, vocabulary, "neucore")
    pooled = backbone.encode_texts(backbone.tokenizer(["winglike", "unicorn", "zzzq"])).pooled
    embedded = composer.concept(pooled)  # type: ignore[operator]
    assert torch.pdist(embedded).min() > 1e-4


def test_the_vocabulary_is_not_stored(backbone: Any, vocabulary: Any) -> None:
    composer = build(backbone, vocabulary, "neucore-xl")
    names = dict(composer.named_parameters())
    assert all(p.dim() > 0 for p in names.values())
    assert not any("vocabulary" in n for n in composer.state_dict())
    assert composer.vocabulary.shape == (5, backbone.embed_dim)


def test_without_a_concept_loss_no_name_is_encoded(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    settings = Settings.model_validate({"model": {"width": 16, "heads": 2}, "loss": {"concept_weight": 0}})
    composer = build_composer(settings, backbone, vocabulary)
    assert len(composer.vocabulary) == 0  # type: ignore[arg-type]
    assert composer("train", make_batch(backbone)).concept_logits is None
