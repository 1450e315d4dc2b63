"""The feature cache: what frozen towers say about images and texts, computed once and memory-mapped ever after.

Layout under the cache folder: one folder per store, named after what fixes its content (``images-<hash of image
tower and transform>``, ``texts-<hash of text tower>``), in it immutable shards ``shard-<n>-<random>/`` of plain
``.npy`` arrays and a ``shard.json``. A shard is written under a temporary name and renamed, so it exists completely
or not at all; one whose files do not have the recorded sizes is thrown away and recomputed. A second split adds
shards. Several processes fill a store together, each with shards of its own.

An image is identified by its resolved path, size in bytes and modification time (ns): reading tens of thousands of
files at every start only to hash them would cost more than it protects from. A replaced or edited image is
recomputed; a copied data set is computed again. A text is identified by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neucore_xl.config.schema import TrainSettings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.errors import UserError
from neucore_xl.parallel.together import ALONE
from neucore_xl.parallel.world import World
from neucore_xl.runs import files
from neucore_xl.runs.filling import fill

log = logging.getLogger(__name__)

FORMAT = 1


def cache_root(settings: TrainSettings) -> Path:
    """Where features and what spaCy says of sentences are kept: ``train.cache_dir``, else the user's cache folder."""
    return settings.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neucore-xl"


def image_key(path: Path) -> str:
    """The identity of an image file: resolved path, size and modification time. Raises ``UserError`` if missing."""
    try:
        resolved = path.resolve(strict=True)
        stat = resolved.stat()
    except OSError as error:
        raise UserError(
            f"image {path} cannot be read ({error.strerror}): put it there or correct data.root."
        ) from error
    return f"{resolved}|{stat.st_size}|{stat.st_mtime_ns}"


def fingerprint(*parts: Any) -> str:
    """20 hexadecimal digits over the text of ``parts``."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).hexdigest()[:20]


class Store:
    """One folder of immutable shards: keys to rows of named arrays. Picklable; maps are reopened after unpickling.

    A shard's arrays share their first dimension, but for those named in ``ragged``: these are stored flat, rows of
    key i at ``offsets[i]:offsets[i + 1]``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[str, int]] = {}
        self._known: set[str] = set()
        self._maps: dict[str, dict[str, np.ndarray]] = {}
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self, announced: Iterable[str] = ()) -> None:
        """Take in shards that were written since (by this process or another).

        Shards ``announced`` by name are looked for even where the folder's listing does not show them yet: network
        file systems keep listings for up to a minute.
        """
        listed = {shard.name for shard in self.folder.glob("shard-*")}
        fresh = {name for name in announced if (self.folder / name / "shard.json").exists()}
        for shard in (self.folder / name for name in sorted(listed | fresh)):
            if shard.name in self._known:
                continue
            keys = _complete_shard(shard)
            if keys is None:
                log.warning("feature cache: %s is incomplete and is computed again", shard)
                continue
            self._known.add(shard.name)
            self._rows.update((key, (shard.name, row)) for row, key in enumerate(keys))

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct ``keys`` that are not stored, in first-seen order."""
        return [key for key in dict.fromkeys(keys) if key not in self._rows]

    def row(self, key: str) -> tuple[dict[str, np.ndarray], int]:
        """The arrays of the key's shard (memory-mapped) and its row in them; raises ``KeyError``."""
        shard, row = self._rows[key]
        arrays = self._maps.get(shard)
        if arrays is None:
            arrays = {p.stem: np.load(p, mmap_mode="r") for p in (self.folder / shard).glob("*.npy")}
            self._maps[shard] = arrays
        return arrays, row

    def append(self, keys: Sequence[str], arrays: Mapping[str, np.ndarray]) -> str:
        """Write one shard and return its name; raises ``UserError`` when the disk is full, with the store as before."""
        target = self.folder / f"shard-{len(self._known):05d}-{uuid.uuid4().hex[:8]}"
        with files.disk_errors("writing features", self.folder), files.new_folder(target) as folder:
            for name, array in arrays.items():
                with files.plain_writer(folder / f"{name}.npy") as file:
                    np.save(file, array, allow_pickle=False)
            sizes = {p.name: p.stat().st_size for p in folder.glob("*.npy")}
            head = {"format": FORMAT, "keys": list(keys), "bytes": sizes}
            (folder / "shard.json").write_text(json.dumps(head), encoding="utf-8")
        self.refresh([target.name])
        return target.name

    def sweep(self) -> None:
        """Delete leftovers and incomplete shards; call only while holding the store's lock."""
        files.remove_leftovers(self.folder)
        for shard in self.folder.glob("shard-*"):
            if shard.name not in self._known and _complete_shard(shard) is None:
                shutil.rmtree(shard, ignore_errors=True)


def _complete_shard(shard: Path) -> list[str] | None:
    """The keys of a shard whose files are all there in full length, else None."""
    try:
        head = json.loads((shard / "shard.json").read_text(encoding="utf-8"))
        whole = head["format"] == FORMAT and all(
            (shard / name).stat().st_size == size for name, size in head["bytes"].items()
        )
        return list(head["keys"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class FeatureCache:
    """The stores of one image tower with one transform and of one text tower, each named by fingerprints.

    ``fill_*`` compute what is missing, under a lock that a second run waits for; ``*_rows`` read.
    """

    def __init__(self, folder: Path, *, image_tower: str, transform: str, text_tower: str) -> None:
        self.folder = folder
        self.images = Store(folder / f"images-{fingerprint(FORMAT, image_tower, transform)}")
        self.texts = Store(folder / f"texts-{fingerprint(FORMAT, text_tower)}")

    def image_rows(self, keys: Sequence[str]) -> ImageFeatures:
        """Features of the images with identities ``keys``: tokens [U, N, Dv], pooled [U, D]; ``KeyError`` if absent."""
        rows = [self.images.row(key) for key in keys]
        tokens = np.stack([arrays["tokens"][row] for arrays, row in rows])
        pooled = np.stack([arrays["pooled"][row] for arrays, row in rows])
        return ImageFeatures(torch.from_numpy(tokens), torch.from_numpy(pooled))

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
    return {
        "tokens": torch.cat([p.tokens for p in parts]).float().cpu().numpy(),
        "pooled": torch.cat([p.pooled for p in parts]).float().cpu().numpy(),
    }


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
