"""Gradient caching: the gradient of the whole batch, with dropout replayed, from forward passes over its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from neucore_xl.config.schema import LossSettings, Settings, TrainSettings
from neucore_xl.data.batches import Batch, TextFeatures
from neucore_xl.models.features import ComposerOutput, FeatureSet
from neucore_xl.parallel.world import World
from neucore_xl.training.engines.engine import PlainEngine
from neucore_xl.training.gradcache import cached_step
from neucore_xl.training.losses import match_term, objective, with_row_terms

Toy = Callable[..., Any]
LOSS = LossSettings(concept_weight=0.7)


def engine_of(model: Any) -> PlainEngine:
    return PlainEngine(model, model.backbone, TrainSettings(device="cpu"))


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """``batch`` (every query with a target of its own) cut into equal parts that share the gallery."""
    size = len(batch) // count
    parts = []
    for p in range(count):
        rows = slice(p * size, (p + 1) * size)
        parts.append(
            replace(
                batch,
                reference=batch.reference[rows],
                texts=TextFeatures(*(tensor[rows] for tensor in vars(batch.texts).values())),
                gallery=batch.gallery[rows],
                positive=batch.positive[rows],
                exclude=batch.exclude[rows],
                concept_labels=batch.concept_labels[rows],  # type: ignore[index]
                target=batch.gallery[rows],
            )
        )
    return parts


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["soft-triplet", "hardest-hinge"])
def test_the_gradient_of_a_triplet_loss_is_that_of_the_whole_batch(
    kind: Any, toy: Toy, batch_of: Callable[..., Batch]
) -> None:
    batch, loss = batch_of(3, 8), LOSS.model_copy(update={"kind": kind})
    whole, cut = toy(), toy()
    for model in (whole, cut):
        model.score = lambda q, t: 0.1 * (q["f"] @ t["f"].T)  # type: ignore[method-assign]  # below 1: no distance is 0
    expected = objective(whole, whole("train", batch), batch, loss)
    expected.total.backward()
    terms, _ = cached_step(engine_of(cut), parts_of(batch, 4), loss, 1.0, last=True)
    assert terms["loss_match"].item() == pytest.approx(expected.match.item(), rel=1e-5)
    for (name, one), (_, other) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
        if one.requires_grad:
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)
            assert (name == "log_scale") == (float(one.grad.abs().sum()) == 0)  # θ has no part, and no missing gradient


@pytest.mark.parametrize("count", [2, 4])
def test_the_gradient_is_that_of_the_whole_batch(count: int, toy: Toy, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(3, 8)
    whole, cut = toy(), toy()
    expected = objective(whole, whole("train", batch), batch, LOSS)
    (expected.total * 0.5).backward()
    terms, log_scale = cached_step(engine_of(cut), parts_of(batch, count), LOSS, 0.5, last=True)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(
        {k: v.item() for k, v in expected.values().items()}, rel=1e-5
    )
    assert log_scale.item() == 1.0
    for one, other in zip(gradients(whole), gradients(cut), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    alone = toy()
    for part in parts_of(batch, count):  # plain accumulation: negatives of the part only
        own = part.gallery - part.gallery.min()
        output = alone("train", part)
        scores = alone.score(output.queries, output.targets)
        torch.nn.functional.cross_entropy(scores * output.log_scale.exp(), own).backward()
    assert not torch.allclose(gradients(alone)[0], gradients(whole)[0], atol=1e-3)


def test_dropout_is_the_same_in_both_passes(toy: Toy, batch_of: Callable[..., Batch]) -> None:
    parts = parts_of(batch_of(5, 8), 2)
    graphs, cached = toy(dropout=0.5).train(), toy(dropout=0.5).train()
    torch.manual_seed(11)
    outputs = [graphs("train", part) for part in parts]  # all graphs at once, which is what caching avoids
    joined = ComposerOutput(
        FeatureSet.cat([o.queries for o in outputs]), FeatureSet.cat([o.targets for o in outputs]), graphs.log_scale
    )
    positive, exclude = torch.cat([p.positive for p in parts]), torch.cat([p.exclude for p in parts])
    total = match_term(graphs, joined, positive, exclude, World(), LOSS)
    for output, part in zip(outputs, parts, strict=True):
        total = total + with_row_terms(torch.zeros(()), output, part, LOSS).total / 2
    total.backward()
    torch.manual_seed(11)
    terms, _ = cached_step(engine_of(cached), parts, LOSS, 1.0, last=True)
    after = torch.rand(1)
    assert terms["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    for one, other in zip(gradients(graphs), gradients(cached), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    torch.manual_seed(11)
    for part in parts:
        cached("train", part)
    assert torch.rand(1) == after  # and the generator goes on as after one pass


def test_micro_batches_are_a_setting_of_a_whole_run(tiny: Callable[..., Settings], tmp_path: Any) -> None:
    from neucore_xl.training.journal import read_log
    from neucore_xl.training.run import train

    quiet = ("model.dropout=0", "model.correction_dropout=0", "backbone.freeze=none", "train.steps=4")
    train(tiny(*quiet), tmp_path / "whole")
    train(tiny(*quiet, "train.micro_batch=2"), tmp_path / "cut")
    whole, cut = (read_log(tmp_path / name / "log.jsonl") for name in ("whole", "cut"))
    for a, b in zip(whole, cut, strict=True):
        for key in ("loss", "loss_match", "loss_concept", "grad_norm", "temperature"):
            assert a[key] == pytest.approx(b[key], rel=1e-4), key
