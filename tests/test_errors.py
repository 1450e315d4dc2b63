"""The words that all sentences about wrong input share."""

from __future__ import annotations

import pytest

from neucore_xl.errors import did_you_mean, nearest


def test_the_most_similar_word_is_named_and_others_only_if_as_similar() -> None:
    assert nearest("fashioniq", ("cirr", "fashion-iq")) == ["fashion-iq"]
    assert sorted(nearest("val0", ("val1", "val2", "train"))) == ["val1", "val2"]
    assert nearest("train", ("trains", "train")) == ["train"], "one that is the same beats one that is like it"


def test_nothing_is_named_where_nothing_is_near_unless_the_bar_is_on_the_floor() -> None:
    assert nearest("zebra", ("cirr", "fashion-iq")) == []
    assert nearest("zebra", ("cirr", "fashion-iq"), cutoff=0.0) != []
    assert nearest("zebra", (), cutoff=0.0) == []


def test_capitals_do_not_count() -> None:
    assert nearest("ADDITON", ("addition", "negation")) == ["addition"]
    assert nearest("vit-b-61", ("ViT-B-16", "RN50")) == ["ViT-B-16"]


@pytest.mark.parametrize(
    ("near", "otherwise", "said"),
    [(["a"], ".", "; did you mean a?"), (["a", "b"], ".", "; did you mean a or b?"), ([], ".", "."), ([], "", "")],
)
def test_there_is_one_wording(near: list[str], otherwise: str, said: str) -> None:
    assert did_you_mean(near, otherwise) == said
