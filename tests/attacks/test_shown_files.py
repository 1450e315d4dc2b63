"""Galleries of pictures that hold something else, and pages of results with hostile words in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from neucore_xl import errors
from neucore_xl.encoding.gallery import FORMAT
from neucore_xl.encoding.gallery import Gallery as PictureGallery
from neucore_xl.errors import UserError
from neucore_xl.evaluation.report import Ranking, ReportRow, SystemRow, write_page
from tests.support.refusals import DEEP, KINDS, one_sentence, soon


def gallery_file(path: Path, tensors: dict[str, Any] | None = None, **metadata: str | None) -> Path:
    """A gallery of two pictures with some of its header changed, or left out (None)."""
    held = {"format": FORMAT, "system": "s", "names": '["a.png", "b.png"]'} | metadata
    rows = {"f": torch.ones(2, 3)} if tensors is None else tensors
    safetensors.torch.save_file(rows, path, {key: value for key, value in held.items() if value is not None})
    return path


def raw_gallery(header: bytes, data: bytes = bytes(24)) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


GALLERIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a gallery"),
    "binary": lambda p: p.write_bytes(bytes(range(256)) * 10),
    "a header of exabytes": lambda p: p.write_bytes(b"\xff" * 8 + b"{}"),
    "a header that is no JSON": lambda p: p.write_bytes(raw_gallery(b"{{{{{{{{")),
    "a deep header": lambda p: p.write_bytes(raw_gallery(b"[" * DEEP)),
    "a tensor outside the file": lambda p: p.write_bytes(
        raw_gallery(b'{"f":{"dtype":"F32","shape":[2,3],"data_offsets":[0,2400]}}')
    ),
    "cut": lambda p: p.write_bytes(gallery_file(p).read_bytes()[:-4]),
    "other tensors": lambda p: safetensors.torch.save_file({"w": torch.ones(2)}, p),
    "another format": lambda p: gallery_file(p, format="neucore-xl gallery 9"),
    "no system": lambda p: gallery_file(p, system=None),
    "no names": lambda p: gallery_file(p, names=None),
    "names are empty": lambda p: gallery_file(p, names=""),
    "names are cut": lambda p: gallery_file(p, names='["a.png", "b'),
    "names are a number": lambda p: gallery_file(p, names="2"),
    "names are null": lambda p: gallery_file(p, names="null"),
    "names are an object": lambda p: gallery_file(p, names='{"a.png": 1, "b.png": 2}'),
    "names are numbers": lambda p: gallery_file(p, names="[1, 2]"),
    "names are long numbers": lambda p: gallery_file(p, names=f"[{'9' * 5000}, 1]"),
    "names are deep": lambda p: gallery_file(p, names="[" * DEEP + "]" * DEEP),
    "a name less": lambda p: gallery_file(p, names='["a.png"]'),
    "a name more": lambda p: gallery_file(p, names='["a.png", "b.png", "\\u001b[2J"]'),
    "no tensors": lambda p: gallery_file(p, {}),
    "tensors of other lengths": lambda p: gallery_file(p, {"f": torch.ones(2, 3), "g": torch.ones(3, 3)}),
    "a tensor without rows": lambda p: gallery_file(p, {"f": torch.tensor(1.0)}),
    **KINDS,
}


@pytest.mark.parametrize("gallery", GALLERIES)
def test_a_gallery_that_holds_something_else_is_refused(gallery: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures.safetensors"
    assert len(PictureGallery.load(gallery_file(path))) == 2
    path.unlink()
    GALLERIES[gallery](path)
    with pytest.raises(UserError, match=re.escape(str(path))) as refusal, soon():
        PictureGallery.load(path)
    one_sentence((errors.one_sentence(refusal.value) or ("", 0))[0] + "\n")


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "end of a comment": "--><svg onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;script&gt;",
    "control characters": "\x1b]0;owned\x07\u202e",
    "half a character": "\ud800",
    "markup": "[/red][bold]",
    "address": "javascript:alert(1)",
}


@pytest.mark.parametrize("thumbnails", ["embed", "link"])
@pytest.mark.parametrize("word", HOSTILE)
def test_a_page_shows_hostile_words_as_text(word: str, thumbnails: Any, tmp_path: Path) -> None:
    text = HOSTILE[word]
    (tmp_path / "a.png").write_bytes(b"")
    row = ReportRow(text, text, text, text, {text: Ranking((text,), 1)})
    page = write_page(
        tmp_path / "page.html", [row], title=text, image_path=lambda name: tmp_path / "a.png",
        systems=[SystemRow(text, {text: 1.0}, notes=text)], protocol={text: text}, thumbnails=thumbnails,
    ).read_text(encoding="utf-8")  # fmt: skip
    seen = Seen()
    seen.feed(page)
    assert not seen.odd
    assert "49" not in "".join(seen.text)


class Seen(HTMLParser):
    """The text of a page, and what only an injection can have put there."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.odd: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "svg", "iframe", "object"):
            self.odd.append(tag)
        self.odd += [key for key, _ in attrs if key.startswith("on")]
        self.odd += [value for key, value in attrs if key in ("href", "src") and value and "javascript:" in value]

    def handle_data(self, data: str) -> None:
        self.text.append(data)
