"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("NEUCORE_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real annotations at {path} (set NEUCORE_SHARED to the folder that holds data/cirr)")
    return path / "data"
