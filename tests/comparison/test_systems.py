"""What a comparison plans: which systems, with which overrides and seeds, and what chance is on its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neucore_xl.ablation.plan import Variant, planned_runs
from neucore_xl.comparison.chance import chance
from neucore_xl.comparison.entries import Asked, features_of
from neucore_xl.comparison.systems import planned_systems, why_one_seed
from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import BackboneSettings, LoraSettings
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.evaluation import cirr
from neucore_xl.models.composers.concat import Concat
from neucore_xl.models.composers.image_only import ImageOnly
from neucore_xl.models.composers.product import Product
from neucore_xl.models.composers.ridge import Ridge
from neucore_xl.models.composers.text_only import TextOnly
from neucore_xl.models.composers.tirg import Tirg
from neucore_xl.models.composers.tirg_lastconv import TirgLastConv
from neucore_xl.models.registry import composer_names


@pytest.fixture
def recipe(tiny_data: Path) -> str:
    return str(tiny_data / "recipe.yaml")


def test_all_are_planned_but_those_that_the_backbone_cannot_carry(
    recipe: str, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: object, *given: object) -> None:
        raise UserError("model.name: tirg-lastconv needs a square map of tokens.")

    monkeypatch.setattr(TirgLastConv, "__init__", refuses)
    variants, skipped = planned_systems("all", recipe, tiny_overrides)
    names = [v.name for v in variants]
    left_out = [s.name for s in skipped]
    assert sorted([*names, *left_out]) == sorted(composer_names())
    assert names == [name for name in composer_names() if name in names]
    assert "tirg-lastconv" in left_out
    assert {"neucore-xl", "tirg", "image-only"} <= set(names)
    assert [s.why for s in skipped if s.name == "tirg-lastconv"] == [
        "model.name: tirg-lastconv needs a square map of tokens."
    ]
    with pytest.raises(UserError, match="needs a square map"):
        planned_systems("tirg,tirg-lastconv", recipe, tiny_overrides)


def test_a_closed_form_takes_one_step_whatever_the_budget(
    recipe: str, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Concat, "closed_form", True)
    variants, _ = planned_systems("concat,tirg", recipe, tiny_overrides)
    runs = planned_runs(recipe, [*tiny_overrides, "train.steps=9"], variants, 1, tmp_path)
    assert [(r.settings.model.name, r.settings.train.steps, r.settings.train.warmup_steps) for r in runs] == [
        ("concat", 1, 0), ("tirg", 9, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tirg,tigr", r"no system 'tigr'; did you mean tirg"),
        ("tirg,tirg", "tirg comes twice"),
        ("all,tirg", "all stands alone"),
        (" , ", "names no system"),
    ],
)
def test_wrong_systems(asked: str, said: str, recipe: str, tiny_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        planned_systems(asked, recipe, tiny_overrides)


def test_what_the_plan_sets_is_refused(recipe: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.name is set by --systems"):
        planned_systems("tirg", recipe, [*tiny_overrides, "model.name=film"])
    variants, _ = planned_systems("tirg", recipe, tiny_overrides)
    with pytest.raises(UserError, match=r"train\.seed is set by --seeds"):
        planned_runs(recipe, [*tiny_overrides, "train.seed=1"], variants, 1, tmp_path)


def test_one_seed_is_enough_where_nothing_depends_on_it() -> None:
    given = BackboneSettings()  # OpenAI's weights, frozen
    assert why_one_seed(ImageOnly, given) == why_one_seed(TextOnly, given) == why_one_seed(Product, given) != ""
    assert why_one_seed(Tirg, given) == ""
    assert why_one_seed(Ridge, given) == ""  # the seed holds out the pairs on which it chooses
    for other in (
        given.model_copy(update={"freeze": "none"}),
        given.model_copy(update={"lora": LoraSettings()}),
        given.model_copy(update={"pretrained": None}),  # drawn with the seed
    ):
        assert why_one_seed(Product, other) == why_one_seed(ImageOnly, other) == ""
    own = given.model_copy(update={"pretrained": None, "name": "local-dir:clip"})
    assert why_one_seed(ImageOnly, own) != ""


def test_features_and_commands_name_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings("demo", [f"backbone.pretrained={tmp_path}/clip/demo.pt"])
    assert features_of(settings, "ab")["pretrained"] == "demo.pt"
    assert features_of(settings, "ab")["weights"] == "ab"
    own = load_settings("demo", [f"backbone.name=local-dir:{tmp_path}/clip", "backbone.pretrained=null"])
    assert features_of(own, "cd")["backbone"] == "local-dir:clip"
    assert features_of(own, "cd")["weights"] == "cd"
    drawn = load_settings("demo", ["backbone.name=towers", "backbone.pretrained=null"])
    assert features_of(drawn, "cd")["weights"] == "drawn with the seed"
    assert "weights" not in features_of(drawn)
    asked = Asked("demo", [f"data.root={tmp_path}/data", "train.steps=3"], tmp_path / "runs")
    (run,) = planned_runs("demo", [], [Variant("tirg", "tirg", ())], 1, tmp_path, first_seed=4)
    assert asked.command(run) == (
        "neucore-xl compare demo --systems tirg --seeds 1 --first-seed 4 --out runs data.root=data train.steps=3"
    )
    task = asked.task_command(7, "all", 3, 0)
    assert task.startswith("neucore-xl compare demo --systems all --seeds 3 --first-seed 0 --out ")
    assert " --task 7 " in task


def test_chance_is_what_random_scores_reach_on_average() -> None:
    names = tuple(f"i{n}" for n in range(12))
    triplets = (
        Triplet("1", "i0", "i1", "x", subset=("i0", "i1", "i2", "i3", "i4", "i5")),
        Triplet("2", "i7", "i8", "x", subset=("i7", "i8", "i9")),
        Triplet("3", "elsewhere", "i3", "x", subset=("i3", "i4")),
        Triplet("4", "i2", "gone", "x", subset=("i2", "i5")),
    )
    split = Split("cirr", "val", Path(), triplets, {"": Gallery(names, {})})
    rng = np.random.default_rng(0)
    many = [cirr.evaluate(split, [(0, rng.random((4, 12)))]) for _ in range(3000)]
    expected = chance(split, many[0].protocol, list(many[0].metrics))
    assert set(expected) == {m for m in many[0].metrics if not m.startswith("mAP")}
    for measure, value in expected.items():
        assert np.mean([r.metrics[measure] for r in many]) == pytest.approx(value, abs=1.5), measure
    assert expected["R@1"] == pytest.approx(100 * (1 / 11 + 1 / 11 + 1 / 12) / 4)


def test_chance_averages_over_categories_as_the_protocol_does() -> None:
    galleries = {"dress": Gallery(tuple("abcdefghij"), {}), "shirt": Gallery(tuple("klmnopqrstuvwxyz"), {})}
    triplets = tuple(Triplet(str(i), "a", "b", "x", category="dress") for i in range(3)) + (
        Triplet("9", "k", "l", "x", category="shirt"),
    )
    split = Split("fashion-iq", "val", Path(), triplets, galleries)
    protocol = {"average": "macro", "reference": "keep", "mean": "(R@5 + R@10) / 2"}
    found = chance(split, protocol, ["R@5", "R@10", "mean", "dress/R@5", "shirt/R@5"])
    assert found["dress/R@5"] == pytest.approx(50.0)
    assert found["shirt/R@5"] == pytest.approx(100 * 5 / 16)
    assert found["R@5"] == pytest.approx((found["dress/R@5"] + found["shirt/R@5"]) / 2)
    assert found["mean"] == pytest.approx((found["R@5"] + found["R@10"]) / 2)
    micro = chance(split, protocol | {"average": "micro"}, ["R@5"])
    assert micro["R@5"] == pytest.approx((3 * found["dress/R@5"] + found["shirt/R@5"]) / 4)
