"""System `relationship`: f = MLP₂(mean over pairs (a, b) of MLP₁[x_a ; x_b ; t̂]), at most 49 tokens.

Source: Santoro et al., A simple neural network module for relational reasoning (NIPS 2017), as a baseline of composed
retrieval in Vo et al. (CVPR 2019). All pairs count, a token with itself among them; both MLPs have two layers with
ReLU. What differs: the mean in place of the sum, so that the number of tokens does not matter; the objects are the
tower's tokens, a finer map than 7 × 7 averaged down to that, and know their places themselves; targets keep their
pretrained feature.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.grid import at_most
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, token_projection, unit_variance

MOST_TOKENS = 49  # 7 × 7: the number of pairs is its square


class Relations(nn.Module):
    """Mean over all pairs of tokens of a perceptron of both and the text.

    The first layer is the sum of a map of each of the three, and the last commutes with the mean, so only ReLU is
    computed for every pair: O(N² d), not O(N² d²).
    """

    def __init__(self, d: int, d_text: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.text = nn.Linear(d_text, d)
        self.last = nn.Linear(d, d)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """``tokens [B, N, d]`` and ``text [B, D]`` to ``[B, d]``."""
        said = self.second(tokens) + self.text(text)[:, None]
        pairs = F.relu(self.first(tokens)[:, :, None] + said[:, None])
        return self.last(pairs.mean((1, 2)))


class Relationship(Head):
    """What any two places of the image mean together for a text."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d, joint = settings.model.width, backbone.embed_dim
        self.image_tokens = token_projection(backbone.token_width, d)
        self.relations = Relations(d, joint)
        self.mlp = mlp(d, d, joint, dropout=settings.model.dropout, activation=nn.ReLU)

    def look(self, images: ImageFeatures) -> FeatureSet:
        """``pooled [U, D]`` for targets, ``tokens [U, N, d]`` with N ≤ 49."""
        tokens = self.image_tokens(at_most(images.tokens, MOST_TOKENS))
        return FeatureSet({"pooled": l2(images.pooled), "tokens": tokens})

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        related = self.relations(references["tokens"], unit_variance(text.sentence.pooled))
        return FeatureSet({"vector": l2(self.mlp(related))})
