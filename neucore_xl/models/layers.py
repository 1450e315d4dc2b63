"""Small parts that every head shares: normalised vectors, perceptrons, masked attention, the clamped temperature.

Attention is written with ``Linear`` layers (not ``nn.MultiheadAttention``, whose output weight is read outside its
module), so that sharded parameters are gathered by the ordinary forward hooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neucore_xl.errors import UserError


def l2(x: Tensor) -> Tensor:
    """``x [..., D]`` with rows of unit length, in fp32 even under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.float(), dim=-1)


def unit_variance(x: Tensor) -> Tensor:
    """``x [..., D]`` scaled to length √D: the direction of a pretrained feature as an input of a perceptron."""
    return l2(x) * x.shape[-1] ** 0.5


def zeros(linear: nn.Linear) -> nn.Linear:
    """``linear`` with weights and bias at 0: its output is exactly 0 until trained, its own gradient is not."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(
    d_in: int,
    d_hidden: int,
    d_out: int,
    *,
    dropout: float = 0.0,
    activation: type[nn.Module] = nn.GELU,
    zero: bool = False,
) -> nn.Sequential:
    """Two-layer perceptron ``[..., d_in]`` to ``[..., d_out]``; ``zero``: its output is exactly 0 until trained."""
    last = nn.Linear(d_hidden, d_out)
    if zero:
        zeros(last)
    return nn.Sequential(nn.Linear(d_in, d_hidden), activation(), nn.Dropout(dropout), last)


class ChannelDropout(nn.Dropout1d):
    """Of ``x [B, S, D]`` whole channels are dropped, the same ones in all S rows of one of the B.

    As many random numbers are drawn whatever S is, and however ``x`` lies in memory: sentences that are padded to
    another length, or read from the cache, train alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def token_projection(d_in: int, width: int) -> nn.Sequential:
    """A tower's tokens or words ``[..., d_in]`` to ``[..., width]``: norm, then a linear map."""
    return nn.Sequential(nn.LayerNorm(d_in), nn.Linear(d_in, width))


class Attention(nn.Module):
    """Multi-head attention of ``queries [B, S, d]`` over ``keys [B, T, d]`` where ``mask [B, T]``: ``[B, S, d]``.

    Every row needs one true entry. Raises ``UserError`` when the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"model.heads = {heads} does not divide model.width = {width}; choose a divisor.")
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(keys).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            q, k, v, None if mask is None else mask[:, None, None, :], self.dropout if self.training else 0.0
        )
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block on ``x [B, S, d]``; ``mask [B, S]`` is true on real tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp = mlp(width, 4 * width, width, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """``layers`` blocks on ``x [B, S, d]`` and a norm at the end; ``mask [B, S]`` is true on real tokens."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class _ClampFromAbove(torch.autograd.Function):
    """min(x, bound), whose gradient beyond the bound still passes when it leads back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where((x > ctx.bound) & (gradient < 0), torch.zeros_like(gradient), gradient), None


class Temperature(nn.Module):
    """θ of equation 10: a parameter of shape ``[1]``, read as min(θ, maximum).

    The bound acts in the forward pass, so it holds where an optimiser keeps its own fp32 copy of the parameter.
    Beyond it descent can lower θ but not raise it: unlike under ``clamp``, an overshooting θ comes back.
    """

    def __init__(self, initial: float, maximum: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([initial]))
        self.maximum = maximum

    def forward(self) -> Tensor:
        """Clamped θ ``[1]``, fp32; scores are multiplied by exp(θ)."""
        return _ClampFromAbove.apply(self.theta.float(), self.maximum)
