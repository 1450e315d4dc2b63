"""A CIRR folder of twelve tiny pictures, and a CLIP with random weights that reads 32 pixels."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neucore_xl.config.load import validate
from neucore_xl.config.schema import Settings
from neucore_xl.models.backbone import Backbone, build_backbone

SENTENCES = (
    "make the dog bigger and remove the cat",
    "add two red chairs",
    "same but on a beach",
    "is black instead of white, and has no background",
)
TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tower_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "tiny-random.json"
    path.write_text(json.dumps(TOWERS))
    return path


def write_cirr(root: Path, splits: dict[str, int]) -> Path:
    """CIRR's layout with one subset of six images per six images; every image is noise of its own."""
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        names = [f"{split}-{i}" for i in range(count)]
        for name in names:
            path = root / "img_raw" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(path)
        rows = []
        for first in range(0, count, 6):
            members = names[first : first + 6]
            for reference, target in ((0, 1), (1, 2), (2, 3), (0, 3)):
                number = len(rows)
                rows.append(
                    {
                        "pairid": number,
                        "reference": members[reference],
                        "target_hard": members[target],
                        "target_soft": {members[target]: 1.0, members[5]: 0.5},
                        "caption": SENTENCES[number % len(SENTENCES)],
                        "img_set": {"id": first, "members": members},
                    }
                )
        for folder, kind, content in (
            ("captions", f"cap.rc2.{split}", rows),
            ("image_splits", f"split.rc2.{split}", {n: f"./{split}/{n}.png" for n in names}),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{kind}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def larger_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures and eight pairs for validation too."""
    return write_cirr(tmp_path_factory.mktemp("larger") / "cirr", {"train": 12, "val": 12})


@pytest.fixture
def cirr_root(tmp_path: Path) -> Path:
    return write_cirr(tmp_path / "cirr", {"train": 12, "val": 6})


@pytest.fixture
def settings(cirr_root: Path, tower_config: Path, tmp_path: Path) -> Settings:
    return validate(
        {
            "data": {"root": str(cirr_root), "workers": 0},
            "backbone": {"config": str(tower_config), "name": "tiny-random", "pretrained": None},
            "model": {"name": "concat", "width": 16, "heads": 2},
            "train": {"cache_dir": str(tmp_path / "cache"), "device": "cpu", "batch_size": 4},
            "evaluation": {"batch_size": 5},
        }
    )


@pytest.fixture
def backbone(settings: Settings) -> Backbone:
    return build_backbone(settings.backbone).eval()


@pytest.fixture
def change() -> Callable[[Settings, dict[str, dict[str, Any]]], Settings]:
    """``change(settings, {"model": {"width": 8}})``: the settings with some leaves replaced."""

    def replaced(settings: Settings, tree: dict[str, dict[str, Any]]) -> Settings:
        base = settings.model_dump(mode="json")
        for section, values in tree.items():
            base[section].update(values)
        return validate(base)

    return replaced


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """``with file_limit(n):`` the kernel refuses files of more than n bytes, in whatever library writes them."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limited
