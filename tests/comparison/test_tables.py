"""The tables of a comparison, on entries that were made up: marks, tests, reference lines, forms, plot."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neucore_xl import terminal
from neucore_xl.comparison.layouts import layouts
from neucore_xl.comparison.plot import svg
from neucore_xl.comparison.published import human, published
from neucore_xl.comparison.render import latex, latex_text, markdown, markdown_cell
from neucore_xl.comparison.results import Entry, apart, merged, read_results, write_results, write_small_results
from neucore_xl.comparison.seeds import with_over_seeds
from neucore_xl.comparison.systems import Skipped
from neucore_xl.comparison.table import Cell, empty_grid, grids, heading, notes, rows_of
from neucore_xl.comparison.write import print_tables, whole_latex, whole_markdown
from neucore_xl.errors import UserError
from neucore_xl.evaluation.result import Result

PROTOCOL = {"dataset": "cirr", "split": "val", "mean": "(R@5 + R_subset@1) / 2"}
ORIGIN = "origin imported from captions.npz (npz)"
CAPTIONS = {"origin": "captions in place of pictures"}


def entry(system: str, seed: int, mean: float, **more: Any) -> Entry:
    measures = {f"R@{k}": mean + k for k in (1, 5, 10, 50)} | {f"R_subset@{k}": mean - k for k in (1, 2, 3)}
    content = {
        "system": system, "seed": seed, "metrics": measures | {"mAP@5": 3.0, "mean": mean}, "n_queries": 400,
        "protocol": PROTOCOL, "dataset": "cirr", "features": {"backbone": "towers", "weights": "ab"},
        "budget": {"steps": 10}, "chance": {"R@1": 0.25, "R_subset@1": 20.0, "mean": 10.06},
        "parameters": {"heads": 1_234_567, "trained": 7}, "ms_per_query": 0.5, "seconds_per_epoch": 2.0,
    }  # fmt: skip
    return Entry.model_validate(content | more)


def measured() -> tuple[list[Entry], dict[tuple[str, int], Result]]:
    """Three systems of 400 queries: `good` and `same` differ in a handful of them, `bad` in many."""
    rng = np.random.default_rng(0)
    base = 100.0 * (rng.random(400) < 0.5)
    entries, results = [], {}
    for system, seeds, lost in (("bad", (0, 1), 0.5), ("good", (0, 1), 0.0), ("same", (0,), 0.01)):
        for seed in seeds:
            values = np.where(rng.random(400) < lost, 0.0, base)
            more = (
                {"one_seed": "closed form: the seed changes nothing", "budget": {}, "wall_seconds": 7.0}
                if system == "same"
                else {}
            )
            found = entry(system, seed, float(values.mean()), **more)
            entries.append(found)
            results[system, seed] = Result(PROTOCOL, found.metrics, tuple(map(str, range(400))), {"mean": values})
    return with_over_seeds(entries, results, resamples=999, flips=999), results


def cells(grid: Any) -> dict[str, list[Cell]]:
    return {row[0].text: list(row[1:]) for row in grid.rows}


def test_every_system_is_held_against_the_strongest() -> None:
    entries, _ = measured()
    by_name = {e.system: e.over_seeds for e in entries}
    good, bad, same = by_name["good"], by_name["bad"], by_name["same"]
    assert good is not None
    assert bad is not None
    assert same is not None
    assert good.against is None
    assert good.headline.low < good.headline.estimate < good.headline.high
    assert bad.seeds == [0, 1]
    assert same.seeds == [0]
    assert bad.against is not None
    assert same.against is not None
    assert bad.against.system == same.against.system == "good"
    assert bad.against.comparisons == 2
    assert bad.against.p_holm == pytest.approx(2 * bad.against.p)
    assert bad.against.p_holm < 0.01
    assert bad.against.difference.high < 0
    assert same.against.p_holm > 0.01
    mean = np.mean([e.score for e in entries if e.system == "bad"])
    assert bad.headline.estimate == pytest.approx(mean)
    assert bad.against.difference.estimate == pytest.approx(mean - good.headline.estimate)


def test_runs_on_other_queries_are_refused() -> None:
    entries, results = measured()
    first = results["good", 0]
    results["good", 0] = Result(PROTOCOL, first.metrics, ("x", *first.ids[1:]), first.per_query)
    with pytest.raises(UserError, match="good, seed 0, was evaluated on other queries than bad, seed 0"):
        with_over_seeds(entries, results)


def test_marks_means_and_reference_lines() -> None:
    entries, _ = measured()
    assert [row.name for row in rows_of(entries)] == ["good", "same", "bad"]
    recall, tests, average = grids(entries)
    assert recall.header[:5] == ("system", "R@1", "R@5", "R@10", "R@50")
    assert recall.header[-1] == "(R@5 + R_subset@1) / 2"
    found = cells(recall)
    assert [found[name][0].style for name in ("good", "same", "bad")] == ["best", "second", ""]
    two = [e.metrics["R@1"] for e in entries if e.system == "bad"]
    assert found["bad"][0].text == f"{np.mean(two):.2f}"
    assert found["chance"] == [Cell(t, "grey") for t in ("0.25", "", "", "", "20.00", "", "", "10.06")]
    assert [c.text for c in found["human (CIRR, Table 3)"]] == ["", "", "", "", "86.09", "", "", ""]
    assert [row[0].text for row in average.rows] == ["good", "same", "bad"]
    assert cells(average)["good"][1] == Cell("3.00")  # all alike: no mark
    rows = cells(tests)
    assert rows["good"][2].text == "strongest"
    assert re.fullmatch(r"-\d+\.\d\d \[-\d+\.\d\d, -\d+\.\d\d\]", rows["bad"][2].text)
    assert rows["bad"][4].text == "1.23 M"
    assert rows["bad"][5].text == "7"
    assert [rows[name][-1].text for name in ("good", "same", "bad")] == ["2", "1", "2"]
    assert [rows[name][6].text for name in ("good", "same")] == ["2", "7 in all"]
    assert " ± " in rows["bad"][0].text
    assert " ± " not in rows["same"][0].text
    assert any("Fewer seeds: `same` 1 (closed form: the seed changes nothing)." in note for note in notes(entries))


def test_equal_figures_share_a_mark_and_one_system_has_none() -> None:
    three = [entry("a", 0, 20.001), entry("b", 0, 20.0), entry("c", 0, 10.0), entry("d", 0, 5.0)]
    assert [c[0].style for c in cells(grids(three)[0]).values()][:4] == ["best", "best", "second", ""]
    assert [c[0].style for c in cells(grids(three[:1])[0]).values()][:1] == [""]


def test_published_figures_stand_beside_the_runs_and_take_no_part() -> None:
    entries, _ = measured()
    recall, _, average = grids(entries, with_published=True)
    names = [row[0].text for row in recall.rows]
    assert names[5] == "published, other backbone:"
    assert "TIRG (CIRR, Table 3, and Table 5)" in names
    assert {c.style for row in recall.rows[3:] for c in row if c.text} == {"grey"}
    assert "CIRPLANT (init. OSCAR) (CIRR, Table 3, and Table 5)" in [row[0].text for row in average.rows]
    assert "Text-only (CIRR, Table 3)" not in [row[0].text for row in average.rows]  # not in Table 5


@pytest.mark.parametrize("dataset", ["cirr", "fashion-iq"])
def test_published_figures_agree_with_themselves(dataset: str) -> None:
    """Headlines are means of the columns that they are said to be means of: a slip of typing would show."""
    lines = published(dataset)
    assert len(lines) >= 14
    for line in lines:
        if line.source == "CIRR, Table 4, row 1":
            continue  # printed so: an average R@50 of 14.20 where the columns give 14.02
        m = line.metrics
        pair = ("R@5", "R_subset@1") if dataset == "cirr" else ("R@10", "R@50")
        # the supplement prints 39.15 for 39.10 (NEUCORE)
        assert m["mean"] == pytest.approx((m[pair[0]] + m[pair[1]]) / 2, abs=0.06), line
        for k in (10, 50):
            parts = [m[f"{c}/R@{k}"] for c in ("dress", "shirt", "toptee") if f"{c}/R@{k}" in m]
            assert not parts or m[f"R@{k}"] == pytest.approx(np.mean(parts), abs=0.07), line
    people = human("cirr")
    assert people is not None
    assert people.metrics == {"R_subset@1": 86.09}
    assert human("fashion-iq") is None


def test_fashion_iq_by_k_and_by_category() -> None:
    names = [f"{c}/{m}" for c in ("dress", "shirt", "toptee") for m in ("R@10", "R@50", "mean")]
    by_k, by_category = layouts("fashion-iq", ["R@10", "R@50", "mean", *names])
    assert [m for m, _ in by_k.columns[:5]] == ["mean", "dress/R@10", "shirt/R@10", "toptee/R@10", "R@10"]
    assert [m for m, _ in by_category.columns[:2]] == ["dress/R@10", "dress/R@50"]
    assert len(by_k.columns) == len(by_category.columns) == 9
    (own,) = layouts("mine", ["R@2", "mean"])
    assert own.columns == (("R@2", "R@2"), ("mean", "mean"))


def test_what_was_not_measured_is_a_table_with_empty_cells() -> None:
    grid = empty_grid("cirr", ["tirg", "neucore"])
    assert markdown(grid).splitlines()[2] == "| tirg |  |  |  |  |  |  |  |  |"
    assert empty_grid("fashion-iq", ["tirg"]).header[1] == "(R@10 + R@50) / 2"


def test_captions_in_place_of_pictures_are_said_first() -> None:
    pictures = [entry("a", 0, 1.0)]
    captions = [entry("a", 0, 1.0, protocol=PROTOCOL | {"features": CAPTIONS})]
    assert heading(captions)[0] == "captions in place of pictures"
    assert whole_markdown(captions).startswith("**captions in place of pictures**\n")
    assert "captions in place" in whole_latex(captions)
    assert "captions in place" not in whole_markdown(pictures)
    assert heading([entry("a", 0, 1.0, protocol=PROTOCOL | {"features": "captions, by a sentence encoder"})])[
        0
    ].startswith("captions")


def test_forms_of_a_cell() -> None:
    assert markdown_cell(Cell("a|b", "best")) == "**a\\|b**"
    assert markdown_cell(Cell("1.00", "second")) == "<u>1.00</u>"
    assert markdown_cell(Cell("", "grey")) == ""
    assert latex_text("R_subset@1 ± 5 % < a\\b") == r"R\_subset@1 $\pm$ 5 \% $<$ a\textbackslash{}b"
    entries, _ = measured()
    text = latex(grids(entries)[0], "CIRR_val")
    assert text.count("{") == text.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {8}
    assert r"\textcolor{gray}{\textit{86.09}}" in text
    assert r"\underline{" in text
    assert r"CIRR\_val" in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_what_fits(width: int) -> None:
    entries, _ = measured()
    said = io.StringIO()
    console = terminal.console(file=said, width=width)
    print_tables(entries, [Skipped("film", "needs [two] depths")], console, published=True)
    text = said.getvalue()
    assert ("mAP@50" in text) == (width == 200)
    assert "strongest" in text
    assert "left out: film: needs [two] depths" in text
    table = [line for line in text.splitlines() if line.startswith(" good")]
    assert len(table) == (2 if width == 80 else 3)
    assert "…" not in "".join(table)


def test_equal_results_give_the_same_plot() -> None:
    pytest.importorskip("matplotlib")
    entries, _ = measured()
    first = svg(entries)
    assert first == svg([Entry.model_validate(e.model_dump(mode="json")) for e in entries])
    text = first.decode()
    assert re.search(r"<svg[^>]*>", text)
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|Matplotlib v", text)
    for name in ("good", "same", "bad"):
        assert f">{name}<" in text


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    entries, _ = measured()
    path = tmp_path / "results.json"
    write_results(path, entries)
    assert read_results(path) == entries
    assert isinstance(json.loads(path.read_text()), list)
    write_small_results(path, entries)
    assert len(path.read_text().splitlines()) == len(entries) + 2
    assert read_results(path)[0].metrics["mean"] == pytest.approx(entries[0].score, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": PROTOCOL | {"gallery": 7}}, r"protocol \(gallery: 7 against null\)"),
        ({"features": {"backbone": "other", "weights": "ab"}}, r'features \(backbone: "other" against "towers"\)'),
        ({"features": {"backbone": "towers", "weights": "cd"}}, r'features \(weights: "cd" against "ab"\)'),
        ({"n_queries": 399}, r"number of queries \(399 against 400\)"),
        ({"dataset": "fashion-iq"}, "dataset"),
    ],
)
def test_results_that_do_not_belong_together_are_not_mixed(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    mine, other = entry("a", 0, 1.0), entry("b", 0, 2.0, **change)
    with pytest.raises(UserError, match=f"holds b, seed 0, which differs from these runs in {said}.*another --out"):
        merged([other], [mine], tmp_path / "results.json")
    assert merged([entry("a", 0, 3.0, **change)], [mine], tmp_path / "results.json") == [mine]  # replaced, not mixed
    write_results(tmp_path / "results.json", [other, mine])
    with pytest.raises(UserError, match="mixes results: b, seed 0 and a, seed 0 differ in"):
        read_results(tmp_path / "results.json")
    assert apart(mine, entry("a", 1, 5.0)) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "holds an object where a list is expected"),
        ('[{"system": "a"}]', r"entry 1: `seed`: field required; write it with `neucore-xl compare`"),
        ('[{"system": "a", "seed": "x"}]', "entry 1: `seed`"),
        ("[", "not valid JSON"),
    ],
)
def test_what_is_no_results_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_results(tmp_path / "results.json")
    no_headline = entry("a", 0, 1.0, headline="median")
    write_results(tmp_path / "results.json", [no_headline])
    with pytest.raises(UserError, match="entry 1 has no measure median"):
        read_results(tmp_path / "results.json")
