"""Any open_clip model as tokens, pooled image, words, pooled text and mask.

Legend: U images, B texts, N image tokens, L words, Dv/Dt tower widths, D width of the joint space.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import BackboneSettings, FreezeBlocks, LoraSettings
from neucore_xl.data.batches import ImageFeatures, ImageInput, TextFeatures, TextInput
from neucore_xl.data.features.folder import FeatureFolder
from neucore_xl.errors import UserError
from neucore_xl.models import freezing, lora
from neucore_xl.models.given import GivenImages, orthonormal
from neucore_xl.models.grid import pooled_to
from neucore_xl.models.towers import Opened, image_mean_std, open_model, parameters_hash

if TYPE_CHECKING:
    from neucore_xl.data.images import ImageTransform

Part = Literal["all", "image", "text"]
_NONE = (0.0, 0.0, 0.0)


def build_backbone(settings: BackboneSettings, tokens: int | None = None, *, levels: int = 1) -> Backbone:
    """Open, freeze, adapt and probe the model that ``settings`` names; ``tokens`` is ``model.tokens``.

    ``levels``: depths of the image tower to read.

    Raises ``UserError``: unknown name, unreadable config, weights missing or of another model, nothing to adapt,
    ``backbone.features`` that are no whole folder of features.
    """
    given = None if settings.features is None else GivenImages(FeatureFolder(settings.features), tokens)
    opened = open_model(settings)
    return Backbone(
        opened, settings.freeze, settings.activation_checkpointing, settings.lora,
        tokens=tokens, given=given, levels=levels,
    )  # fmt: skip


class Backbone(nn.Module):
    """An open_clip model behind four calls: encode images, encode texts, tokenize, transform.

    A tower without trainable parameters runs without gradient and stays in eval mode, as do the frozen blocks of
    a partly frozen tower (their BatchNorm statistics do not move). ``token_width`` Dv, ``word_width`` Dt,
    ``embed_dim`` D and ``n_tokens`` N are measured on one blank input. ``tokens``: pool an image's tokens to so many.

    With ``levels`` the image tower gives the tokens of so many depths, or of all where it has fewer: of a tower whose
    maps shrink the last ones, of another one evenly spread, the last in any case. ``token_widths`` and
    ``token_counts`` have an entry for each, the earliest first.

    ``given`` features of images take the place of the image tower, which is dropped. Where their pooled width is not
    that of the texts, D is the wider one, and the narrower side is carried there by a fixed matrix with orthonormal
    columns, which keeps its inner products: texts here, images where they are read.
    """

    def __init__(
        self,
        opened: Opened,
        freeze: Literal["all", "none"] | FreezeBlocks = "all",
        activation_checkpointing: bool = False,
        adapters: LoraSettings | None = None,
        *,
        tokens: int | None = None,
        given: GivenImages | None = None,
        levels: int = 1,
    ) -> None:
        super().__init__()
        self._depths: int | list[int] = levels
        self.clip = opened.model
        self.given, self._tokens = given, tokens
        self.widen: Tensor | None
        self.register_buffer("widen", None, persistent=False)
        if given is not None:
            self.clip.visual = nn.Identity()
        if hasattr(self.clip, "text_decoder"):
            self.clip.text_decoder = nn.Identity()  # CoCa's captioner: nothing here reads it
        self.tokenizer: Callable[[list[str]], Tensor] = opened.tokenizer
        self._pad_id = opened.pad_id
        self._architecture = opened.architecture
        self._hf_text = hasattr(getattr(self.clip, "text", None), "pooler")
        # CoCa's last norm acts after its attention pool and does not fit the tokens
        self._normalize = getattr(self.clip.visual, "attn_pool", None) is None
        self._freeze(freeze)
        self.image_size, self._mean, self._std = (0, _NONE, _NONE) if given else image_mean_std(self.clip)
        if adapters is not None:
            towers: dict[str, set[str]] = {part: set(self._tower(part)) for part in adapters.towers}
            lora.add_adapters(self.clip, adapters, towers, self._probe)
            self.train(self.training)
        if activation_checkpointing:
            self._checkpoint_activations()
        self._probe()

    @property
    def image_frozen(self) -> bool:
        """True when no parameter of the image tower is trained: its features may be computed once."""
        return not any(p.requires_grad for p in self._tower("image").values())

    @property
    def text_frozen(self) -> bool:
        """True when no parameter of the text tower is trained."""
        return not any(p.requires_grad for p in self._tower("text").values())

    def encode_images(self, pixels: Tensor) -> ImageFeatures:
        """``pixels [U, 3, S, S]`` (preprocessed) to ``tokens [U, N, Dv]`` and ``pooled [U, D]``, not normalised.

        Raises ``UserError`` where the features of images are given.
        """
        self._need_pictures()
        with torch.no_grad() if self.image_frozen else contextlib.nullcontext():
            out = self.clip.forward_intermediates(  # type: ignore[operator]
                image=pixels,
                image_indices=self._depths,
                image_output_fmt="NCHW",  # the one format that every tower offers
                normalize=False,
                normalize_intermediates=self._normalize,
            )
        *levels, tokens = (self._tokens_of(depth) for depth in out["image_intermediates"])
        return ImageFeatures(tokens, out["image_features"], tuple(levels))

    def _tokens_of(self, depth: Tensor) -> Tensor:
        """A map ``[U, D_k, S, S]`` of the tower as tokens ``[U, N_k, D_k]``, pooled to ``model.tokens``."""
        tokens = depth.flatten(2).transpose(1, 2)
        return tokens if self._tokens is None else pooled_to(tokens, self._tokens)

    def encode_texts(self, ids: Tensor) -> TextFeatures:
        """Token ids ``[B, L]`` to ``words [B, L, Dt]``, ``pooled [B, D]`` (not normalised) and ``mask [B, L]``.

        The mask is true on everything but padding, start and end marks included, and in each row at least once.
        """
        mask = ids != self._pad_id
        mask[:, :1] = True
        if not len(ids):
            empty = torch.zeros(0, device=ids.device)
            return TextFeatures(empty.view(0, ids.shape[1], self.word_width), empty.view(0, self.embed_dim), mask)
        with torch.no_grad() if self.text_frozen else contextlib.nullcontext():
            words, pooled = self._hf_texts(ids) if self._hf_text else self._native_texts(ids)
            if self.widen is not None:
                pooled = nn.functional.linear(pooled, self.widen)
        return TextFeatures(words, pooled, mask)

    def without_padding(self, ids: Tensor) -> Tensor:
        """Token ids ``[B, L]`` without the last columns that are padding in every row, at least one column is left.

        As they are where a text tower reads padding too: only Hugging Face towers are told what it is.
        """
        if not self._hf_text or not len(ids):
            return ids
        real = (ids != self._pad_id).any(0).nonzero()
        return ids[:, : int(real.max()) + 1 if len(real) else 1]

    def images(self, x: ImageInput) -> ImageFeatures:
        """Encode pixels; pass features on, in the precision of the parameters."""
        if isinstance(x, ImageFeatures):
            levels = tuple(level.to(self._dtype) for level in x.levels)
            return ImageFeatures(x.tokens.to(self._dtype), x.pooled.to(self._dtype), levels)
        return self.encode_images(x)

    def texts(self, x: TextInput) -> TextFeatures:
        """Encode token ids; pass features on, in the precision of the parameters."""
        if isinstance(x, TextFeatures):
            return TextFeatures(x.words.to(self._dtype), x.pooled.to(self._dtype), x.mask)
        return self.encode_texts(x)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.clip.parameters()).dtype  # fp32, unless an engine holds all parameters in bf16

    def transform(self, target_pad: float) -> ImageTransform:
        """Image to pixels ``[3, S, S]`` with the size, mean and standard deviation of the tower's pretraining.

        Raises ``UserError`` where the features of images are given.
        """
        from neucore_xl.data.images import ImageTransform

        self._need_pictures()
        return ImageTransform(self.image_size, self._mean, self._std, target_pad)

    def fingerprint(self, part: Part = "all") -> str:
        """SHA-256 (hex) of the architecture and of all weights, or of one tower's: what a feature cache is keyed by.

        Adapters do not enter: it is that of the model without them. Given features enter in the place of the tower
        that they replace, and the number of tokens where an image's tokens are pooled.
        """
        salt = json.dumps([self._architecture, self.image_size, part, *self._changes(part)], sort_keys=True)
        state = lora.base_state(self.clip)
        return parameters_hash({k: v for k, v in state.items() if part == "all" or _part_of(k) == part}, salt)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, except for what is frozen."""
        super().train(mode)
        if mode:
            freezing.keep_frozen_in_eval(self)
        return self

    def _changes(self, part: Part) -> list[str | int]:
        """What else decides the features of ``part``; nothing where a model is taken as it is."""
        found: list[str | int] = []
        if self.given is not None and part != "text":
            found.append(self.given.folder.digest)
        if self.widen is not None and part != "image":
            found.append(f"width {self.embed_dim}")
        if self.given is None and self._tokens is not None and part == "image":
            found.append(f"tokens {self._tokens}")
        return found

    def _need_pictures(self) -> None:
        if self.given is not None:
            raise UserError(
                f"this system has no image tower, it reads features by image name (backbone.features="
                f"{self.given.folder.path}): pictures can be encoded by a system with an image tower alone."
            )

    def _native_texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        out = self.clip.forward_intermediates(  # type: ignore[operator]
            text=ids, text_indices=1, normalize=False, normalize_intermediates=True
        )
        return out["text_intermediates"][-1], out["text_features"]

    def _hf_texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        text = self.clip.text
        attention = (ids != self._pad_id).long()
        # transformers asks whether anything is masked, which shapes (meta or fake tensors) cannot answer
        given = attention if type(ids) is Tensor and not ids.is_meta else None
        out = text.transformer(input_ids=ids, attention_mask=given)  # type: ignore[union-attr, operator]
        return out.last_hidden_state, text.proj(text.pooler(out, attention))  # type: ignore[union-attr, operator]

    def _tower(self, part: Part) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.clip.named_parameters() if _part_of(name) == part}

    def _freeze(self, freeze: Literal["all", "none"] | FreezeBlocks) -> None:
        for name, parameter in self.clip.named_parameters():
            if freeze == "all" or _part_of(name) == "all":  # CLIP's own scale and bias are never used
                parameter.requires_grad_(False)
        if isinstance(freeze, FreezeBlocks):
            visual, text = self.clip.visual, getattr(self.clip, "text", self.clip)
            for part, tower, groups, blocks in (
                ("image", visual, freezing.image_groups, freeze.image),
                ("text", text, freezing.text_groups, freeze.text),
            ):
                if blocks and not (part == "image" and self.given):
                    freezing.freeze_blocks(self._tower(part).values(), groups(tower), blocks)  # type: ignore[arg-type]
        self.train(self.training)

    def _checkpoint_activations(self) -> None:
        # tower by tower: CoCa's own switch would reach for the captioner that was taken off
        if not self.image_frozen:
            self.clip.visual.set_grad_checkpointing(True)  # type: ignore[union-attr, operator]
        if not self.text_frozen:
            if hasattr(self.clip, "text"):
                self.clip.text.set_grad_checkpointing(True)  # type: ignore[union-attr, operator]
            else:
                self.clip.transformer.grad_checkpointing = True  # type: ignore[union-attr]

    def _probe(self) -> None:
        training = self.training
        self.eval()
        with torch.no_grad():
            texts = self.encode_texts(self.tokenizer(["a"]))
            if self.given is None:
                blank = torch.zeros(1, 3, self.image_size, self.image_size)
                if isinstance(self._depths, int) and self._depths > 1:
                    self._depths = self._spread(self._depths, blank)
                images = self.encode_images(blank)
        self.word_width, text_width = texts.words.shape[2], texts.pooled.shape[1]
        if self.given is not None:
            self._join(self.given, text_width)
        else:
            self.n_tokens, self.token_width = images.tokens.shape[1:]
            self.token_counts = tuple(level.shape[1] for level in (*images.levels, images.tokens))
            self.token_widths = tuple(level.shape[2] for level in (*images.levels, images.tokens))
            self.embed_dim = images.pooled.shape[1]
            if text_width != self.embed_dim:
                raise UserError(
                    f"The backbone's towers do not share a space: images have {self.embed_dim} dimensions, "
                    f"texts {text_width}; correct embed_dim or a projection in its config."
                )
        self.train(training)

    def _join(self, given: GivenImages, text_width: int) -> None:
        self.n_tokens, self.token_width = given.n_tokens, given.token_width
        self.token_counts, self.token_widths = (self.n_tokens,), (self.token_width,)
        self.embed_dim = max(text_width, given.pooled_width)
        given.widen_to(self.embed_dim)
        if text_width < self.embed_dim:
            matrix = orthonormal(self.embed_dim, text_width)
            self.widen = matrix.to(next(self.clip.parameters()).device)

    def _spread(self, levels: int, blank: Tensor) -> list[int]:
        """The depths to read, by their numbers in the tower."""
        maps = self.clip.visual.forward_intermediates(  # type: ignore[union-attr, operator]
            blank, indices=None, intermediates_only=True, output_fmt="NCHW"
        )["image_intermediates"]
        count, levels = len(maps), min(levels, len(maps))
        if len({m.shape[-1] for m in maps}) > 1:
            return list(range(count - levels, count))
        return [(k + 1) * count // levels - 1 for k in range(levels)]


def _part_of(name: str) -> Part:
    """The tower that a parameter of an open_clip model belongs to; `all`: neither (scale and bias)."""
    if name.startswith("visual."):
        return "image"
    return "all" if name.split(".")[0] in ("logit_scale", "logit_bias") else "text"
