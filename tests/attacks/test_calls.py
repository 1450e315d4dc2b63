"""Wrong calls of every command and script: exit code 2, a sentence that names what is wrong, no trace, nothing written.

All run in this process, through the functions that the entry points call.

Slow: half a minute, a few hundredths of a second a call; no call stands for another.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from neucore_xl import preflight
from neucore_xl import train as train_module
from neucore_xl.cli import main
from neucore_xl.evaluation.result import Result
from tests.support.refusals import soon

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
HALF = os.fsdecode(b"\xff")  # what Python makes of a byte that is not UTF-8
DIGITS = "9" * 5000
NO_NUMBERS = {
    "NaN": "nan", "infinity": "inf", "minus infinity": "-inf", "too large a float": "1e400", "thirty digits": "1" * 30,
    "negative": "-1", "a superscript": "²", "a word": "x", "five thousand digits": DIGITS, "half a character": HALF,
    "markup": "[/red]", "an escape": "\x1b[2J", "empty": "", "a blank": " ", "hexadecimal": "0x" + "f" * 5000,
}  # fmt: skip


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a call is made in, with something of every kind in it."""
    place = tmp_path / "place"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_text("mine")
    (place / "loop").symlink_to("loop")
    run = place / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model:\n  name: concat\n")
    result = Result({"dataset": "cirr"}, {"mean": 50.0}, ("a", "b"), {"mean": np.array([100.0, 0.0])})
    for name in ("a", "b"):
        result.save(place / name)
    (place / "deep.yaml").write_text("data: " + "[" * 5000 + "]" * 5000)
    (place / "number.yaml").write_text(f"train: {{steps: {DIGITS}}}")
    (place / "list.yaml").write_text("[1, 2]")
    (place / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    monkeypatch.chdir(place)
    return place


def with_pipe(path: Path) -> float:
    """Make a pipe that nobody writes into; how many seconds a call may take, after which whoever waits is let go."""
    os.mkfifo(path)
    subprocess.Popen(["sh", "-c", 'sleep 5; [ -p "$0" ] && : <>"$0"', str(path)], start_new_session=True)
    return 4.0


def held(place: Path) -> dict[str, tuple[int, object]]:
    """What lies below ``place``."""
    return {
        str(path.relative_to(place)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in place.rglob("*")
    }


def entered(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry point does with ``words``, the first of which may name a script of ``eval/`` or a module."""
    name = words[0]
    if name == "neucore_xl.train":
        monkeypatch.setattr(sys, "argv", list(words))
        sys.exit(train_module.main())
    if not name.endswith(".py"):
        main(words)
    monkeypatch.setattr(sys, "argv", list(words))
    spec = importlib.util.spec_from_file_location(f"eval_{name[:-3]}", REPOSITORY / "eval" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["scores"].guarded(module.main)


@pytest.fixture
def call(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call(words…)``: exit code, output and errors."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "eval"))

    def call(*words: str, seconds: float = 60.0) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop, soon(seconds):
            entered(words, monkeypatch)
        out, err = capsys.readouterr()
        code = stop.value.code
        return code if isinstance(code, int) else 0, out, err

    return call


def refused(done: tuple[int, str, str], codes: tuple[int, ...] = (2,)) -> None:
    code, out, err = done
    assert code in codes, done
    assert out == ""
    assert "Traceback" not in err
    *usage, sentence = err.rstrip("\n").splitlines()
    assert len(sentence) < 8000
    if usage:  # a parser's own: how it is used, then what is wrong
        assert usage[0].lower().startswith("usage"), err
        assert "rror" in sentence or "Missing" in sentence, err
    else:
        assert sentence[:1].isalpha()
        assert len(sentence) > 20
        assert all(c.isprintable() for c in sentence), ascii(sentence)


EVAL = ("--run", "run", "--data", "folder", "--out", "new")
SHAPES = ("data", "generate", "shapes", "new")
ABLATE = ("ablate", "demo", "--commands", "--vary", "model.width=8,16")
LLM = ("prepare", "sequences", "folder", "--planner", "llm")
# Every option that takes a number, behind what it needs.
NUMBERS: dict[str, tuple[str, ...]] = {
    **{f"train {o}": ("train", "demo", "--dry-run", o) for o in ("--nodes", "--gpus-per-node", "--gpu-memory")},
    **{f"plan {o}": ("plan", "demo", o) for o in ("--nodes", "--gpus-per-node", "--gpu-memory")},
    **{f"ablate {o}": (*ABLATE, o) for o in ("--seeds", "--first-seed")},
    **{f"shapes {o}": (*SHAPES, o) for o in ("--train", "--val", "--test", "--seed", "--size", "--workers")},
    **{f"prepare {o}": (*LLM, o) for o in ("--batch-size", "--parallel", "--max-new-tokens", "--limit")},
    **{f"compare {o}": ("compare.py", "a", "b", o) for o in ("--confidence", "--resamples", "--seed")},
    "cirr --batch-size": ("cirr.py", *EVAL, "--batch-size"),
    "fashion_iq --batch-size": ("fashion_iq.py", *EVAL, "--batch-size"),
}


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("option", NUMBERS)
def test_an_option_refuses_what_is_no_number_of_its_kind(option: str, number: str, call: Call, place: Path) -> None:
    before = held(place)
    refused(call(*NUMBERS[option], NO_NUMBERS[number]))
    assert held(place) == before


@pytest.mark.parametrize(
    "number",
    ["NaN", "too large a float", "thirty digits", "negative", "a superscript", "half a character", "hexadecimal"],
)
@pytest.mark.parametrize(
    "key",
    [
        "data.target_pad", "data.workers", "language.min_count", "backbone.image_size", "model.width", "model.heads",
        "model.exchange_layers", "model.dropout", "model.correction_dropout", "fusion.max_steps",
        "fusion.learned_steps", "loss.temperature_init", "loss.temperature_max", "loss.concept_weight",
        "loss.focal_alpha", "loss.focal_gamma", "loss.subset_negatives", "train.steps", "train.batch_size",
        "train.accumulate", "train.micro_batch", "train.world_size", "train.seed", "train.lr", "train.lr_backbone",
        "train.lr_correction_scale", "train.weight_decay", "train.warmup_steps", "train.clip_norm",
        "train.wall_minutes", "train.hang_minutes", "train.log_every", "train.validate_every",
        "train.checkpoint_every", "train.keep_checkpoints", "evaluation.batch_size", "evaluation.chunk",
    ],
)  # fmt: skip
def test_a_setting_refuses_what_is_no_number_of_its_kind(
    key: str, number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["config", "show", "demo", f"{key}={NO_NUMBERS[number]}"])
    refused((stop.value.code, *capsys.readouterr()))  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


# Calls that are wrong in another way than by a number. Where {} stands, each of PATHS is tried.
PATHS = [
    "file",
    "folder",
    "loop",
    "pipe",
    "gone",
    "file/below",
    "loop/below",
    "n" * 300,
    "[/red]",
    "\x1b[2J",
    HALF,
    "~nobody/x",
]
IN: dict[str, tuple[str, ...]] = {
    "train recipe": ("train", "{}", "--dry-run"),
    "module recipe": ("neucore_xl.train", "{}", "--dry-run"),
    "plan recipe": ("plan", "{}"),
    "show recipe": ("config", "show", "{}"),
    "ablate recipe": ("ablate", "{}", "--vary", "model.width=8,16", "--commands"),
    "inspect": ("checkpoint", "inspect", "{}"),
    "verify": ("checkpoint", "verify", "{}"),
    "reshard": ("checkpoint", "reshard", "{}"),
    "export": ("checkpoint", "export", "{}", "--out", "new"),
    "doctor": ("data", "doctor", "cirr", "{}", "--no-images"),
    "sequences root": ("prepare", "sequences", "{}"),
    "score truth": ("prepare", "sequences", "--score", "{}"),
    "score predicted": ("prepare", "sequences", "--score", "file", "--predicted", "{}"),
    "concepts root": ("prepare", "concepts", "{}"),
    "explain file": ("explain", "sequence", "add a dog", "--file", "{}"),
    "check file": ("submission", "check", "{}", "--data", "folder"),
    "check data": ("submission", "check", "file", "--data", "{}"),
    "compare a": ("compare.py", "{}", "b"),
    "compare b": ("compare.py", "a", "{}"),
    "cirr run": ("cirr.py", "--run", "{}", "--data", "folder", "--out", "new"),
    "cirr data": ("cirr.py", "--run", "run", "--data", "{}", "--out", "new"),
    "fashion_iq run": ("fashion_iq.py", "--run", "{}", "--data", "folder", "--out", "new"),
    "fashion_iq data": ("fashion_iq.py", "--run", "run", "--data", "{}", "--out", "new"),
    "DeepSpeed file": ("train", "demo", "train.deepspeed={}", "--dry-run"),
    "backbone file": ("train", "demo", "backbone.config={}", "--dry-run"),
}


@pytest.mark.parametrize("path", PATHS, ids=ascii)
@pytest.mark.parametrize("where", IN)
def test_what_is_read_is_no_such_thing(where: str, path: str, call: Call, place: Path) -> None:
    seconds = with_pipe(place / "pipe") if path == "pipe" else 60.0
    before = held(place)
    done = call(*(word.replace("{}", path) for word in IN[where]), seconds=seconds)
    if where == "doctor" and done[0] == 1:  # it examines any folder, and says that nothing can be trained on
        assert "Traceback" not in done[1] + done[2]
    else:  # what the system finds too long is a machine's limit, 1
        refused(done, (1, 2) if len(path) > 255 else (2,))
    assert held(place) == before


OUT: dict[str, tuple[str, ...]] = {
    "reference": ("config", "reference", "--write", "{}"),
    "doctor": ("data", "doctor", "cirr", "folder", "--no-images", "--json", "{}"),
    "shapes": ("data", "generate", "shapes", "{}", "--train", "12", "--val", "12", "--test", "0", "--workers", "1"),
    "compare": ("compare.py", "a", "b", "--json", "{}"),
}
TAKEN = ["file", "loop", "pipe", "file/below", "loop/below", "n" * 300]


@pytest.mark.parametrize("path", TAKEN)
@pytest.mark.parametrize("where", OUT)
def test_what_is_there_is_not_replaced(where: str, path: str, call: Call, place: Path) -> None:
    seconds = with_pipe(place / "pipe") if path == "pipe" else 60.0
    before = held(place)
    code, _, err = call(*(word.replace("{}", path) for word in OUT[where]), seconds=seconds)
    assert code == 2 or (code, len(path)) == (1, 300)  # what the system finds too long is a machine's limit, 1
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert held(place) == before


ODD_NAMES = {
    "markup": "x/[/red]",
    "bold": "[bold]",
    "an escape": "\x1b[2J",
    "umlauts": "ü≥→²",
    "blank": " ",
}


@pytest.mark.parametrize("terminal", ["utf-8", "ascii"])
@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("where", OUT)
def test_an_odd_name_is_written_to_and_shown_as_text(
    where: str, name: str, terminal: str, call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, errors = (TextIOWrapper(BytesIO(), encoding=terminal, write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setattr(sys, "stderr", errors)
    code, _, _ = call(*(word.replace("{}", ODD_NAMES[name]) for word in OUT[where]))
    out, err = (stream.buffer.getvalue().decode(terminal) for stream in (said, errors))  # type: ignore[attr-defined]
    assert (code, err) == (int(where == "doctor"), ""), "nothing can be trained on"
    assert all(c.isprintable() for c in out.replace("\n", "")), ascii(out)
    assert (place / ODD_NAMES[name]).exists()


WRONG = {
    "no command": ["nothing"], "an unknown command": ["trian"], "an unknown option": ["train", "demo", "--x"],
    "an escape for a command": ["\x1b[2J"], "half a character for a command": [HALF], "an empty command": [""],
    "no run folder": ["train", "demo"], "an empty run folder": ["train", "demo", "--run", ""],
    "an empty recipe": ["train", "", "--run", "new"], "a blank recipe": ["train", " ", "--run", "new"],
    "a deep recipe": ["config", "show", "deep.yaml"], "a recipe of a long number": ["config", "show", "number.yaml"],
    "a recipe that is a list": ["config", "show", "list.yaml"], "a recipe of bytes": ["config", "show", "bytes.yaml"],
    "a recipe that is half a character": ["config", "show", HALF], "a recipe of markup": ["config", "show", "[/red]"],
    "an empty override": ["config", "show", "demo", ""], "an override without a value": ["config", "show", "demo", "a"],
    "an override without a key": ["config", "show", "demo", "=1"],
    "an override of dots": ["config", "show", "demo", "..=1"],
    "an override of an escape": ["config", "show", "demo", "\x1b[2J=1"],
    "an override of markup": ["config", "show", "demo", "[/red]=1"],
    "an override of half a character": ["config", "show", "demo", f"{HALF}=1"],
    "an override that is deep": ["config", "show", "demo", "data.root=" + "[" * 5000],
    "an override that is deep and closed": ["config", "show", "demo", "data.root=" + "[" * 900 + "]" * 900],
    "a key that is deep": ["config", "show", "demo", ".".join(["a"] * 500) + "=1"],
    "a section that is a list": ["config", "show", "demo", "train=[1]"],
    "a section that is a number": ["config", "show", "demo", "train=1e400"],
    "freezing thirty digits": ["config", "show", "demo", "backbone.freeze={image: " + "9" * 30 + "}"],
    "freezing NaN": ["config", "show", "demo", "backbone.freeze={image: .nan}"],
    "adapters of a huge rank": ["config", "show", "demo", "backbone.lora={rank: 1e30}"],
    "adapters of a negative rank": ["config", "show", "demo", "backbone.lora={rank: -1}"],
    "dropout of adapters that is NaN": ["config", "show", "demo", "backbone.lora={dropout: .nan}"],
    "a text that is a number": ["config", "show", "demo", "data.name=1e400"],
    "an unknown dataset": ["config", "show", "demo", "data.name=[/red]"],
    "an unknown system": ["train", "demo", "--dry-run", "model.name=[/red]"],
    "a system of half a character": ["train", "demo", "--dry-run", f"model.name=x:{HALF}"],
    "ablate without values": ["ablate", "demo", "--vary", "model.width"],
    "ablate without a key": ["ablate", "demo", "--vary", "=1,2"],
    "ablate with an empty value": ["ablate", "demo", "--vary", ""],
    "ablate with NaN": ["ablate", "demo", "--commands", "--vary", "train.lr=nan,1"],
    "ablate beyond the seeds": [*ABLATE, "--first-seed", "4294967295"],
    "ablate with an undecodable value": ["ablate", "demo", "--commands", "--vary", f"data.root=a,{HALF}"],
    "export to nothing": ["checkpoint", "export", "run"],
    "export to an empty name": ["checkpoint", "export", "run", "--out", ""],
    "an unknown dataset for the doctor": ["data", "doctor", "[/red]\x1b[2J", "folder"],
    "an unknown layout": ["data", "generate", "shapes", "new", "--layout", "[/red]"],
    "images smaller than a scene": ["data", "generate", "shapes", "new", "--size", "15"],
    "images of 10**12 pixels": ["data", "generate", "shapes", "new", "--size", "1000000000000"],
    "no images": ["data", "generate", "shapes", "new", "--train", "0", "--val", "0", "--test", "0"],
    "an empty folder name": ["data", "generate", "shapes", ""],
    "nothing to prepare": ["prepare", "sequences"],
    "two things to prepare": ["prepare", "sequences", "folder", "--score", "file"],
    "an unknown planner": ["prepare", "sequences", "folder", "--planner", "[/red]"],
    "a language model without a name": ["prepare", "sequences", "folder", "--planner", "llm"],
    "a share of a superscript": [*LLM, "--model", "m", "--shard", "²/3"],
    "a share beyond all": [*LLM, "--model", "m", "--shard", "3/3"],
    "a share of none": [*LLM, "--model", "m", "--shard", "0/0"],
    "a share of 5,000 digits": [*LLM, "--model", "m", "--shard", f"1/{DIGITS}"],
    "explain nothing": ["explain", "sequence", ""], "explain blanks": ["explain", "sequence", " \n\t"],
    "explain by an unknown planner": ["explain", "sequence", "add a dog", "--planner", "\x1b[2J"],
    "explain by two": ["explain", "sequence", "add a dog", "--planner", "clauses", "--file", "file"],
    "a split of an escape": ["submission", "check", "file", "--data", "folder", "--split", "\x1b[2J"],
    "a split that leaves the folder": ["submission", "check", "file", "--data", "folder", "--split", "../../x"],
    "a split of half a character": ["submission", "check", "file", "--data", "folder", "--split", HALF],
    "a split of 300 letters": ["submission", "check", "file", "--data", "folder", "--split", "x" * 300],
    "compare one": ["compare.py", "a"], "compare three": ["compare.py", "a", "b", "c"],
    "compare nothing": ["compare.py", "", "b"],
    "compare by another method": ["compare.py", "a", "b", "--method", "\x1b[2J"],
    "compare into a file that is there": ["compare.py", "a", "b", "--json", "file"],
    "compare with an unknown option": ["compare.py", "a", "b", "--\x1b[2J"],
    "evaluate nothing": ["cirr.py"],
    "evaluate into nothing": ["cirr.py", "--run", "run", "--data", "folder", "--out", ""],
    "evaluate nothing of a folder": ["cirr.py", *EVAL],
    "evaluate on another device": ["cirr.py", *EVAL, "--device", "²"],
    "evaluate a split of an escape": ["cirr.py", *EVAL, "--split", "\x1b[2J"],
    "evaluate a split that leaves the folder": ["cirr.py", *EVAL, "--split", "../../../etc/passwd"],
    "evaluate with an unknown setting": ["cirr.py", *EVAL, "evaluation.chunks=1"],
    "evaluate with an undecodable setting": ["cirr.py", *EVAL, f"fusion.file={HALF}"],
    "evaluate with a superscript": ["cirr.py", *EVAL, "evaluation.chunk=²"],
    "evaluate with other labels": ["cirr.py", *EVAL, "--labels", "[/red]"],
    "evaluate another gallery": ["fashion_iq.py", *EVAL, "--gallery", "²"],
    "evaluate other captions": ["fashion_iq.py", *EVAL, "--captions", "3"],
    "evaluate another average": ["fashion_iq.py", *EVAL, "--average", "\x1b[2J"],
    "the module without a run": ["neucore_xl.train", "demo"],
    "the module with an empty run": ["neucore_xl.train", "demo", "--run", ""],
    "the module with a wrong rank": ["neucore_xl.train", "demo", "--run", "new", "--local_rank", "²"],
    "the module with an empty recipe": ["neucore_xl.train", "", "--run", "new"],
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_is_one_sentence(wrong: str, call: Call, place: Path) -> None:
    before = held(place)
    refused(call(*WRONG[wrong]), (1, 2) if wrong == "a split of 300 letters" else (2,))
    assert held(place) == before


@pytest.mark.parametrize(
    "which", ["²", "٣", DIGITS, "1" * 300, "-1", "1.0", "nan", "[/red]", "\x1b[2J", HALF, "LAST", " "], ids=ascii
)
@pytest.mark.parametrize("command", ["reshard", "export"])
def test_a_checkpoint_of_another_name(command: str, which: str, call: Call, place: Path) -> None:
    step = place / "run" / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text(json.dumps({}))
    before = held(place)
    words = ("checkpoint", command, "run", "--checkpoint", which)
    refused(call(*words, *(("--out", "new") if command == "export" else ())))
    assert held(place) == before


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "1e400", "²", "five"])
def test_the_preflight_refuses_what_is_no_size_of_a_disk(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        preflight.main(["demo", "--run-dir", str(tmp_path / "run"), "--free-gib", size])
    assert caught.value.code == 2
    assert "--free-gib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["", "\udcff"])
def test_the_preflight_refuses_what_is_no_argument(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.main(["demo", "--run-dir", argument]) == 2
    assert "argument" in capsys.readouterr().err
