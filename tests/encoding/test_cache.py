from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.encoding import filling
from neucore_xl.encoding.cache import FeatureCache, image_key
from neucore_xl.encoding.store import Store
from neucore_xl.errors import UserError


def features(key: str) -> ImageFeatures:
    number = float(key[1:])
    return ImageFeatures(torch.full((1, 3, 2), number), torch.full((1, 4), -number))


class Tower:
    """Encodes ``k<number>`` and remembers what it was asked for."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail_after = fail_after

    def __call__(self, keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        for key in keys:
            if self.fail_after is not None and len(self.asked) == self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(key)
            yield [key], features(key)


def new_cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, image_tower="i", transform="t", text_tower="w")


def test_a_second_fill_computes_only_what_is_missing(tmp_path: Path) -> None:
    first, second = Tower(), Tower()
    new_cache(tmp_path).fill_images(["k1", "k2", "k1"], first)
    again = new_cache(tmp_path)
    assert again.fill_images(["k2", "k3"], second) == 1
    assert (first.asked, second.asked) == (["k1", "k2"], ["k3"])
    found = again.image_rows(["k3", "k1", "k3"])
    assert torch.equal(found.pooled[:, 0], torch.tensor([-3.0, -1.0, -3.0]))
    assert torch.equal(found.tokens[:, 0, 0], torch.tensor([3.0, 1.0, 3.0]))


def test_other_fingerprints_are_another_store(tmp_path: Path) -> None:
    new_cache(tmp_path).fill_images(["k1"], Tower())
    for changed in ({"image_tower": "x"}, {"transform": "x"}):
        other = FeatureCache(tmp_path, **{"image_tower": "i", "transform": "t", "text_tower": "w", **changed})
        assert "k1" not in other.images
    assert "k1" in FeatureCache(tmp_path, image_tower="i", transform="t", text_tower="x").images


def test_depths_are_stored_with_the_tokens_in_a_store_of_their_own(tmp_path: Path) -> None:
    def encode(keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        for key in keys:
            one = features(key)
            yield [key], ImageFeatures(one.tokens, one.pooled, (one.tokens[:, :2] + 1, one.tokens[:, :1] + 2))

    deep = FeatureCache(tmp_path, image_tower="i", transform="t", text_tower="w", levels=3)
    deep.fill_images(["k1", "k2"], encode)
    found = pickle.loads(pickle.dumps(deep)).image_rows(["k2", "k1"])
    assert [level.shape for level in found.levels] == [(2, 2, 2), (2, 1, 2)]
    assert [level[:, 0, 0].tolist() for level in (*found.levels, found.tokens)] == [[3, 2], [4, 3], [2, 1]]
    assert "k1" not in new_cache(tmp_path).images
    assert deep.texts.folder == new_cache(tmp_path).texts.folder


def test_texts_keep_their_real_words_only(tmp_path: Path) -> None:
    words = torch.arange(2 * 5 * 3, dtype=torch.float32).view(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]]).bool()
    pooled = torch.tensor([[1.0], [2.0]])
    cache = new_cache(tmp_path)
    cache.fill_texts(["a", "b"], lambda texts: iter([(texts, TextFeatures(words, pooled, mask))]))
    both = pickle.loads(pickle.dumps(cache)).text_rows(["b", "a"])
    assert both.words.shape == (2, 4, 3)
    assert torch.equal(both.mask, torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]]).bool())
    assert torch.equal(both.words[0], words[1, :4])
    assert torch.equal(both.words[1, :2], words[0, :2])
    assert both.words[1, 2:].abs().sum() == 0
    assert cache.text_rows(["a"]).words.shape == (1, 2, 3)
    assert torch.equal(both.pooled, pooled.flip(0))


def test_pickled_stores_hold_no_open_map(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    cache.fill_images(["k1"], Tower())
    cache.image_rows(["k1"])
    assert len(pickle.dumps(cache)) < 2000
    assert isinstance(cache.images.row("k1")[0]["tokens"], np.memmap)


def test_an_interrupted_fill_keeps_whole_shards_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SHARD_BYTES", 2 * (3 * 2 + 4) * 4)  # two images
    with pytest.raises(KeyboardInterrupt):
        new_cache(tmp_path).fill_images([f"k{i}" for i in range(5)], Tower(fail_after=3))
    tower = Tower()
    cache = new_cache(tmp_path)
    assert cache.fill_images([f"k{i}" for i in range(5)], tower) == 3
    assert tower.asked == ["k2", "k3", "k4"]
    assert torch.equal(cache.image_rows([f"k{i}" for i in range(5)]).pooled[:, 0], -torch.arange(5.0))


def test_a_crash_before_the_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            new_cache(tmp_path).fill_images(["k1"], Tower())
    cache = new_cache(tmp_path)
    assert len(cache.images) == 0
    assert [p.name for p in cache.images.folder.iterdir() if p.name != "lock"] == []


@pytest.mark.parametrize("damage", ["cut", "gone", "index"])
def test_a_damaged_shard_is_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = new_cache(tmp_path)
    cache.fill_images(["k1", "k2"], Tower())
    shard = next(cache.images.folder.glob("shard-*"))
    if damage == "cut":
        content = (shard / "tokens.npy").read_bytes()
        (shard / "tokens.npy").write_bytes(content[:-4])
    elif damage == "gone":
        (shard / "pooled.npy").unlink()
    else:
        (shard / "shard.json").write_text("{")
    again, tower = new_cache(tmp_path), Tower()
    assert "incomplete" in caplog.text
    again.fill_images(["k1", "k2"], tower)
    assert tower.asked == ["k1", "k2"]
    assert not shard.exists()
    assert torch.equal(again.image_rows(["k2"]).pooled[0, :1], torch.tensor([-2.0]))


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    (cache.images.folder / ".tmp-dead").mkdir(parents=True)
    (cache.images.folder / ".tmp-dead" / "tokens.npy").write_bytes(b"x")
    cache.fill_images(["k1"], Tower())
    assert not (cache.images.folder / ".tmp-dead").exists()


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, file_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    cache = new_cache(tmp_path)
    cache.fill_images(["k1"], Tower())

    def wide(keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
        yield keys, ImageFeatures(torch.zeros(1, 3, 2000), torch.zeros(1, 4))

    with file_limit(20_000), pytest.raises(UserError, match=r"disk full .* while writing features") as caught:
        cache.fill_images(["k2"], wide)
    assert "\n" not in str(caught.value)
    assert not list(cache.images.folder.glob(".tmp-*"))
    assert "k1" in new_cache(tmp_path).images
    assert "k2" not in new_cache(tmp_path).images


def test_a_cache_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        new_cache(tmp_path / "file").fill_images(["k1"], Tower())


def test_image_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = image_key(path)
    assert image_key(path) == before
    os.utime(path, ns=(1, 1))
    touched = image_key(path)
    path.write_bytes(b"three")
    os.utime(path, ns=(1, 1))
    assert len({before, touched, image_key(path)}) == 3
    with pytest.raises(UserError, match=r"gone\.png"):
        image_key(tmp_path / "gone.png")


def test_a_second_run_waits_and_then_finds_everything(tmp_path: Path) -> None:
    """The other process holds the lock until it has stored all; this one then computes nothing."""
    context = multiprocessing.get_context("fork")
    holding = context.Event()

    def other() -> None:
        def slow(keys: list[str]) -> Iterator[tuple[list[str], ImageFeatures]]:
            holding.set()
            time.sleep(0.5)
            yield from Tower()(keys)

        new_cache(tmp_path).fill_images(["k1", "k2"], slow)

    process = context.Process(target=other)
    process.start()
    assert holding.wait(60)
    tower = Tower()
    assert new_cache(tmp_path).fill_images(["k2", "k1"], tower) == 0
    process.join()
    assert process.exitcode == 0
    assert tower.asked == []


def test_keys_absent_from_the_store_are_key_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Store(tmp_path / "none").row("k1")
