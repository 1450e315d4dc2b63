"""Foreign runs whose files are pickles that run code, or of another form: nothing runs, one sentence names the file.

A plain run becomes a sharded one by its manifest alone, with right checksums; every reader of checkpoints is tried.

Slow: half a minute; shards of every ZeRO stage are made by real engines, and read by DeepSpeed's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import runpy
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash

from neucore_xl.cli import main
from neucore_xl.config.schema import BackboneSettings
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import build_backbone
from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints import find, universal
from neucore_xl.runs.checkpoints.checkpoint import read_checkpoint
from neucore_xl.runs.checkpoints.restore import whole_state
from neucore_xl.runs.checkpoints.weights import stored_state
from neucore_xl.runs.folder import RunFolder
from neucore_xl.runs.system import assemble, load_run
from tests.support.forks import Forks
from tests.support.saving import save_weights
from tests.support.small_cirr import TOWERS, validate, write_cirr

pytestmark = pytest.mark.slow

STEP = "step-00000007"
MODEL, MODEL_3 = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"
OPTIMIZER = "zero_pp_rank_0_mp_rank_00_optim_states.pt"
ALL = (MODEL, MODEL_3, OPTIMIZER)


class Called:
    """What pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def script(marker: Path) -> Path:
    path = marker.with_suffix(".py")
    path.write_text(f"open({str(marker)!r}, 'w').close()")
    return path


# Each writes the marker when it is loaded as pickles are.
PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda m: Called(os.system, f"touch {m}"),
    "eval": lambda m: Called(eval, f"open({str(m)!r}, 'w')"),
    "exec": lambda m: Called(exec, f"open({str(m)!r}, 'w')"),
    "open": lambda m: Called(open, str(m), "w"),
    "subprocess": lambda m: Called(subprocess.check_call, ["touch", str(m)]),
    "Path.touch": lambda m: Called(getattr, Called(Path, str(m)), "touch") and Called(Path.touch, m),
    "mkdir": lambda m: Called(os.mkdir, str(m)),
    "copy": lambda m: Called(shutil.copyfile, str(script(m)), str(m)),
    "numpy": lambda m: Called(np.savetxt, str(m), [1.0]),
    "script": lambda m: Called(runpy.run_path, str(script(m))),
    "a pickle inside": lambda m: Called(pickle.loads, pickle.dumps(Called(open, str(m), "w"))),
    "torch's own loader": lambda m: Called(torch.storage._load_from_bytes, nested(m)),
    "a key": lambda m: {Called(os.system, f"touch {m}"): torch.zeros(1)},
    "deep inside": lambda m: {"module": {"w": [({"x": Called(os.system, f"touch {m}")},)]}},
}


def nested(marker: Path) -> bytes:
    path = marker.with_suffix(".inner")
    torch.save(Called(os.system, f"touch {marker}"), path)
    return path.read_bytes()


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def older(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


FORMS = {"zip": zipped, "older form": older, "bare pickle": bare}
Write = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain run with one checkpoint."""
    root = tmp_path_factory.mktemp("whole")
    (root / "tiny-random.json").write_text(json.dumps(TOWERS))
    settings = validate(
        {
            "data": {"root": str(write_cirr(root / "cirr", {"train": 12, "val": 6})), "workers": 0},
            "backbone": {"config": str(root / "tiny-random.json"), "name": "tiny-random", "pretrained": None},
            "model": {"name": "concat", "width": 16, "heads": 2},
            "train": {"cache_dir": str(root / "cache"), "device": "cpu", "batch_size": 4},
        }
    )
    parts = assemble(settings)
    folder = RunFolder(root / "run")
    with folder.claim(settings):
        folder.write_vocabulary(parts.vocabulary)
    save_weights(folder.checkpoints, 7, stored_state(parts.composer, parts.backbone), parts.identity, best=True)
    return folder.path


class Foreign:
    """A copy of the plain run that says it is of DeepSpeed."""

    def __init__(self, whole: Path, where: Path) -> None:
        self.run, self.marker = where / "foreign", where / "marker"
        shutil.copytree(whole, self.run)
        self.step = self.run / "checkpoints" / STEP
        self.state = self.step / "zero" / "state"

    def sharded(self, stage: int, write: Write, names: Sequence[str] = ALL) -> Foreign:
        """Files ``names`` as ``write(path)`` fills them, in the place of the weights."""
        weights = safetensors.torch.load_file(self.step / "model.safetensors")
        (self.step / "model.safetensors").unlink()
        self.state.mkdir(parents=True)
        for name in names:
            write(self.state / name)
        self.seal(
            parallel={"strategy": "deepspeed", "zero_stage": stage, "world_size": 1, "deepspeed": "0.19.8"},
            tensors={name: list(value.shape) for name, value in weights.items()},
        )
        return self

    def seal(self, **changed: Any) -> Foreign:
        """A manifest with the right sizes and checksums."""
        path = self.step / "manifest.json"
        manifest = json.loads(path.read_text()) | changed
        names = [p for p in sorted(self.step.rglob("*")) if p.is_file() and p != path and "universal" not in p.parts]
        manifest["files"] = {
            p.relative_to(self.step).as_posix(): {
                "bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            }
            for p in names
        }  # fmt: skip
        path.write_text(json.dumps(manifest))
        return self

    def refused(self, call: Callable[[], object], names: Sequence[str] = ALL) -> str:
        """The one sentence that ``call`` ends with; it names one of the files, and nothing has run."""
        error: Exception | None = None
        try:
            call()
        except Exception as caught:
            error = caught
        assert not self.marker.exists(), "code of the file has run"
        assert isinstance(error, UserError), error
        said = str(error)
        assert "\n" not in said
        assert any(name in said for name in names), said
        return said


@pytest.fixture
def foreign(whole: Path, tmp_path: Path) -> Foreign:
    return Foreign(whole, tmp_path)


def command(*words: str | Path) -> Callable[[], None]:
    """``neucore-xl`` with these words; exit code 2 is the ``UserError`` behind it."""

    def call() -> None:
        from typer.testing import CliRunner

        from neucore_xl.cli import app

        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None:
            raise done.exception

    return call


# ---- code in the shards


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_evaluating_runs_nothing(foreign: Foreign, stage: int, form: str) -> None:
    payload = PAYLOADS["os.system"](foreign.marker)
    foreign.sharded(stage, lambda path: FORMS[form](payload, path))
    foreign.refused(lambda: load_run(foreign.run))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_kind_of_code_runs(foreign: Foreign, payload: str) -> None:
    content = PAYLOADS[payload](foreign.marker)
    foreign.sharded(2, lambda path: zipped(content, path))
    foreign.refused(lambda: load_run(foreign.run))


@pytest.mark.parametrize("stage", [0, 2])
def test_exporting_runs_nothing(foreign: Foreign, stage: int, tmp_path: Path) -> None:
    foreign.sharded(stage, lambda path: zipped(PAYLOADS["eval"](foreign.marker), path))
    foreign.refused(command("checkpoint", "export", foreign.run, "--out", tmp_path / "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_verify_names_what_could_run(foreign: Foreign, stage: int, capsys: pytest.CaptureFixture[str]) -> None:
    foreign.sharded(stage, lambda path: zipped(PAYLOADS["os.system"](foreign.marker), path))
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", "verify", str(foreign.run)])
    assert left.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(ALL)
    assert all("posix.system" in line and name in line for line, name in zip(said, sorted(ALL), strict=True))
    assert not foreign.marker.exists()


def test_verify_takes_a_good_run_for_whole(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", "verify", str(whole)])
    assert left.value.code == 0
    assert "whole" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["training.pt", "rank-00000.pt"])
@pytest.mark.parametrize("form", FORMS)
def test_position_and_random_state_run_nothing(foreign: Foreign, name: str, form: str) -> None:
    FORMS[form](PAYLOADS["os.system"](foreign.marker), foreign.step / name)
    foreign.seal()
    found = read_checkpoint(foreign.step)
    foreign.refused(found.extra if name == "training.pt" else lambda: found.rank_extra(0), [name])


@pytest.mark.parametrize("stage", [0, 2])
def test_a_plain_engine_takes_in_nothing(foreign: Foreign, stage: int) -> None:
    """What torch's optimiser goes on from: stage 0 as it is, the others through an existing universal form."""
    write = PAYLOADS["os.system"](foreign.marker)
    foreign.sharded(stage, lambda path: zipped(write, path))
    names = [["a.weight"]]
    root = foreign.step / "universal" / "state"
    for piece in ("zero/optimizer_state.pt", "zero/a.weight/exp_avg.pt", "zero/a.weight/exp_avg_sq.pt", *ALL):
        (root / piece).parent.mkdir(parents=True, exist_ok=True)
        zipped(write, root / piece)
    pieces = {p.relative_to(root.parent).as_posix(): p for p in root.rglob("*.pt")}
    sizes = {name: path.stat().st_size for name, path in pieces.items()}
    sums = {name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for name, path in pieces.items()}
    manifest = {"form": universal.FORM, "files": sizes, "checksums": sums}
    (root.parent / "manifest.json").write_text(json.dumps(manifest))
    foreign.refused(
        lambda: whole_state(read_checkpoint(foreign.step), World(), names), [*ALL, "optimizer_state.pt", "exp_avg.pt"]
    )


@pytest.mark.parametrize("piece", ["optimizer_state.pt", "a/exp_avg.pt", "a/step.pt"])
def test_no_piece_of_a_universal_form_runs(tmp_path: Path, piece: str) -> None:
    root, marker = tmp_path / "state" / "zero", tmp_path / "marker"
    (root / "a").mkdir(parents=True)
    good = {"optimizer_state.pt": {"param_groups": [{"lr": 1.0}]}, "a/step.pt": torch.ones(1)}
    good |= {f"a/{moment}.pt": {"param": torch.ones(2)} for moment in universal.MOMENTS}
    for name, content in good.items():
        zipped(content, root / name)
    assert len(universal.optimizer_state(tmp_path, [["a"]])["state"]) == 1
    zipped(PAYLOADS["os.system"](marker), root / piece)
    with pytest.raises(UserError, match=Path(piece).name):
        universal.optimizer_state(tmp_path, [["a"]])
    assert not marker.exists()


# ---- plain content of another form, and damage with right checksums

NONSENSE: dict[str, Any] = {
    "nothing": None,
    "a number": 5,
    "a list": [1, 2],
    "an empty object": {},
    "module of another kind": {"module": 5, "optimizer_state_dict": 5, "zero_stage": 2, "partition_count": 1},
    "a tensor": torch.zeros(3),
    "texts for tensors": {"module": {"w": "x"}, "buffer_names": "w", "param_shapes": "w"},
    "a negative count": {"module": {}, "buffer_names": [], "param_shapes": [], "frozen_param_shapes": None,
                         "optimizer_state_dict": {"zero_stage": 2, "partition_count": -1}},
}  # fmt: skip
BYTES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"weights, I promise\n" * 20,
    "zeros": bytes(4096),
    "half a zip": b"PK\x03\x04" + bytes(200),
    "random": np.random.default_rng(0).bytes(3000),
    "stack underflow": b"\x80\x02ccollections\nOrderedDict\nR.",
}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", NONSENSE)
def test_content_of_another_form_is_one_sentence(foreign: Foreign, kind: str, stage: int) -> None:
    foreign.sharded(stage, lambda path: zipped(NONSENSE[kind], path))
    foreign.refused(lambda: load_run(foreign.run), [*ALL, STEP])


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("kind", BYTES)
def test_damage_is_one_sentence(foreign: Foreign, kind: str, stage: int) -> None:
    foreign.sharded(stage, lambda path: path.write_bytes(BYTES[kind]) and None)
    foreign.refused(lambda: load_run(foreign.run), [*ALL, STEP])


@pytest.mark.parametrize("name", ["training.pt", "rank-00000.pt"])
@pytest.mark.parametrize("kind", BYTES)
def test_damaged_position_is_one_sentence(foreign: Foreign, kind: str, name: str) -> None:
    (foreign.step / name).write_bytes(BYTES[kind])
    foreign.seal()
    found = read_checkpoint(foreign.step)
    foreign.refused(found.extra if name == "training.pt" else lambda: found.rank_extra(0), [name])


def test_a_script_of_torch_is_no_checkpoint(foreign: Foreign) -> None:
    def write(path: Path) -> None:
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)

    foreign.sharded(0, write)
    foreign.refused(lambda: load_run(foreign.run))


def test_a_pipe_among_the_shards_is_not_waited_for(foreign: Foreign) -> None:
    foreign.sharded(2, lambda path: zipped({}, path))
    os.mkfifo(foreign.state / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    foreign.refused(lambda: load_run(foreign.run), [*ALL, "zero_pp_rank_1_mp_rank_00_optim_states.pt"])


# ---- converting, which starts DeepSpeed's program


@pytest.mark.parametrize("stage", [1, 3])
def test_converting_runs_nothing(foreign: Foreign, stage: int) -> None:
    foreign.sharded(stage, lambda path: zipped(PAYLOADS["os.system"](foreign.marker), path))
    said = foreign.refused(command("checkpoint", "reshard", foreign.run))
    assert "posix.system" in said


def test_a_module_in_the_checkpoint_is_not_imported(foreign: Foreign) -> None:
    """Python puts the folder a program is started in first on its path."""
    foreign.sharded(1, lambda path: zipped({}, path))
    for name in ("torch", "json", "deepspeed", "typing"):
        (foreign.step / f"{name}.py").write_text(f"open({str(foreign.marker)!r}, 'w').close()")
    foreign.refused(command("checkpoint", "reshard", foreign.run), [*ALL, STEP])


# ---- going on from shards: DeepSpeed's own loading, in a process that has begun as training does


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> dict[str, dict[str, Any]]:
    """What ``resume_worker.py`` says of each of its cases; one process and fifteen starts of DeepSpeed's engine."""
    where = tmp_path_factory.mktemp("resumed")
    worker = Path(__file__).with_name("resume_worker.py")
    forks.together([worker, where], 1, DS_ACCELERATOR="cpu", DEEPSPEED_LOG_LEVEL="error")
    found: dict[str, dict[str, Any]] = json.loads((where / "found.json").read_text())
    return found


CASES = [
    *(f"good-{stage}" for stage in ("0", "1", "2", "3", "2-offload", "3-offload", "1-bf16", "2-bf16", "3-bf16")),
    *(f"evil-{stage}" for stage in ("0", "1", "2", "3", "2-offload", "3-offload", "1-bf16", "2-bf16", "3-bf16")),
    *(f"nonsense-{stage}" for stage in ("1", "2", "3")),
    "evil-universal", "good-universal", "outside",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_resuming_runs_nothing(resumed: dict[str, dict[str, Any]], case: str) -> None:
    found = resumed[case]
    assert not found["ran"], "the pickle has run"
    if case.startswith("good"):
        assert found["error"] is None, found
        assert found["loss"] < 10
    else:
        assert found["kind"] == "UserError", found
        assert "\n" not in found["error"]
        assert ".pt" in found["error"] or "step-" in found["error"]


# ---- a backbone's own files


def test_a_tokenizer_of_a_backbone_runs_no_code_of_its_folder(tmp_path: Path, bert_folder: Path) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "tokenizer"
    shutil.copytree(bert_folder, folder)
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nfrom transformers import BertTokenizerFast\n"
                                   "class Own(BertTokenizerFast): pass\n")  # fmt: skip
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = {**TOWERS["text_cfg"], "hf_model_name": "tokenizer", "tokenizer_kwargs": {"trust_remote_code": True}}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "hf_tokenizer_name": "tokenizer"}
    path = tmp_path / "own-code.json"
    path.write_text(json.dumps({**TOWERS, "text_cfg": {**text, "context_length": 12}}))
    with suppress(Exception):
        build_backbone(BackboneSettings(name="own-code", config=path, pretrained=None))
    assert not marker.exists(), "code of the folder has run"
    with pytest.raises(UserError, match="trust_remote_code") as error:
        build_backbone(BackboneSettings(name="own-code", config=path, pretrained=None))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_pretrained_weights_run_nothing(whole: Path, tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    FORMS[form]({"state_dict": PAYLOADS["os.system"](marker)}, path)
    settings = RunFolder(whole).settings().backbone.model_copy(update={"pretrained": str(path)})
    with pytest.raises(UserError, match=r"weights\.pt"):
        build_backbone(settings)
    assert not marker.exists()


def test_the_last_checkpoint_of_a_foreign_run_is_found_without_loading_it(foreign: Foreign) -> None:
    foreign.sharded(1, lambda path: zipped(PAYLOADS["os.system"](foreign.marker), path))
    assert find.find_checkpoint(RunFolder(foreign.run), "last").sharded
    assert not foreign.marker.exists()
