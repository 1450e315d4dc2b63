"""Losses against their formulas, written out naively in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neucore_xl.training.losses import batch_classification, focal_concept_loss


def naive_focal(logits: torch.Tensor, labels: torch.Tensor, alpha: float, gamma: float) -> float:
    p = torch.sigmoid(logits.double())
    y = labels.double()
    terms = y * alpha * (1 - p) ** gamma * p.log() + (1 - y) * (1 - alpha) * p**gamma * (1 - p).log()
    return float(
        -sum(row.sum() / max(1.0, named) for row, named in zip(terms, y.sum(1).tolist(), strict=True)) / len(y)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.floats(0.05, 0.95),
    st.floats(0.0, 4.0),
    st.integers(0, 2**31 - 1),
)
def test_focal_equals_the_formula(b: int, c: int, alpha: float, gamma: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, c, generator=draw) * 4
    labels = (torch.rand(b, c, generator=draw) < 0.3).float()
    value = focal_concept_loss(logits, labels, alpha, gamma)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(naive_focal(logits, labels, alpha, gamma), rel=1e-5, abs=1e-7)


def test_a_concept_weighs_the_same_in_a_vocabulary_of_any_size() -> None:
    logits, labels = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True), torch.tensor([[1.0, 0.0, 1.0]])
    (small,) = torch.autograd.grad(focal_concept_loss(logits, labels, 0.5, 1.0), logits)
    unsaid = torch.full((1, 997), -5.0)
    larger = focal_concept_loss(torch.cat([logits, unsaid], 1), torch.cat([labels, unsaid * 0], 1), 0.5, 1.0)
    (large,) = torch.autograd.grad(larger, logits)
    torch.testing.assert_close(large, small)


def test_focal_with_gamma_zero_is_half_the_binary_cross_entropy() -> None:
    logits, labels = torch.tensor([[0.3, -2.0, 5.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    expected = 0.5 * entropy / 2  # two concepts are named
    assert focal_concept_loss(logits, labels, 0.5, 0.0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("extreme", [1e4, -1e4, 88.0, -88.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_is_finite_for_any_logit_and_so_is_its_gradient(extreme: float, label: float, gamma: float) -> None:
    logits = torch.tensor([[extreme]], requires_grad=True)
    value = focal_concept_loss(logits, torch.tensor([[label]]), 0.5, gamma)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    wrong = (extreme > 0) != (label == 1.0)
    assert (value.item() > 40) == wrong


def test_batch_classification_by_hand() -> None:
    scores = torch.tensor([[0.5, 0.1, -0.2], [0.0, 0.3, 0.9]])
    positive = torch.tensor([0, 2])
    exclude = torch.tensor([[False, False, True], [False, False, False]])
    scale = 2.0
    first = -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(0.2)))
    second = -math.log(math.exp(1.8) / (math.exp(0.0) + math.exp(0.6) + math.exp(1.8)))
    value = batch_classification(scores, positive, exclude, torch.tensor([math.log(scale)]))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_an_excluded_column_gets_no_gradient_and_a_positive_is_never_excluded() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    exclude = torch.tensor([[True, True, False], [False, True, False]])
    value = batch_classification(scores, torch.tensor([0, 2]), exclude, torch.zeros(1))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert scores.grad[1, 1] == 0
    assert (scores.grad[[0, 1], [0, 2]] < 0).all()


def test_batch_classification_is_fp32_for_bf16_scores_under_autocast() -> None:
    scores = torch.randn(4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = batch_classification(scores, torch.arange(4), torch.zeros(4, 4, dtype=torch.bool), torch.tensor([2.0]))
    expected = torch.nn.functional.cross_entropy(scores.float() * math.exp(2.0), torch.arange(4))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_gradient_reaches_the_temperature() -> None:
    theta = torch.tensor([1.0], requires_grad=True)
    batch_classification(torch.eye(3), torch.arange(3), torch.zeros(3, 3, dtype=torch.bool), theta).backward()
    assert theta.grad is not None
    assert theta.grad.item() < 0  # all positives are ahead: a sharper scale lowers the loss


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match="do not agree"):
        batch_classification(
            torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), torch.zeros(2, 3).bool(), torch.zeros(1)
        )
