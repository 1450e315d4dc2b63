"""Progressive fusion of the reference with the edits (equations 7 and 8).

Legend: B queries, S = 1 + N + M tokens, K steps, L words, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neucore_xl.models.layers import Attention, mlp


class LearnedSequence(nn.Module):
    """Equation 7: K steps drawn from the sentence itself.

    e₀ = 0; g_k = ReLU(W_g[W_k q ; e_{k−1}]); e_k = Σ_L softmax(v·tanh(W_f w + W_q g_k))·w over the real words.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.per_step = nn.ModuleList(nn.Linear(width, width) for _ in range(steps))
        self.gate = nn.Linear(2 * width, width)
        self.from_word, self.from_gate = nn.Linear(width, width), nn.Linear(width, width)
        self.v = nn.Linear(width, 1, bias=False)  # softmax ignores a bias

    def forward(self, sentence: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """``sentence [B, d]``, ``words [B, L, d]``, ``mask [B, L]`` to ``[B, K, d]``."""
        step = torch.zeros_like(sentence)
        steps = []
        keys = self.from_word(words)
        for linear in self.per_step:
            gate = F.relu(self.gate(torch.cat([linear(sentence), step], -1)))
            logits = self.v(torch.tanh(keys + self.from_gate(gate)[:, None])).squeeze(-1).float()
            weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
            step = torch.einsum("bl,bld->bd", weights.to(words.dtype), words)
            steps.append(step)
        return torch.stack(steps, 1)


class PlannedSequence(nn.Module):
    """e_k of a planned sequence: the phrase, refined by attention over the words of the sentence, and the operation.

    Operations start at unit variance, as large as phrases: at a fiftieth of it they were not learned in a short run.
    """

    def __init__(self, width: int, heads: int, operations: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.operation = nn.Embedding(operations, width)

    def forward(self, phrases: Tensor, operations: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """``phrases [B, K, d]``, ``operations [B, K]``, ``words [B, L, d]``, ``mask [B, L]`` to ``[B, K, d]``."""
        refined = phrases + self.attention(self.norm(phrases), words, mask)
        return refined + self.operation(operations)


class ModulatedNorm(nn.Module):
    """Instance norm over the valid tokens, its scale and shift given from outside (equation 8)."""

    eps = 1e-5

    def forward(self, x: Tensor, mask: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """``x [B, S, d]``, ``mask [B, S]``, ``scale`` and ``shift [B, d]`` to ``[B, S, d]``; statistics in fp32."""
        with torch.autocast(x.device.type, enabled=False):
            weight = mask[..., None].float()
            count = weight.sum(1, keepdim=True)
            centred = x.float() - (x.float() * weight).sum(1, keepdim=True) / count
            variance = (centred.square() * weight).sum(1, keepdim=True) / count
            normed = centred * (variance + self.eps).rsqrt()
            return normed * (1 + scale.float()[:, None]) + shift.float()[:, None]


class FusionBlock(nn.Module):
    """Pre-norm attention and perceptron whose norms are modulated by a step: X + A(norm(X)), then + MLP(norm(·))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = ModulatedNorm()
        self.modulation = mlp(width, width, 4 * width, zero=True)
        self.attention = Attention(width, heads, dropout)
        self.mlp = mlp(width, 4 * width, width, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, step: Tensor) -> Tensor:
        """``x [B, S, d]``, ``mask [B, S]`` true on real tokens, ``step [B, d]`` to ``[B, S, d]``."""
        scale1, shift1, scale2, shift2 = self.modulation(step).chunk(4, -1)
        normed = self.norm(x, mask, scale1, shift1)
        x = x + self.dropout(self.attention(normed, normed, mask))
        return x + self.dropout(self.mlp(self.norm(x, mask, scale2, shift2)))


class ProgressiveFusion(nn.Module):
    """NEUCORE-XL: X_k = Block(X_{k−1}; e_k), one step per planned edit, one block for all steps."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.block = FusionBlock(width, heads, dropout)

    def forward(
        self, x: Tensor, mask: Tensor, steps: Tensor, step_mask: Tensor, active: Sequence[int] | None = None
    ) -> Tensor:
        """``x [B, S, d]``, ``mask [B, S]``, ``steps [B, K, d]``, ``step_mask [B, K]`` to X_K ``[B, S, d]``.

        A row whose step is masked keeps its X bit for bit. With ``active``, the number of rows that have each step
        (packed to the left), step k runs on these rows alone, and on one at least: processes that share the block's
        weights must all call it K times. Without it every step runs on all rows.
        """
        if active is None:
            for k in range(steps.shape[1]):
                x = self._step(x, mask, steps[:, k], step_mask[:, k])
            return x
        longest_first = step_mask.sum(1).argsort(descending=True, stable=True)
        x, mask, steps, step_mask = (t[longest_first] for t in (x, mask, steps, step_mask))
        finished: list[Tensor] = []  # rows after their last step, the shortest queries first
        for k, rows in enumerate(active):
            rows = max(rows, 1)
            if rows < len(x):
                finished.append(x[rows:])
                x = x[:rows]
            x = self._step(x, mask[:rows], steps[:rows, k], step_mask[:rows, k])
        return torch.cat([x, *reversed(finished)])[longest_first.argsort()]

    def _step(self, x: Tensor, mask: Tensor, step: Tensor, real: Tensor) -> Tensor:
        return torch.where(real[:, None, None], self.block(x, mask, step).to(x.dtype), x)


class MixedFusion(nn.Module):
    """NEUCORE: X_{l+1} = Σ_k π_{l,k}·Block_{l,k}(X_l; e_k), π = gumbel-softmax(MLP(q)) with temperature 1.

    The Gumbel noise belongs to training: in evaluation π is the plain softmax, so a score does not change from
    run to run.
    """

    def __init__(self, width: int, heads: int, dropout: float, steps: int, layers: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(FusionBlock(width, heads, dropout) for _ in range(steps)) for _ in range(layers)
        )
        self.mixing = nn.ModuleList(mlp(width, width, steps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, steps: Tensor, sentence: Tensor) -> Tensor:
        """``x [B, S, d]``, ``mask [B, S]``, ``steps [B, K, d]``, ``sentence [B, d]`` to ``[B, S, d]``."""
        for blocks, mixing in zip(self.blocks, self.mixing, strict=True):
            logits = mixing(sentence).float()
            weights = F.gumbel_softmax(logits, tau=1.0) if self.training else logits.softmax(-1)
            assert isinstance(blocks, nn.ModuleList)
            branches = torch.stack([block(x, mask, steps[:, k]) for k, block in enumerate(blocks)], 1)
            x = torch.einsum("bk,bksd->bsd", weights.to(branches.dtype), branches)
        return x
