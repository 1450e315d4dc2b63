"""Every row of the released annotations is read; the counts are those of the files, counted once by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neucore_xl.data.datasets import open_split
from neucore_xl.data.doctor.examine import examine
from neucore_xl.data.doctor.statistics_cirr import CirrStatistics
from neucore_xl.data.doctor.statistics_fashion_iq import PUBLISHED_VAL, FashionIqStatistics

GALLERIES = {"train": (11452, 19036, 16121), "val": (3817, 6346, 5373), "test": (3818, 6346, 5374)}


@pytest.mark.parametrize(("split", "pairs", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)])
def test_cirr(shared: Path, split: str, pairs: int, images: int) -> None:
    found = open_split("cirr", shared / "cirr", split)
    assert (len(found.triplets), len(found.galleries[""])) == (pairs, images)
    assert len({t.id for t in found.triplets}) == pairs
    assert {len(t.subset) for t in found.triplets} == {6}
    assert {len(t.auxiliary) for t in found.triplets} == {4}
    assert [t.id for t in found.triplets if not t.text] == (["27098"] if split == "test1" else [])
    assert all((t.target is None) == (split == "test1") for t in found.triplets)
    assert len(found.image_names) == images
    raw = json.loads((shared / f"cirr/captions/cap.rc2.{split}.json").read_text())
    assert [t.captions[0] for t in found.triplets] == [row["caption"] for row in raw]


@pytest.mark.parametrize(("split", "rows"), [("train", 18000), ("val", 6016), ("test", 6118)])
def test_fashion_iq(shared: Path, split: str, rows: int) -> None:
    found = open_split("fashion-iq", shared / "fashion-iq", split)
    assert len(found.triplets) == rows
    assert tuple(len(g) for g in found.galleries.values()) == GALLERIES[split]
    assert all(t.text for t in found.triplets)
    both = open_split("fashion-iq", shared / "fashion-iq", split, captions="both")
    assert len({t.id for t in both.triplets}) == 2 * rows
    assert sum(not t.text for t in both.triplets) == {"train": 13, "val": 3, "test": 1}[split]


def test_fashion_iq_validation_sizes(shared: Path) -> None:
    found = open_split("fashion-iq", shared / "fashion-iq", "val", gallery="val")
    for category, sizes in PUBLISHED_VAL.items():
        assert sum(t.category == category for t in found.triplets) == sizes.rows
        assert len(found.galleries[category]) == sizes.val_gallery


def test_stamps(shared: Path) -> None:
    for split, rows, images in (("train", 2280, 260), ("val", 720, 100), ("test", 720, 100)):
        found = open_split("fashion-iq", shared / "stamps-fiq", split)
        assert len(found.triplets) == rows
        assert [len(g) for g in found.galleries.values()] == [images] * 3
        assert all(found.image_path(name).is_file() for name in found.image_names)


def test_doctor_on_cirr(shared: Path) -> None:
    report = examine("cirr", shared / "cirr", images=False)
    assert report.findings.problems == ["captions/cap.rc2.train.json is missing."]
    counts = {
        kind: tuple(sum(i.split == split for i in rows) for split in ("val", "test1"))
        for kind, rows in report.irregular.items()
    }
    assert counts == {
        "text-empty-unlabelled": (0, 1),
        "query-repeated": (12, 8),
        "caption-long": (1, 1),
        "caption-inner-space": (48, 44),
        "caption-non-ascii": (2, 1),
        "soft-without-hard": (37, 0),
        "soft-hard-below-one": (5, 0),
        "soft-names-reference": (37, 0),
        "soft-outside-subset": (261, 0),
        "soft-odd-value": (6, 0),
        "aux-code-unknown": (0, 1),
        "aux-placeholder": (0, 3),
        "aux-stray": (2, 4),
        "aux-inner-space": (308, 300),
        "aux-same-as-caption": (0, 1),
    }
    assert report.findings.clashes == []
    assert report.findings.shared == []
    unused = {s.name: (len(s.images_in_no_row), len(s.images_in_no_subset)) for s in report.findings.splits}
    assert unused == {"train": (0, 0), "val": (32, 0), "test1": (137, 0)}
    assert isinstance(report.findings.statistics, CirrStatistics)
    statistics = report.findings.statistics.measured
    assert statistics["val"].answered == pytest.approx((77.85, 73.04, 55.18, 65.18), abs=0.005)
    assert statistics["test1"].answered == pytest.approx((74.71, 73.24, 52.68, 64.71), abs=0.005)
    assert statistics["val"].closed_loops == pytest.approx(73.36, abs=0.005)
    assert (statistics["val"].words, statistics["test1"].words) == pytest.approx((11.012, 10.696), abs=0.0005)


def test_doctor_on_fashion_iq(shared: Path) -> None:
    report = examine("fashion-iq", shared / "fashion-iq", images=False)
    assert report.trainable
    counts = {
        kind: tuple(sum(i.split == split for i in rows) for split in ("train", "val", "test"))
        for kind, rows in report.irregular.items()
    }
    assert counts == {
        "query-repeated": (189, 20, 23),
        "captions-equal": (130, 22, 29),
        "caption-empty": (12, 3, 1),
        "caption-no-letters": (6, 0, 1),
        "caption-placeholder": (21, 11, 8),
        "caption-one-word": (251, 110, 87),
        "caption-outer-space": (942, 346, 345),
        "caption-inner-space": (202, 54, 80),
        "caption-non-ascii": (1, 1, 0),
        "caption-stray": (15, 5, 1),
    }
    across = {(s.one, s.other): len(s.names) for s in report.findings.shared if s.across_splits}
    assert across == {
        ("shirt/train", "toptee/val"): 392,
        ("shirt/train", "toptee/test"): 393,
        ("shirt/val", "toptee/train"): 419,
        ("shirt/val", "toptee/test"): 135,
        ("shirt/test", "toptee/train"): 410,
        ("shirt/test", "toptee/val"): 131,
    }
    assert isinstance(report.findings.statistics, FashionIqStatistics)
    statistics = report.findings.statistics.measured.values()
    words = sum(s.words * s.captions for s in statistics if s.words and s.captions)
    assert words / sum(s.captions or 0 for s in statistics) == pytest.approx(5.344, abs=0.0005)


@pytest.mark.slow
def test_doctor_decodes_the_stamps(shared: Path) -> None:
    """Slow: 1380 real pictures are decoded, which no generated ones stand for."""
    report = examine("fashion-iq", shared / "stamps-fiq", workers=2)
    assert report.trainable
    assert report.pictures is not None
    assert (report.pictures.checked, report.pictures.missing, report.pictures.unreadable) == (1380, (), {})
    assert report.findings.shared == []
