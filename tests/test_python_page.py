"""The page about Python is run as it stands, block after block, where a tiny run and pictures have the page's names."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.schema import Settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.runs.checkpoints.weights import stored_state
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import assemble
from tests.support.saving import save_weights

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


@pytest.fixture
def place(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``runs/b16``, ``data/cirr``, ``a.jpg``, ``query.jpg``, ``pictures/`` and so on."""
    place = tmp_path / "place"
    shutil.copytree(settings.data.root, place / "data" / "cirr")
    names = ["a.jpg", "b.jpg", "c.jpg", "query.jpg", "pictures/1.jpg", "pictures/2.jpg"]
    (place / "pictures").mkdir()
    for name, picture in zip(names, open_from_settings(settings.data, "val").galleries[""].paths.values(), strict=True):
        shutil.copy(picture, place / name)  # Pillow reads the content, whatever the name says
    system, folder = assemble(settings), RunFolder(place / "runs" / "b16")
    with folder.claim(settings):
        folder.write_vocabulary(system.vocabulary)
    state = stored_state(system.composer, system.backbone)
    save_weights(folder.checkpoints, 1, state, system.identity, best=True)
    monkeypatch.chdir(place)
    return place


def test_every_block_of_the_page_runs(place: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    printed = []
    for block in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, str(PAGE), "exec"), names)
        printed.append(out.getvalue().splitlines())
    ranked, _, scored, _, refused = printed
    assert sorted(line.split()[1] for line in ranked) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [float(line.split()[0]) for line in ranked] == sorted((float(r.split()[0]) for r in ranked), reverse=True)
    assert len(scored) == len(names["split"].triplets) == 4
    assert (place / "pictures.safetensors").is_file()
    assert names["fast"].settings.evaluation.precision == "bf16"
    assert refused == [re.search(r"print\(error\)  # (.*)", blocks[-1])[1]]  # type: ignore[index]
