"""Vectors of many pictures: computed once, kept by portion, and never stopped by a file that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import ImageFeatures
from neucore_xl.encoding import vectors
from neucore_xl.encoding.inputs import PixelInputs, decoded, decoded_or_not
from neucore_xl.encoding.vectors import PictureVectors
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone

CPU = torch.device("cpu")


@pytest.fixture
def paths(cirr_root: Path) -> dict[str, Path]:
    """The twelve training pictures, the eighth of which was cut and the third is gone."""
    found = {path.stem: path for path in sorted((cirr_root / "img_raw" / "train").glob("*.png"))}
    third, eighth = list(found)[2], list(found)[7]
    found[third].unlink()
    found[eighth].write_bytes(found[eighth].read_bytes()[:200])
    return found


def unreadable(paths: dict[str, Path]) -> list[str]:
    return [list(paths)[2], list(paths)[7]]


def pooled(backbone: Backbone, paths: dict[str, Path], names: list[str]) -> np.ndarray:
    pixels = PixelInputs(paths, backbone.transform(1.25), backbone.tokenizer)
    found = torch.cat([backbone.encode_images(pixels.images([name])).pooled for name in names])
    return torch.nn.functional.normalize(found, dim=-1).numpy()


def test_vectors_are_the_pooled_features_at_unit_length(settings: Settings, backbone: Backbone, paths: dict[str, Path]):
    made = PictureVectors(settings, backbone, paths, CPU)
    made.fill()
    names = [name for name in paths if name not in unreadable(paths)]
    assert list(made.keys) == names
    names.reverse()
    matrix = made.matrix(names)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, pooled(backbone, paths, names), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6)
    assert list(made.store.folder.glob("tmp*")) == [], "the file of the matrix has no name"


def test_pictures_that_cannot_be_read_are_named_with_the_reason(
    settings: Settings, backbone: Backbone, paths: dict[str, Path]
):
    made = PictureVectors(settings, backbone, paths, CPU)
    made.fill()
    gone, cut = unreadable(paths)
    assert set(made.unreadable) == {gone, cut}
    assert "cannot be read" in made.unreadable[gone]
    assert "cannot be decoded" in made.unreadable[cut]


def test_what_is_stored_is_not_computed_again(settings: Settings, backbone: Backbone, paths: dict[str, Path]):
    first = PictureVectors(settings, backbone, paths, CPU)
    first.fill()
    backbone.encode_images = None  # type: ignore[assignment,method-assign]  # nothing may be computed
    again = PictureVectors(settings, backbone, paths, CPU)
    again.fill()
    assert again.unreadable == first.unreadable
    names = list(again.keys)
    assert np.array_equal(again.matrix(names), first.matrix(names))


def test_a_kill_loses_the_last_portion_alone(
    settings: Settings, backbone: Backbone, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vectors, "PORTION", 4)
    encode, seen = backbone.encode_images, 0

    def killed(pixels: torch.Tensor) -> ImageFeatures:
        nonlocal seen
        seen += len(pixels)
        if seen > 8:
            raise KeyboardInterrupt
        return encode(pixels)

    monkeypatch.setattr(backbone, "encode_images", killed)
    with pytest.raises(KeyboardInterrupt):
        PictureVectors(settings, backbone, paths, CPU).fill()
    seen = 0
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: killed(pixels))
    made = PictureVectors(settings, backbone, paths, CPU)
    made.fill()
    assert seen == 3, "of ten readable pictures the seven of two portions were stored"
    assert len(made.keys) == 10


def test_two_names_of_one_file_are_one_picture(settings: Settings, backbone: Backbone, paths: dict[str, Path]):
    name, cut = next(iter(paths)), unreadable(paths)[1]
    links = {alias: paths[of].with_name(f"{alias}.png") for alias, of in (("link", name), ("cut link", cut))}
    for alias, of in (("link", name), ("cut link", cut)):
        links[alias].symlink_to(paths[of])
    made = PictureVectors(settings, backbone, paths | links, CPU)
    made.fill()
    assert np.array_equal(*made.matrix([name, "link"]))
    assert len(made.store) == 10
    assert {"cut link", cut} <= set(made.unreadable)


def test_a_changed_picture_is_computed_again(settings: Settings, backbone: Backbone, paths: dict[str, Path]):
    PictureVectors(settings, backbone, paths, CPU).fill()
    name = next(iter(paths))
    Image.new("RGB", (50, 40), (9, 99, 199)).save(paths[name])
    made = PictureVectors(settings, backbone, paths, CPU)
    made.fill()
    np.testing.assert_allclose(made.matrix([name]), pooled(backbone, paths, [name]), atol=1e-5)


def test_a_backbone_that_gives_no_numbers_is_one_sentence(
    settings: Settings, backbone: Backbone, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    encode = backbone.encode_images

    def spoiled(pixels: torch.Tensor) -> ImageFeatures:
        features = encode(pixels)
        features.pooled[-1, 0] = torch.nan
        return features

    monkeypatch.setattr(backbone, "encode_images", spoiled)
    with pytest.raises(UserError, match=f"no finite feature for picture {list(paths)[5]}: check its weights"):
        PictureVectors(settings, backbone, paths, CPU).fill()


def test_a_full_disk_is_one_sentence(
    settings: Settings,
    backbone: Backbone,
    paths: dict[str, Path],
    file_limit: Callable[[int], AbstractContextManager[None]],
):
    made = PictureVectors(settings, backbone, paths, CPU)
    with file_limit(300), pytest.raises(UserError, match=r"disk full .* while writing features"):
        made.fill()
    made.fill()
    with file_limit(300), pytest.raises(UserError, match=r"disk full .* while laying out vectors"):
        made.matrix(list(made.keys))


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_goes_on_behind_a_file_that_cannot_be_read(backbone: Backbone, paths: dict[str, Path], workers: int):
    pixels = PixelInputs(paths, backbone.transform(1.25), backbone.tokenizer)
    names = list(paths)
    batches = list(decoded_or_not(pixels, names, 5, workers))
    assert [len(batch) for batch, _ in batches] == [4, 4, 2]
    assert [list(errors) for _, errors in batches] == [[2], [2], []]
    good = pixels.images([name for name in names[:5] if name not in unreadable(paths)])
    assert torch.equal(batches[0][0], good)
    with pytest.raises(UserError, match=names[2]):
        list(decoded(pixels, names, 5, workers))


def test_a_batch_of_which_nothing_can_be_read(settings: Settings, backbone: Backbone, paths: dict[str, Path]):
    pixels = PixelInputs(paths, backbone.transform(1.25), backbone.tokenizer)
    gone, cut = unreadable(paths)
    ((batch, errors),) = decoded_or_not(pixels, [gone, cut], 5, 0)
    assert len(batch) == 0
    assert list(errors) == [0, 1]
    made = PictureVectors(settings, backbone, {cut: paths[cut]}, CPU)
    made.fill()
    assert list(made.unreadable) == [cut]
