"""The feature cache: what frozen towers say about images and texts is computed once and read from disk afterwards.

Under the cache folder lies one store (see ``store``) for each thing that fixes the features, and it is named after
that: ``images-<hash of image tower and transform>``, ``texts-<hash of text tower>``. A second split adds to the
store of the first.

An image is identified by its resolved path, size in bytes and modification time (ns): reading tens of thousands of
files at every start only to hash them would cost more than it protects from. A replaced or edited image is
recomputed; a copied data set is computed again. A text is identified by itself.

What is on the disk is compared with its checksums once in every start, when it is first asked for, and computed
again where it was damaged.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neucore_xl.config.schema import TrainSettings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.encoding.filling import fill
from neucore_xl.encoding.shards import FORMAT
from neucore_xl.encoding.store import Store
from neucore_xl.errors import UserError
from neucore_xl.parallel.world import ALONE, World

log = logging.getLogger(__name__)
_LEVEL = "level-{}"  # the array of the tokens of an earlier depth


def cache_root(settings: TrainSettings) -> Path:
    """Where features and what spaCy says of sentences are kept: ``train.cache_dir``, else the user's cache folder."""
    return settings.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neucore-xl"


def image_key(path: Path) -> str:
    """The identity of an image file: resolved path, size and modification time. Raises ``UserError`` if missing."""
    try:
        stat = path.stat()  # says of a loop of links what it is, which resolving does not before Python 3.13
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise UserError(
            f"image {path} cannot be read ({error.strerror}): put it there or correct data.root."
        ) from error
    name = str(resolved).encode("utf-8", "backslashreplace").decode()  # not every name of a file is text
    return f"{name}|{stat.st_size}|{stat.st_mtime_ns}"


def fingerprint(*parts: Any) -> str:
    """20 hexadecimal digits over the text of ``parts``."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).hexdigest()[:20]


class FeatureCache:
    """The stores of one image tower with one transform and of one text tower, each named by fingerprints.

    ``levels`` depths of the image tower are stored; those of another number are other features.

    ``fill_*`` compute what is missing or damaged, under a lock that a second run waits for; ``*_rows`` read.
    """

    def __init__(self, folder: Path, *, image_tower: str, transform: str, text_tower: str, levels: int = 1) -> None:
        self.folder = folder
        depths = [f"{levels} levels"] if levels > 1 else []
        self.images = Store(folder / f"images-{fingerprint(FORMAT, image_tower, transform, *depths)}")
        self._levels = [_LEVEL.format(k) for k in range(levels - 1)]
        self.texts = Store(folder / f"texts-{fingerprint(FORMAT, text_tower)}")

    def image_rows(self, keys: Sequence[str]) -> ImageFeatures:
        """Features of the images with identities ``keys``: tokens [U, N, Dv], pooled [U, D], and earlier depths.

        ``KeyError`` if absent.
        """
        rows = [self.images.row(key) for key in keys]
        tokens, pooled, *levels = (
            torch.from_numpy(np.stack([arrays[name][row] for arrays, row in rows]))
            for name in ("tokens", "pooled", *self._levels)
        )
        return ImageFeatures(tokens, pooled, tuple(levels))

    def text_rows(self, texts: Sequence[str]) -> TextFeatures:
        """Features of ``texts``: words [B, L, Dt] zero-padded to the longest, pooled [B, D], mask [B, L]."""
        rows = [self.texts.row(text) for text in texts]
        spans = [(int(a["offsets"][r]), int(a["offsets"][r + 1])) for a, r in rows]
        length = max(end - start for start, end in spans)
        first = rows[0][0]["words"]
        words = np.zeros((len(rows), length, first.shape[1]), first.dtype)
        mask = np.zeros((len(rows), length), bool)
        for i, ((arrays, _), (start, end)) in enumerate(zip(rows, spans, strict=True)):
            words[i, : end - start] = arrays["words"][start:end]
            mask[i, : end - start] = arrays["mask"][start:end]
        pooled = np.stack([arrays["pooled"][row] for arrays, row in rows])
        return TextFeatures(torch.from_numpy(words), torch.from_numpy(pooled), torch.from_numpy(mask))

    def fill_images(
        self,
        keys: Sequence[str],
        encode: Callable[[list[str]], Iterator[tuple[list[str], ImageFeatures]]],
        *,
        world: World = ALONE,
        batch: int = 1,
    ) -> int:
        """Store the images ``keys``; ``encode(missing)`` yields (keys, features) chunks. Returns how many were new.

        Every rank of ``world`` gives as many keys in the same order, and each computes a share of what is missing,
        in whole runs of ``batch`` keys: with that many a chunk, the features are those that one process computes.
        """
        return fill(self.images, keys, encode, _image_arrays, world, batch)

    def fill_texts(
        self,
        texts: Sequence[str],
        encode: Callable[[list[str]], Iterator[tuple[list[str], TextFeatures]]],
        *,
        world: World = ALONE,
        batch: int = 1,
    ) -> int:
        """Store ``texts``; ``encode(missing)`` yields (texts, features) chunks. Returns how many were new.

        ``world`` and ``batch`` are those of ``fill_images``.
        """
        return fill(self.texts, texts, encode, _text_arrays, world, batch)


def _image_arrays(parts: list[ImageFeatures]) -> dict[str, np.ndarray]:
    named = {"tokens": [p.tokens for p in parts], "pooled": [p.pooled for p in parts]}
    for k, level in enumerate(zip(*(p.levels for p in parts), strict=True)):
        named[_LEVEL.format(k)] = list(level)
    return {name: torch.cat(tensors).float().cpu().numpy() for name, tensors in named.items()}


def _text_arrays(parts: list[TextFeatures]) -> dict[str, np.ndarray]:
    """Words and mask up to each text's last real word, flat, with their offsets."""
    words, masks, lengths = [], [], []
    for part in parts:
        for row, mask in zip(part.words, part.mask, strict=True):
            length = int(mask.nonzero().max()) + 1 if mask.any() else 0
            words.append(row[:length])
            masks.append(mask[:length])
            lengths.append(length)
    return {
        "words": torch.cat(words).float().cpu().numpy(),
        "mask": torch.cat(masks).cpu().numpy(),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "pooled": torch.cat([p.pooled for p in parts]).float().cpu().numpy(),
    }
