"""A trained model leaves its run folder: as one file, and as a CLIP that open_clip loads by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors
import safetensors.torch
import torch

from neucore_xl.cli import main
from neucore_xl.config.load import dump_yaml
from neucore_xl.config.schema import LATER, Settings
from neucore_xl.errors import UserError
from neucore_xl.runs.checkpoints.export import FORMAT, ExportedRun
from neucore_xl.runs.checkpoints.weights import stored_state
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import System, assemble, load_run
from tests.support.saving import save_weights

Change = Callable[[Settings, dict[str, dict[str, Any]]], Settings]


def trained(settings: Settings, path: Path) -> System:
    """A run whose trained parameters are not those it was built with."""
    parts = assemble(settings)
    with RunFolder(path).claim(settings):
        RunFolder(path).write_vocabulary(parts.vocabulary)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in parts.composer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_weights(
        RunFolder(path).checkpoints,
        7,
        stored_state(parts.composer, parts.backbone),
        parts.identity,
        metrics={"mean": 12.5},
        best=True,
    )
    return parts


@pytest.fixture
def partly_frozen(settings: Settings, change: Change) -> Settings:
    return change(settings, {"backbone": {"freeze": {"image": 1, "text": 1}}, "train": {"cache_features": False}})


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_file_from_before_a_key_came_is_read_as_what_it_was(settings: Settings, tmp_path: Path) -> None:
    later = tuple(f"  {key.split('.')[1]}:" for key in LATER)
    lines = [line for line in dump_yaml(settings).splitlines() if not line.startswith(later)]
    header = {"format": FORMAT, "step": "7", "config": "\n".join(lines)}
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "old.safetensors", metadata=header)
    read = ExportedRun(tmp_path / "old.safetensors").settings()
    assert (read.model.start, read.model.explicit, read.train.lr_scalars) == ("image", "weighted", None)


def test_an_exported_file_loads_as_the_run_does(partly_frozen: Settings, tmp_path: Path) -> None:
    parts = trained(partly_frozen, tmp_path / "run")
    out = tmp_path / "model.safetensors"
    assert command("export", str(tmp_path / "run"), "--out", str(out)) == 0
    fingerprint = load_run(tmp_path / "run").fingerprint
    shutil.rmtree(tmp_path / "run")
    run = load_run(out)
    assert run.fingerprint == fingerprint, "a gallery of the one can be searched with the other"
    assert (run.settings, run.checkpoint.step, dict(run.checkpoint.metrics)) == (partly_frozen, 7, {"mean": 12.5})
    assert run.vocabulary == parts.vocabulary
    expected = parts.composer.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.composer.state_dict().items())


def test_the_header_says_what_the_file_is(partly_frozen: Settings, tmp_path: Path) -> None:
    parts = trained(partly_frozen, tmp_path / "run")
    out = tmp_path / "model.safetensors"
    assert command("export", str(tmp_path / "run"), "--out", str(out)) == 0
    with safetensors.safe_open(out, framework="pt") as file:
        header = file.metadata()
        names = set(file.keys())
    assert header["step"] == "7"
    assert header["backbone"] == parts.backbone_fingerprint
    assert json.loads(header["metrics"]) == {"mean": 12.5}
    assert len(header["config_sha256"]) == 64
    assert names == set(stored_state(parts.composer, parts.backbone))


def test_a_file_of_another_kind_and_a_damaged_one_are_told_apart(partly_frozen: Settings, tmp_path: Path) -> None:
    trained(partly_frozen, tmp_path / "run")
    with pytest.raises(UserError, match="is no exported model"):
        ExportedRun(tmp_path / "run" / "checkpoints" / "step-00000007" / "model.safetensors")
    out = tmp_path / "model.safetensors"
    command("export", str(tmp_path / "run"), "--out", str(out))
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read as an exported model"):
        load_run(out)


def test_another_frozen_backbone_is_refused_for_an_exported_file_too(
    partly_frozen: Settings, change: Change, tmp_path: Path
) -> None:
    trained(partly_frozen, tmp_path / "run")
    out = tmp_path / "model.safetensors"
    command("export", str(tmp_path / "run"), "--out", str(out))
    with pytest.raises(UserError, match="backbone differs"):
        load_run(out, settings=change(partly_frozen, {"train": {"seed": 9}}))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_open_clip_loads_the_clip_part_by_itself_and_finds_equal_features(
    partly_frozen: Settings, tmp_path: Path, suffix: str
) -> None:
    parts = trained(partly_frozen, tmp_path / "run")
    out = tmp_path / f"clip.{suffix}"
    assert command("export", str(tmp_path / "run"), "--clip", str(out)) == 0
    model = open_clip.create_model("tiny-random", pretrained=str(out)).eval()
    assert model.logit_scale.shape == ()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    words = parts.backbone.tokenizer(["a dog", "two red chairs"])
    own: Any = parts.backbone.eval().clip
    with torch.no_grad():
        for found, expected in (
            (model.encode_image(pixels), own.encode_image(pixels)),
            (model.encode_text(words), own.encode_text(words)),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # attention has two kernels
        fresh = open_clip.create_model("tiny-random", load_weights=False).eval()
        assert not torch.allclose(fresh.encode_image(pixels), model.encode_image(pixels))
    loaded = model.state_dict()
    assert loaded.keys() == own.state_dict().keys()
    for name, tensor in own.state_dict().items():
        assert torch.equal(loaded[name], tensor.reshape(loaded[name].shape)), name
    assert {p.requires_grad for p in own.parameters()} == {True, False}


def test_nothing_is_overwritten_unasked(
    partly_frozen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(partly_frozen, tmp_path / "run")
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"mine")
    assert command("export", str(tmp_path / "run"), "--out", str(out)) == 2
    assert "exists" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert command("export", str(tmp_path / "run"), "--out", str(out), "--force") == 0
    assert load_run(out).checkpoint.step == 7
    assert command("export", str(tmp_path / "run")) == 2
    assert command("export", str(tmp_path / "run"), "--out", str(tmp_path / "model.zip")) == 2
    assert sorted(p.name for p in tmp_path.glob(".tmp-*")) == []


def test_inspect_and_verify_of_a_run(
    partly_frozen: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = trained(partly_frozen, tmp_path / "run")
    assert command("inspect", str(tmp_path / "run")) == 0
    said = capsys.readouterr().out
    for words in ("step        7", "plain", "world size  1", "model.safetensors", "12.50", parts.backbone_fingerprint):
        assert words in said
    assert command("verify", str(tmp_path / "run")) == 0
    path = tmp_path / "run" / "checkpoints" / "step-00000007"
    content = bytearray((path / "training.pt").read_bytes())
    content[-1] ^= 1
    (path / "training.pt").write_bytes(content)
    capsys.readouterr()
    assert command("verify", str(path)) == 1
    assert "training.pt has another content" in capsys.readouterr().out
    (path / "manifest.json").write_text("{")
    assert command("verify", str(tmp_path / "run")) == 1
    assert "manifest" in capsys.readouterr().out
    assert command("verify", str(tmp_path)) == 2
    assert command("reshard", str(tmp_path / "run")) == 2
