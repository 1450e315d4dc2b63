"""Soft triplets and the hinge on the hardest negative against loops over triplets of vectors, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neucore_xl.training.triplet_losses import distance, hardest_hinge, soft_triplet


def slow(kind: str, queries: Tensor, targets: Tensor, positive: Tensor, exclude: Tensor, margin: float) -> Tensor:
    """One triplet of vectors at a time: distances of differences, no scores."""
    rows = []
    for q, query in enumerate(queries):
        right = (query - targets[positive[q]]).pow(2).sum().sqrt()
        negatives = [c for c in range(len(targets)) if c != positive[q] and not exclude[q, c]]
        wrong = [(query - targets[c]).pow(2).sum().sqrt() for c in negatives]
        if not wrong:
            rows.append(0 * right)
        elif kind == "soft-triplet":
            rows.append(torch.stack([torch.log(1 + torch.exp(right - w)) for w in wrong]).sum() / len(wrong))
        else:
            violated = margin + right - torch.stack(wrong).min()
            rows.append(violated if violated > 0 else 0 * violated)
    return torch.stack(rows).sum() / len(rows)


def unit(rows: int, draw: torch.Generator) -> Tensor:
    x = torch.randn(rows, 5, generator=draw, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def fast(kind: str, scores: Tensor, positive: Tensor, exclude: Tensor, margin: float = 0.2) -> Tensor:
    if kind == "soft-triplet":
        return soft_triplet(scores, positive, exclude)
    return hardest_hinge(scores, positive, exclude, margin)


KINDS = pytest.mark.parametrize("kind", ["soft-triplet", "hardest-hinge"])


@KINDS
@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.05, 2.0), st.integers(0, 2**31 - 1))
def test_value_and_gradient_are_those_of_the_triplets(kind: str, b: int, g: int, margin: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    queries, targets = unit(b, draw).requires_grad_(), unit(g, draw).requires_grad_()
    positive = torch.randint(0, g, (b,), generator=draw)
    exclude = torch.rand(b, g, generator=draw) < 0.3
    wanted = slow(kind, queries, targets, positive, exclude, margin)
    own, columns = (x.detach().float().requires_grad_() for x in (queries, targets))
    value = fast(kind, own @ columns.T, positive, exclude, margin)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
    wanted.backward()
    value.backward()
    for found, slowly in ((own, queries), (columns, targets)):
        # along the sphere: ‖q − t‖ and √(2 − 2 q·t) are the same there and nowhere else
        x = slowly.detach()
        tangent = [g - (g * x).sum(1, keepdim=True) * x for g in (found.grad.double(), slowly.grad)]  # type: ignore[union-attr]
        torch.testing.assert_close(*tangent, atol=2e-4, rtol=1e-3)


@KINDS
@given(st.integers(2, 6), st.integers(0, 2**31 - 1))
def test_order_and_excluded_columns_change_nothing(kind: str, g: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores, positive = torch.rand(3, g, generator=draw) * 2 - 1, torch.randint(0, g, (3,), generator=draw)
    exclude = torch.rand(3, g, generator=draw) < 0.3
    value = fast(kind, scores, positive, exclude)
    order = torch.randperm(g, generator=draw)
    moved = fast(kind, scores[:, order], order.argsort()[positive], exclude[:, order])
    assert moved.item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7)
    barred = exclude.scatter(1, positive[:, None], False)
    assert fast(kind, torch.where(barred, 0.9, scores), positive, exclude) == value
    parts = [fast(kind, scores[r : r + 1], positive[r : r + 1], exclude[r : r + 1]) for r in range(3)]
    assert torch.stack(parts).mean().item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7)


@KINDS
def test_better_scores_of_targets_lower_the_loss(kind: str) -> None:
    scores, none = torch.tensor([[0.2, 0.5, -0.1]]), torch.zeros(1, 3, dtype=torch.bool)
    worse = fast(kind, scores, torch.tensor([0]), none)
    assert fast(kind, scores + torch.tensor([[0.3, -0.3, 0.0]]), torch.tensor([0]), none) < worse


@KINDS
@pytest.mark.parametrize("scores", [[[1.0, 1.0]], [[3.0, -5.0]], [[-1.0, 1.0]]])
def test_ends_of_the_range_and_scores_beyond_it_are_finite(kind: str, scores: list[list[float]]) -> None:
    given_scores = torch.tensor(scores, requires_grad=True)
    for exclude in ([[False, False]], [[False, True]]):
        value = fast(kind, given_scores, torch.tensor([0]), torch.tensor(exclude))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(given_scores.grad).all()  # type: ignore[arg-type]
    assert value.item() == 0  # no negative is left


def test_the_distance_by_hand() -> None:
    found = distance(torch.tensor([1.0, 0.0, -1.0, 0.5, 2.0]))
    assert found.tolist() == pytest.approx([1e-3, math.sqrt(2), 2.0, 1.0, 1e-3])


@KINDS
def test_shapes_that_do_not_agree_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="do not agree"):
        fast(kind, torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.zeros(3, 2, dtype=torch.bool))


@KINDS
def test_it_is_fp32_under_autocast(kind: str) -> None:
    scores = torch.tensor([[0.5, 0.25], [0.125, 0.75]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = fast(kind, scores, torch.arange(2), torch.zeros(2, 2, dtype=torch.bool))
    assert value.dtype == torch.float32
