"""From names and sentences to what a model takes: pixels and token ids, or the stored features of frozen towers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, ImageInput, Inputs, TextFeatures, TextInput, move
from neucore_xl.data.features.folder import FeatureFolder
from neucore_xl.data.triplets import Split
from neucore_xl.encoding.cache import FeatureCache, cache_root, image_key
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.models.given import GivenImages
from neucore_xl.parallel.world import ALONE, World
from neucore_xl.progress import track


class PixelInputs:
    """Decode and tokenise: nothing is stored. Picklable, so that loader workers can hold it."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[list[str]], Tensor],
    ) -> None:
        self.paths = dict(paths)
        self.transform = transform
        self.tokenizer = tokenizer

    def images(self, names: Sequence[str]) -> Tensor:
        """Pixels [U, 3, H, W], preprocessed. Raises ``UserError`` naming the file that cannot be decoded."""
        from neucore_xl.data.images import load_rgb

        assert self.transform is not None, "these inputs were made for texts alone"
        return torch.stack([self.transform(load_rgb(self.path(name))) for name in names])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Token ids [B, L] int64."""
        return self.tokenizer(list(texts))

    def path(self, name: str) -> Path:
        """Where image ``name`` lies; raises ``UserError`` for a name of no split."""
        try:
            return self.paths[name]
        except KeyError:
            raise UserError(f"image {name!r} occurs in no image_splits file of the data that was opened.") from None


class CachedInputs:
    """Features of frozen towers by name, and ``pixels`` for the tower that is trained (if any).

    ``keys`` maps an image name to its identity in the cache. ``cache_images``/``cache_texts`` say which side is
    stored. Picklable; memory maps are reopened lazily in every process.
    """

    def __init__(
        self,
        cache: FeatureCache,
        pixels: PixelInputs,
        keys: Mapping[str, str],
        *,
        cache_images: bool = True,
        cache_texts: bool = True,
    ) -> None:
        self.cache = cache
        self.pixels = pixels
        self.keys = dict(keys)
        self.cache_images = cache_images
        self.cache_texts = cache_texts

    def images(self, names: Sequence[str]) -> ImageInput:
        """Stored ``ImageFeatures`` of U rows, or pixels [U, 3, H, W] where the image tower is trained.

        Raises ``KeyError`` for an image that was not announced when the cache was filled.
        """
        if not self.cache_images:
            return self.pixels.images(names)
        try:
            return self.cache.image_rows([self.keys[name] for name in names])
        except KeyError as error:
            raise KeyError(f"image {error} was not announced when the feature cache was filled") from None

    def texts(self, texts: Sequence[str]) -> TextInput:
        """Stored ``TextFeatures`` of B rows, or token ids [B, L] where the text tower is trained.

        Raises ``KeyError`` for a text that was not announced when the cache was filled.
        """
        if not self.cache_texts:
            return self.pixels.texts(texts)
        try:
            return self.cache.text_rows(list(texts))
        except KeyError as error:
            raise KeyError(f"text {error} was not announced when the feature cache was filled") from None


class GivenInputs:
    """Image features that were given, by name, and the texts of other inputs; picklable."""

    def __init__(self, given: GivenImages, others: Inputs) -> None:
        self.given = given
        self.others = others

    def images(self, names: Sequence[str]) -> ImageFeatures:
        """``ImageFeatures`` of U rows; raises ``KeyError`` for an image that has none."""
        return self.given.images(names)

    def texts(self, texts: Sequence[str]) -> TextInput:
        """What the others give."""
        return self.others.texts(texts)


def check_features(settings: Settings, splits: Sequence[Split], without_gallery: Collection[str] = ()) -> None:
    """Raise ``UserError`` where ``backbone.features`` is no whole folder or does not cover ``splits``.

    The sentence says of how many images there are none, and the first three names. Of splits named in
    ``without_gallery`` the images of triplets alone are needed.
    """
    if settings.backbone.features is not None:
        _check_names(GivenImages(FeatureFolder(settings.backbone.features)), splits, without_gallery)


def _check_names(given: GivenImages, splits: Sequence[Split], without_gallery: Collection[str]) -> None:
    for split in splits:
        given.check(needed_images(split, split.name not in without_gallery), f"split {split.name}")


def image_paths(splits: Sequence[Split]) -> dict[str, Path]:
    """Name to path over all images of ``splits``; raises ``UserError`` if one name means two files."""
    paths: dict[str, Path] = {}
    for split in splits:
        for gallery in split.galleries.values():
            for name, path in gallery.paths.items():
                if paths.setdefault(name, path) != path:
                    raise UserError(
                        f"image name {name!r} means two files, {paths[name]} and {path}: rename one of them."
                    )
    return paths


def make_inputs(
    settings: Settings,
    backbone: Backbone,
    splits: Sequence[Split],
    extra_texts: Sequence[str] = (),
    *,
    without_gallery: Collection[str] = (),
    device: torch.device | None = None,
    world: World = ALONE,
) -> Inputs:
    """Inputs over the images and sentences of ``splits`` and ``extra_texts`` (phrases and concept names).

    Frozen towers are computed now, as far as the cache lacks them, on ``device`` (None: where the backbone is). Of
    splits named in ``without_gallery`` only the images of triplets are: a training split is not ranked, and its
    gallery is large. All ranks of ``world`` call it alike and share the work; it runs the bare backbone, so before
    ZeRO-3 shards it. Raises ``UserError`` for an image that is not there or cannot be decoded; where the backbone has
    given features, for one that has none, and for a damaged file of them.
    """
    given = backbone.given
    if given is not None:
        with world.agreed():
            _check_names(given, splits, without_gallery)
        world.on_main(given.folder.check)
    with world.agreed():
        transform = None if given else backbone.transform(settings.data.target_pad)
        pixels = PixelInputs(image_paths(splits), transform, backbone.tokenizer)
        cache_images, cache_texts = backbone.image_frozen and not given, backbone.text_frozen
        if not settings.train.cache_features:
            cache_images = cache_texts = False
        keys: dict[str, str] = {}
        if cache_images:
            names = [name for split in splits for name in needed_images(split, split.name not in without_gallery)]
            keys = {name: image_key(pixels.path(name)) for name in dict.fromkeys(names)}
    if not (cache_images or cache_texts):
        return GivenInputs(given, pixels) if given else pixels
    cache = FeatureCache(
        cache_root(settings.train) / "features",
        image_tower=backbone.fingerprint("image") if cache_images else "",
        transform=transform.fingerprint() if transform else "",
        text_tower=backbone.fingerprint("text") if cache_texts else "",
        levels=len(backbone.token_widths),
    )
    size = settings.evaluation.batch_size
    device = device or device_of(backbone)
    if cache_images:
        by_key = {key: name for name, key in keys.items()}
        cache.fill_images(
            list(keys.values()),
            lambda missing: _encode_images(
                backbone, pixels, missing, by_key, size, settings.data.workers, device, world.is_main
            ),
            world=world,
            batch=size,
        )
    if cache_texts:
        texts = [t.text for split in splits for t in split.triplets]
        cache.fill_texts(
            ["", *texts, *extra_texts],
            lambda missing: _encode_texts(backbone, missing, size, device, world.is_main),
            world=world,
            batch=size,
        )
    cached = CachedInputs(cache, pixels, keys, cache_images=cache_images, cache_texts=cache_texts)
    return GivenInputs(given, cached) if given else cached


def needed_images(split: Split, gallery: bool) -> tuple[str, ...]:
    """All images of ``split``, or those of its triplets alone, in first-seen order."""
    if gallery:
        return split.image_names
    named = ((t.reference, *((t.target,) if t.target else ()), *t.subset) for t in split.triplets)
    return tuple(dict.fromkeys(name for names in named for name in names))


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the parameters of ``module`` are; the CPU where it has none."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def decoded(pixels: PixelInputs, names: Sequence[str], batch_size: int, workers: int) -> Iterator[Tensor]:
    """Pixels [b, 3, H, W] of the images ``names`` in their order, ``batch_size`` at a time, read ahead.

    ``workers`` processes decode; 0, or a single batch, decodes here. Raises ``UserError`` naming the first file that
    cannot be decoded.
    """
    for batch, errors in decoded_or_not(pixels, names, batch_size, workers):
        for error in errors.values():
            raise error
        yield batch


def decoded_or_not(
    pixels: PixelInputs, names: Sequence[str], batch_size: int, workers: int
) -> Iterator[tuple[Tensor, dict[int, UserError]]]:
    """As ``decoded``, but a file that cannot be decoded stops nothing.

    Yields, of every ``batch_size`` names, the pixels of those that can be decoded, and the positions of the others
    among them with their errors.
    """
    yield from torch.utils.data.DataLoader(
        _Pictures(pixels, names),
        batch_size=batch_size,
        num_workers=workers if len(names) > batch_size else 0,
        collate_fn=_apart,
        worker_init_fn=_one_thread,
    )


class _Pictures(torch.utils.data.Dataset):
    """One image per item; an unreadable file is returned as its error, since a worker would wrap it in a trace."""

    def __init__(self, pixels: PixelInputs, names: Sequence[str]) -> None:
        self.pixels = pixels
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor | UserError:
        try:
            return self.pixels.images([self.names[index]])[0]
        except UserError as error:
            return error


def _apart(items: list[Tensor | UserError]) -> tuple[Tensor, dict[int, UserError]]:
    """The pixels of a batch, stacked, and its errors by position."""
    pixels = [item for item in items if isinstance(item, Tensor)]
    errors = {i: item for i, item in enumerate(items) if isinstance(item, UserError)}
    return torch.stack(pixels) if pixels else torch.empty(0), errors


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # threads of several decoders would fight over the cores


def _encode_images(
    backbone: Backbone,
    pixels: PixelInputs,
    keys: list[str],
    by_key: Mapping[str, str],
    batch_size: int,
    workers: int,
    device: torch.device,
    shown: bool,
) -> Iterator[tuple[list[str], ImageFeatures]]:
    names, done = [by_key[key] for key in keys], 0
    with on_device(backbone, device), track("image features", len(keys), shown=shown) as advance:
        for batch in decoded(pixels, names, batch_size, workers):
            with torch.no_grad():
                features = backbone.encode_images(batch.to(device))
            yield keys[done : done + len(batch)], move(features, "cpu")
            done += len(batch)
            advance(len(batch))


def _encode_texts(
    backbone: Backbone, texts: list[str], batch_size: int, device: torch.device, shown: bool
) -> Iterator[tuple[list[str], TextFeatures]]:
    with on_device(backbone, device), track("text features", len(texts), shown=shown) as advance:
        for start in range(0, len(texts), batch_size):
            chunk = texts[start : start + batch_size]
            with torch.no_grad():
                f = backbone.encode_texts(backbone.without_padding(backbone.tokenizer(chunk)).to(device))
            yield chunk, TextFeatures(f.words.cpu(), f.pooled.cpu(), f.mask.cpu())
            advance(len(chunk))


class on_device:
    """The backbone in evaluation mode on ``device``, put back as it was at the end."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone = backbone
        self.device = device

    def __enter__(self) -> None:
        self.home = device_of(self.backbone)
        self.training = self.backbone.training
        self.backbone.to(self.device).eval()

    def __exit__(self, *exc: Any) -> None:
        self.backbone.to(self.home).train(self.training)
