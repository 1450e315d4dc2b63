"""The score by matrix products equals the pairwise definition of equation 9."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from neucore_xl.models.features import FeatureSet
from neucore_xl.models.layers import l2
from neucore_xl.models.matching import ExplicitMatching, score


def pairwise(vector, u, attention, w_em, background, w_is, t, t_background):  # type: ignore[no-untyped-def]
    """Equation 9 written over [Q, G, d], in double precision, with torch's own normalisation."""
    cos = F.cosine_similarity(vector[:, None], t[None], dim=-1)
    masked = F.normalize(attention[:, None] * t[None], dim=-1)
    em = (F.normalize(u, dim=-1)[:, None] * masked).sum(-1)
    return cos + w_em * em + w_is * F.cosine_similarity(background[:, None], t_background[None], dim=-1)


@settings(deadline=None, max_examples=60)
@given(
    q=st.integers(1, 9), g=st.integers(1, 9), d=st.integers(2, 40), b=st.integers(2, 20),
    w_em=st.floats(-2, 2), w_is=st.floats(-2, 2), sharp=st.floats(0, 4), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_matrix_products_equal_the_pairwise_definition(
    q: int, g: int, d: int, b: int, w_em: float, w_is: float, sharp: float, seed: int
) -> None:
    rand = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rand, dtype=torch.double)

    vector, u, background, t, t_background = normal(q, d), normal(q, d), normal(q, b), normal(g, d), normal(g, b)
    attention = (sharp * normal(q, d)).softmax(-1)
    want = pairwise(vector, u, attention, w_em, background, w_is, t, t_background)
    scaled = attention * d
    queries = FeatureSet(
        {
            "vector": l2(vector),
            "em_query": (w_em * F.normalize(u, dim=-1) * scaled).float(),
            "em_attention": scaled.float(),
            "background": w_is * l2(background),
        }
    )
    targets = FeatureSet({"vector": l2(t), "background": l2(t_background)})
    got = score(queries, targets)
    assert got.shape == (q, g)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=1e-5)
    cosine = F.cosine_similarity(vector[:, None], t[None], dim=-1)
    torch.testing.assert_close(score(queries, targets, "cosine").double(), cosine, atol=2e-6, rtol=1e-5)


def test_chunks_of_queries_or_targets_give_the_same_scores() -> None:
    torch.manual_seed(0)
    explicit = ExplicitMatching(6, 8, 8, aligned=False, form="whole")
    queries = FeatureSet({"vector": l2(torch.randn(7, 8)), **explicit(torch.randn(7, 6))})
    targets = FeatureSet({"vector": l2(torch.randn(5, 8))})
    whole = score(queries, targets)
    rows = torch.cat([score(queries.select(slice(i, i + 3)), targets) for i in (0, 3, 6)])
    columns = torch.cat([score(queries, targets.select(slice(i, i + 2))) for i in (0, 2, 4)], 1)
    torch.testing.assert_close(whole, rows)
    torch.testing.assert_close(whole, columns)


def test_scores_are_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    queries = FeatureSet({"vector": l2(torch.randn(4, 32))})
    targets = FeatureSet({"vector": l2(torch.randn(6, 32))})
    want = score(queries, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = score(queries, targets)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_a_blank_target_gives_finite_scores_and_gradients() -> None:
    explicit = ExplicitMatching(6, 6, 8, aligned=True, form="whole")
    targets = FeatureSet({"vector": torch.zeros(2, 6, requires_grad=True)})
    out = score(FeatureSet({"vector": l2(torch.randn(3, 6)), **explicit(torch.randn(3, 6))}), targets)
    assert (out == 0).all()
    out.sum().backward()
    assert torch.isfinite(targets["vector"].grad).all()


def test_explicit_matching_starts_as_the_cosine_of_text_and_target() -> None:
    torch.manual_seed(0)
    explicit = ExplicitMatching(8, 8, 4, aligned=True, form="whole")
    text, target = torch.randn(3, 8), torch.randn(5, 8)
    zero = FeatureSet({"vector": torch.zeros(3, 8), **explicit(text)})
    torch.testing.assert_close(score(zero, FeatureSet({"vector": l2(target)})), l2(text) @ l2(target).T)


def test_the_learned_weight_of_em_starts_at_zero_and_has_a_gradient() -> None:
    torch.manual_seed(0)
    explicit = ExplicitMatching(8, 8, 4, aligned=True, form="weighted")
    features = explicit(torch.randn(3, 8))
    assert bool((features["em_query"] == 0).all())
    out = score(FeatureSet({"vector": torch.zeros(3, 8), **features}), FeatureSet({"vector": torch.randn(2, 8)}))
    out.sum().backward()
    assert explicit.weight is not None
    assert explicit.weight.grad is not None
    assert explicit.weight.grad.abs().item() > 1e-3


def test_the_change_of_em_is_zero_at_the_start_and_em_less_the_cosine_of_text_and_target_afterwards() -> None:
    torch.manual_seed(0)
    explicit = ExplicitMatching(8, 8, 4, aligned=True, form="change")
    text, target = torch.randn(3, 8, requires_grad=True), l2(torch.randn(5, 8))
    targets = FeatureSet({"vector": target})

    def change() -> torch.Tensor:
        return score(FeatureSet({"vector": torch.zeros(3, 8), **explicit(text)}), targets)

    torch.testing.assert_close(change(), torch.zeros(3, 5), atol=1e-6, rtol=0)
    (change() * torch.randn(3, 5)).sum().backward()
    assert text.grad is None, "rounding would be all of it"
    assert all(
        p.grad is not None and p.grad.abs().max() > 1e-3 for p in (explicit.project.weight, explicit.attention[-1].bias)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in explicit.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    u = l2(explicit.project(text))
    a = explicit.attention(text).softmax(-1)
    want = torch.stack([torch.stack([u[q] @ l2(a[q] * t) - l2(text)[q] @ t for t in target]) for q in range(3)])
    torch.testing.assert_close(change(), want)


def test_the_cosine_alone_takes_nothing_off() -> None:
    torch.manual_seed(0)
    explicit = ExplicitMatching(8, 8, 4, aligned=True, form="change")
    vector, targets = l2(torch.randn(3, 8)), FeatureSet({"vector": l2(torch.randn(5, 8))})
    queries = FeatureSet({"vector": vector, **explicit(torch.randn(3, 8))})
    torch.testing.assert_close(score(queries, targets, "cosine"), vector @ targets["vector"].T)
