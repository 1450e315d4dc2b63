"""The one interface of everything that scores: NEUCORE-XL, NEUCORE and every baseline is a ``Composer``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from neucore_xl.data.batches import Batch, ImageInput, SequenceBatch, TextInput
from neucore_xl.language.bert import LanguageTokenizer
from neucore_xl.models.features import ComposerOutput, QueryFeatures, TargetFeatures

if TYPE_CHECKING:
    from neucore_xl.models.starts.start import Start

Mode = Literal["train", "targets", "compose"]


class Composer(nn.Module, ABC):
    """A system of composed image retrieval.

    Call the module itself, not its methods, wherever it may be wrapped (DDP, DeepSpeed): under ZeRO-3 only the
    root ``forward`` gathers the parameter shards. ``score`` has no parameters and is safe to call directly.

    The registry builds it as ``Class(settings, backbone)``; where ``aligns_concepts`` is true, as ``Class(settings,
    backbone, vocabulary)`` with the pretrained text features ``[C, D]`` of the training concepts' names.
    """

    aligns_concepts: ClassVar[bool] = False
    random_reference: ClassVar[bool] = False  # queries are given another query's reference image, drawn at random
    levels: ClassVar[int] = 1  # depths of the image tower that it reads, where there are so many
    fewest_levels: ClassVar[int] = 1  # depths without which it cannot be built
    needs_language_model: ClassVar[bool] = False  # it reads sentences with the BERT of model.language_model
    closed_form: ClassVar[bool] = False  # fitted before the first step; steps move its temperature and no ranking

    language_tokenizer: LanguageTokenizer | None = None  # of systems with a transformer of their own for the words

    @abstractmethod
    def encode_targets(self, images: ImageInput) -> TargetFeatures:
        """Features of gallery images: pixels ``[U, 3, H, W]`` or ``ImageFeatures`` to U rows."""

    @abstractmethod
    def compose(self, reference: ImageInput, text: TextInput, sequence: SequenceBatch) -> QueryFeatures:
        """Features of B queries; ``reference`` and ``text`` have B rows each."""

    @abstractmethod
    def train_outputs(self, batch: Batch) -> ComposerOutput:
        """One training forward: every image of the batch goes through the tower once."""

    @abstractmethod
    def score(self, queries: QueryFeatures, targets: TargetFeatures) -> Tensor:
        """Matching scores ``[Q, G]``, fp32, without the temperature; uses no parameters and no [Q, G, d] tensor."""

    def slow_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that correct pretrained features; none unless a composer names some.

        They are trained at ``train.lr`` × ``train.lr_correction_scale`` and all of them decay, biases included.
        """
        return ()

    def fitted(self) -> Start | None:
        """What is fitted in closed form on the training pairs before the first step, or None."""
        return None

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters outside the backbone that come from a file; trained at ``train.lr_backbone``. By default none."""
        return ()

    def forward(self, mode: Mode, *args: Any) -> Any:
        """The root forward: ``("train", batch)``, ``("targets", images)`` or ``("compose", image, text, sequence)``."""
        if mode == "train":
            return self.train_outputs(*args)
        if mode == "targets":
            return self.encode_targets(*args)
        if mode == "compose":
            return self.compose(*args)
        raise ValueError(f"unknown mode {mode!r}: train, targets or compose")
