"""Every system through the one forward: modes, invariance to padding and to company, gradients, autocast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neucore_xl.config.schema import BackboneSettings
from neucore_xl.data.batches import Batch, ImageFeatures, SequenceBatch, TextFeatures
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.composers.residual import Residual
from neucore_xl.models.features import FeatureSet
from neucore_xl.models.registry import composer_names
from tests.support import composing
from tests.support.composing import queries, rows, stir

SYSTEMS = composer_names()
FULL = ("neucore-xl", "neucore")
LANGUAGE: dict[str, Path] = {}  # the BERT of systems that have one, once it is there


@pytest.fixture(scope="module", autouse=True)
def language(bert_folder: Path) -> None:
    LANGUAGE["model"] = bert_folder


def build(backbone: Any, vocabulary: Any, name: str, fusion: str = "clauses", **model: Any) -> Composer:
    return composing.build(backbone, vocabulary, name, fusion, language_model=LANGUAGE.get("model"), **model)


def take(batch: Batch, index: Tensor) -> Batch:
    """The queries of ``batch`` at ``index``, in that order."""
    sequence = batch.sequence
    parts = {
        n: getattr(sequence, n)[index]
        for n in sequence.__dataclass_fields__
        if n not in ("short_texts", "active") and getattr(sequence, n) is not None
    }
    return replace(
        batch,
        reference=batch.reference[index],
        positive=batch.positive[index],
        texts=rows(batch.texts, index),
        sequence=replace(sequence, **parts),
    )


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], atol: float = 1e-5) -> None:
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def backbone(configs: dict[str, Path]) -> Backbone:
    """One frozen backbone for all tests of this file: none may change it."""
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(config=configs["native-vit"], pretrained=None), levels=3)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("mode", ["full", "cosine"])
def test_the_modes_agree_with_each_other(name: str, mode: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = stir(build(backbone, vocabulary, name, score=mode)).eval()
    batch: Batch = make_batch(backbone)
    batch = replace(batch, gallery=torch.tensor([4, 2, 0]), positive=torch.tensor([0, 2, 1]))
    out = composer("train", batch)
    assert_same(out.queries, queries(composer, batch))
    assert_same(out.targets, composer("targets", rows(batch.images, batch.gallery)))
    scores = composer.score(out.queries, out.targets)
    assert scores.shape == (3, 3)
    assert scores.dtype == torch.float32
    assert out.log_scale.shape == (1,)
    assert (out.concept_logits is not None) == (name in FULL)
    if out.concept_logits is not None:
        assert out.concept_logits.shape == (3, 5)
        assert out.concept_logits.dtype == torch.float32
    assert ("em_query" in out.queries) == (name in FULL and mode == "full")
    for features in (out.queries["vector"], out.targets["vector"]):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    with pytest.raises(ValueError, match="unknown mode"):
        composer("score", batch)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("fusion", ["clauses", "learned"])
def test_padding_changes_nothing(name: str, fusion: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = stir(build(backbone, vocabulary, name, fusion)).eval()
    batch: Batch = make_batch(backbone)
    before = queries(composer, batch)
    s, t = batch.sequence, batch.texts
    junk = torch.randn(3, 2, t.words.shape[2])
    padded = replace(
        batch,
        texts=TextFeatures(torch.cat([t.words, junk], 1), t.pooled, F.pad(t.mask, (0, 2))),
        sequence=SequenceBatch(
            short_texts=s.short_texts,
            phrase=F.pad(s.phrase, (0, 3), value=4),
            operation=F.pad(s.operation, (0, 3), value=7),
            step_mask=F.pad(s.step_mask, (0, 3)),
            concept=F.pad(s.concept, (0, 2), value=5),
            concept_mask=F.pad(s.concept_mask, (0, 2)),
            language_ids=F.pad(s.language_ids, (0, 2), value=-1),
        ),
    )
    assert_same(before, queries(composer, padded))
    # what stands in a masked place does not matter either
    filled = replace(
        batch,
        texts=replace(t, words=torch.where(t.mask[..., None], t.words, torch.full_like(t.words, 9.0))),
        sequence=replace(
            s,
            phrase=torch.where(s.step_mask, s.phrase, 3),
            operation=torch.where(s.step_mask, s.operation, 8),
            concept=torch.where(s.concept_mask, s.concept, 2),
        ),
    )
    assert_same(before, queries(composer, filled))


@pytest.mark.parametrize("name", SYSTEMS)
def test_order_and_company_change_nothing(name: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = stir(build(backbone, vocabulary, name)).eval()
    batch: Batch = make_batch(backbone, queries=5, images=6)
    together = queries(composer, batch)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_same(together.select(order), queries(composer, take(batch, order)))
    alone = [queries(composer, take(batch, torch.tensor([q]))) for q in range(5)]
    assert_same(together, FeatureSet.cat(alone))
    # the short texts may stand in any order, with others between them
    shuffle = torch.randperm(6)
    s = batch.sequence
    moved = replace(
        s, short_texts=rows(s.short_texts, shuffle), phrase=shuffle.argsort()[s.phrase],
        concept=shuffle.argsort()[s.concept],
    )  # fmt: skip
    assert_same(together, queries(composer, replace(batch, sequence=moved)))
    images = composer("targets", batch.images)
    assert_same(images.select(slice(2, 4)), composer("targets", rows(batch.images, slice(2, 4))))


@pytest.mark.parametrize("name", SYSTEMS)
def test_queries_without_steps_or_concepts(name: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = stir(build(backbone, vocabulary, name)).eval()
    batch: Batch = make_batch(backbone)
    s = batch.sequence
    none = replace(
        s, **{n: getattr(s, n)[:, :0] for n in ("phrase", "operation", "step_mask", "concept", "concept_mask")}
    )
    empty = replace(none, short_texts=rows(s.short_texts, slice(0, 0)))
    masked = replace(s, step_mask=torch.zeros_like(s.step_mask), concept_mask=torch.zeros_like(s.concept_mask))
    out = queries(composer, replace(batch, sequence=empty))
    assert_same(out, queries(composer, replace(batch, sequence=none)))
    assert_same(out, queries(composer, replace(batch, sequence=masked)))
    assert all(torch.isfinite(v).all() for v in out.values())


@pytest.mark.parametrize("name", ["neucore-xl", "residual", "image-only"])
@pytest.mark.parametrize("fusion", ["clauses", "learned"])
def test_heads_start_in_the_pretrained_space(
    name: str, fusion: str, backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    composer = build(backbone, vocabulary, name, fusion)  # in training mode: dropout must not matter
    batch: Batch = make_batch(backbone)
    out = composer("train", batch)
    pooled = F.normalize(batch.images.pooled, dim=-1)
    want = pooled[batch.reference] @ pooled[batch.gallery].T
    torch.testing.assert_close(composer.score(out.queries, out.targets), want)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("fusion", ["clauses", "learned"])
def test_every_trained_parameter_gets_a_gradient_within_three_steps(
    name: str, fusion: str, backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    composer = build(backbone, vocabulary, name, fusion, dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in composer.parameters() if p.requires_grad], lr=1e-2)
    reached: set[str] = set()
    for seed in range(3):
        optimizer.zero_grad()
        batch: Batch = make_batch(backbone, seed=seed)
        out = composer("train", batch)
        scores = composer.score(out.queries, out.targets) * out.log_scale.exp()
        loss = F.cross_entropy(scores, batch.positive)
        if out.concept_logits is not None:
            assert batch.concept_labels is not None
            loss = loss + F.binary_cross_entropy_with_logits(out.concept_logits, batch.concept_labels)
        (loss + sum((out.penalties or {}).values())).backward()
        reached |= {n for n, p in composer.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
    trained = {n for n, p in composer.named_parameters() if p.requires_grad}
    assert trained == reached
    assert not any(n.startswith("backbone.") for n in trained)


@pytest.mark.parametrize("name", SYSTEMS)
def test_bf16_autocast(name: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = stir(build(backbone, vocabulary, name)).eval()
    batch: Batch = make_batch(backbone)
    exact = composer("train", batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = composer("train", batch)
        scores = composer.score(out.queries, out.targets)
    assert scores.dtype == torch.float32
    assert (scores - composer.score(exact.queries, exact.targets)).abs().max() < 0.1
    (scores.sum() * out.log_scale.exp()).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in composer.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", FULL)
def test_pixels_and_ids_give_what_cached_features_give(
    name: str, backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    composer = stir(build(backbone, vocabulary, name)).eval()
    batch: Batch = make_batch(backbone)
    pixels = torch.randn(5, 3, 32, 32)
    texts, short = (backbone.tokenizer([f"{word} {i}" for i in range(n)]) for word, n in (("a red dog", 3), ("two", 6)))
    live = replace(batch, images=pixels, texts=texts, sequence=replace(batch.sequence, short_texts=short))
    cached = replace(
        batch,
        images=backbone.encode_images(pixels),
        texts=backbone.encode_texts(texts),
        sequence=replace(batch.sequence, short_texts=backbone.encode_texts(short)),
    )
    a, b = composer("train", live), composer("train", cached)
    assert_same(a.queries, b.queries)
    assert_same(a.targets, b.targets)


def test_the_image_tower_is_called_once_for_all_images(make_backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    calls: list[int] = []
    backbone = make_backbone(levels=3)
    backbone.clip.visual.conv1.register_forward_hook(lambda m, x, y: calls.append(len(x[0])))
    batch = replace(make_batch(backbone), images=torch.randn(5, 3, 32, 32))
    for name in SYSTEMS:
        build(backbone, vocabulary, name)("train", batch)
    assert calls == [5] * len(SYSTEMS)


def test_a_trained_tower_gets_gradients_through_the_head(make_backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    backbone = make_backbone(freeze="none")
    composer = stir(build(backbone, vocabulary, "neucore-xl"))
    batch = make_batch(backbone)
    batch = replace(batch, images=torch.randn(5, 3, 32, 32), texts=backbone.tokenizer(["a", "red dog", "two cats"]))
    out = composer("train", batch)
    F.cross_entropy(composer.score(out.queries, out.targets), batch.positive).backward()
    missing = {n for n, p in backbone.clip.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing


def test_an_unknown_system_is_refused_with_the_nearest(backbone: Any, vocabulary: Any) -> None:
    with pytest.raises(UserError, match=r"no system 'neucore_xl'; did you mean neucore-xl\?"):
        build(backbone, vocabulary, "neucore_xl")


def test_images_only_composers_ignore_what_they_should(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    batch: Batch = make_batch(backbone)
    other = replace(batch, texts=replace(batch.texts, pooled=torch.randn_like(batch.texts.pooled)))
    image_only, text_only = (build(backbone, vocabulary, n) for n in ("image-only", "text-only"))
    assert torch.equal(queries(image_only, batch)["vector"], queries(image_only, other)["vector"])
    assert not torch.equal(queries(text_only, batch)["vector"], queries(text_only, other)["vector"])
    moved = replace(batch, images=ImageFeatures(batch.images.tokens, batch.images.pooled.flip(0)))
    assert torch.equal(queries(text_only, batch)["vector"], queries(text_only, moved)["vector"])


class Mine(Residual):
    """A system that the package does not know."""


def test_a_class_in_a_module_of_ones_own_is_a_system(
    backbone: Any, vocabulary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_systems.py").write_text(
        "from neucore_xl.models.composers.neucore_xl import NeucoreXL\nclass Aligning(NeucoreXL): pass\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    aligning = build(backbone, vocabulary, "outside_systems:Aligning")
    assert type(aligning).__name__ == "Aligning"
    assert aligning.vocabulary.shape == (5, backbone.embed_dim)
    assert isinstance(build(backbone, vocabulary, f"{__name__}:Mine"), Mine)
    for name, problem in {
        "no_such_module:Mine": "cannot import no_such_module:Mine .*PYTHONPATH",
        "outside_systems:Nothing": "cannot import outside_systems:Nothing",
        "outside systems:Aligning": "cannot import outside systems:Aligning",
        "outside_systems:number": "outside_systems:number is no Composer",
        "outside_systems:": "outside_systems: is no Composer",
    }.items():
        with pytest.raises(UserError, match=f"^model.name: {problem}"):
            build(backbone, vocabulary, name)
