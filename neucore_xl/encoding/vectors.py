"""One unit vector for each of very many pictures, which is all that a search for similar ones needs.

The feature cache keeps every token of a picture: for a million pictures of ViT-L/14 that is a terabyte, their vectors
are three gigabytes. They lie in a store of their own below the same cache folder, by the same identity of a picture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neucore_xl import files
from neucore_xl.config.schema import Settings
from neucore_xl.encoding.cache import cache_root, fingerprint, image_key
from neucore_xl.encoding.filling import fill
from neucore_xl.encoding.inputs import PixelInputs, decoded_or_not
from neucore_xl.encoding.store import Store
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.parallel.world import ALONE
from neucore_xl.progress import Advance, track

VERSION = 1  # raised whenever the same picture gives another vector
PORTION = 4096  # pictures of a shard, which is what a kill loses at most
_ROWS = 4096  # copied at a time


@dataclass(frozen=True)
class _Chunk:
    vector: Tensor  # [n, D], unit length


class PictureVectors:
    """The pooled features of a backbone's image tower at unit length, of the pictures ``paths`` (name → file).

    The backbone is put on ``device``. ``unreadable`` (name → why) fills as pictures are met that are not there or
    cannot be decoded.
    """

    def __init__(self, settings: Settings, backbone: Backbone, paths: Mapping[str, Path], device: torch.device) -> None:
        transform = backbone.transform(settings.data.target_pad)
        self._settings, self._backbone, self._device = settings, backbone.to(device).eval(), device
        self._paths, self._transform = paths, transform
        names = fingerprint("vectors", VERSION, backbone.fingerprint("image"), transform.fingerprint())
        self.store = Store(cache_root(settings.train) / "features" / f"vectors-{names}")
        self.keys: dict[str, str] = {}  # of the names that can be read
        self.unreadable: dict[str, str] = {}
        for name, path in paths.items():
            try:
                self.keys[name] = image_key(path)
            except UserError as error:
                self.unreadable[name] = str(error)

    def fill(self) -> None:
        """Compute what the store lacks, a portion at a time; afterwards ``keys`` holds the readable pictures alone.

        Raises ``UserError`` where the backbone gives something else than finite numbers, or the disk is full.
        """
        by_key = {key: name for name, key in self.keys.items()}
        keys = list(by_key)
        missing = len(self.store.missing(keys))
        failed: dict[str, str] = {}
        with track("picture vectors", len(keys), done=len(keys) - missing, shown=missing > 0) as advance:

            def encode(wanted: list[str]) -> Iterator[tuple[list[str], _Chunk]]:
                return self._encode([key for key in wanted if key not in failed], by_key, failed, advance)

            for start in range(0, len(keys), PORTION):
                part = keys[start : start + PORTION]
                fill(self.store, part, encode, _joined, ALONE, self._settings.evaluation.batch_size)
        self.unreadable |= {name: failed[key] for name, key in self.keys.items() if key in failed}
        self.keys = {name: key for name, key in self.keys.items() if key not in failed}

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """The vectors [N, D] float32 of ``names``, in a file without a name that the system reads and drops as it must.

        Raises ``UserError`` when the disk is full.
        """
        folder, width = self.store.folder, self._backbone.embed_dim
        with files.disk_errors("laying out vectors", folder), tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, len(names), _ROWS):
                rows = [self.store.row(self.keys[name]) for name in names[start : start + _ROWS]]
                file.write(np.stack([arrays["vector"][row] for arrays, row in rows]).tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(len(names), width))

    @torch.no_grad()
    def _encode(
        self, keys: Sequence[str], by_key: Mapping[str, str], failed: dict[str, str], advance: Advance
    ) -> Iterator[tuple[list[str], _Chunk]]:
        size, workers = self._settings.evaluation.batch_size, self._settings.data.workers
        names = [by_key[key] for key in keys]
        # of these alone: processes that decode are given the paths
        pixels_of = PixelInputs({name: self._paths[name] for name in names}, self._transform, self._backbone.tokenizer)
        batches = decoded_or_not(pixels_of, names, size, workers) if names else iter(())
        for number, (pixels, errors) in enumerate(batches):
            part = keys[number * size : (number + 1) * size]
            failed |= {part[i]: str(error) for i, error in errors.items()}
            good = [key for i, key in enumerate(part) if i not in errors]
            if good:
                pooled = self._backbone.encode_images(pixels.to(self._device)).pooled.float()
                vectors = torch.nn.functional.normalize(pooled, dim=-1).cpu()
                if not vectors.isfinite().all():
                    name = by_key[good[int((~vectors.isfinite()).any(1).nonzero()[0])]]
                    raise UserError(f"the backbone gives no finite feature for picture {name}: check its weights.")
                yield good, _Chunk(vectors)
            advance(len(part))


def _joined(parts: list[_Chunk]) -> dict[str, np.ndarray]:
    return {"vector": torch.cat([part.vector for part in parts]).numpy()}
