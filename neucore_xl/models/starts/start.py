"""Where a query starts: the best closed form of image, text and words, found before the first step.

A part is a vector of a query that needs no gradient step; the start is l2(Σ weight · part), in fp32.

| part | what |
|---|---|
| image | ī, the reference's pooled feature |
| text | t̄, the sentence's pooled feature |
| ridge | l2(R [ī ; t̄ ; 1]), R the ridge regression of the targets' features |
| words | l2(R_w [ī ; tf-idf of the sentence's words ; 1]), likewise |
| steps | Σ_k ±(T(phrase_k) − T(anchor)) over the planned edits, minus where an edit takes away |

ī = l2(i − c·mean of the images), t̄ likewise, with c = 1 where the search found that centring helps; targets are then
centred too. ``models/starts/search.py`` holds the search.
Legend: B queries, D joint width, V words of the table, W words of a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import ModelSettings
from neucore_xl.models.layers import l2

Part = Literal["image", "text", "ridge", "words", "steps"]
AUTO: tuple[Part, ...] = ("image", "text", "ridge", "words")  # of a trained head, with `model.start=auto`
TABLE = 4096  # V: the most frequent words of the training sentences
NOBODY = torch.iinfo(torch.int64).max  # a row of the table that no word has


class Start(nn.Module):
    """Before it is fitted, and for ever where no ``parts`` are asked for, the start is the reference itself.

    What was fitted are buffers, stored with a checkpoint: nothing trains them. ``centring``: whether the search may
    take the means off. ``free``: parts whose weight is searched, the others have weight 1; none: all parts.
    """

    def __init__(
        self, width: int, parts: Sequence[Part] = (), *, centring: bool = False, free: Sequence[Part] | None = None
    ) -> None:
        super().__init__()
        self.weights: Tensor
        self.image_mean: Tensor
        self.text_mean: Tensor
        self.ridge: Tensor
        self.word_table: Tensor
        self.word_idf: Tensor
        self.word_ridge: Tensor
        self.parts = tuple(parts)
        self.free = self.parts if free is None else tuple(free)
        self.centring = centring
        self.width = width
        if not self.parts:
            return
        self.register_buffer("weights", torch.zeros(len(self.parts)))
        if centring:
            self.register_buffer("image_mean", torch.zeros(width))
            self.register_buffer("text_mean", torch.zeros(width))
        if "ridge" in self.parts:
            self.register_buffer("ridge", torch.zeros(2 * width + 1, width))
        if "words" in self.parts:
            self.register_buffer("word_table", torch.full((TABLE,), NOBODY))
            self.register_buffer("word_idf", torch.zeros(TABLE))
            self.register_buffer("word_ridge", torch.zeros(width + 1 + TABLE, width))

    def forward(self, image: Tensor, text: Tensor, words: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        """Unit vectors ``image`` and ``text [B, D]``, ``words [B, W]`` int64 and ``steps [B, D]`` to ``[B, D]``."""
        if not self.parts:
            return image
        with torch.autocast(image.device.type, enabled=False):
            found = self.vectors(image.float(), text.float(), words, steps)
            weights = self.weights.float()
            parts = torch.stack([found[part] for part in self.parts])
            unfitted = (weights == 0).all()  # a tensor: asking for its value would stop a device
            return l2((weights[:, None, None] * parts).sum(0) + unfitted * image.float())

    def vectors(
        self, image: Tensor, text: Tensor, words: Tensor | None, steps: Tensor | None = None
    ) -> dict[Part, Tensor]:
        """Every part ``[B, D]`` by its name."""
        i, t = self.image(image), self.text(text)
        found: dict[Part, Tensor] = {"image": i, "text": t}
        if "ridge" in self.parts:
            r = self.ridge.float()
            found["ridge"] = l2(i @ r[: self.width] + t @ r[self.width : -1] + r[-1])
        if "words" in self.parts:
            found["words"] = l2(self._of_words(i, words))
        if "steps" in self.parts:
            found["steps"] = torch.zeros_like(i) if steps is None else steps.float()
        return found

    def image(self, image: Tensor) -> Tensor:
        """A unit vector of images, references and targets alike ``[U, D]``, without the mean where that helped."""
        return l2(image - self.image_mean.float()) if self.parts and self.centring else image

    def text(self, text: Tensor) -> Tensor:
        """The same of sentences ``[B, D]``."""
        return l2(text - self.text_mean.float()) if self.parts and self.centring else text

    @staticmethod
    def of(settings: ModelSettings, width: int) -> Start:
        """The start of a trained head, as ``model.start`` asks for it."""
        return Start(width, AUTO, centring=True) if settings.start == "auto" else Start(width)

    def load(self, fitted: Mapping[str, Tensor]) -> None:
        """Take over what the search found, by the names of the buffers; the others stay."""
        for name, value in fitted.items():
            buffer = self.get_buffer(name)
            buffer.copy_(value.to(buffer))

    def _of_words(self, image: Tensor, words: Tensor | None) -> Tensor:
        r = self.word_ridge.float()
        total = image @ r[: self.width] + r[self.width]
        if words is None:
            return total
        place = torch.searchsorted(self.word_table, words).clamp_max(TABLE - 1)
        weight = self.word_idf.float()[place] * (self.word_table[place] == words)
        return total + (l2(weight)[..., None] * r[self.width + 1 :][place]).sum(1)
