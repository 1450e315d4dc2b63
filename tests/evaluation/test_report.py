"""The HTML page: what it says, that it needs no other file, and that it survives a missing picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.evaluation.report import SystemRow, evenly, rows_from_scores, write_page
from neucore_xl.evaluation.significance import paired_bootstrap
from neucore_xl.language.sequence import FusionSequence, Operation, Step


@pytest.fixture
def split(tmp_path) -> Split:
    names = tuple("abcde")
    for i, name in enumerate(names[:-1]):  # e has no picture
        Image.new("RGB", (300, 200), (50 * i, 80, 120)).save(tmp_path / f"{name}.png")
    triplets = (Triplet("1", "a", "b", 'one <more> & "bigger"'), Triplet("2", "a", "e", "two"))
    return Split("cirr", "val", tmp_path, triplets, {"": Gallery(names, {n: tmp_path / f"{n}.png" for n in names})})


SCORES = {
    "ours": np.array([[9.0, 8, 7, 6, 5], [9, 8, 7, 6, 5]]),
    "floor": np.array([[9.0, 5, 6, 7, 8], [0, 1, 2, 3, 4]]),
}


def test_rows_hold_rankings_without_the_reference(split):
    rows = rows_from_scores(split, [0, 1], SCORES, top=2)
    assert rows[0].rankings["ours"].images == ("b", "c")
    assert rows[0].rankings["ours"].target_rank == 1
    assert rows[0].rankings["floor"].target_rank == 4
    assert rows[1].rankings["floor"].images == ("e", "d")
    kept = rows_from_scores(split, [0], {"ours": SCORES["ours"][:1]}, top=2, reference="keep")
    assert kept[0].rankings["ours"].images == ("a", "b")


@pytest.mark.parametrize("thumbnails", ["embed", "link"])
def test_page(split, tmp_path, thumbnails):
    text = split.triplets[0].text
    planned = {text: FusionSequence(text, (Step(Operation.ADDITION, ("object",), "one <more>"),))}
    rows = rows_from_scores(split, [0, 1], SCORES, top=2, sequences=planned)
    difference = paired_bootstrap([100.0, 0.0, 100.0], [0.0, 0.0, 100.0])
    page = write_page(
        tmp_path / "page" / "index.html",
        rows,
        title="Two & two",
        image_path=split.image_path,
        systems=[
            SystemRow("ours", {"R@1": 50.0, "mAP@5": 1.0, "mean": 75.0}),
            SystemRow("floor", {"R@1": 60.0, "mAP@5": 1.0, "mean": 25.0}, difference, "image alone"),
        ],
        protocol={"split": "val", "ties": "against the target"},
        difference_label="ours ahead by",
        thumbnails=thumbnails,
    )
    html = page.read_text()
    assert "<title>Two &amp; two</title>" in html
    assert "one &lt;more&gt; &amp; &#34;bigger&#34;" in html
    assert "<more>" not in html
    assert "addition" in html
    assert "split: val · ties: against the target" in html
    assert "ours ahead by" in html
    assert "mAP@5" not in html
    assert re.search(r'<td class=" best">60\.00', html)
    assert re.search(r'<td class="headline best">75\.00', html)
    assert html.count("target at rank 1<") == 2
    assert html.count('<li class="target">') == 2  # shown within the top 2
    assert html.count('<li class="target beyond">') == 2  # shown behind it
    assert '<div class="gap" title="e">e</div>' in html  # the picture that is not there
    sources = re.findall(r'<img src="([^"]+)"', html)
    if thumbnails == "embed":
        assert all(s.startswith("data:image/jpeg;base64,") for s in sources)
        assert "http" not in html
    else:
        assert set(sources) <= {f"../{n}.png" for n in "abcd"}
        assert all((page.parent / s).is_file() for s in sources)


def test_a_page_of_queries_alone(split, tmp_path):
    rows = rows_from_scores(split, [1], {"ours": SCORES["ours"][1:]})
    html = write_page(tmp_path / "x.html", rows, title="t", image_path=split.image_path).read_text()
    assert "<thead>" not in html
    assert Path(tmp_path / "x.html").stat().st_mode & 0o044  # readable by others like any file


def test_evenly():
    assert evenly(9, 3) == [0, 4, 8]
    assert evenly(2, 5) == [0, 1]
    assert evenly(0, 5) == []
