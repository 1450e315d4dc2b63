"""The matching score of all pairs by matrix products (equation 9), and the features that it reads.

score(q, t) = cos(f̂, t) + EM + IS, with

- EM = ⟨l2(W q), l2(A(q) ⊙ t)⟩, over all pairs (u ⊙ A)·tᵀ / sqrt((A²)·(t²)ᵀ) with u = l2(W q);
- IS = cos(r^bg, t^bg).

Of an EM that starts as the cosine of text and target a head may take what it has become since: EM − cos(q, t).

Legend: Q queries, G targets, D width of f̂ and t, d width of the backgrounds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neucore_xl.models.features import FeatureSet
from neucore_xl.models.layers import l2, mlp

ScoreMode = Literal["full", "cosine"]
MatchingForm = Literal["whole", "change", "weighted"]
EPS = 1e-12


def score(queries: FeatureSet, targets: FeatureSet, mode: ScoreMode = "full") -> Tensor:
    """Matching scores ``[Q, G]`` in fp32, even under autocast, in O(Q·G) memory.

    Names read: ``vector [Q, D]`` and ``vector [G, D]`` (unit length: f̂ and t). With mode ``full`` also, where the
    queries have them, ``em_query [Q, D]`` (u ⊙ A, times the weight of EM) with ``em_attention [Q, D]`` (A),
    ``em_start [Q, D]`` (the unit vector whose cosine is taken off EM), and ``background [Q, d]`` (unit length, times
    the weight of IS) with ``background [G, d]`` (unit length).
    """
    with torch.autocast(queries["vector"].device.type, enabled=False):
        t, q = targets["vector"].float(), queries["vector"].float()
        if mode == "full" and "em_start" in queries:
            q = q - queries["em_start"].float()
        total = q @ t.T
        if mode == "cosine":
            return total
        if "em_query" in queries:
            total = total + attended(queries["em_query"].float(), queries["em_attention"].float(), t)
        if "background" in queries:
            total = total + queries["background"].float() @ targets["background"].float().T
        return total


def attended(query: Tensor, attention: Tensor, targets: Tensor) -> Tensor:
    """⟨u, l2(A ⊙ t)⟩ of all pairs ``[Q, G]`` by two products: ``query [Q, D]`` = u ⊙ A, A, ``targets [G, D]``; fp32."""
    squared = attention.square() @ targets.square().T
    return (query @ targets.T) * squared.clamp_min(EPS**2).rsqrt()


class ExplicitMatching(nn.Module):
    """The query's side of EM: which of the target's channels the text speaks about, and what they should be.

    A starts uniform, and ``aligned`` starts W as the identity: EM then starts as the cosine of text and target, in
    an aligned space the pretrained text-to-image score. A is kept at mean 1 instead of sum 1 (EM does not depend on
    its scale). ``form``:

    - ``whole``: EM as it is;
    - ``change`` (aligned): what it has become since the start, EM − cos(q, t), zero before the first step. Its gradient
      stops at the text: at the start the two terms' pulls on a text tower cancel but for rounding, of which Adam would
      make steps;
    - ``weighted``: with a learned weight that starts at 0; the weight's own gradient is EM, so it moves at the first
      step and the rest follows. Its sign is settled by the first steps.
    """

    def __init__(self, d_text: int, d_target: int, d_hidden: int, *, aligned: bool, form: MatchingForm) -> None:
        super().__init__()
        self.project = nn.Linear(d_text, d_target, bias=False)
        if aligned:
            nn.init.eye_(self.project.weight)
        self.attention = mlp(d_text, d_hidden, d_target, zero=True)
        self.weight = nn.Parameter(torch.zeros(1)) if form == "weighted" else None
        self.change = form == "change"

    def forward(self, text: Tensor) -> dict[str, Tensor]:
        """``text [B, d_text]`` to ``em_query``, ``em_attention`` and, of a change, ``em_start [B, d_target]``, fp32."""
        with torch.autocast(text.device.type, enabled=False):
            if self.change:
                text = text.detach()
            text = text.to(next(self.parameters()).dtype)  # fp32, unless an engine holds all parameters in bf16
            attention = self.attention(text).float().softmax(-1) * self.project.out_features
            query = l2(self.project(text)) * attention
            if self.weight is not None:
                query = self.weight * query
            found = {"em_query": query, "em_attention": attention}
            return found | {"em_start": l2(text)} if self.change else found
