"""The door: names, switches, missing folders and splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from neucore_xl.config.schema import DataSettings
from neucore_xl.data.datasets import open_from_settings, open_split
from neucore_xl.errors import UserError


def test_both_formats_open(cirr_root: Path, fashion_root: Path) -> None:
    assert len(open_split("cirr", cirr_root, "train").triplets) == 9
    assert len(open_split("fashion-iq", str(fashion_root), "train").triplets) == 6


def test_settings_reach_the_reader(fashion_root: Path, cirr_root: Path) -> None:
    settings = DataSettings(name="fashion-iq", root=fashion_root, categories=("shirt",), captions="both")
    split = open_from_settings(settings, "train")
    assert [t.id for t in split.triplets] == [f"shirt-train-{i}-{x}" for i in (0, 1) for x in "ab"]
    assert len(open_from_settings(DataSettings(root=cirr_root), "val").triplets) == 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"name": "fashioniq"}, "Unknown dataset 'fashioniq'; did you mean fashion-iq?"),
        ({"captions": "3"}, "Unknown captions '3'"),
        ({"gallery": "vall"}, "did you mean val?"),
        ({"empty_text": "drop"}, "Unknown empty_text 'drop'"),
        ({"root": "nowhere"}, "data folder nowhere does not exist"),
        ({"split": "test1"}, r"Split 'test1' has no captions: .*cap\.dress\.test1\.json .*of test, train, val"),
        ({"categories": ["dresses"]}, "Unknown Fashion-IQ category 'dresses'; did you mean dress?"),
        ({"categories": ["rc2"]}, "Unknown Fashion-IQ category 'rc2'"),
    ],
)
def test_wrong_calls(fashion_root: Path, call: dict[str, object], words: str) -> None:
    arguments = {"name": "fashion-iq", "root": fashion_root, "split": "train"} | call
    with pytest.raises(UserError, match=words):
        open_split(**arguments)  # type: ignore[arg-type]


def test_a_folder_of_the_other_format(fashion_root: Path, cirr_root: Path) -> None:
    with pytest.raises(UserError, match="holds none of this format"):
        open_split("cirr", fashion_root, "train")
    with pytest.raises(UserError, match="holds none of this format"):
        open_split("fashion-iq", cirr_root, "train")
