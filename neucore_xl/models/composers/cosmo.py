"""System `cosmo`: content is the normalised map under two text-driven attentions, style is regenerated from the text.

X̄ = (X − μ) / τ, mean and deviation of each channel over the tokens; C₁ = X̄ + a₁ · A₁(X̄, t̂); C₂ = C₁ + a₂ · A₂(C₁, t̂);
f = F · mean of γ ⊙ C₂ + β, γ = σ(G_γ t̂) ⊙ τ + S_γ t̂, β = σ(G_β t̂) ⊙ μ + S_β t̂.

A(X, t̂)_n = W_r Σ_m (softmax_m(q_n · k_m / √h) + softmax_m(x_m · W_t t̂ / √h)) W_v W_m [x_m ; t̂], in heads of width h.
Source: Lee, Kim and Han, CoSMo: Content-Style Modulation for Image Retrieval with Text Feedback (CVPR 2021), and its
published code, from which the starts of a and S are. What differs: X are the tower's tokens, brought to width d; F is
linear to the joint space, and targets keep their pretrained feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, token_projection, unit_variance

EPS = 1e-5


class DisentangledAttention(nn.Module):
    """X + a · A(X, t̂): one map says which tokens belong together, another which of them the text means."""

    def __init__(self, d: int, d_text: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.merge, self.value = nn.Linear(d + d_text, d, bias=False), nn.Linear(d, d, bias=False)
        self.query, self.key = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.meant = nn.Linear(d_text, d)
        self.out = nn.Linear(d, d)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """``x [B, N, d]`` and ``text [B, D]`` to ``[B, N, d]``."""
        tiled = text[:, None].expand(-1, x.shape[1], -1)
        v = self._split(self.value(self.merge(torch.cat([x, tiled], -1))))
        q, k, own = self._split(self.query(x)), self._split(self.key(x)), self._split(x)
        scale = q.shape[-1] ** -0.5
        together = ((q @ k.transpose(-1, -2)).float() * scale).softmax(-1)
        meant = ((self._split(self.meant(text)[:, None]) @ own.transpose(-1, -2)).float() * scale).softmax(-1)
        return x + self.weight * self.out(((together + meant).to(v.dtype) @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """``[B, N, d]`` to ``[B, heads, N, h]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Cosmo(Head):
    """What is shown, and how it looks, are changed one after the other."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        model, d, joint = settings.model, settings.model.width, backbone.embed_dim
        self.image_tokens = token_projection(backbone.token_width, d)
        self.content = nn.ModuleList(DisentangledAttention(d, joint, model.heads) for _ in range(2))
        self.style_gate, self.style = nn.Linear(joint, 2 * d), nn.Linear(joint, 2 * d)
        nn.init.ones_(self.style.bias[:d])
        nn.init.zeros_(self.style.bias[d:])
        self.dropout = nn.Dropout(model.dropout)
        self.out = nn.Linear(d, joint)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]`` for targets, ``tokens [U, N, d]``."""
        return FeatureSet({"pooled": l2(images.pooled), "tokens": self.image_tokens(images.tokens)})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        t = unit_variance(text.sentence.pooled)
        tokens = references["tokens"].float()
        mean = tokens.mean(1)
        spread = (tokens.var(1, correction=0) + EPS).sqrt()
        x = (tokens - mean[:, None]) / spread[:, None]
        for attention in self.content:
            x = attention(x, t)
        gamma, beta = (self.style_gate(t).sigmoid() * torch.cat([spread, mean], -1) + self.style(t)).chunk(2, -1)
        x = gamma[:, None] * x + beta[:, None]
        return FeatureSet({"vector": l2(self.out(self.dropout(x.mean(1))))})
