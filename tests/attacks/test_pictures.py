"""Pictures that anybody may have made: each is read rightly, or refused in one sentence that names the file.

The doctor says of each what reading says. Bombs are refused by the size that their header tells: nothing is decoded.
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from neucore_xl.data.doctor.pictures import check_pictures
from neucore_xl.data.images import load_rgb
from neucore_xl.encoding.cache import image_key
from neucore_xl.errors import UserError
from tests.support.promptly import promptly

SIZE = (24, 16)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")


def picture(mode: str = "RGB") -> Image.Image:
    """Noise, so that no compression makes it small."""
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture(mode).save(stream, format, **options)
    return stream.getvalue()


ENCODINGS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded("PNG"),
    "png-palette": lambda: encoded("PNG", "P"),
    "png-alpha": lambda: encoded("PNG", "RGBA"),
    "jpeg": lambda: encoded("JPEG", quality=90),
    "jpeg-progressive": lambda: encoded("JPEG", progressive=True),
    "jpeg-cmyk": lambda: encoded("JPEG", "CMYK"),
    "webp": lambda: encoded("WEBP"),
    "webp-lossless": lambda: encoded("WEBP", lossless=True),
    "gif": lambda: encoded("GIF", "P"),
    "bmp": lambda: encoded("BMP"),
    "tiff": lambda: encoded("TIFF"),
    "tiff-lzw": lambda: encoded("TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: encoded("TIFF", compression="tiff_adobe_deflate"),
    "tiff-float": lambda: encoded("TIFF", "F"),
    "ppm": lambda: encoded("PPM"),
    "jpeg2000": lambda: encoded("JPEG2000"),
    "avif": lambda: encoded("AVIF"),
}
if not features.check("avif"):
    del ENCODINGS["avif"]


def refusal(path: Path | str) -> str:
    """The sentence of reading, which must be the doctor's too."""
    with promptly():
        with pytest.raises(UserError) as caught:
            load_rgb(path)
        check = check_pictures({"it": Path(path)}, workers=1)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert check.missing or check.unreadable == {"it": sentence}
    return sentence


def read_or_refused(path: Path) -> Image.Image | None:
    """The picture, or None where one sentence names the file."""
    try:
        with promptly():
            image = load_rgb(path)
    except UserError as error:
        sentence = str(error)
    else:
        assert image.mode == "RGB"
        image.load()
        return image
    assert str(path) in sentence
    assert "\n" not in sentence
    return None


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded; nothing is, so that no bomb of these tests can go off."""
    calls: list[str] = []

    def load(self: Image.Image) -> None:
        calls.append(f"{self.format} {self.size}")
        raise OSError("nothing is decoded here")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    return calls


# --- what is read ---


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_formats_that_are_read_whatever_the_name_says(tmp_path: Path, encoding: str) -> None:
    for suffix in (".png", ".jpg", ".eps", ""):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(ENCODINGS[encoding]())
        image = load_rgb(path)
        assert (image.size, image.mode) == (SIZE, "RGB")
        assert not check_pictures({"it": path}, workers=1).unreadable


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, format: str) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    path = tmp_path / "a"
    frames[0].save(path, format, save_all=True, append_images=frames[1:])
    red, green, blue = load_rgb(path).getpixel((3, 3))
    assert red > 200
    assert max(green, blue) < 60


def test_a_link_that_the_user_made_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(ENCODINGS["png"]())
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere")
    assert load_rgb(tmp_path / "a.png").size == SIZE


# --- bombs ---


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def patched(encoding: str, at: int, form: str, *values: int) -> bytes:
    content = bytearray(ENCODINGS[encoding]())
    struct.pack_into(form, content, at, *values)
    return bytes(content)


def jpeg_header(width: int, height: int) -> bytes:
    content = ENCODINGS["jpeg"]()
    return patched("jpeg", content.index(b"\xff\xc0") + 5, ">HH", height, width)


def jpeg2000_header(width: int, height: int) -> bytes:
    content = ENCODINGS["jpeg2000"]()
    return patched("jpeg2000", content.index(b"ihdr") + 4, ">II", height, width)


def tiff_header(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (16, 16)).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    first = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, first)[0]):
        place = first + 2 + 12 * entry
        tag = struct.unpack_from("<H", content, place)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", content, place + 2, 4, 1, width if tag == 256 else height)
    return bytes(content)


def saved(width: int, height: int, format: str = "PNG", mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, format)
    return stream.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "500,000 wide": lambda: saved(500_000, 1),
    "500,000 high": lambda: saved(1, 500_000),
    "500,000 wide, RGB": lambda: saved(500_000, 1, mode="RGB"),
    "50,000 wide": lambda: saved(50_000, 1),
    "16,385 wide": lambda: saved(16_385, 1),
    "16,385 high, two wide": lambda: saved(2, 16_385),
    "50,000 wide, bmp": lambda: saved(50_000, 1, "BMP"),
    "50,000 wide, tiff": lambda: saved(50_000, 1, "TIFF"),
    "50,000 wide, gif": lambda: saved(50_000, 1, "GIF"),
    "50,000 wide, ppm": lambda: saved(50_000, 1, "PPM"),
    "65,000 high, jpeg": lambda: saved(1, 65_000, "JPEG"),
    "144 Mpx": lambda: saved(12_000, 12_000, mode="1"),
    "above the pixels by a row": lambda: png_header(9_460, 9_460),
    "just above the warning": lambda: png_header(16_000, 5_593),
    "png of 2 Gpx": lambda: png_header(46_000, 46_000),
    "png of all the pixels there are": lambda: png_header(2**31 - 1, 2**31 - 1),
    "bmp": lambda: patched("bmp", 18, "<ii", 60_000, 60_000),
    "bmp upside down": lambda: patched("bmp", 18, "<ii", 60_000, -60_000),
    "gif": lambda: patched("gif", 6, "<HH", 65_535, 65_535),
    "gif of 144 Mpx": lambda: patched("gif", 6, "<HH", 12_000, 12_000),
    "jpeg": lambda: jpeg_header(65_000, 65_000),
    "jpeg of 144 Mpx": lambda: jpeg_header(12_000, 12_000),
    "jpeg2000": lambda: jpeg2000_header(1_000_000, 1_000_000),
    "tiff": lambda: tiff_header(1_000_000, 1_000_000),
    "tiff of 144 Mpx": lambda: tiff_header(12_000, 12_000),
    "ppm": lambda: b"P6 100000 100000 255\n" + bytes(300),
    "pgm": lambda: b"P5 12000 12000 255\n" + bytes(300),
    "pbm as text": lambda: b"P1 20000 20000\n" + b"1 0 " * 30,
    "float pfm": lambda: b"Pf 20000 20000 -1.0\n" + bytes(300),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_any_pixel_is_decoded(tmp_path: Path, decoded: list[str], bomb: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(BOMBS[bomb]())
    sentence = refusal(path)
    assert not decoded
    assert "pixels" in sentence
    assert "scale it down" in sentence


@pytest.mark.parametrize("size", [(16_384, 1), (1, 16_384), (9_459, 9_459)])
def test_the_largest_that_are_read(tmp_path: Path, decoded: list[str], size: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(UserError, match="nothing is decoded here"):
        load_rgb(path)
    assert decoded == [f"PNG {size}"]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_what_is_packed_beside_the_pixels_is_not_unpacked_without_end(tmp_path: Path, kind: bytes) -> None:
    packed = zlib.compress(bytes(80 << 20), 9)
    data = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind] + packed
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    content = ENCODINGS["png"]()
    path = tmp_path / "a.png"
    path.write_bytes(content[:33] + chunk + content[33:])
    read_or_refused(path)


# --- what no format is ---


def other_format(format: str, mode: str = "RGB") -> Callable[[], bytes]:
    return lambda: encoded(format, mode)


FOREIGN: dict[str, Callable[[], bytes]] = {
    "eps": other_format("EPS"),
    "eps that runs a program": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n%%EOF\n",
    "eps with a preview": lambda: (
        struct.pack("<6I", 0xC6D3D0C5, 32, 40, 0, 0, 0) + b"\xff\xff%!PS-Adobe-3.0 EPSF-3.0\n"
    ),
    "wmf": lambda: struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 100, 100, 96, 0, 0) + b"\x01\x00\t\x00" + bytes(80),
    "emf": lambda: b"\x01\x00\x00\x00" + bytes(36) + b" EMF" + bytes(80),
    "pdf": other_format("PDF"),
    "ico": other_format("ICO"),
    "icns": other_format("ICNS", "RGBA"),
    "tga": other_format("TGA"),
    "pcx": other_format("PCX"),
    "sgi": other_format("SGI"),
    "dds": other_format("DDS"),
    "blp": other_format("BLP", "P"),
    "im": other_format("IM"),
    "msp": other_format("MSP", "1"),
    "xbm": other_format("XBM", "1"),
    "spider": other_format("SPIDER", "F"),
    "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(80),
    "grib": lambda: b"GRIB" + bytes(3) + b"\x01" + bytes(80),
    "bufr": lambda: b"BUFR" + bytes(80),
    "fits": lambda: b"SIMPLE  =                    T".ljust(2880),
    "mpeg": lambda: b"\x00\x00\x01\xb3" + bytes(80),
    "psd": lambda: b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(80),
    "xpm": lambda: b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c red",\n"a"};\n',
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_another_format_is_never_handed_to_its_decoder(
    tmp_path: Path, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, tried = FOREIGN[foreign](), []
    Image.init()
    for format in set(Image.OPEN) - {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"}:
        accept = Image.OPEN[format][1]
        monkeypatch.setitem(Image.OPEN, format, (lambda stream, name, f=format: tried.append(f), accept))
    for suffix in (".png", f".{foreign.split()[0]}"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        sentence = refusal(path)
        assert f"{path} cannot be decoded" in sentence
    assert not tried


NO_PICTURE: dict[str, Callable[[], bytes]] = {
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": lambda: b"<html>404 Not Found</html>",
    "text": lambda: b"no picture",
    "gzip": lambda: b"\x1f\x8b\x08" + bytes(20),
    "zip": lambda: b"PK\x03\x04" + bytes(20),
    "elf": lambda: b"\x7fELF" + bytes(60),
    "git-lfs pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "one byte": lambda: b"\x89",
    "zeros": lambda: bytes(5_000),
}


@pytest.mark.parametrize("kind", NO_PICTURE)
def test_what_is_no_picture_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(NO_PICTURE[kind]())
    assert f"{path} cannot be decoded" in refusal(path)


# --- damage ---


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused_or_whole(tmp_path: Path, encoding: str, part: float) -> None:
    content = ENCODINGS[encoding]()
    path = tmp_path / "a.png"
    path.write_bytes(content[: int(len(content) * part)])
    image = read_or_refused(path)
    if part <= 0.5 and encoding != "jpeg2000":  # of which any beginning is a coarser picture
        assert image is None
    assert image is None or image.size == SIZE


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_flipped_bytes_are_refused_or_read(tmp_path: Path, encoding: str) -> None:
    random_ = random.Random(encoding)
    path = tmp_path / "a.png"
    for _ in range(40):
        content = bytearray(ENCODINGS[encoding]())
        for _ in range(random_.choice((1, 2, 8))):
            content[random_.randrange(min(len(content), random_.choice((40, 400, 4000))))] = random_.randrange(256)
        path.write_bytes(content)
        read_or_refused(path)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_there_is_not_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    picture().save(path, exif=exif)
    assert load_rgb(path).size == SIZE


# --- what is no file ---


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def linked_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    (folder / "a.png").symlink_to("pipe")
    return folder / "a.png"


def listening(folder: Path) -> Path:
    short = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket takes no long path
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short / "s"))
    (short / "s").rename(folder / "a.png")
    short.rmdir()
    return folder / "a.png"


def link(to: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / "a.png").symlink_to(to)
        return folder / "a.png"

    return made


def loop(folder: Path) -> Path:
    (folder / "a.png").symlink_to("b.png")
    (folder / "b.png").symlink_to("a.png")
    return folder / "a.png"


def below_a_file(folder: Path) -> Path:
    (folder / "a").write_bytes(b"a")
    return folder / "a" / "b.png"


def folder_there(folder: Path) -> Path:
    (folder / "a.png").mkdir()
    return folder / "a.png"


PLACES: dict[str, Callable[[Path], Path]] = {
    "a pipe": fifo,
    "a link to a pipe": linked_fifo,
    "a socket": listening,
    "a link to itself": link("a.png"),
    "a loop of links": loop,
    "a link to nothing": link("nothing.png"),
    "a device without end": link("/dev/zero"),
    "an empty device": link("/dev/null"),
    "a folder": folder_there,
    "a link to a folder": link("."),
    "below a file": below_a_file,
    "not there": lambda folder: folder / "a.png",
    "a name too long": lambda folder: folder / ("a" * 300 + ".png"),
    "a path too long": lambda folder: folder / "/".join(["a" * 200] * 30),
    "a name with NUL": lambda folder: folder / "a\0.png",
    "a name of half a character": lambda folder: folder / "a\ud83d.png",
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, place: str) -> None:
    path = PLACES[place](tmp_path)
    sentence = refusal(path)
    assert "Image " in sentence
    assert "\0" not in sentence


@pytest.mark.parametrize("place", ["a link to itself", "a loop of links", "a link to nothing", "a name too long"])
def test_the_feature_cache_says_so_too(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        image_key(PLACES[place](tmp_path))


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert "zero bytes" in refusal(tmp_path / "a.png")
