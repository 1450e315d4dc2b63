"""From a picture file of any kind to normalised pixels."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import one_line, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

# Decoded within Pillow and the libraries it brings. Others are never tried: Pillow hands EPS to Ghostscript, and WMF
# to Windows, and every further decoder is one more that a hostile file can reach. AVIF: where this Pillow has it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_SIDE = 16_384  # pixels: what is long and thin is padded almost to a square, at 4 bytes a pixel up to 1 GiB
_BAND = 1 << 22  # pixels that a conversion widens at a time
_WIDE_MODES = ("I", "F")  # and every "I;16…": more than eight bits per channel, which Pillow would clip to 255


def load_rgb(path: Path | str) -> Image.Image:
    """The picture in ``path`` as 8-bit RGB, upright, whatever mode the file has.

    Transparency is laid on white, more than eight bits are scaled down, palettes and CMYK are converted,
    the EXIF orientation is applied; of an animation the first frame is taken. Raises ``UserError`` naming the file
    when it is missing, empty, damaged, in none of the ``FORMATS``, or too large to be read safely.
    """
    return decode_rgb(picture_bytes(path), path)[0]


def picture_bytes(path: Path | str) -> bytes:
    """The content of a picture file; raises ``UserError`` where there is no regular file that can be read."""
    try:
        return read_bytes(path, missing="put the file there or remove the rows that name it")
    except UserError as error:
        raise UserError(f"Image {error}") from None


def decode_rgb(content: bytes, name: Path | str) -> tuple[Image.Image, str]:
    """The picture in the ``content`` of the file ``name`` as ``load_rgb`` gives it, and the mode that the file has.

    What the header says of its size is held against ``MAX_SIDE`` and ``PIL.Image.MAX_IMAGE_PIXELS`` before any pixel
    is decoded. Raises ``UserError`` naming the file.
    """
    try:
        upright, mode = _upright(content)
        return _to_rgb(upright), mode
    except _TooLarge as error:
        raise UserError(f"Image {name} {error}; scale it down or cut it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"Image {name} {_too_many()}; scale it down or cut it.") from None
    except UnidentifiedImageError:
        why = f"cannot be decoded, it is none of {', '.join(FORMATS)}" if content else "has zero bytes"
        raise UserError(f"Image {name} {why}; copy or convert it again.") from None
    except MemoryError:
        raise UserError(f"Image {name} does not fit into memory; scale it down or set data.workers lower.") from None
    except Exception as error:  # every decoder meets damage in a way of its own
        why = one_line(str(error)) or type(error).__name__
        raise UserError(f"Image {name} cannot be decoded ({why}); it is damaged, copy it again.") from None


class _TooLarge(Exception):
    """A picture that would be decoded or padded into too much memory; the rest of a sentence about it."""


def _too_many() -> str:
    return f"has more pixels than the {Image.MAX_IMAGE_PIXELS or 0:,} that are read"


def _upright(content: bytes) -> tuple[Image.Image, str]:
    """The decoded picture and the mode of its file; the decoder's own copy of the pixels is gone on return."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # the caller's sentence says it
        opened = Image.open(io.BytesIO(content), formats=formats)
    with opened as file:
        width, height = file.size
        if max(width, height) > MAX_SIDE:
            raise _TooLarge(f"is {width:,} × {height:,} pixels, and no side may be longer than {MAX_SIDE:,}")
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise _TooLarge(_too_many())
        mode = file.mode
        file.load()
        try:
            return ImageOps.exif_transpose(file), mode
        except Exception:  # a broken EXIF block says nothing about the pixels
            return file.copy(), mode


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """RGB with white where ``image`` is transparent, band by band: whole, it would take 20 bytes a pixel."""
    picture = Image.new("RGB", image.size)
    for top, bottom in _bands(image):
        layer = image.crop((0, top, image.width, bottom)).convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        picture.paste(Image.alpha_composite(paper, layer).convert("RGB"), (0, top))
    return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits as mode L.

    Sixteen-bit values are divided by 257 (65,535 → 255). A 32-bit or floating-point file does not say its
    range: 0–1 (floating point), 0–255 and 0–65,535 are told by the largest value, anything else is stretched.
    """
    pixels = np.asarray(image)
    grey = np.empty(pixels.shape, np.uint8)
    bands = [slice(*band) for band in _bands(image)]

    def values(band: slice) -> NDArray[np.float64]:
        return np.nan_to_num(pixels[band].astype(np.float64))

    sixteen = image.mode.startswith("I;16")
    low = 0.0 if sixteen else min(float(values(band).min(initial=0.0)) for band in bands)
    high = 0.0 if sixteen else max(float(values(band).max(initial=0.0)) for band in bands)
    for band in bands:
        found = values(band)
        if sixteen:
            found = found / 257.0
        elif low < 0.0 or high > 65535.0:
            found = (found - low) / max(high - low, 1e-12) * 255.0
        elif image.mode == "F" and high <= 1.0:
            found = found * 255.0
        elif high > 255.0:
            found = found / 257.0
        grey[band] = np.clip(np.round(found), 0, 255).astype(np.uint8)
    return Image.fromarray(grey)


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """First row and row behind the last, of strips of at most ``_BAND`` pixels."""
    rows = max(1, _BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


@dataclass(frozen=True)
class ImageTransform:
    """A picture to a tensor ``[3, size, size]``: target_pad, bicubic resize, centre crop, normalise.

    ``target_pad`` ≥ 1: a picture whose long side is more than ``target_pad`` times its short side is padded with
    black on both short-side edges until the ratio is met, so that the centre crop loses less of it. ``mean`` and
    ``std`` are per channel, for values in 0–1. Picklable; two equal transforms have equal fingerprints.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    target_pad: float = 1.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if self.size < 1 or self.target_pad < 1.0 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"size ≥ 1, target_pad ≥ 1 and three means and positive deviations are needed, got {self}")

    def __call__(self, image: Image.Image) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as tf

        image = pad_to_ratio(image, self.target_pad)
        image = tf.resize(image, [self.size], interpolation=InterpolationMode.BICUBIC, antialias=True)
        return tf.normalize(tf.to_tensor(tf.center_crop(image, [self.size, self.size])), self.mean, self.std)

    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that decides the pixels; part of the key of cached features."""
        parts = ["neucore-xl/pixels/1", self.size, self.mean, self.std, self.target_pad]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def pad_to_ratio(image: Image.Image, ratio: float) -> Image.Image:
    """``image`` padded with black until long/short side ≤ ``ratio`` (up to rounding); unchanged if it is already."""
    width, height = image.size
    short = round(max(width, height) / ratio)
    if min(width, height) >= short:
        return image
    padded = Image.new(image.mode, (max(width, short), max(height, short)))
    padded.paste(image, ((padded.width - width) // 2, (padded.height - height) // 2))
    return padded
