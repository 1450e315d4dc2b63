"""The page of all settings is written from the types and lies current in docs/."""

from __future__ import annotations

from pathlib import Path

from neucore_xl.config.fields import setting_keys
from neucore_xl.config.reference import render
from neucore_xl.data.datasets import dataset_names

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_in_docs_is_current():
    page = render({"data.name": dataset_names()})
    assert PAGE.read_text(encoding="utf-8") == page, "run `make docs` (neucore-xl config reference --write ...)"


def test_every_key_has_a_row_with_range_default_and_meaning():
    page = render({"data.name": ("cirr", "own")})
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {key.path for key in setting_keys()}
    assert rows["train.batch_size"].startswith(
        "| `train.batch_size` | a whole number from 1 to 1,000,000 | `128` | Queries"
    )
    assert "one of cirr, own" in rows["data.name"]
    assert all(len(key.description) > 10 for key in setting_keys())
