"""Exported files, universal forms and configs of a backbone that hold something else: one sentence, or made again."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import Identity
from neucore_xl.runs.checkpoints.export import ExportedRun
from neucore_xl.runs.checkpoints.universal import FORM, is_whole, optimizer_state, universal_folder
from tests.attacks.test_pickles import BYTES
from tests.support.saving import save_weights
from tests.support.spoiled import JSON, deep, flip, in_its_place

pytestmark = pytest.mark.usefixtures("nobody_waits_for_a_pipe")

HEADERS: dict[str, dict[str, Any]] = {
    "no settings": {"config": None},
    "settings are no YAML": {"config": "{a: ["},
    "settings are a list": {"config": "[1]"},
    "settings are a text": {"config": "hello"},
    "settings are deep": {"config": "[" * 900},
    "an unknown setting": {"config": "data: {nonsense: 1}"},
    "no vocabulary": {"vocabulary": None},
    "vocabulary cut": {"vocabulary": '{"format": "x'},
    "vocabulary deep": {"vocabulary": deep().decode()},
    "vocabulary a list": {"vocabulary": "[]"},
    "no step": {"step": None},
    "a step of 5,000 digits": {"step": "9" * 5000},
    "a step below zero": {"step": "-3"},
    "a step in other digits": {"step": "²"},
    "no identity": {"identity": None},
    "identity of other fields": {"identity": '{"row": "x"}'},
    "identity of other types": {"identity": '{"row": 1, "backbone": [], "vocabulary": null}'},
    "identity deep": {"identity": '{"row":' * 5000},
    "metrics of texts": {"metrics": '{"mean": "high"}'},
    "metrics of long numbers": {"metrics": '{"mean": ' + "9" * 5000 + "}"},
    "metrics a list": {"metrics": "[1]"},
}


def safetensors_of(header: dict[str, str]) -> bytes:
    text = json.dumps({"__metadata__": header}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("change", HEADERS)
def test_an_exported_file_with_another_header_is_one_sentence(tmp_path: Path, change: str) -> None:
    from neucore_xl.config.load import dump_yaml, validate
    from neucore_xl.language.vocabulary import Vocabulary
    from neucore_xl.runs.checkpoints.export import FORMAT

    good = {
        "format": FORMAT, "step": "7", "config": dump_yaml(validate({})), "metrics": '{"mean": 1.5}',
        "identity": json.dumps({"row": "concat", "backbone": "b", "vocabulary": "v"}),
        "vocabulary": json.dumps(Vocabulary(["dog"], [1]).to_json()),
    }  # fmt: skip
    path = tmp_path / "model.safetensors"

    def everything() -> None:
        run = ExportedRun(path)
        run.settings(), run.vocabulary(), run.checkpoint()

    path.write_bytes(safetensors_of(good))
    everything()
    path.write_bytes(safetensors_of({k: v for k, v in (good | HEADERS[change]).items() if v is not None}))
    with pytest.raises(UserError) as error:
        everything()
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("content", BYTES)
def test_a_file_that_is_no_exported_model_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES[content])
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        ExportedRun(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [*JSON, "sizes of texts", "files a list", "a name with NUL", "no form"])
def test_a_universal_form_with_another_manifest_is_not_whole(tmp_path: Path, content: str) -> None:
    more = {
        "sizes of texts": {"form": FORM, "files": {"a": "1"}}, "files a list": {"form": FORM, "files": ["a"]},
        "a name with NUL": {"form": FORM, "files": {"a\0": 1}}, "no form": {"files": {}},
    }  # fmt: skip
    (tmp_path / "a").write_text("x")
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"form": FORM, "files": {"a": 1}, "checksums": {"a": "?"}}))
    assert is_whole(tmp_path)
    path.write_bytes(JSON[content] if content in JSON else json.dumps(more[content]).encode())
    assert not is_whole(tmp_path)


@pytest.mark.parametrize("what", ["gone", "a folder", "a pipe", "a loop of links"])
def test_a_universal_form_without_a_manifest_is_not_whole(tmp_path: Path, what: str) -> None:
    in_its_place(tmp_path / "manifest.json", what)
    assert not is_whole(tmp_path)


@pytest.mark.parametrize("piece", ["a.weight/exp_avg.pt", "a.weight/fp32.pt", "optimizer_state.pt"])
def test_a_universal_form_with_other_values_is_made_again(tmp_path: Path, piece: str) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2, bias=False)})
    optimizer = torch.optim.AdamW(model.parameters())
    model["a"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    engine = {"optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 1}}
    saved = save_weights(tmp_path, 1, model.state_dict(), Identity("toy", "b", "v"), extra={"engine": engine})
    folder = universal_folder(saved, World(), [["a.weight"]])
    before = optimizer_state(folder, [["a.weight"]])["state"][0]
    path = folder / "state" / "zero" / piece
    content = path.read_bytes()
    flip(path, first=len(content) // 2, count=20)
    folder = universal_folder(saved, World(), [["a.weight"]])
    assert path.read_bytes() == content
    after = optimizer_state(folder, [["a.weight"]])["state"][0]
    assert all(torch.equal(before[key], after[key]) for key in before)


# ---- the config of a backbone

CONFIGS: dict[str, bytes] = {
    **{kind: content for kind, content in JSON.items() if kind != "half a character"},
    "no towers": b"{}",
    "towers of numbers": b'{"embed_dim": 1, "vision_cfg": 1, "text_cfg": 2}',
    "towers of lists": b'{"embed_dim": 1, "vision_cfg": [], "text_cfg": []}',
    "options of a list": b'{"embed_dim": 1, "vision_cfg": {}, "text_cfg": {"tokenizer_kwargs": [1]}}',
    "preprocessing of a list": (
        b'{"model_cfg": {"embed_dim": 1, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": [1]}'
    ),
    "a name with NUL": b'{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "a\\u0000b"}}',
    "widths of texts": b'{"embed_dim": "x", "vision_cfg": {"width": "y"}, "text_cfg": {"width": "z"}}',
    "widths below zero": b'{"embed_dim": -1, "vision_cfg": {"width": -5}, "text_cfg": {"width": -5}}',
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"own-{hashlib.sha1(kind.encode()).hexdigest()[:8]}.json"
    path.write_bytes(CONFIGS[kind])
    refused_config(path)


@pytest.mark.parametrize("what", ["gone", "a folder", "a pipe", "a loop of links"])
def test_a_config_that_is_no_file_is_one_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "own.json"
    in_its_place(path, what)
    refused_config(path)


def refused_config(path: Path) -> None:
    from neucore_xl.config.schema import BackboneSettings

    with pytest.raises(UserError) as error:
        build_backbone(BackboneSettings(name=path.stem, config=path, pretrained=None))
    assert path.stem in str(error.value)
    assert "\n" not in str(error.value)
