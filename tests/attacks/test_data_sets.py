"""Data sets that anybody may have made: readers and doctor refuse in one sentence with file and place, or read rightly.

Each attack spoils a small folder. Then every split is opened, and the doctor is asked as a user would: it ends with 0
or 1 and never with a trace, and where a reader refuses train or val, it says that no training can start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neucore_xl.cli import main
from neucore_xl.data.datasets import open_split
from neucore_xl.data.images import load_rgb
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError
from tests.support.promptly import promptly
from tests.support.small_data import edit, small_cirr, small_fashion_iq

Attack = Callable[[Path], None]
SPLITS = {"cirr": ("train", "val", "test1"), "fashion-iq": ("train", "val", "test")}
MADE = {"cirr": small_cirr, "fashion-iq": small_fashion_iq}
BELL = "".join(map(chr, (*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0x202E, 0x2066)))


class Outcome:
    """What became of a spoiled folder: the splits that opened, the sentences of those that did not, the doctor."""

    def __init__(self, name: str, root: Path, capsys: pytest.CaptureFixture[str], *, images: bool) -> None:
        self.splits: dict[str, Split] = {}
        self.sentences: dict[str, str] = {}
        report = root.parent / "report.json"
        with promptly():
            for split in SPLITS[name]:
                try:
                    self.splits[split] = open_split(name, root, split)
                except UserError as error:
                    self.sentences[split] = str(error)
            capsys.readouterr()
            words = ["data", "doctor", name, str(root), "--json", str(report), *([] if images else ["--no-images"])]
            with pytest.raises(SystemExit) as stop:
                main(words)
        self.code = stop.value.code
        self.printed = "".join(capsys.readouterr())
        self.report: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))

        for sentence in self.sentences.values():
            assert "\n" not in sentence
            assert str(root) in sentence
            assert len(sentence) < 2_000
        assert self.code in (0, 1)
        assert self.report["trainable"] == (self.code == 0)
        assert not set(self.printed) & set(BELL)
        if "train" in self.sentences or "val" in self.sentences:
            assert self.code == 1
            assert self.report["problems"]

    def refused(self, *words: str) -> None:
        """Train or val was refused, and the sentence holds ``words``."""
        assert self.sentences
        said = " ".join(self.sentences.values())
        assert all(word in said for word in words), said


def raw(file: str, content: bytes | Callable[[bytes], bytes]) -> Attack:
    """Other bytes in ``file``."""

    def spoil(root: Path) -> None:
        path = root / file
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return spoil


def change(file: str, changed: Callable[[Any], Any]) -> Attack:
    """Another value in the JSON of ``file``."""
    return lambda root: edit(root / file, changed)


def instead(file: str, make: Callable[[Path], object]) -> Attack:
    """Something else in the place of ``file``."""

    def spoil(root: Path) -> None:
        path = root / file
        path.unlink()
        make(path)

    return spoil


def number(text: bytes) -> Callable[[bytes], bytes]:
    """``text`` where the first value of a file is."""

    def changed(content: bytes) -> bytes:
        start = min(place for place in (content.find(b": "), content.find(b", ")) if place > 0) + 2
        return content[:start] + text + b", " + content[start:]

    return changed


# --- files: all kinds of damage in the place of every kind of file ---

FILES = {
    "captions": ("cirr", "captions/cap.rc2.train.json"),
    "captions of val": ("cirr", "captions/cap.rc2.val.json"),
    "answers": ("cirr", "captions_ext/cap.ext.rc2.train.json"),
    "map": ("cirr", "image_splits/split.rc2.train.json"),
    "fashion captions": ("fashion-iq", "captions/cap.dress.train.json"),
    "fashion list": ("fashion-iq", "image_splits/split.toptee.val.json"),
}
CONTENTS: dict[str, bytes | Callable[[bytes], bytes]] = {
    "empty": b"",
    "blank": b" \n\t ",
    "half": lambda content: content[: len(content) // 2],
    "all but the end": lambda content: content[:-1],
    "twice": lambda content: content + content,
    "a number": b"3",
    "null": b"null",
    "a text": b'"text"',
    "another kind": lambda content: b"{}" if content.startswith(b"[") else b"[]",
    "a number of 5,000 digits": lambda content: b"[" + b"9" * 5_000 + b"]",
    "a number of 5,000 digits inside": number(b"9" * 5_000),
    "a number of 100 digits inside": number(b"9" * 100),
    "1e999": number(b"1e999"),
    "infinity": number(b"Infinity"),
    "nan": number(b"NaN"),
    "deep": b"[" * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "150 deep": b"[" * 150 + b"]" * 150,
    "deep objects": b'{"a":' * 50_000,
    "latin-1": lambda content: content.replace(b'"', b'"\xe9', 1),
    "utf-16": lambda content: content.decode().encode("utf-16"),
    "zeros": bytes(5_000),
    "half characters as bytes": lambda content: content.replace(b'"', b'"\xed\xa0\xbd', 1),
    "a raw line break in a text": lambda content: content.replace(b'"', b'"\n', 1),
    "a comment": lambda content: b"// comment\n" + content,
    "single quotes": lambda content: content.replace(b'"', b"'"),
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a page": b"<html>404</html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "lines of JSON": lambda content: b'{"a": 1}\n{"a": 2}\n',
    "a pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}
PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (os.mkfifo(path.parent / "pipe"), path.symlink_to("pipe")),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a loop of links": lambda path: (path.symlink_to("b"), (path.parent / "b").symlink_to(path.name)),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: eleven seconds, a twentieth of a second each; every file of a data set can be damaged in its own ways."""
    name, path = FILES[file]
    root = MADE[name](tmp_path / "data")
    raw(path, CONTENTS[content])(root)
    Outcome(name, root, capsys, images=False).refused(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_named(tmp_path: Path, file: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, path = FILES[file]
    root = MADE[name](tmp_path / "data")
    instead(path, PLACES[place])(root)
    Outcome(name, root, capsys, images=False).refused(path)


# --- rows ---

CAP, MAP, EXT = FILES["captions"][1], FILES["map"][1], FILES["answers"][1]
FCAP, FLIST = FILES["fashion captions"][1], "image_splits/split.dress.train.json"
DEEP: Any = []
for _ in range(90):
    DEEP = [DEEP]


def row(**fields: Any) -> Attack:
    """Other fields in the second row of the training captions of CIRR."""
    return change(CAP, lambda rows: rows[1].update(fields))


def soft(*values: Any) -> Attack:
    """Soft labels of the second row."""
    return row(target_soft={f"train-0-{i}-img0": value for i, value in enumerate(values)})


def soft_raw(text: bytes) -> Attack:
    """Soft labels that JSON's own writer does not write."""
    return raw(CAP, lambda content: content.replace(b'img0": 1.0}', b'img0": ' + text + b"}", 1))


def lacking(field: str) -> Attack:
    return change(CAP, lambda rows: rows[1].pop(field))


def image(path: Any, name: str = "train-0-3-img0") -> Attack:
    """Another path of a picture."""
    return change(MAP, lambda names: names.update({name: path}))


def fashion(**fields: Any) -> Attack:
    return change(FCAP, lambda rows: rows[1].update(fields))


def listed(*names: Any) -> Attack:
    return change(FLIST, lambda there: there.extend(names))


ROWS: dict[str, tuple[str, Attack]] = {
    # soft labels
    "a soft label of 212": ("cirr", soft(1.0, 212.1212)),
    "a soft label of -1.5": ("cirr", soft(-1.5)),
    "a soft label just above": ("cirr", soft(1.0000001)),
    "a soft label of a whole number": ("cirr", soft(2)),
    "a soft label of nan": ("cirr", soft(float("nan"))),
    "a soft label of infinity": ("cirr", soft(float("inf"))),
    "a soft label of 1e999": ("cirr", soft_raw(b"1e999")),
    "a soft label of -1e999": ("cirr", soft_raw(b"-1e999")),
    "a soft label of 5,000 digits": ("cirr", soft_raw(b"1" * 5_000)),
    "a soft label that is true": ("cirr", soft(True)),
    "a soft label that is false": ("cirr", soft(False)),
    "a soft label that is a text": ("cirr", soft("1.0")),
    "a soft label that is null": ("cirr", soft(None)),
    "a soft label that is a list": ("cirr", soft([1.0])),
    "a soft label that is deep": ("cirr", soft(DEEP)),
    "soft labels as a list": ("cirr", row(target_soft=[1.0])),
    "soft labels as a text": ("cirr", row(target_soft="all")),
    "soft labels as false": ("cirr", row(target_soft=False)),
    "soft labels as 0": ("cirr", row(target_soft=0)),
    "soft labels as an empty text": ("cirr", row(target_soft="")),
    "soft labels as an empty list": ("cirr", row(target_soft=[])),
    # rows
    "a row that is a number": ("cirr", change(CAP, lambda rows: rows.__setitem__(1, 7))),
    "a row that is null": ("cirr", change(CAP, lambda rows: rows.__setitem__(1, None))),
    "a row that is a list": ("cirr", change(CAP, lambda rows: rows.__setitem__(1, [rows[1]]))),
    "a row that is deep": ("cirr", change(CAP, lambda rows: rows.__setitem__(1, DEEP))),
    "no pair id": ("cirr", lacking("pairid")),
    "no reference": ("cirr", lacking("reference")),
    "no caption": ("cirr", lacking("caption")),
    "no subset": ("cirr", lacking("img_set")),
    "a pair id that is true": ("cirr", row(pairid=True)),
    "a pair id that is null": ("cirr", row(pairid=None)),
    "a pair id that is real": ("cirr", row(pairid=1.5)),
    "a pair id that is a list": ("cirr", row(pairid=[1])),
    "a pair id of another row": ("cirr", row(pairid=1)),
    "a pair id of another row as text": ("cirr", row(pairid="1")),
    "a reference that is a number": ("cirr", row(reference=3)),
    "a reference of 100,000 characters": ("cirr", row(reference=["a" * 100_000])),
    "a reference that is not listed": ("cirr", row(reference="nobody")),
    "a reference with control characters": ("cirr", row(reference="\x1b[2Jnobody\x07\u202e")),
    "a reference of half a character": ("cirr", row(reference="\ud83d")),
    "a target that is not listed": ("cirr", row(target_hard="nobody")),
    "a target that is true": ("cirr", row(target_hard=True)),
    "a target that is an object": ("cirr", row(target_hard={"a": 1})),
    "an empty caption": ("cirr", row(caption="")),
    "a blank caption": ("cirr", row(caption=" \t\n\u2003")),
    "a caption that is a list": ("cirr", row(caption=["a", "b"])),
    "a caption that is null": ("cirr", row(caption=None)),
    "a subset that is a list": ("cirr", row(img_set=["a"])),
    "a subset without members": ("cirr", row(img_set={"id": 3})),
    "members that are a text": ("cirr", row(img_set={"id": 3, "members": "abcdef"})),
    "members that are numbers": ("cirr", row(img_set={"id": 3, "members": [1, 2]})),
    "members that are null": ("cirr", row(img_set={"id": 3, "members": None})),
    "members that are not listed": ("cirr", row(img_set={"id": 3, "members": ["a", "b"]})),
    "an answer that is no row": ("cirr", change(EXT, lambda rows: rows.__setitem__(1, 7))),
    "an answer without a pair id": ("cirr", change(EXT, lambda rows: rows[1].pop("pairid"))),
    "answers as a list": ("cirr", change(EXT, lambda rows: rows[1].update(caption_extend=["a"]))),
    "answers as a text": ("cirr", change(EXT, lambda rows: rows[1].update(caption_extend="a"))),
    # paths of pictures
    "an absolute path": ("cirr", image("/etc/hostname")),
    "a path to the parent": ("cirr", image("../../outside.png")),
    "a path to the parent and back": ("cirr", image("./train/../../img_raw/train/train-0-3-img0.png")),
    "a path that ends above": ("cirr", image("train/..")),
    "a path with NUL": ("cirr", image("train/a\0.png")),
    "a path with NUL behind the parent": ("cirr", image("..\0/../a.png")),
    "a path with a line break": ("cirr", image("train/a\n.png")),
    "a path with an escape": ("cirr", image("train/\x1b[2J.png")),
    "an empty path": ("cirr", image("")),
    "a blank path": ("cirr", image("  ")),
    "a path that is a list": ("cirr", image(["train", "a.png"])),
    "a path that is null": ("cirr", image(None)),
    "a path that is true": ("cirr", image(True)),
    "a path that is an object": ("cirr", image({"a": DEEP})),
    # Fashion-IQ
    "fashion: a row that is a text": ("fashion-iq", change(FCAP, lambda rows: rows.__setitem__(1, "row"))),
    "fashion: no candidate": ("fashion-iq", change(FCAP, lambda rows: rows[1].pop("candidate"))),
    "fashion: no captions": ("fashion-iq", change(FCAP, lambda rows: rows[1].pop("captions"))),
    "fashion: a candidate that is a number": ("fashion-iq", fashion(candidate=3)),
    "fashion: a candidate that is not listed": ("fashion-iq", fashion(candidate="nobody")),
    "fashion: a candidate of the parent": ("fashion-iq", fashion(candidate="../../nobody")),
    "fashion: a target that is not listed": ("fashion-iq", fashion(target="nobody")),
    "fashion: a target that is true": ("fashion-iq", fashion(target=True)),
    "fashion: captions that are a text": ("fashion-iq", fashion(captions="is red")),
    "fashion: captions that are numbers": ("fashion-iq", fashion(captions=[1, 2])),
    "fashion: captions that are null": ("fashion-iq", fashion(captions=None)),
    "fashion: captions with null": ("fashion-iq", fashion(captions=["is red", None])),
    "fashion: no words": ("fashion-iq", fashion(captions=[" . ", "?"])),
    "fashion: an empty list of captions": ("fashion-iq", fashion(captions=[])),
    "fashion: a listed number": ("fashion-iq", listed(3)),
    "fashion: a listed null": ("fashion-iq", listed(None)),
    "fashion: a listed path of the parent": ("fashion-iq", listed("../../outside")),
    "fashion: a listed absolute path": ("fashion-iq", listed("/etc/hostname")),
    "fashion: a listed name with NUL": ("fashion-iq", listed("a\0")),
    "fashion: an empty listed name": ("fashion-iq", listed("")),
    "fashion: a listed name with an escape": ("fashion-iq", listed("a\x1b[2J")),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ROWS)
def test_a_wrong_row_is_named(tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: six seconds, a twentieth of a second each; no wrong value stands for another."""
    name, spoil = ROWS[attack]
    root = MADE[name](tmp_path / "data")
    spoil(root)
    outcome = Outcome(name, root, capsys, images=False)
    files = {"cirr": (CAP, MAP, EXT), "fashion-iq": (FCAP, FLIST)}[name]
    sentence = outcome.sentences["train"]
    assert any(file in sentence for file in files)
    assert any(place in sentence for place in ("row 1", ", line ", "of image ", "image name", "list of texts")), (
        sentence
    )


# --- odd and right ---


def links(root: Path) -> None:
    (root / "img_raw" / "train").rename(root.parent / "elsewhere")
    (root / "img_raw" / "train").symlink_to(root.parent / "elsewhere")


def linked_annotations(root: Path) -> None:
    (root / CAP).rename(root.parent / "mine.json")
    (root / CAP).symlink_to(root.parent / "mine.json")


def undecodable(root: Path) -> None:
    (root / "captions/cap.rc2.test1.json").rename(root / "captions" / os.fsdecode(b"cap.rc2.t\xff\x1b[2J.json"))


def clutter(root: Path) -> None:
    for name in (
        "cap.rc2..json",
        "cap.rc2.a.b.json",
        "cap.rc2.\x1b[31mred.json",
        "cap.rc2.[red].json",
        ".cap",
        "cap.rc2.x",
    ):
        (root / "captions" / name).write_bytes(b"x")
    (root / "captions" / "cap.rc2.folder.json").mkdir()
    os.mkfifo(root / "image_splits" / "split.rc2.pipe.json")


RIGHT: dict[str, tuple[str, Attack]] = {
    "a byte-order mark": ("cirr", raw(CAP, lambda content: b"\xef\xbb\xbf" + content)),
    "line breaks of Windows": (
        "cirr",
        raw(CAP, lambda content: json.dumps(json.loads(content), indent=1).replace("\n", "\r\n").encode()),
    ),
    "a key twice": ("cirr", raw(CAP, lambda content: content.replace(b'{"pairid"', b'{"pairid": 0, "pairid"', 1))),
    "fields that nobody knows": ("cirr", row(more=DEEP, __class__="x", password="x")),
    "a caption of half a character": ("cirr", row(caption="make it \ud83d red")),
    "a caption that controls a terminal": ("cirr", row(caption="\x1b[2J\x1b]0;title\x07 red \u202e\u2066")),
    "a caption of markup": ("cirr", row(caption="[red]make[/] [/bold] <script>alert(1)</script>")),
    "a caption of 1 MB": ("cirr", row(caption="red " * 250_000)),
    "a caption of NUL": ("cirr", row(caption="make\0it red")),
    "a pair id as text": ("cirr", row(pairid="\x1b[31m[/red]")),
    "a negative pair id": ("cirr", row(pairid=-(2**62))),
    "soft labels of nobody": ("cirr", row(target_soft={"nobody": 0.5, "\x1b[2J": -1})),
    "no soft labels": ("cirr", row(target_soft=None)),
    "soft labels at the ends": ("cirr", soft(1, -1, 0, 0.2)),
    "a subset of one": ("cirr", row(img_set={"members": ["train-0-0-img0"]})),
    "a member ten thousand times": ("cirr", row(img_set={"id": 0, "members": ["train-0-0-img0"] * 10_000})),
    "a rank that is deep": ("cirr", change(CAP, lambda rows: rows[1]["img_set"].update(reference_rank=DEEP))),
    "a rank that is huge": ("cirr", change(CAP, lambda rows: rows[1]["img_set"].update(reference_rank=10**18))),
    "an id of a subset that is deep": ("cirr", change(CAP, lambda rows: rows[1]["img_set"].update(id=DEEP))),
    "an answer that is null": ("cirr", change(EXT, lambda rows: rows[1]["caption_extend"].update({"0": None}))),
    "an answer that is deep": ("cirr", change(EXT, lambda rows: rows[1]["caption_extend"].update({"0": DEEP}))),
    "an answer of nobody": ("cirr", change(EXT, lambda rows: rows[1].update(pairid="\x1b[2J"))),
    "no answers": ("cirr", lambda root: (root / EXT).unlink()),
    "links that the user made": ("cirr", links),
    "annotations behind a link": ("cirr", linked_annotations),
    "a split whose name is no text": ("cirr", undecodable),
    "clutter among the captions": ("cirr", clutter),
    "a picture more": ("cirr", image("train/train-0-3-img0.png", "\x1b[2Jmore")),
    "fashion: three captions": ("fashion-iq", fashion(captions=["a", "b", "c"])),
    "fashion: one caption": ("fashion-iq", fashion(captions=["a red one"])),
    "fashion: a caption that controls a terminal": ("fashion-iq", fashion(captions=["\x1b[2J red", "\u202e"])),
    "fashion: a caption of half a character": ("fashion-iq", fashion(captions=["\ud83d red", "b"])),
    "fashion: a listed name twice": ("fashion-iq", listed("B0000", "B0000")),
    "fashion: its own target": ("fashion-iq", fashion(target="B0001")),
}


@pytest.mark.parametrize("attack", RIGHT)
def test_what_is_odd_is_read_as_it_stands(tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, spoil = RIGHT[attack]
    root = MADE[name](tmp_path / "data")
    spoil(root)
    outcome = Outcome(name, root, capsys, images=True)
    assert set(outcome.splits) >= {"train", "val"}, outcome.sentences
    assert outcome.code == 0, outcome.printed
    for triplet in outcome.splits["train"].triplets:
        assert triplet.text == triplet.text.encode().decode().strip()
        assert triplet.id.encode()
        assert all(-1 <= value <= 1 for value in triplet.target_soft.values())


# --- pictures and folders ---

PICTURE = "img_raw/train/train-0-3-img0.png"


def long_and_thin(path: Path) -> None:
    Image.new("L", (500_000, 1)).save(path)


def other_format(path: Path) -> None:
    Image.new("RGB", (8, 6)).save(path, "EPS")


PICTURES: dict[str, Attack] = {
    "missing": lambda root: (root / PICTURE).unlink(),
    "empty": raw(PICTURE, b""),
    "cut": raw(PICTURE, lambda content: content[:40]),
    "a page": raw(PICTURE, b"<html>404</html>"),
    "500,000 pixels wide": instead(PICTURE, long_and_thin),
    "eps": instead(PICTURE, other_format),
    "a pipe": instead(PICTURE, os.mkfifo),
    "a folder": instead(PICTURE, lambda path: path.mkdir()),
    "a link to itself": instead(PICTURE, lambda path: path.symlink_to(path.name)),
    "a link to nothing": instead(PICTURE, lambda path: path.symlink_to("nothing")),
    "a device without end": instead(PICTURE, lambda path: path.symlink_to("/dev/zero")),
    "a name too long": image("train/" + "a" * 300 + ".png"),
    "a folder that is a file": image("train/train-0-0-img0.png/a.png"),
    "the folder itself": image("."),
    "a home": image("~/a.png"),
    "a variable": image("$HOME/a.png"),
    "the parent in Windows' way": image("..\\..\\a.png"),
    "the parent in wide letters": image("\uff0e\uff0e/\uff0e\uff0e/a.png"),
    "half a character": image("train/\ud83d.png"),
}


@pytest.mark.parametrize("attack", PICTURES)
def test_a_picture_that_cannot_be_read_is_named(
    tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_cirr(tmp_path / "data")
    PICTURES[attack](root)
    outcome = Outcome("cirr", root, capsys, images=True)
    path = outcome.splits["train"].image_path("train-0-3-img0")
    with promptly(), pytest.raises(UserError) as caught:
        load_rgb(path)
    assert "\n" not in str(caught.value)
    assert outcome.code == 1
    images = outcome.report["images"]
    assert "train-0-3-img0" in (*images["missing"], *images["unreadable"])


def emptied(root: Path) -> None:
    for name in ("captions", "image_splits"):
        for file in (root / name).iterdir():
            file.unlink()


FOLDERS: dict[str, Attack] = {
    "no captions": lambda root: (root / "captions").rename(root / "gone"),
    "no maps": lambda root: (root / "image_splits").rename(root / "gone"),
    "nothing in the folders": emptied,
    "captions in a loop": lambda root: (
        (root / "captions").rename(root / "gone"),
        (root / "captions").symlink_to("captions"),
    )[-1],
    "a file for the captions": lambda root: (
        (
            (root / "captions").rename(root / "gone"),
            (root / "captions").write_text("x"),
        )[0]
        and None
    ),
    "a pipe for the captions": lambda root: ((root / "captions").rename(root / "gone"), os.mkfifo(root / "captions"))[
        1
    ],
    "the other format": lambda root: (root.rename(root.parent / "other"), small_fashion_iq(root))[0] and None,
}


@pytest.mark.parametrize("attack", FOLDERS)
def test_a_wrong_folder_is_one_sentence(tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_cirr(tmp_path / "data")
    FOLDERS[attack](root)
    outcome = Outcome("cirr", root, capsys, images=True)
    assert outcome.sentences
    assert outcome.code == 1


ROOTS: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda folder: folder / "nothing",
    "a file": lambda folder: (folder / "a").write_text("x") and folder / "a",
    "a pipe": lambda folder: os.mkfifo(folder / "a") or folder / "a",
    "a link to itself": lambda folder: (folder / "a").symlink_to("a") or folder / "a",
    "a name too long": lambda folder: folder / ("a" * 300),
    "a name with an escape": lambda folder: folder / "\x1b[2J[/red]",
    "half a character": lambda folder: folder / "\udcff",
}


@pytest.mark.parametrize("place", ROOTS)
@pytest.mark.parametrize("name", SPLITS)
def test_a_root_that_is_no_folder_is_one_sentence(
    tmp_path: Path, place: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ROOTS[place](tmp_path)
    with promptly(), pytest.raises(UserError) as caught:
        open_split(name, root, "train")
    assert "\n" not in str(caught.value)
    with promptly(), pytest.raises(SystemExit) as stop:
        main(["data", "doctor", name, str(root)])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert not set(printed) & set(BELL)
    assert "Traceback" not in printed
