"""From a picture file of any kind to normalised pixels."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from neucore_xl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# What Pillow's decoders raise on damaged files, each format in its own way.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
_WIDE_MODES = ("I", "F")  # and every "I;16…": more than eight bits per channel, which Pillow would clip to 255


def load_rgb(path: Path | str) -> Image.Image:
    """The picture in ``path`` as 8-bit RGB, upright, whatever mode the file has.

    Transparency is laid on white, more than eight bits are scaled down, palettes and CMYK are converted,
    the EXIF orientation is applied; of an animation the first frame is taken. Raises ``UserError`` naming the file
    when it is missing, empty, damaged or no picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            file.load()
            return _to_rgb(_upright(file))
    except FileNotFoundError:
        raise UserError(f"Image {path} does not exist; put the file there or remove the rows that name it.") from None
    except Image.DecompressionBombError:
        raise UserError(f"Image {path} has more pixels than can be decoded safely; scale it down.") from None
    except _DAMAGE as error:
        raise UserError(_damage_sentence(path, error)) from None


def _damage_sentence(path: Path, error: BaseException) -> str:
    if path.is_dir():
        return f"Image {path} is a folder; a picture file is expected there."
    if isinstance(error, PermissionError):
        return f"Image {path} cannot be read (permission denied); change its permissions."
    try:
        size = path.stat().st_size
    except OSError:
        return f"Image {path} cannot be read ({error}); check the disk."
    if size == 0:
        return f"Image {path} has zero bytes; copy it again."
    return f"Image {path} cannot be decoded ({str(error) or type(error).__name__}); it is damaged, copy it again."


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (*_DAMAGE, TypeError, AttributeError, ZeroDivisionError):
        return image  # a broken EXIF block says nothing about the pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits as mode L.

    Sixteen-bit values are divided by 257 (65,535 → 255). A 32-bit or floating-point file does not say its
    range: 0–1 (floating point), 0–255 and 0–65,535 are told by the largest value, anything else is stretched.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        values = values / 257.0
    elif low < 0.0 or high > 65535.0:
        values = (values - low) / max(high - low, 1e-12) * 255.0
    elif image.mode == "F" and high <= 1.0:
        values = values * 255.0
    elif high > 255.0:
        values = values / 257.0
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


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
