"""Caches and exported files that a disk, a program or a person has changed: healed with one line said, or one sentence.

What is computed again is what was there before; nothing damaged is ever read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures, TextFeatures
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.encoding.cache import FeatureCache, image_key
from neucore_xl.errors import UserError
from neucore_xl.language.cache import cached_values
from neucore_xl.models.backbone import build_backbone
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Identity
from neucore_xl.runs.checkpoints.export import ExportedRun
from neucore_xl.runs.checkpoints.universal import FORM, is_whole, optimizer_state, universal_folder
from neucore_xl.runs.system import assemble
from tests.attacks.test_pickles import BYTES
from tests.support.forks import Forks
from tests.support.saving import save_weights

KEYS = [f"k{i}" for i in range(6)]
WORDS = ["red dog", "two cats", "a beach at night", "none"]


def deep(levels: int = 200_000) -> bytes:
    return b"[" * levels + b"]" * levels


# What a file of JSON may hold in place of what it should.
JSON: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"format": 1, "keys": ["k0", "k',
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "deep": deep(),
    "long number": b'{"format": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"format": 1, "keys": ["\xff\xfe"]}',
    "zeros": bytes(300),
    "two objects": b"{}{}",
    "NaN": b'{"format": NaN}',
    "infinite": b'{"format": 1e999}',
    "only a mark": b"\xef\xbb\xbf",
    "NUL": b'{"form\x00at": 1}',
    "half a character": b'{"format": 1, "keys": ["\\ud800"], "bytes": {"\\ud800": 1}}',
}


PIPES: list[Path] = []


@pytest.fixture(autouse=True)
def _nobody_waits_for_a_pipe() -> Iterator[None]:
    """Whoever opens one of ``PIPES`` to read gets its end at once, and the test fails."""
    waited, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for path in PIPES:
                with suppress(OSError):  # nobody reads
                    end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    if stat.S_ISFIFO(os.fstat(end).st_mode):  # and no new file of its name
                        waited.append(path)
                    os.close(end)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()
    PIPES.clear()
    assert not waited, "a pipe was waited for"


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


def flip(path: Path, *, first: int, count: int = 1, seed: int = 0) -> None:
    """Change ``count`` bytes of ``path`` from ``first`` on, in place."""
    content = bytearray(path.read_bytes())
    places = np.random.default_rng(seed).choice(np.arange(first, len(content)), min(count, len(content) - first), False)
    for place in places:
        content[place] ^= 0x41
    path.write_bytes(content)


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


def in_its_place(path: Path, what: str) -> None:
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
        PIPES.append(path)
    elif what == "a loop of links":
        path.symlink_to(path.name)


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


# ---- what spaCy says of sentences


class Reader:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> list[Any]:
        self.asked += texts
        return [{"words": text.split(), "n": len(text)} for text in texts]


def read(folder: Path) -> tuple[list[Any], list[str]]:
    reader = Reader()
    found = cached_values("words", WORDS, reader, key=["model", 1], cache_dir=folder)
    return found, reader.asked


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The Arrow file of a filled cache."""
    found, asked = read(tmp_path)
    assert asked == WORDS
    assert found == Reader()(WORDS)
    assert read(tmp_path)[1] == []
    return next((tmp_path / "language").glob("*.arrow"))


ARROW: dict[str, Callable[[bytes], bytes]] = {
    **{kind: (lambda content, new=new: new) for kind, new in BYTES.items()},
    "half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-9],
    "a byte less": lambda content: content[:-1],
    "without its beginning": lambda content: content[40:],
    "twice": lambda content: content + content,
    "zeros in the middle": lambda content: content[:400] + bytes(200) + content[600:],
    "a length of 2 GB": lambda content: content[:4] + struct.pack("<i", 2**31 - 1) + content[8:],
    "another text": lambda content: content.replace(b"beach", b"bEach"),
    "other values": lambda content: content.replace(b'"n": 8', b'"n": 9'),
    "no JSON": lambda content: content.replace(b'{\\"words\\"', b'[\\"words\\"').replace(b'{"words"', b'["words"'),
}  # fmt: skip


@pytest.mark.parametrize("damage", ARROW)
def test_a_damaged_table_of_sentences_is_computed_again(
    table: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = table.read_bytes()
    table.write_bytes(ARROW[damage](before))
    assert table.read_bytes() != before
    found, asked = read(tmp_path)
    assert asked == WORDS
    assert found == Reader()(WORDS)
    assert len([r for r in caplog.records if "computed again" in r.getMessage()]) == 1
    assert read(tmp_path) == (Reader()(WORDS), [])


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_of_a_table_never_reach_a_run(table: Path, seed: int, tmp_path: Path) -> None:
    flip(table, first=0, count=1 + 7 * seed, seed=seed)
    assert read(tmp_path) == (Reader()(WORDS), WORDS)


@pytest.mark.parametrize("damage", ["empty", "half", "without its end", "another text"])
def test_a_damaged_table_of_an_older_version_is_computed_again(table: Path, damage: str, tmp_path: Path) -> None:
    for other in table.parent.iterdir():
        if other != table:
            other.unlink()
    assert read(tmp_path)[1] == [], "an older table serves"
    for other in table.parent.iterdir():
        if other != table:
            other.unlink()
    table.write_bytes(ARROW[damage](table.read_bytes()))
    assert read(tmp_path) == (Reader()(WORDS), WORDS)
    assert read(tmp_path)[1] == []


@pytest.mark.parametrize("what", ["a pipe", "a loop of links"])
def test_a_table_that_is_no_file_is_computed_again(table: Path, what: str, tmp_path: Path) -> None:
    table.unlink()
    in_its_place(table, what)
    assert read(tmp_path) == (Reader()(WORDS), WORDS)
    assert read(tmp_path)[1] == []


def test_a_folder_in_the_place_of_a_table_is_one_sentence(table: Path, tmp_path: Path) -> None:
    table.unlink()
    table.mkdir()
    with pytest.raises(UserError, match="cache of sentences") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


SENTENCES = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.attacks.test_caches import Reader, WORDS, read
found, asked = read(Path(sys.argv[2]))
assert found == Reader()(WORDS)
print(len(asked))
"""


@pytest.mark.slow
def test_four_processes_heal_one_table(table: Path, tmp_path: Path, forks: Forks) -> None:
    """Slow: two seconds; four processes must meet at one damaged table."""
    table.write_bytes(b"")
    script = tmp_path / "read.py"
    script.write_text(SENTENCES)
    repository = Path(__file__).resolve().parents[2]
    started = [
        forks.start([script, repository, tmp_path], out=tmp_path / f"{i}.txt", err=tmp_path / f"{i}.err")
        for i in range(4)
    ]
    assert [process.wait(120) for process in started] == [0] * 4, [process.said() for process in started]
    assert sum(int((tmp_path / f"{i}.txt").read_text()) for i in range(4)) == len(WORDS)


# ---- exported files and universal forms

HEADERS: dict[str, dict[str, Any]] = {
    "no settings": {"config": None},
    "settings are no YAML": {"config": "{a: ["},
    "settings are a list": {"config": "[1]"},
    "settings are a text": {"config": "hello"},
    "settings are deep": {"config": "[" * 900},
    "an unknown setting": {"config": "data: {nonsense: 1}"},
    "no vocabulary": {"vocabulary": None},
    "vocabulary cut": {"vocabulary": '{"format": "x'},
    "vocabulary deep": {"vocabulary": deep().decode()},
    "vocabulary a list": {"vocabulary": "[]"},
    "no step": {"step": None},
    "a step of 5,000 digits": {"step": "9" * 5000},
    "a step below zero": {"step": "-3"},
    "a step in other digits": {"step": "²"},
    "no identity": {"identity": None},
    "identity of other fields": {"identity": '{"row": "x"}'},
    "identity of other types": {"identity": '{"row": 1, "backbone": [], "vocabulary": null}'},
    "identity deep": {"identity": '{"row":' * 5000},
    "metrics of texts": {"metrics": '{"mean": "high"}'},
    "metrics of long numbers": {"metrics": '{"mean": ' + "9" * 5000 + "}"},
    "metrics a list": {"metrics": "[1]"},
}


def safetensors_of(header: dict[str, str]) -> bytes:
    text = json.dumps({"__metadata__": header}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("change", HEADERS)
def test_an_exported_file_with_another_header_is_one_sentence(tmp_path: Path, change: str) -> None:
    from neucore_xl.config.load import dump_yaml, validate
    from neucore_xl.language.vocabulary import Vocabulary
    from neucore_xl.runs.checkpoints.export import FORMAT

    good = {
        "format": FORMAT, "step": "7", "config": dump_yaml(validate({})), "metrics": '{"mean": 1.5}',
        "identity": json.dumps({"row": "concat", "backbone": "b", "vocabulary": "v"}),
        "vocabulary": json.dumps(Vocabulary(["dog"], [1]).to_json()),
    }  # fmt: skip
    path = tmp_path / "model.safetensors"

    def everything() -> None:
        run = ExportedRun(path)
        run.settings(), run.vocabulary(), run.checkpoint()

    path.write_bytes(safetensors_of(good))
    everything()
    path.write_bytes(safetensors_of({k: v for k, v in (good | HEADERS[change]).items() if v is not None}))
    with pytest.raises(UserError) as error:
        everything()
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("content", BYTES)
def test_a_file_that_is_no_exported_model_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES[content])
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        ExportedRun(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [*JSON, "sizes of texts", "files a list", "a name with NUL", "no form"])
def test_a_universal_form_with_another_manifest_is_not_whole(tmp_path: Path, content: str) -> None:
    more = {
        "sizes of texts": {"form": FORM, "files": {"a": "1"}}, "files a list": {"form": FORM, "files": ["a"]},
        "a name with NUL": {"form": FORM, "files": {"a\0": 1}}, "no form": {"files": {}},
    }  # fmt: skip
    (tmp_path / "a").write_text("x")
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"form": FORM, "files": {"a": 1}, "checksums": {"a": "?"}}))
    assert is_whole(tmp_path)
    path.write_bytes(JSON[content] if content in JSON else json.dumps(more[content]).encode())
    assert not is_whole(tmp_path)


@pytest.mark.parametrize("what", ["gone", "a folder", "a pipe", "a loop of links"])
def test_a_universal_form_without_a_manifest_is_not_whole(tmp_path: Path, what: str) -> None:
    in_its_place(tmp_path / "manifest.json", what)
    assert not is_whole(tmp_path)


@pytest.mark.parametrize("piece", ["a.weight/exp_avg.pt", "a.weight/fp32.pt", "optimizer_state.pt"])
def test_a_universal_form_with_other_values_is_made_again(tmp_path: Path, piece: str) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2, bias=False)})
    optimizer = torch.optim.AdamW(model.parameters())
    model["a"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    engine = {"optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 1}}
    saved = save_weights(tmp_path, 1, model.state_dict(), Identity("toy", "b", "v"), extra={"engine": engine})
    folder = universal_folder(saved, World(), [["a.weight"]])
    before = optimizer_state(folder, [["a.weight"]])["state"][0]
    path = folder / "state" / "zero" / piece
    content = path.read_bytes()
    flip(path, first=len(content) // 2, count=20)
    folder = universal_folder(saved, World(), [["a.weight"]])
    assert path.read_bytes() == content
    after = optimizer_state(folder, [["a.weight"]])["state"][0]
    assert all(torch.equal(before[key], after[key]) for key in before)


# ---- the config of a backbone

CONFIGS: dict[str, bytes] = {
    **{kind: content for kind, content in JSON.items() if kind != "half a character"},
    "no towers": b"{}",
    "towers of numbers": b'{"embed_dim": 1, "vision_cfg": 1, "text_cfg": 2}',
    "towers of lists": b'{"embed_dim": 1, "vision_cfg": [], "text_cfg": []}',
    "options of a list": b'{"embed_dim": 1, "vision_cfg": {}, "text_cfg": {"tokenizer_kwargs": [1]}}',
    "preprocessing of a list": (
        b'{"model_cfg": {"embed_dim": 1, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": [1]}'
    ),
    "a name with NUL": b'{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "a\\u0000b"}}',
    "widths of texts": b'{"embed_dim": "x", "vision_cfg": {"width": "y"}, "text_cfg": {"width": "z"}}',
    "widths below zero": b'{"embed_dim": -1, "vision_cfg": {"width": -5}, "text_cfg": {"width": -5}}',
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"own-{hashlib.sha1(kind.encode()).hexdigest()[:8]}.json"
    path.write_bytes(CONFIGS[kind])
    refused_config(path)


@pytest.mark.parametrize("what", ["gone", "a folder", "a pipe", "a loop of links"])
def test_a_config_that_is_no_file_is_one_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "own.json"
    in_its_place(path, what)
    refused_config(path)


def refused_config(path: Path) -> None:
    from neucore_xl.config.schema import BackboneSettings

    with pytest.raises(UserError) as error:
        build_backbone(BackboneSettings(name=path.stem, config=path, pretrained=None))
    assert path.stem in str(error.value)
    assert "\n" not in str(error.value)
