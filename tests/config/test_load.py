"""Recipes and overrides: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.config.fields import setting_keys
from neucore_xl.config.load import dump_yaml, load_file, load_settings, recipe_names
from neucore_xl.config.schema import FreezeBlocks
from neucore_xl.errors import UserError


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(recipe, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return _write


def test_the_first_recipes_are_packaged():
    names = {"demo", "cirr-vit-b16", "cirr-vit-l14", "fashioniq-vit-b16", "fashioniq-vit-l14"}
    assert names <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_says_what_it_is_and_survives_its_own_dump(name: str, write):
    settings = load_settings(name)
    path = Path(__file__).parents[2] / "neucore_xl" / "recipes" / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line of a recipe is its title in `config list`"
    assert load_settings(write(dump_yaml(settings))) == settings
    assert load_file(Path(write(dump_yaml(settings)))) == settings


def test_overrides_win_in_order_and_leave_the_rest():
    before = load_settings("demo")
    after = load_settings("demo", ["train.steps=7", "train.lr=1e-4", "train.steps=9"])
    assert (after.train.steps, after.train.lr) == (9, 1e-4)
    assert after.model == before.model


def test_values_that_yaml_reads_otherwise():
    settings = load_settings(
        "fashioniq-vit-b16",
        [
            "data.captions=21",
            "data.root=2024",
            "data.categories=[shirt]",
            "backbone.freeze={image: 3, text: 1}",
            "backbone.pretrained=null",
            "train.cache_dir=/a=b",
        ],
    )
    assert settings.data.captions == "21"
    assert settings.data.root == Path("2024")
    assert settings.data.categories == ("shirt",)
    assert settings.backbone.freeze == FreezeBlocks(image=3, text=1)
    assert settings.backbone.pretrained is None
    assert settings.train.cache_dir == Path("/a=b")
    assert load_settings("demo", ["backbone.freeze.text=2"]).backbone.freeze == FreezeBlocks(image=0, text=2)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.batchsize=3", ["train.batchsize", "did you mean train.batch_size?"]),
        ("trian.steps=3", ["trian.steps", "did you mean train.steps?"]),
        ("temperature_max=3", ["did you mean loss.temperature_max?"]),
        ("backbone.freeze.imag=3", ["backbone.freeze.imag", "did you mean backbone.freeze.image?"]),
        ("zzz=1", ["zzz", "lists all keys"]),
        ("train=3", ["train", "group of settings", "batch_size"]),
        ("data=[]", ["data", "group of settings", "root"]),
        ("train.steps.more=3", ["train.steps.more", "whole number from 1 to 1,000,000,000"]),
        ("train.steps=0", ["train.steps", "whole number from 1 to 1,000,000,000", "0"]),
        ("train.steps=1.5", ["train.steps", "whole number", "1.5"]),
        ("train.steps=true", ["train.steps", "whole number", "true"]),
        ("train.steps=", ["train.steps", "whole number", "null"]),
        ("train.lr=nan", ["train.lr", "above 0, up to 1,000"]),
        ("train.lr=.inf", ["train.lr", "number above 0"]),
        ("model.dropout=1", ["model.dropout", "at least 0 and below 1", "1"]),
        ("data.categories=[dress, shrt]", ["dress, shirt, toptee", "did you mean shirt?"]),
        ("backbone.freeze=al", ["all, none or {image", "did you mean all?"]),
        ("backbone.freeze={image: -1}", ["backbone.freeze", "-1"]),
        ("backbone.image_size=0", ["whole number from 1 to 10,000 or null"]),
        ("loss.subset_negatives=5", ["from 0 to 4", "5"]),
        ("data.root=[a", ["data.root=[a", "not YAML"]),
        ("data.root=${nowhere}", ["cannot be resolved", "nowhere"]),
        ("train.lr", ["train.lr", "key.sub=value"]),
        ("=3", ["=3", "key.sub=value"]),
        ("train..lr=3", ["train..lr", "single dots"]),
        # values that contradict each other
        ("model.heads=7", ["model.heads", "model.width", "7", "128"]),
        ("train.accumulate=3", ["train.accumulate", "train.batch_size", "3"]),
        ("loss.temperature_init=5", ["loss.temperature_init", "loss.temperature_max", "5"]),
        ("fusion.sequence=llm", ["fusion.sequence=llm", "fusion.file"]),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_it(override: str, parts: list[str], write):
    recipe = write("train: {batch_size: 64}\nmodel: {width: 128, heads: 4}")
    sentence = refusal(recipe, override)
    assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize(
    ("recipe", "part"),
    [("dmo", "did you mean demo?"), ("x/y.yaml", "does not exist"), ("nope.yaml", "does not exist")],
)
def test_an_unknown_recipe_names_the_nearest_and_all(recipe: str, part: str):
    sentence = refusal(recipe)
    assert part in sentence
    assert "cirr-vit-b16" in sentence


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("data:\n  root: [a\nx: 3", ["mine.yaml, line 3"]),
        ("train:\n  steps: 3\n  steps: 4", ["mine.yaml, line 3", "duplicate", "steps"]),
        ("\tdata: 3", ["mine.yaml, line 1"]),
        ("- a", ["mine.yaml", "not a list"]),
        ("train: {step: 3}", ["train.step", "mine.yaml", "train.steps?"]),
        ("base: demo\ndata: [3]", ["data", "mine.yaml", "group of settings"]),
        ("base: dmo", ["mine.yaml", "did you mean demo?"]),
        ("base: 3", ["mine.yaml", "3"]),
        ("base: mine.yaml", ["based on itself"]),
        ("model: {heads: 3}", ["model.heads", "3"]),
    ],
)
def test_a_wrong_recipe_file_is_named_with_its_line(text: str, parts: list[str], write):
    sentence = refusal(write(text))
    assert all(part in sentence for part in parts), sentence


def test_a_recipe_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "binary.yaml" in refusal(str(tmp_path / "binary.yaml"))
    assert "folder" in refusal(str(tmp_path))


def test_a_base_may_be_a_name_or_a_file_beside_and_chains(write):
    write("base: demo\ntrain: {steps: 11}", "below.yaml")
    settings = load_settings(write("base: below.yaml\nmodel:\ntrain: {seed: 5}"))
    assert (settings.train.steps, settings.train.seed) == (11, 5)
    assert settings.model == load_settings("demo").model


@given(st.data())
def test_every_key_can_be_overridden_by_its_own_default(data):
    key = data.draw(st.sampled_from(sorted(setting_keys(), key=lambda k: k.path)))
    value = load_settings("demo").model_dump(mode="json")
    for part in key.path.split("."):
        value = value[part]
    flow = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    assert load_settings("demo", [f"{key.path}={flow}"]) == load_settings("demo")


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_.", min_size=1, max_size=20))
def test_no_word_breaks_the_search_for_the_nearest_key(word: str):
    known = {key.path for key in setting_keys()}
    if word in known or word.startswith("backbone.freeze"):
        return
    refusal("demo", f"{word}=1")
