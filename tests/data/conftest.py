"""Small folders in the two annotation formats, to be spoiled by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_data import edit, small_cirr, small_fashion_iq, write


@pytest.fixture(name="write")
def write_fixture() -> Callable[[Path, Any], None]:
    return write


@pytest.fixture(name="edit")
def edit_fixture() -> Callable[[Path, Callable[[Any], Any]], None]:
    return edit


@pytest.fixture
def cirr_root(tmp_path: Path) -> Path:
    """``small_cirr``."""
    return small_cirr(tmp_path / "cirr")


@pytest.fixture
def fashion_root(tmp_path: Path) -> Path:
    """``small_fashion_iq``."""
    return small_fashion_iq(tmp_path / "fashion-iq")
