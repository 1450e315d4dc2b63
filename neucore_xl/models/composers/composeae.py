"""System `composeae`: the text turns the image in a complex space, φ = z · e^{jθ} with z = I(i), θ = T(t̂).

f = a₁ · ρ([Re φ ; Im φ]) + a₀ · ρ_conv([z ; θ ; i ; Re φ ; Im φ]), a = (1, 10) at the start and learned.
Source: Anwaar, Labintcev and Kleinsteuber, Compositional Learning of Image-Text Query for Image Retrieval (WACV 2021),
with the sizes and weights of its published code. Three losses of its own: f must tell i and t̂ again (mean squared
errors, each weighted 0.1), and the target turned back by −θ must be the reference (weighted 0.01).

What differs: i and t̂ are the tower's pooled features at length √D; layer norms in place of batch norms; ρ and ρ_conv
share one complex projection, as in the paper; the decoders read f at length √D. The loss of the turned target is
1 − cosine, a mean over the queries like every penalty here (the paper: its matching loss over the batch).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.features import FeatureSet, QueryFeatures
from neucore_xl.models.head import Head, Text
from neucore_xl.models.layers import l2, mlp, unit_variance

RECONSTRUCTION, SYMMETRY = 0.1, 0.01
CHANNELS, PLACES = 64, 16  # of the convolution, and what is left of D places


class ComplexComposition(nn.Module):
    """f before it is normalised; ``sign`` −1 turns the other way."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(d), mlp(d, d, d, dropout=dropout, activation=nn.ReLU))
        self.angle = nn.Sequential(nn.LayerNorm(d), mlp(d, d, d, dropout=dropout, activation=nn.ReLU))
        self.linear = _mapping(2 * d, d)
        self.conv = nn.Conv1d(5, CHANNELS, 3, padding=1)
        self.convolved = _mapping(CHANNELS * PLACES, d)
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, image: Tensor, text: Tensor, sign: float = 1.0) -> Tensor:
        """``image [B, D]`` and ``text [B, D]``, of length √D, to ``[B, D]``."""
        z, theta = self.image(image).float(), self.angle(text).float()
        real, imaginary = z * theta.cos(), sign * z * theta.sin()
        stacked = torch.stack([z, theta, image, real, imaginary], 1)
        places = F.adaptive_max_pool1d(self.conv(stacked), PLACES).flatten(1)
        linear = self.linear(torch.cat([real, imaginary], -1))
        return self.weights[1] * linear + self.weights[0] * self.convolved(places)


class ComposeAE(Head):
    """Composition as a rotation, which has an inverse, and from which both parts can be told again."""

    def __init__(self, settings: Settings, backbone: Backbone) -> None:
        super().__init__(settings, backbone)
        d = backbone.embed_dim
        self.composition = ComplexComposition(d, settings.model.dropout)
        self.image_decoder, self.text_decoder = _mapping(d, d), _mapping(d, d)

    def queries(self, references: FeatureSet, text: Text) -> QueryFeatures:
        i, t = unit_variance(references["pooled"]), unit_variance(text.sentence.pooled)
        return FeatureSet({"vector": l2(self.composition(i, t))})

    def penalties(self, images: FeatureSet, batch: Batch, text: Text, queries: QueryFeatures) -> dict[str, Tensor]:
        """``image`` and ``text``: f tells them again; ``rotation``: the target turned back is the reference."""
        reference, t = images["pooled"][batch.reference], unit_variance(text.sentence.pooled)
        f = unit_variance(queries["vector"])
        back = l2(self.composition(unit_variance(images["pooled"][batch.target_images]), t, -1.0))
        return {
            "image": RECONSTRUCTION * F.mse_loss(self.image_decoder(f).float(), unit_variance(reference)),
            "text": RECONSTRUCTION * F.mse_loss(self.text_decoder(f).float(), t),
            "rotation": SYMMETRY * (1 - (back * reference).sum(-1)).mean(),
        }


def _mapping(d_in: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(d_in), nn.ReLU(), nn.Linear(d_in, d_out), nn.ReLU(), nn.Linear(d_out, d_out))
