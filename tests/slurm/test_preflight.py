"""Preflight of one process, without a Slurm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from neucore_xl import preflight


def lines(text: str) -> dict[str, tuple[str, str]]:
    """Check → (ok or FAIL, what was found)."""
    found = re.findall(
        r"^(ok|FAIL) +\S+ +(GPUs|all-reduce|data|disk|run folder|shared folder|settings) +(.*)$", text, re.M
    )
    return {check: (passed, said) for passed, check, said in found}


def test_everything_is_in_order(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.main([*words, "--run", str(tmp_path / "run"), "--free-gib", "0"]) == 0
    found = lines(capsys.readouterr().out)
    assert list(found) == ["GPUs", "all-reduce", "data", "disk", "run folder", "shared folder", "settings"]
    assert {passed for passed, _ in found.values()} == {"ok"}
    assert "train 144 triplets, 48 pictures; val 45 triplets, 18 pictures" in found["data"][1]
    assert found["settings"][1].startswith("plain, batch 8 on 1 ranks")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("check", "more", "said"),
    [
        ("data", ["data.val_split=test9"], "test9"),
        ("data", ["data.root=nowhere"], "nowhere"),
        ("disk", ["--free-gib", "1e9"], "less than 1e+09"),
        ("settings", ["train.micro_batch=3"], "train.micro_batch=3 does not divide the 8 queries"),
        ("settings", ["train.deepspeed=none.json"], "none.json"),
        ("settings", ["train.world_size=4"], "train.world_size=4, but 1 process was started"),
        ("GPUs", ["train.device=auto"], "torch sees no GPU here"),
    ],
)
def test_what_is_wrong_is_named_and_the_other_checks_are_made(
    check: str,
    more: list[str],
    said: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert preflight.main([*words, "--run", str(tmp_path / "run"), "--free-gib", "0", *more]) == 2
    found = lines(capsys.readouterr().out)
    assert [c for c, (passed, _) in found.items() if passed == "FAIL"] == [check]
    assert said in found[check][1]
    assert len(found) == 7


def test_an_unreadable_picture_is_named(
    shapes: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes / "data", root)
    for picture in (root / "img_raw").rglob("*.png"):
        picture.write_bytes(b"")
    assert preflight.main([*words, "--run", str(tmp_path / "run"), "--free-gib", "0", f"data.root={root}"]) == 2
    assert re.search(r"picture \S+\.png is empty", lines(capsys.readouterr().out)["data"][1])


def test_an_unknown_setting_is_one_sentence(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight.main([*words, "--run", str(tmp_path / "run"), "train.stps=3"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "train.stps" in said.err


def test_the_exit_code_goes_to_the_file_that_the_batch_script_names(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUCORE_EXIT_FILE", str(tmp_path / "code"))
    assert preflight.main([*words, "--run", str(tmp_path / "run"), "data.root=nowhere"]) == 0
    assert (tmp_path / "code").read_text() == "2\n"
