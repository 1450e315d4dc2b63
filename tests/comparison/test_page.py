"""The page of results: it is what the generator gives from the kept files; measured sections and empty ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.cli import main
from neucore_xl.comparison.page import page_text, read_sections
from neucore_xl.comparison.results import Entry, read_results, write_results

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
SECTIONS = """\
introduction: Hello.
systems: [tirg, neucore]
sections:
  - {name: shapes, title: Shapes, dataset: cirr, command: neucore-xl compare demo, remarks: It was so.}
  - {name: fashion, title: Clothes, dataset: fashion-iq, command: neucore-xl compare f, needs: It needs pictures.}
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page without figures yet, in a folder with its sections."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "sections.yaml").write_text(SECTIONS)
    return tmp_path / "results.md"


def entries() -> list[Entry]:
    measures = {f"R@{k}": float(k) for k in (1, 5, 10, 50)} | {f"R_subset@{k}": 1.0 for k in (1, 2, 3)}
    content: dict[str, Any] = {
        "seed": 0, "n_queries": 9, "protocol": {"dataset": "cirr"}, "dataset": "cirr", "features": {"backbone": "b"},
        "command": "neucore-xl compare one-cell", "wall_seconds": 100.0, "device": "cpu",
        "environment": {"git": {"revision": "abcdef0123", "dirty": False}},
    }  # fmt: skip
    return [
        Entry.model_validate(content | {"system": name, "metrics": measures | {"mean": mean}})
        for name, mean in (("tirg", 3.123456), ("concat", 2.0))
    ]


def call(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["results", *words])
    return ended.value.code


def test_the_page_of_results_is_what_the_kept_files_give() -> None:
    """Write it anew with `make docs`; a new table comes from `neucore-xl results docs/results.md --from NAME=FILE`."""
    sections = read_sections(DOCS / "results" / "sections.yaml")
    assert (DOCS / "results.md").read_text(encoding="utf-8") == page_text(sections, DOCS / "results")
    kept = {path.stem for path in (DOCS / "results").glob("*.json")}
    assert kept <= {section.name for section in sections.sections}
    assert {path.stem for path in (DOCS / "results").glob("*.svg")} == kept


def test_figures_are_taken_into_their_section(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_results(tmp_path / "run.json", entries())
    assert call(str(page), "--from", f"shapes={tmp_path / 'run.json'}") == 0
    text = page.read_text(encoding="utf-8")
    shapes, clothes = text.split("## Clothes")
    assert "| tirg | " in shapes
    assert "![Shapes](results/shapes.svg)" in shapes
    assert (tmp_path / "results" / "shapes.svg").exists()
    assert "2 runs, commit `abcdef0`, 3 min of training, timed on cpu." in shapes
    assert "```bash\nneucore-xl compare one-cell\n```" in shapes
    assert "It was so." in shapes
    assert "Not measured. It needs pictures. This command fills the table:" in clothes
    assert re.findall(r"^\| (\S+) \|  \|", clothes, re.MULTILINE) == ["tirg", "neucore"]
    small = tmp_path / "results" / "shapes.json"
    assert read_results(small)[0].metrics["mean"] == 3.1235
    before = (tmp_path / "results" / "shapes.svg").read_bytes()
    assert call(str(page)) == 0
    assert page.read_text(encoding="utf-8") == text
    assert (tmp_path / "results" / "shapes.svg").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "shapes"], "give a section and a file"),
        (["--from", "shape=run.json"], "no section 'shape'; did you mean shapes"),
        (["--from", "fashion=run.json"], "holds results of cirr, but section fashion is of fashion-iq"),
        (["--from", "shapes=gone.json"], "gone.json does not exist; write it with `neucore-xl compare`"),
        (["--sections", "gone.yaml"], "gone.yaml does not exist"),
        (["--sections", "bad.yaml"], "`sections.0.title`: field required"),
        (["--sections", "worse.yaml"], "is not valid YAML"),
    ],
)
def test_wrong_calls_change_nothing(
    words: list[str], said: str, page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page.parent)
    write_results(Path("run.json"), entries())
    Path("bad.yaml").write_text("introduction: x\nsystems: []\nsections: [{name: a, dataset: cirr, command: c}]\n")
    Path("worse.yaml").write_text("a: [")
    assert call(str(page), *words) == 2
    assert said in capsys.readouterr().err
    assert not page.exists()
    assert [path.name for path in Path("results").iterdir()] == ["sections.yaml"]


def test_a_page_of_somebody_else_is_not_replaced(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.write_text("my thesis")
    assert call(str(page)) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert page.read_text() == "my thesis"
