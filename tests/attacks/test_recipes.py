"""Recipes, overrides and the settings of a foreign run: they describe a training and can do nothing else.

Each attack is tried as an override, as a recipe, as what a recipe is based on, and as the settings of a run folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neucore_xl.config.load import load_file, load_settings, with_overrides
from neucore_xl.config.schema import Settings
from neucore_xl.errors import UserError
from tests.support.promptly import promptly

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    monkeypatch.setenv("NUMBER", "7")


def refusal(load: Callable[[], Settings]) -> str:
    with promptly(), pytest.raises(UserError) as caught:
        load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert SECRET not in sentence
    assert len(sentence) < 1200
    return sentence


def as_override(folder: Path, value: str) -> Callable[[], Settings]:
    return lambda: load_settings("demo", [f"data.root={value}"])


def as_recipe(folder: Path, value: str) -> Callable[[], Settings]:
    (folder / "mine.yaml").write_text(f"base: demo\ndata:\n  root: {value}\n")
    return lambda: load_settings(str(folder / "mine.yaml"))


def as_base(folder: Path, value: str) -> Callable[[], Settings]:
    (folder / "below.yaml").write_text(f"base: demo\ndata:\n  root: {value}\n")
    (folder / "mine.yaml").write_text("base: below.yaml\n")
    return lambda: load_settings(str(folder / "mine.yaml"))


def as_name_of_a_base(folder: Path, value: str) -> Callable[[], Settings]:
    (folder / "mine.yaml").write_text(f"base: {value}\n")
    return lambda: load_settings(str(folder / "mine.yaml"))


def as_a_run(folder: Path, value: str) -> Callable[[], Settings]:
    (folder / "config.yaml").write_text(f"data:\n  root: {value}\n")
    return lambda: load_file(folder / "config.yaml")


WAYS = {
    "override": as_override,
    "recipe": as_recipe,
    "base": as_base,
    "name of a base": as_name_of_a_base,
    "run": as_a_run,
}
READING = [
    "${oc.env:A_SECRET}",
    "${oc.env:NOT_SET,thing}",
    "a/${oc.env:A_SECRET}/b",
    "$${oc.env:A_SECRET}",
    "'${oc.decode:${oc.env:NUMBER}}'",
    "'${oc.create:{a: 1}}'",
    "${oc.select:train.steps}",
    "${oc.dict.keys:train}",
    "${oc.${x}:A_SECRET}",
    "'${ oc.env : A_SECRET }'",
    "${my_own_resolver:1}",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", READING)
def test_nothing_but_other_settings_is_read(tmp_path: Path, way: str, value: str) -> None:
    assert "reads more than other settings" in refusal(WAYS[way](tmp_path, value))


def test_what_was_escaped_once_is_not_read_later() -> None:
    try:
        settings = load_settings("demo", [r"data.root='\${oc.env:A_SECRET}'"])
        again = with_overrides(settings, ["train.steps=3"])
    except UserError:
        return
    assert SECRET not in f"{settings} {again}"


def test_other_settings_are_referred_to() -> None:
    settings = load_settings("demo", ["train.log_every=${train.steps}", "data.root=a/${data.name}"])
    assert settings.train.log_every == settings.train.steps
    assert settings.data.root == Path("a/cirr")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "value", ["${", "${nowhere}", "${a.b.c}", "${oc.env:A_SECRET", "${data.root}", "${.root}", "${..}", "${data}"]
)
def test_a_broken_reference_is_one_sentence(tmp_path: Path, way: str, value: str) -> None:
    refusal(WAYS[way](tmp_path, value))


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 4)
)
CONTENTS: dict[str, bytes] = {
    "a number of 5,000 digits": b"train:\n  steps: " + b"1" * 5_000,
    "a float of 5,000 digits": b"train:\n  lr: " + b"1" * 5_000 + b".5",
    "deep blocks": b"data:\n" + b"\n".join(b" " * i + b"b:" for i in range(1, 300)),
    "deep flow": b"data: " + b"[" * 5_000,
    "deep flow that ends": b"data: " + b"[" * 150 + b"]" * 150,
    "deep references": b"data: {root: '" + b"${a" * 120 + b"}" * 120 + b"'}",
    "laughs": LAUGHS.encode(),
    "an alias of itself": b"data: &x [*x]",
    "an alias of nothing": b"data: *x",
    "a tag that calls": b"data: !!python/object/apply:os.system ['touch here']",
    "a tag of a name": b"data: !!python/name:os.system",
    "an unknown tag": b"data: !thing 3",
    "two documents": b"data: {root: a}\n---\ndata: {root: b}\n",
    "a key twice": b"data: {root: a}\ndata: {root: b}\n",
    "a key that is a list": b"? [1, 2]\n: 3\n",
    "a key that is a number": b"3: 4\n",
    "a key that is null": b"null: 4\n",
    "NUL": b"data: {root: a\0}",
    "an escape of half a character": b'data: {root: "\\ud83d"}',
    "half a character": b"data: {root: '\xed\xa0\xbd'}",
    "latin-1": b"data: {root: \xe9}",
    "utf-16": "data: {root: a}".encode("utf-16"),
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "infinity": b"train: {lr: .inf}",
    "nan": b"train: {lr: .nan}",
    "a date": b"train: {steps: 2024-02-30}",
    "binary": b"train: {steps: !!binary aGk=}",
    "a text for a group": b"train: steps",
    "a list": b"- train",
    "a value": b"3",
    "an unfinished text": b"data: {root: 'a",
    "a mebibyte and more": b"#" * (1 << 20) + b"#",
    "control characters": b"data: {root: a\x1b[2J}",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("how", ["recipe", "run"])
def test_damaged_settings_are_one_sentence(tmp_path: Path, content: str, how: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(CONTENTS[content])
    sentence = refusal(lambda: load_settings(str(path)) if how == "recipe" else load_file(path))
    assert "mine.yaml" in sentence or "train." in sentence or "unknown setting" in sentence.lower()
    assert not (tmp_path / "here").exists()


def fifo(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": fifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["recipe", "base", "run"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, place: str, how: str) -> None:
    path = tmp_path / "mine.yaml"
    PLACES[place](path)
    (tmp_path / "upper.yaml").write_text("base: mine.yaml\n")
    upper = str(tmp_path / "upper.yaml")
    load = {"recipe": lambda: load_settings(str(path)), "base": lambda: load_settings(upper)}
    assert "mine.yaml" in refusal(load.get(how, lambda: load_file(path)))


@pytest.mark.parametrize(
    "name", ["a\0.yaml", "a" * 300 + ".yaml", "~nobody-of-that-name/x.yaml", "a\ud83d.yaml", "", "..", "~"]
)
def test_a_name_that_no_file_has_is_one_sentence(name: str) -> None:
    assert "ecipe" in refusal(lambda: load_settings(name))


OVERRIDES = [
    "train.steps=" + "1" * 5_000,
    "train.steps=-" + "9" * 5_000,
    "train.lr=0." + "1" * 5_000 + "e-9999999",
    "data.root=" + "[" * 150 + "]" * 150,
    "data.root=" + "[" * 5_000,
    "data.root=" + "{a: " * 150 + "}" * 150,
    "data.root=" + "${a" * 120 + "}" * 120,
    "data.root=a\0",
    "data.root=\ud83d",
    "data.root=!!python/name:os.system",
    "data.root=*x",
    "data.root=&x [*x]",
    ".".join(["data"] * 400) + "=1",
    "\0=3",
    "${oc.env:A_SECRET}=3",
    "data.${oc.env:A_SECRET}=3",
    "train.steps=${oc.env:NUMBER}",
    "train.steps=\x1b[2J",
]


@pytest.mark.parametrize("override", OVERRIDES, ids=[ascii(o[:24]) for o in OVERRIDES])
def test_a_hostile_override_is_one_sentence(override: str) -> None:
    refusal(lambda: load_settings("demo", [override]))
