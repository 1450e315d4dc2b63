"""The guard around torch's reader: what it overrules, what it lets pass, and that it leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.errors import UserError
from neucore_xl.runs.checkpoints import trusted

PACKAGE = Path(trusted.__file__).parents[2]


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("forbidden", [None, "1"])
def test_a_reader_that_asks_for_anything_gets_plain_values_only(
    tmp_path: Path, forbidden: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``forbidden``: somebody has told torch by its environment to read everything, as guides to old libraries say."""
    if forbidden:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forbidden)
    path, marker = tmp_path / "x.pt", tmp_path / "marker"
    for zipped in (True, False):
        torch.save({"x": Code(marker)}, path, _use_new_zipfile_serialization=zipped)
        with trusted.weights_only(), pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=False)
        with pytest.raises(UserError, match=re.escape(f"{path} names posix.system")):
            trusted.read(path, dict)
    assert not marker.exists()
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == forbidden
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_classes_of_shards_pass_inside_and_not_outside(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    path = tmp_path / "x.pt"
    kept = (LossScaler(2.0), ZeroStageEnum(2), fragment_address(numel=3, start=1))
    assert sorted(f"{type(k).__module__}.{type(k).__qualname__}" for k in kept) == sorted(trusted.CLASSES)
    torch.save(kept, path)
    before = set(torch.serialization.get_safe_globals())
    for _ in range(2):
        scaler, stage, address = trusted.read_shard(path, tuple)
        assert (scaler.loss_scale, stage, address) == (2.0, 2, kept[2])
    with trusted.weights_only():
        trusted.read_shard(path, tuple)
        trusted.read_shard(path, tuple)  # the inner one does not take the outer one's classes away
    assert set(torch.serialization.get_safe_globals()) == before
    assert trusted.problems([path]) == []
    with pytest.raises(UserError, match="LossScaler"):
        trusted.read(path, tuple)


def test_what_another_library_allows_is_not_allowed_here(tmp_path: Path) -> None:
    """torch itself allows meshes of devices, whose construction starts a process group."""
    torch.save([ValueError("x")], tmp_path / "x.pt")
    with torch.serialization.safe_globals([ValueError]):
        torch.load(tmp_path / "x.pt", weights_only=True)
        for read in (trusted.read, trusted.read_shard):
            with pytest.raises(UserError, match="ValueError"):
                read(tmp_path / "x.pt", list)
        assert len(trusted.problems([tmp_path / "x.pt"])) == 1
        torch.load(tmp_path / "x.pt", weights_only=True)


def test_what_could_run_is_told_without_loading(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"x": torch.ones(2)}, tmp_path / "good.pt")
    torch.save({"x": Code(marker)}, tmp_path / "bad.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:-40])
    found = trusted.problems(trusted.files_of(tmp_path))
    assert [said.split(" ")[0] for said in found] == [str(tmp_path / "bad.pt"), str(tmp_path / "cut.pt")]
    with pytest.raises(UserError, match="bad"):
        trusted.check(trusted.files_of(tmp_path))
    assert not marker.exists()


def test_errors_of_the_machine_pass_and_those_of_content_become_one_sentence(tmp_path: Path) -> None:
    for error in (UserError("so"), OSError(5, "input/output error"), torch.OutOfMemoryError("no memory")):
        with pytest.raises(type(error)), trusted.taking_in(tmp_path):
            raise error
    for wrong in (KeyError("module"), TypeError("x"), RuntimeError("shapes\nmany lines"), IndexError()):
        with pytest.raises(UserError, match="cannot be loaded") as said, trusted.taking_in(tmp_path):
            raise wrong
        assert "\n" not in str(said.value)


def test_no_file_of_the_package_reads_pickles_otherwise() -> None:
    loose = re.compile(r"weights_only=False|allow_pickle=True|pickle\.loads?\(|torch\.load\(")
    arrays = "data/features/pickles.py"  # torch.load of one tensor's numbers, weights only; its own tests attack it
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if loose.search(line)
        and "`" not in line
        and not (path.relative_to(PACKAGE).as_posix() == arrays and "weights_only=True" in line)
    ]
    assert found == []
