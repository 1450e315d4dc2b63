"""System `tirg-lastconv`: f = F · mean over the map of a₀ · σ(G * [X ; t̂]) ⊙ X + a₁ · R * [X ; t̂].

Source: Vo et al., Composing Text and Image for Image Retrieval (CVPR 2019), the variant that modifies the last
convolutional layer. G and R are norm, a 3 × 3 convolution from 2d to 2d, ReLU and one to d, on the map of the image
with the text at every place; a = (1, 10) at the start and learned; F is linear. What differs: X is the tower's last
map of tokens and t̂ its pooled text, both brought to width d first; a layer norm over the channels of each place where
the original has a batch norm; targets keep their pretrained feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.grid import from_map, side, to_map
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, token_projection, unit_variance


class MapModification(nn.Module):
    """a₀ · σ(G * [X ; t̂]) ⊙ X + a₁ · R * [X ; t̂] on a square map of tokens."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * d)
        self.gate, self.residual = _convolutions(d), _convolutions(d)
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """``tokens [B, N, d]`` (N a square number) and ``text [B, d]`` to ``[B, N, d]``."""
        tiled = text[:, None].expand(-1, tokens.shape[1], -1)
        both = to_map(self.norm(torch.cat([tokens, tiled], -1)))
        gate, residual = from_map(self.gate(both)).sigmoid(), from_map(self.residual(both))
        return self.weights[0] * gate * tokens + self.weights[1] * residual


class TirgLastConv(Head):
    """`tirg` place by place. Raises ``UserError`` where the tower's tokens are no square map."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        if side(backbone.n_tokens) is None:
            raise UserError(
                f"model.name: tirg-lastconv needs a square map of tokens, and this backbone gives {backbone.n_tokens} "
                "tokens; take another backbone, or tirg, which needs none."
            )
        d, joint = settings.model.width, backbone.embed_dim
        self.image_tokens = token_projection(backbone.token_width, d)
        self.sentence = nn.Linear(joint, d)
        self.modification = MapModification(d)
        self.out = nn.Linear(d, joint)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]`` for targets, ``tokens [U, N, d]``."""
        return FeatureSet({"pooled": l2(images.pooled), "tokens": self.image_tokens(images.tokens)})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        modified = self.modification(references["tokens"], self.sentence(unit_variance(text.sentence.pooled)))
        return FeatureSet({"vector": l2(self.out(modified.mean(1)))})


def _convolutions(d: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2 * d, 2 * d, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * d, d, 3, padding=1))
