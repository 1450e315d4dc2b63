"""Pictures of every mode, damaged pictures, and the transform."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neucore_xl.data import images
from neucore_xl.data.doctor.pictures import check_pictures
from neucore_xl.data.images import ImageTransform, load_rgb, pad_to_ratio
from neucore_xl.errors import UserError

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def _save(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = tmp_path / f"a{suffix}"
    image.save(path, **options)
    return path


def _pixel(path: Path, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = load_rgb(path)
    assert image.mode == "RGB"
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return value


def _palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    if transparent:
        image.info["transparency"] = 1
    return image


def _wide(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, np.uint16))


@pytest.mark.parametrize(
    ("make", "suffix", "expected"),
    [
        (lambda: Image.new("RGB", (4, 4), (10, 20, 30)), ".png", (10, 20, 30)),
        (lambda: Image.new("L", (4, 4), 77), ".png", (77, 77, 77)),
        (lambda: Image.new("1", (4, 4), 1), ".png", (255, 255, 255)),
        (lambda: _palette(False), ".png", (10, 200, 30)),
        (lambda: _palette(True), ".png", (255, 255, 255)),
        (lambda: Image.new("RGBA", (4, 4), (10, 20, 30, 255)), ".png", (10, 20, 30)),
        (lambda: Image.new("RGBA", (4, 4), (10, 20, 30, 0)), ".png", (255, 255, 255)),
        (lambda: Image.new("LA", (4, 4), (0, 51)), ".png", (204, 204, 204)),
        (lambda: Image.new("CMYK", (4, 4), (255, 0, 0, 0)), ".tif", (0, 255, 255)),
        (lambda: _wide(65535), ".png", (255, 255, 255)),
        (lambda: _wide(257 * 100), ".png", (100, 100, 100)),
        (lambda: _wide(200), ".png", (1, 1, 1)),
        (lambda: Image.fromarray(np.full((4, 4), 257 * 100, np.int32)), ".tif", (100, 100, 100)),
        (lambda: Image.fromarray(np.full((4, 4), 90, np.int32)), ".tif", (90, 90, 90)),
        (lambda: Image.fromarray(np.full((4, 4), 0.2, np.float32)), ".tif", (51, 51, 51)),
        (lambda: Image.fromarray(np.array([[-5.0, 5.0]], np.float32)), ".tif", (0, 0, 0)),
        (lambda: Image.new("LAB", (4, 4), (255, 128, 128)), ".tif", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, make: Callable[[], Image.Image], suffix: str, expected: tuple[int, int, int]
) -> None:
    image = make()
    options = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    found = _pixel(_save(tmp_path, image, suffix, **options))
    assert np.abs(np.subtract(found, expected)).max() <= 2


def test_a_colour_that_is_declared_transparent_is_white(tmp_path: Path) -> None:
    path = _save(tmp_path, Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert _pixel(path) == (255, 255, 255)


def test_cmyk_jpeg_and_animation(tmp_path: Path) -> None:
    assert _pixel(_save(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), ".jpg"))[0] > 200
    frames = [Image.new("P", (4, 4), i) for i in (0, 1)]
    for frame in frames:
        frame.putpalette([250, 0, 0, 0, 0, 250])
    path = _save(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert _pixel(path) == (250, 0, 0)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter to see it upright
    path = _save(tmp_path, Image.new("RGB", (20, 10)), ".jpg", exif=exif)
    assert load_rgb(path).size == (10, 20)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = _save(tmp_path, Image.new("RGB", (20, 10)), ".jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert load_rgb(path).size == (20, 10)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif"])
def test_a_truncated_picture_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = _save(tmp_path, Image.fromarray(noise), suffix)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be decoded") as caught:
        load_rgb(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match=r"a\.png does not exist"):
        load_rgb(path)
    path.touch()
    with pytest.raises(UserError, match=r"a\.png has zero bytes"):
        load_rgb(path)
    path.write_text("no picture")
    with pytest.raises(UserError, match=r"a\.png cannot be decoded"):
        load_rgb(path)
    with pytest.raises(UserError, match="is a folder"):
        load_rgb(tmp_path)


def test_long_sides_are_refused_and_the_doctor_says_so(tmp_path: Path) -> None:
    path = _save(tmp_path, Image.new("RGB", (500_000, 1)))
    with pytest.raises(UserError, match=r"500,000 × 1 pixels, and no side may be longer than 16,384; scale") as caught:
        load_rgb(path)
    assert check_pictures({"a": path}).unreadable == {"a": str(caught.value)}
    assert load_rgb(_save(tmp_path, Image.new("L", (16_384, 1)))).size == (16_384, 1)


def test_the_doctor_tells_pipes_and_folders_from_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check = check_pictures({"pipe": tmp_path / "pipe", "folder": tmp_path, "none": tmp_path / "none"})
    assert check.missing == ("none",)
    assert "is a pipe" in check.unreadable["pipe"]
    assert "is a folder" in check.unreadable["folder"]


def test_formats_of_other_programs_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is none of JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, JPEG2000, AVIF; "):
        load_rgb(_save(tmp_path, Image.new("RGB", (20, 10)), ".eps"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "F", "I", "I;16"])
def test_bands_change_no_pixel(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (13, 7, 4), np.uint8)
    image = Image.fromarray(noise).convert("L").convert(mode) if mode[0] in "FI" else Image.fromarray(noise)
    path = _save(tmp_path, image if mode[0] in "FI" else image.convert(mode), ".tif")
    whole = np.asarray(load_rgb(path))
    for band in (1, 20, 91):
        monkeypatch.setattr(images, "_BAND", band)
        assert np.array_equal(np.asarray(load_rgb(path)), whole)


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path, Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="more pixels"):
        load_rgb(path)


def test_transform_normalises_and_pads() -> None:
    transform = ImageTransform(8, MEAN, STD, 1.25)
    square = transform(Image.new("RGB", (20, 20), (255, 0, 0)))
    assert square.shape == (3, 8, 8)
    for channel, value in enumerate((1.0, 0.0, 0.0)):
        assert square[channel].mean().item() == pytest.approx((value - MEAN[channel]) / STD[channel], abs=1e-5)
    # 80 × 20 is padded to 80 × 64 with black: of the centre 64 × 64, the picture is 20/64 of the rows.
    wide = transform(Image.new("RGB", (80, 20), (255, 255, 255)))
    assert wide.shape == (3, 8, 8)
    assert wide[0, 0, 0].item() == pytest.approx(-MEAN[0] / STD[0], abs=1e-5)
    assert wide[0, 4, 4].item() > 0
    unpadded = ImageTransform(8, MEAN, STD, 100.0)(Image.new("RGB", (80, 20), (255, 255, 255)))
    assert unpadded.min().item() > 0


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(1.0, 3.0),
)
def test_padding_reaches_the_ratio_and_keeps_the_picture(width: int, height: int, ratio: float) -> None:
    padded = pad_to_ratio(Image.new("L", (width, height), 9), ratio)
    long, short = max(padded.size), min(padded.size)
    assert long == max(width, height)
    assert short >= min(width, height)
    assert short >= round(long / ratio)
    assert np.count_nonzero(np.asarray(padded)) == width * height
    if min(width, height) >= round(max(width, height) / ratio):
        assert padded.size == (width, height)


def test_transform_travels_and_its_fingerprint_tells_settings_apart() -> None:
    transform = ImageTransform(8, MEAN, STD, 1.25)
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform
    assert again.fingerprint() == ImageTransform(8, list(MEAN), STD, 1.25).fingerprint()  # type: ignore[arg-type]
    others = [(9, MEAN, STD, 1.25), (8, STD, STD, 1.25), (8, MEAN, MEAN, 1.25), (8, MEAN, STD, 1.5)]
    assert transform.fingerprint() not in {ImageTransform(*other).fingerprint() for other in others}


@pytest.mark.parametrize("wrong", [(0, MEAN, STD, 1.25), (8, MEAN[:2], STD, 1.25), (8, MEAN, STD, 0.9)])
def test_impossible_transforms_are_refused(
    wrong: tuple[int, tuple[float, float, float], tuple[float, float, float], float],
) -> None:
    with pytest.raises(ValueError, match="needed"):
        ImageTransform(*wrong)
