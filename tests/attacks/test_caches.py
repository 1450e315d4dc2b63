"""Caches of features that a disk, a program or a person has changed: healed with one line said, or one sentence.

What is computed again is what was there before; nothing damaged is ever read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.encoding.cache import FeatureCache, image_key
from neucore_xl.errors import UserError
from neucore_xl.runs.system import assemble
from tests.support.forks import Forks
from tests.support.spoiled import JSON, flip, in_its_place

pytestmark = pytest.mark.usefixtures("nobody_waits_for_a_pipe")
KEYS = [f"k{i}" for i in range(6)]
WORDS = ["red dog", "two cats", "a beach at night", "none"]


class Tower:
    """Encodes ``k<number>``, and texts, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def images(self, keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        self.asked += keys
        numbers = torch.tensor([[float(key[1:])] for key in keys])
        yield keys, ImageFeatures(numbers[:, :, None].expand(-1, 40, 5), numbers.expand(-1, 7))

    def texts(self, texts: list[str]) -> Iterator[tuple[list[str], TextFeatures]]:
        self.asked += texts
        lengths = torch.tensor([len(text.split()) for text in texts])
        mask = torch.arange(5)[None] < lengths[:, None]
        yield texts, TextFeatures(mask[:, :, None] * lengths[:, None, None].float().expand(-1, -1, 3),
                                  lengths[:, None].float(), mask)  # fmt: skip


def cache_in(folder: Path) -> FeatureCache:
    return FeatureCache(folder, image_tower="i", transform="t", text_tower="w")


def fill(folder: Path) -> tuple[FeatureCache, list[str]]:
    """A cache with everything in it, as a new process fills it, and what had to be computed."""
    cache, tower = cache_in(folder), Tower()
    cache.fill_images(KEYS, tower.images)
    cache.fill_texts(WORDS, tower.texts)
    return cache, tower.asked


def check(cache: FeatureCache) -> None:
    """What is read is what the towers say."""
    images = cache.image_rows(KEYS)
    assert images.tokens.shape == (len(KEYS), 40, 5)
    assert torch.equal(images.tokens[:, 17, 3], torch.arange(6.0))
    assert torch.equal(images.pooled[:, 6], torch.arange(6.0))
    texts = cache.text_rows(WORDS)
    lengths = torch.tensor([float(len(text.split())) for text in WORDS])
    assert torch.equal(texts.pooled[:, 0], lengths)
    assert torch.equal(texts.mask.sum(1).float(), lengths)
    assert torch.equal(texts.words.amax((1, 2)), lengths)


def shard_of(cache: FeatureCache, kind: str) -> Path:
    return next((cache.images if kind == "images" else cache.texts).folder.glob("shard-*"))


@pytest.fixture
def filled(tmp_path: Path) -> FeatureCache:
    cache, asked = fill(tmp_path)
    assert asked == [*KEYS, *WORDS]
    check(cache)
    return cache


ARRAYS = [("images", "tokens"), ("images", "pooled"), ("texts", "words"), ("texts", "mask"), ("texts", "offsets"),
          ("texts", "pooled")]  # fmt: skip


def heal(cache: FeatureCache, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next process says one line, computes that shard again, and the one after it computes nothing."""
    caplog.clear()
    again, asked = fill(tmp_path)
    assert asked == (KEYS if kind == "images" else WORDS)
    check(again)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert 1 <= len(said) <= 2, said
    assert all("computed again" in line and "\n" not in line for line in said)
    caplog.clear()
    last, asked = fill(tmp_path)
    assert asked == []
    assert not caplog.records
    check(last)


@pytest.mark.parametrize(("kind", "array"), ARRAYS)
@pytest.mark.parametrize("count", [1, 2000])
@pytest.mark.parametrize("part", ["values", "everything"])
def test_flipped_bytes_are_noticed_and_computed_again(
    filled: FeatureCache, kind: str, array: str, count: int, part: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    flip(shard_of(filled, kind) / f"{array}.npy", first=128 if part == "values" else 0, count=count)
    heal(filled, kind, tmp_path, caplog)


def test_rows_that_changed_places_are_noticed(
    filled: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard_of(filled, "images") / "pooled.npy"
    np.save(path, np.load(path)[::-1])
    heal(filled, "images", tmp_path, caplog)


def test_an_array_of_another_shard_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tower = Tower()
    cache = cache_in(tmp_path)
    for part in (KEYS[:3], KEYS[3:]):
        cache.fill_images(part, tower.images)
    one, two = sorted(cache.images.folder.glob("shard-*"))
    shutil.copy(one / "tokens.npy", two / "tokens.npy")
    tower = Tower()
    again = cache_in(tmp_path)
    again.fill_images(KEYS, tower.images)
    assert tower.asked == KEYS[3:]
    assert torch.equal(again.image_rows(KEYS).tokens[:, 0, 0], torch.arange(6.0))
    assert len([r for r in caplog.records if "is damaged" in r.getMessage()]) == 1


@pytest.mark.parametrize(("kind", "array"), ARRAYS)
@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "a folder", "a pipe", "a loop of links"])
def test_files_that_are_no_arrays_are_computed_again(
    filled: FeatureCache, kind: str, array: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard_of(filled, kind) / f"{array}.npy"
    content = path.read_bytes()
    if damage in ("cut", "longer"):
        path.write_bytes(content[:-8] if damage == "cut" else content + bytes(8))
    else:
        path.unlink()
        in_its_place(path, damage)
    heal(filled, kind, tmp_path, caplog)


@pytest.mark.parametrize("kind", ["images", "texts"])
@pytest.mark.parametrize("content", JSON)
def test_a_damaged_list_of_keys_is_computed_again(
    filled: FeatureCache, kind: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shard_of(filled, kind) / "shard.json").write_bytes(JSON[content])
    heal(filled, kind, tmp_path, caplog)


@pytest.mark.parametrize("what", ["gone", "a folder", "a pipe", "a loop of links"])
def test_a_list_of_keys_that_is_no_file_is_computed_again(
    filled: FeatureCache, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard_of(filled, "images") / "shard.json"
    path.unlink()
    in_its_place(path, what)
    heal(filled, "images", tmp_path, caplog)


@pytest.mark.parametrize("change", ["a key", "two keys", "a key more", "other sizes", "no sizes", "types"])
def test_an_altered_list_of_keys_is_computed_again(
    filled: FeatureCache, change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard_of(filled, "images") / "shard.json"
    header = json.loads(path.read_text())
    keys = header["keys"]
    if change == "a key":
        keys[0] = "k9"
    elif change == "two keys":
        keys[0], keys[1] = keys[1], keys[0]
    elif change == "a key more":
        keys.append("k9")
    elif change == "other sizes":
        header["bytes"]["tokens.npy"] = "many"
    elif change == "no sizes":
        header["bytes"] = {}
    else:
        header |= {"keys": 5, "bytes": [1]}
    path.write_text(json.dumps(header))
    heal(filled, "images", tmp_path, caplog)


@pytest.mark.parametrize("what", ["a file", "a pipe", "a loop of links"])
def test_something_else_named_as_a_shard_is_in_nobodys_way(filled: FeatureCache, what: str, tmp_path: Path) -> None:
    path = filled.images.folder / "shard-00009-00000000"
    if what == "a file":
        path.write_text("x")
    in_its_place(path, what)
    again, asked = fill(tmp_path)
    assert asked == []
    check(again)


def as_an_older_version_wrote(shard: Path) -> None:
    path = shard / "shard.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps({key: header[key] for key in ("format", "keys", "bytes")}))


def test_a_cache_of_an_older_version_serves_and_is_guarded_from_then_on(
    filled: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("images", "texts"):
        as_an_older_version_wrote(shard_of(filled, kind))
    again, asked = fill(tmp_path)
    assert asked == []
    check(again)
    flip(shard_of(filled, "images") / "tokens.npy", first=128, count=20)
    heal(filled, "images", tmp_path, caplog)


@pytest.mark.parametrize("change", ["fewer rows", "more keys", "no array", "an object", "offsets"])
def test_an_older_shard_that_contradicts_itself_is_computed_again(
    filled: FeatureCache, change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "texts" if change == "offsets" else "images"
    shard = shard_of(filled, kind)
    if change == "fewer rows":
        np.save(shard / "tokens.npy", np.load(shard / "tokens.npy")[:2])
    elif change == "no array":
        (shard / "tokens.npy").write_bytes(b"no array")
    elif change == "an object":
        np.save(shard / "pooled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif change == "offsets":
        np.save(shard / "offsets.npy", np.load(shard / "offsets.npy")[::-1])
    header = json.loads((shard / "shard.json").read_text())
    if change == "more keys":
        header["keys"].append("k9")
    header["bytes"] = {p.name: p.stat().st_size for p in shard.glob("*.npy")}
    (shard / "shard.json").write_text(json.dumps(header))
    as_an_older_version_wrote(shard)
    heal(filled, kind, tmp_path, caplog)


def test_a_cache_that_may_only_be_read_serves(filled: FeatureCache, tmp_path: Path) -> None:
    for folder in (filled.images.folder, *filled.images.folder.glob("shard-*")):
        folder.chmod(0o555)
    try:
        cache = cache_in(tmp_path)
        cache.fill_images(KEYS, Tower().images)
        assert torch.equal(cache.image_rows(KEYS).pooled[:, 0], torch.arange(6.0))
    finally:
        for folder in (filled.images.folder, *filled.images.folder.glob("shard-*")):
            folder.chmod(0o755)


def test_a_shard_that_vanishes_under_a_run_is_one_sentence(filled: FeatureCache, tmp_path: Path) -> None:
    cache, _ = fill(tmp_path)
    shutil.rmtree(shard_of(filled, "images"))
    with pytest.raises(UserError, match="start again"):
        cache.image_rows(KEYS)


def test_names_of_pictures_that_are_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    path.write_bytes(b"x")
    key = image_key(path)
    tower = Tower()
    number = {key: "k1"}

    def encode(keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        for _, features in tower.images([number[k] for k in keys]):
            yield keys, features

    for _ in range(2):
        cache = cache_in(tmp_path / "cache")
        cache.fill_images([key], encode)
        assert cache.image_rows([key]).pooled[0, 0] == 1.0
    assert tower.asked == ["k1"]


def test_scores_on_a_damaged_cache_are_those_of_a_whole_one(settings: Settings, tmp_path: Path) -> None:
    def scores() -> np.ndarray:
        system = assemble(settings)
        system.composer.eval()
        split = open_from_settings(settings.data, "val")
        return np.concatenate([part for _, part in system.scores(split)[""]])

    before = scores()
    arrays = sorted((tmp_path / "cache").glob("features/*/shard-*/*.npy"))
    assert len(arrays) == 6
    for path in arrays:
        flip(path, first=128, count=2000)
    np.testing.assert_array_equal(scores(), before)


FILLER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.attacks.test_caches import fill, check
cache, asked = fill(Path(sys.argv[2]))
check(cache)
print(len(asked))
"""


@pytest.mark.slow
def test_four_processes_heal_one_cache_once(filled: FeatureCache, tmp_path: Path, forks: Forks) -> None:
    """Slow: eight seconds; four processes must meet at one damaged shard."""
    flip(shard_of(filled, "images") / "tokens.npy", first=128, count=2000)
    script = tmp_path / "fill.py"
    script.write_text(FILLER)
    repository = Path(__file__).resolve().parents[2]
    started = [
        forks.start([script, repository, tmp_path], out=tmp_path / f"{i}.txt", err=tmp_path / f"{i}.err")
        for i in range(4)
    ]
    assert [process.wait(120) for process in started] == [0] * 4, [process.said() for process in started]
    assert sum(int((tmp_path / f"{i}.txt").read_text()) for i in range(4)) == len(KEYS)
    assert len(list(filled.images.folder.glob("shard-*"))) == 1
