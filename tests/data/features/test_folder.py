"""Features of others: what is written is what is read, foreign files come in, and what is wrong is one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from typer.testing import CliRunner

from neucore_xl.cli import app
from neucore_xl.data.features.folder import FILES, MANIFEST, FeatureFolder
from neucore_xl.data.features.importing import import_features
from neucore_xl.data.features.writer import FeatureFolderWriter
from neucore_xl.errors import UserError
from tests.support.damage import damage

Rows = dict[str, tuple[np.ndarray, np.ndarray]]


def rows(count: int = 5, width: int = 4, pooled: int = 3) -> Rows:
    draw = np.random.default_rng(0)
    return {
        f"image-{i}": (draw.normal(size=(1 + i % 3, width)).astype("f4"), draw.normal(size=pooled).astype("f4"))
        for i in range(count)
    }


def write(out: Path, content: Rows, **options: Any) -> FeatureFolder:
    with FeatureFolderWriter(out, origin="a test", **options) as writer:
        for name, (tokens, pooled) in content.items():
            writer.add(name, tokens, pooled)
    return FeatureFolder(out)


def same(folder: FeatureFolder, content: Rows) -> bool:
    return folder.names == tuple(content) and all(
        np.array_equal(folder.tokens(name), tokens) and np.array_equal(folder.pooled([name])[0], pooled)
        for name, (tokens, pooled) in content.items()
    )


def test_what_was_written_is_read_and_nothing_else_lies_there(tmp_path: Path) -> None:
    content = rows()
    folder = write(tmp_path / "deep" / "features", content)
    folder.check()
    assert same(pickle.loads(pickle.dumps(folder)), content)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["features"]
    assert sorted(p.name for p in folder.path.iterdir()) == sorted([MANIFEST, *FILES])
    assert (folder.manifest.fewest, folder.manifest.most, len(folder)) == (1, 3, 5)
    assert folder.missing(["image-1", "b", "a", "b"]) == ["b", "a"]
    assert write(tmp_path / "again", content).digest == folder.digest
    assert write(tmp_path / "other", rows(4)).digest != folder.digest
    half = write(tmp_path / "half", content, half=True)
    np.testing.assert_allclose(half.tokens("image-2"), content["image-2"][0], rtol=1e-3)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4))
def test_pooled_is_the_mean_where_it_is_missing_and_the_one_token_where_tokens_are(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], width: int
) -> None:
    draw = np.random.default_rng(len(lengths))
    out = tmp_path_factory.mktemp("features") / "out"
    tokens = [draw.normal(size=(n, width)).astype("f4") for n in lengths]
    with FeatureFolderWriter(out, origin="") as writer:
        for i, array in enumerate(tokens):
            writer.add(f"t{i}", tokens=array)
        writer.add("p", pooled=torch.arange(width))
    folder = FeatureFolder(out)
    means = folder.pooled([f"t{i}" for i in range(len(tokens))])
    np.testing.assert_allclose(means, [array.mean(0) for array in tokens], rtol=1e-4, atol=1e-6)
    assert folder.tokens("p").tolist() == [list(range(width))]
    assert not folder.manifest.grid


def test_a_map_is_read_row_by_row(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    with FeatureFolderWriter(tmp_path / "out", origin="") as writer:
        writer.add("a", tokens=image)
    folder = FeatureFolder(tmp_path / "out")
    assert folder.manifest.grid
    assert folder.tokens("a")[4].tolist() == image[:, 1, 1].tolist()


def test_every_kind_of_source_comes_in(tmp_path: Path) -> None:
    content = rows()
    flat = {f"{n}/{part}": v for n, pair in content.items() for part, v in zip(("tokens", "pooled"), pair, strict=True)}
    (tmp_path / "several").mkdir()
    for i, part in enumerate(("image-0", "image-")):
        keys = {k: v for k, v in flat.items() if k.startswith(part) and (i == 0 or not k.startswith("image-0"))}
        save_file(keys, tmp_path / "several" / f"{i}.safetensors")
    np.savez(tmp_path / "features.npz", **flat)
    table = {"name": list(content), "tokens": [t.tolist() for t, _ in content.values()]}
    table["pooled"] = [p.tolist() for _, p in content.values()]
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "table")
    both = {n: {"tokens": torch.from_numpy(t), "pooled": p} for n, (t, p) in content.items()}
    (tmp_path / "features.pkl").write_bytes(pickle.dumps(both))
    for number, source in enumerate(("several", "features.npz", "table", "features.pkl")):
        assert same(import_features(tmp_path / source, tmp_path / f"out{number}"), content), source


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_pooled_features_of_one_image_a_file_come_in(tmp_path: Path, protocol: int) -> None:
    for i, value in enumerate((np.arange(4.0), torch.arange(4.0)[None], np.float32([[9, 1, 2, 3]])[:, ::-1].copy())):
        path = tmp_path / "dev" / f"dev-{i}-img0.pkl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(value, protocol))
    folder = import_features(tmp_path / "dev", tmp_path / "out", origin="ResNet-152")
    assert folder.names == ("dev-0-img0", "dev-1-img0", "dev-2-img0")
    assert folder.pooled(folder.names).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 9]]
    assert folder.manifest.most == 1


class Foreign:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.made


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    inner = io.BytesIO()
    torch.save(Foreign(os.mkdir, str(marker)), inner)
    attacks = {
        "os": Foreign(os.mkdir, str(marker)),
        "eval": {"a": Foreign(eval, f"open({str(marker)!r}, 'w')")},
        "torch": Foreign(torch.storage._load_from_bytes, inner.getvalue()),
        "numpy": Foreign(np.load, str(tmp_path / "x.npy")),
        "getattr": Foreign(getattr, "a", "upper"),
    }
    for name, content in attacks.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps({"image": content}))
        with pytest.raises(UserError, match=r"could run code|damaged or no pickle"):
            import_features(tmp_path / f"{name}.pkl", tmp_path / "out")
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def one(**changed: Any) -> dict[str, Any]:
    return {
        "a/tokens": np.ones((2, 4)),
        "a/pooled": np.ones(3),
        "b/tokens": np.ones((2, 4)),
        "b/pooled": np.ones(3),
    } | {key.replace("_", "/"): value for key, value in changed.items()}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nan": (one(b_tokens=np.full((2, 4), np.nan)), r"1 image has values that are not finite numbers: b; nothing"),
    "too large": (one(b_pooled=np.array([1, 2, np.inf])), r"1 image has values that are not finite numbers: b"),
    "width": (one(b_tokens=np.ones((2, 5))), r"has tokens of another width than the 4 of the first image, a: b"),
    "pooled": (one(b_pooled=np.ones(7)), r"has pooled of another width than the 3 of the first image, a: b"),
    "form": (one(b_tokens=np.ones((2, 2, 2, 2))), r"has features of another form than .*: b"),
    "empty": (one(b_tokens=np.ones((0, 4))), r"1 image has no features: b"),
    "texts": (one(b_pooled=np.array(["x", "y", "z"])), r"1 image has features that are no numbers: b"),
    "both": (one() | {"b": np.ones(3)}, "image b has an array b beside b/tokens or b/pooled"),
    "none": ({}, "no features of any image"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_left(kind: str, tmp_path: Path) -> None:
    content, sentence = WRONG[kind]
    np.savez(tmp_path / "in.npz", **content)
    with pytest.raises(UserError, match=sentence):
        import_features(tmp_path / "in.npz", tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


def test_many_faults_are_counted_and_names_come_once(tmp_path: Path) -> None:
    content = {name: [1.0, 2.0] for name in ("a", "b")} | {"c": [float("nan"), 1.0]}
    for i in range(2):
        (tmp_path / f"{i}.pkl").write_bytes(pickle.dumps({k: np.array(v) for k, v in content.items()}))
    with pytest.raises(UserError, match=r"^2 images have values that .*: c; images with other faults: 2; noth"):
        import_features(tmp_path, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


def test_nothing_is_replaced(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **one())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    result = CliRunner().invoke(app, ["features", "import", str(tmp_path / "in.npz"), str(tmp_path / "out")])
    assert isinstance(result.exception, UserError)
    assert "exists already" in str(result.exception)
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.npz", b"PK\x03\x04 cut", "cannot be read as npz"),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0garbage!", "cannot be read as safetensors"),
        ("x.pkl", b"\x80\x04garbage", "is damaged or no pickle"),
        ("x.txt", b"text", "holds nothing with features by its name"),
        (None, b"", "does not exist"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, name: str | None, content: bytes, sentence: str) -> None:
    path = tmp_path / (name or "not there")
    if name:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        import_features(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_two_formats_asks_which(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.savez(folder / "a.npz", a=np.ones(3))
    (folder / "b.pkl").write_bytes(pickle.dumps({"b": np.ones(3)}))
    with pytest.raises(UserError, match="files of npz and pickle: name one of them with --format"):
        import_features(folder, tmp_path / "out")
    assert import_features(folder, tmp_path / "out", format="pickle").names == ("b",)
    datasets.Dataset.from_dict({"image": ["a"]}).save_to_disk(tmp_path / "table")
    with pytest.raises(UserError, match="has the columns image: it needs `name`, and"):
        import_features(tmp_path / "table", tmp_path / "out2")


@pytest.mark.parametrize(
    "kind", ["empty", "cut", "flipped", "zeros", "gone", "folder", "a list", "deep", "huge number"]
)
def test_damage_is_one_sentence(kind: str, tmp_path: Path) -> None:
    for file in (MANIFEST, *FILES):
        folder = write(tmp_path / file, rows())
        damage(kind, folder.path / file)
        with pytest.raises(UserError):
            FeatureFolder(folder.path).check()


@pytest.mark.parametrize("key", ["count", "token_width", "most", "dtype", "origin", "checksums", "format", "digest"])
def test_a_manifest_that_was_changed_is_refused(key: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "out", rows())
    content = json.loads((folder.path / MANIFEST).read_text())
    content[key] = "other" if key in ("origin", "digest", "format", "dtype") else 2
    (folder.path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="make"):
        FeatureFolder(folder.path)


def test_show_says_what_is_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", rows())
    said = CliRunner().invoke(app, ["features", "show", str(folder.path)]).output
    for part in ("5 images", "1 to 3, 1.8 on average; 4 wide, float32", "3 wide", "origin: a test", folder.digest):
        assert part in said
    with pytest.raises(UserError, match="is not there, or no folder: make one with"):
        FeatureFolder(tmp_path / "nowhere")
