"""Multi-modal concept alignment: exchange (equation 3), pooling (4) and alignment scores (5).

Legend: B pairs or images, N tokens of one image, d width, C concepts of the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neucore_xl.models.layers import Block


class Exchange(nn.Module):
    """Transformer over the tokens of one image, or of two side by side (equation 3).

    Positions are added per image (the n-th token gets the n-th position), and a second image is marked as such.
    """

    def __init__(self, width: int, heads: int, layers: int, n_tokens: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(n_tokens, width) * 0.02)
        self.second = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """``first [B, N, d]`` (and ``second [B, N, d]``) to ``[B, N, d]`` (or ``[B, 2N, d]``)."""
        x = first + self.position[: first.shape[1]]
        if second is not None:
            x = torch.cat([x, second + self.position[: second.shape[1]] + self.second], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class AttentionPool(nn.Module):
    """a = softmax over tokens of v₂·tanh(V₁ x); the pooled vector is Σ a·x (equation 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.v1, self.v2 = nn.Linear(width, width), nn.Linear(width, 1, bias=False)  # softmax ignores a bias

    def weights(self, x: Tensor) -> Tensor:
        """Attention ``[B, S]`` of ``x [B, S, d]``; rows sum to 1, fp32."""
        return self.v2(torch.tanh(self.v1(x))).squeeze(-1).float().softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, S, d]`` to ``[B, d]``."""
        return torch.einsum("bs,bsd->bd", self.weights(x).to(x.dtype), x)


class ConceptScores(nn.Module):
    """Alignment scores s = f_rt^fg · w_cᵀ (equation 5), in fp32.

    ``prior``: the share of concepts expected in a sentence. With one, the product is scaled by 1/√d and a learned
    bias starts at the prior's log-odds, so that the many absent concepts do not dominate the first steps; without
    (the published form) it is the bare product.
    """

    def __init__(self, width: int, prior: float | None) -> None:
        super().__init__()
        self.scale = 1.0 if prior is None else width**-0.5
        self.bias = None if prior is None else nn.Parameter(torch.tensor([math.log(prior / (1 - prior))]))

    def forward(self, foreground: Tensor, concepts: Tensor) -> Tensor:
        """``foreground [B, d]`` and ``concepts [C, d]`` to logits ``[B, C]``."""
        with torch.autocast(foreground.device.type, enabled=False):
            logits = foreground.float() @ concepts.float().T * self.scale
            return logits if self.bias is None else logits + self.bias
