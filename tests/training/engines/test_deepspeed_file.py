"""DeepSpeed files: what is refused and how it is said, and that the shipped ones do what they say."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from neucore_xl.errors import UserError
from neucore_xl.training.engines.deepspeed_check import Offload, check_config, offload_of, stage_of
from neucore_xl.training.engines.deepspeed_file import (
    describe,
    find_config,
    from_accelerate,
    read_config,
    resolve_config,
    shipped_names,
)
from neucore_xl.training.engines.deepspeed_keys import REMOVED, UNUSED, dotted, known_keys, renamed_keys
from tests.support.forks import Forks, clean_environment, free_port

ROOT = Path(__file__).resolve().parents[3]
WORKER = Path(__file__).with_name("ds_worker.py")
ASKED = ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "zero3_nvme", "zero3_hpz")
RECIPE: dict[str, Any] = {
    "source": "my.json", "global_batch": 64, "local_batch": 8, "world_size": 8, "bf16": True, "clip_norm": 1.0,
}  # fmt: skip


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check_config(config, "my.json")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("my.json: ")
    return str(caught.value)


# The shipped files


def test_every_promised_file_is_shipped():
    assert set(shipped_names()) == {f"ds_configs/{name}.json" for name in (*ASKED, "zero0")}


@pytest.mark.parametrize("name", [Path(name).stem for name in shipped_names()])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_shipped_file_passes_its_check_and_is_completed(
    name: str, bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NEUCORE_NVME", str(tmp_path))
    path = find_config(Path(f"ds_configs/{name}.json"))
    config = read_config(path)
    check_config(config, path)
    final = resolve_config(config, **{**RECIPE, "bf16": bf16})
    assert config == read_config(path), "the file's own tree must not change"
    assert stage_of(final) == int(name[4])
    assert (final["train_batch_size"], final["train_micro_batch_size_per_gpu"]) == (64, 8)
    assert final["gradient_accumulation_steps"] == 1
    assert final["gradient_clipping"] == 1.0
    assert final["bf16"]["enabled"] is bf16
    assert final.get("data_types", {}).get("grad_accum_dtype") == ("fp32" if bf16 and stage_of(final) > 1 else None)
    wanted = {"offload": "cpu", "nvme": "nvme"}.get(name.partition("_")[2], "none")
    assert offload_of(final) == Offload(wanted if stage_of(final) == 3 else "none", wanted)
    assert str(tmp_path) in json.dumps(final) or name != "zero3_nvme"


@pytest.mark.parametrize("name", ASKED)
def test_a_shipped_file_writes_every_threshold_out(name: str):
    zero = read_config(ROOT / "ds_configs" / f"{name}.json")["zero_optimization"]
    needed = {"stage", "overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size"}
    if zero["stage"] == 3:
        needed |= {f"stage3_{key}" for key in ("prefetch_bucket_size", "param_persistence_threshold")}
        needed |= {"stage3_max_live_parameters", "stage3_max_reuse_distance", "sub_group_size"}
        needed |= {"stage3_gather_16bit_weights_on_model_save"}
    assert needed <= set(zero)
    # A parameter that is larger than the bucket is reduced alone: the largest of bigG/14 is its token table.
    assert zero["reduce_bucket_size"] > 49_408 * 1_280


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("zero0", "ZeRO 0 (nothing sharded)"),
        ("zero1", "ZeRO 1"),
        ("zero2_offload", "ZeRO 2, optimizer on the CPU"),
        ("zero3_offload", "ZeRO 3, parameters and optimizer on the CPU"),
        ("zero3_nvme", "ZeRO 3, parameters and optimizer on NVMe"),
        ("zero3_hpz", "ZeRO 3, second copy of the parameters within 8 ranks"),
    ],
)
def test_a_file_is_described_in_a_phrase(name: str, phrase: str):
    assert describe(read_config(ROOT / "ds_configs" / f"{name}.json")) == phrase


def test_the_page_of_strategies_names_every_shipped_file():
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert all(f"`{Path(name).stem}" in page for name in shipped_names())


# Finding and reading


def test_a_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("ds_configs/zero3.json")) == ROOT / "ds_configs" / "zero3.json"
    (tmp_path / "ds_configs").mkdir()
    own = tmp_path / "ds_configs" / "zero3.json"
    own.write_text("{}")
    assert find_config(Path("ds_configs/zero3.json")) == own, "the user's own file comes first"


def test_a_missing_file_is_answered_with_the_nearest_shipped_one(tmp_path: Path):
    with pytest.raises(UserError, match=r"did you mean ds_configs/zero3_offload\.json\?") as caught:
        find_config(tmp_path / "zero3_ofload.json")
    assert str(tmp_path / "zero3_ofload.json") in str(caught.value)
    assert all(name in str(caught.value) for name in shipped_names())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "a": 1,\n "b": }\n', "line 3"),
        ("[1]", "holds a list where an object is expected"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "key b twice"),
        ('{"a": ' + "9" * 5000 + "}", "of 5,000 digits is too large"),
        ("[" * 5000, "nested too deeply"),
        (b"\xff\xfe\x00", "line 1: not UTF-8"),
    ],
)
def test_an_unreadable_file_is_refused_with_the_place(text: str | bytes, said: str, tmp_path: Path):
    file = tmp_path / "my.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        read_config(file)
    assert str(file) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_config(tmp_path)


# Keys


def _place(path: str, value: object) -> dict[str, Any]:
    tree: Any = value
    for part in reversed(path.split(".")):
        tree = {part: tree}
    return tree


def usable() -> list[str]:
    """The known keys that have a use here."""
    useless = {*UNUSED, *renamed_keys()}
    return sorted(key for key in dotted(known_keys()) if not any(f"{key}.".startswith(f"{no}.") for no in useless))


@st.composite
def slips(draw: st.DrawFn) -> tuple[str, str]:
    """A known dotted key, and the same with one letter of its last word dropped, added, changed or moved."""
    path = draw(st.sampled_from(usable()))
    prefix, _, word = path.rpartition(".")
    letter = draw(st.sampled_from(string.ascii_lowercase + string.digits + "_"))
    i = draw(st.integers(0, len(word) - 1))
    before, here, after = word[:i], word[i], word[i + 1 :]
    moved = before + after[:1] + here + after[1:]
    slip = draw(st.sampled_from([before + after, before + letter + here + after, before + letter + after, moved]))
    return path, f"{prefix}.{slip}".lstrip(".")


@given(slips())
def test_one_wrong_letter_in_any_key_is_refused_with_the_right_key(case: tuple[str, str]):
    path, slip = case
    assume(slip not in set(dotted(known_keys())) | set(REMOVED) and not slip.endswith("."))
    said = refused(_place(slip, 1))
    assert f"unknown key {slip}; did you mean " in said
    assert path in re.split(r" or |\?", said.split("did you mean ")[1])


def test_the_spelling_that_trains_without_zero_is_refused():
    assert "did you mean zero_optimization?" in refused({"zero_optimisation": {"stage": 3}})


def test_a_key_at_the_wrong_level_is_sent_to_the_right_one():
    said = refused({"offload_optimizer": {"device": "cpu"}})
    assert "did you mean zero_optimization.offload_optimizer?" in said


def test_deepspeed_asks_for_no_key_that_is_unknown_here():
    """Runs the installed DeepSpeed's own reading on a tree that writes down every key that it is asked for."""
    from deepspeed.runtime.config import DeepSpeedConfig

    asked: set[str] = set()

    class Asked(dict):  # type: ignore[type-arg]
        def __init__(self, prefix: str, tree: dict[str, Any]) -> None:
            super().__init__({k: Asked(f"{prefix}{k}.", v) if isinstance(v, dict) else v for k, v in tree.items()})
            self.prefix = prefix

        def __contains__(self, key: object) -> bool:
            asked.add(f"{self.prefix}{key}")
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            asked.add(f"{self.prefix}{key}")
            return super().get(key, default)

        def __getitem__(self, key: str) -> Any:
            asked.add(f"{self.prefix}{key}")
            return super().__getitem__(key)

        def keys(self) -> Any:
            return self

        def __copy__(self) -> Asked:
            return self

    tree = {
        "train_batch_size": 1, "aio": {}, "checkpoint": {"parallel_write": {}, "writer": {}}, "data_types": {},
        "flops_profiler": {}, "optimizer": {"type": "adamw"}, "scheduler": {"type": "WarmupLR"},
        "timers": {"throughput": {}}, "torch_autocast": {"dtype": "bf16", "lower_precision_safe_modules": []},
    }  # fmt: skip
    DeepSpeedConfig(Asked("", tree))
    assert {"zero_optimization", "aio.queue_depth", "checkpoint.writer.type"} <= asked
    assert asked - set(dotted(known_keys())) - set(REMOVED) == set()


def test_every_key_that_deepspeed_removed_is_refused_with_what_to_do():
    from deepspeed.runtime import config as theirs

    removed = {*theirs._REMOVED_TOP_LEVEL_CONFIG_KEYS}
    removed |= {f"zero_optimization.{key}" for key in theirs._REMOVED_ZERO_CONFIG_KEYS}
    assert removed == set(REMOVED)
    for key in REMOVED:
        assert f"no `{key}` any more: {REMOVED[key]}" in refused(_place(key, {}))


def test_keys_without_use_here_are_refused_with_the_reason():
    for key, why in UNUSED.items():
        assert why in refused(_place(key, {}))


def test_old_names_are_answered_with_the_new_ones():
    assert "zero_optimization.cpu_offload" in renamed_keys()
    for key, new in renamed_keys().items():
        assert f"{key} is an old name: write {new}" in refused(_place(key, True))


@given(st.deferred(lambda: st.sampled_from(usable())))
def test_auto_is_refused_at_every_level(path: str):
    assume(path != "data_types.keep_in_fp32_modules")  # whose values DeepSpeed chooses itself under "auto"
    assert f'{path} is left at "auto"' in refused(_place(path, "auto"))


# Values


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"zero_optimization": {"stage": 4}}, "stage must be 0, 1, 2 or 3, not 4"),
        ({"zero_optimization": {"stage": True}}, "not true"),
        ({"zero_optimization": {"stage": "3"}}, 'not "3"'),
        ({"zero_optimization": True}, "must be a block of keys"),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, "zero_optimization.reduce_bucket_size is -1"),
        ({"zero_optimization": {"stage": 2, "overlap_comm": "perhaps"}}, "zero_optimization.overlap_comm"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "disk"}}}, "offload_optimizer.device"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "needs stage 3, but the stage is 2"),
        ({"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}}, "needs stage 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, "`nvme` needs stage 3"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.3}}}, "CPU Adam"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, "remove `optimizer`"),
        ({"scheduler": {"type": "WarmupLR"}}, "remove `scheduler`"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.enabled is true"),
        ({"gradient_allreduce_op": "sum"}, 'gradient_allreduce_op is "sum"'),
        ({"zero_force_ds_cpu_optimizer": True}, "zero_force_ds_cpu_optimizer is true"),
        ({"checkpoint": {"load_universal": True}}, "checkpoint.load_universal"),
    ],
)
def test_a_value_that_cannot_work_is_refused(config: dict[str, Any], said: str):
    assert said in refused(config)


@pytest.mark.parametrize("key", ["offload_param", "offload_optimizer"])
def test_an_nvme_offload_needs_a_folder_that_is_there(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def config(**path: str) -> dict[str, Any]:
        return {"zero_optimization": {"stage": 3, key: {"device": "nvme", **path}}}

    monkeypatch.delenv("NEUCORE_NVME", raising=False)
    assert f"zero_optimization.{key}.nvme_path is missing" in refused(config())
    assert "that variable is not set: export it" in refused(config(nvme_path="${NEUCORE_NVME}"))
    assert "is no folder on this machine" in refused(config(nvme_path=str(tmp_path / "absent")))
    check_config(config(nvme_path="${NEUCORE_NVME}"), "my.json", paths=False)
    monkeypatch.setenv("NEUCORE_NVME", str(tmp_path))
    check_config(config(nvme_path="${NEUCORE_NVME}"), "my.json")
    final = resolve_config(config(nvme_path="${NEUCORE_NVME}"), **RECIPE)
    assert final["zero_optimization"][key]["nvme_path"] == str(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32, but the recipe says train.batch_size=64"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu is 4"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but the recipe says train.clip_norm=1"),
        ({"bf16": {"enabled": False}}, "bf16.enabled is false, but the recipe says train.precision=bf16"),
        ({"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}}, "use stage 2 or 3"),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 3}}, "=3 does not divide 8 processes"),
        ({"zero_optimization": {"stage": 2, "zero_hpz_partition_size": 4}}, "needs stage 3, but it is 2"),
    ],
)
def test_a_file_that_contradicts_the_recipe_is_refused(config: dict[str, Any], said: str):
    check_config(config, "my.json")
    with pytest.raises(UserError, match=re.escape(said)):
        resolve_config(config, **RECIPE)


def test_a_file_that_says_the_same_as_the_recipe_is_taken():
    config = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, "gradient_clipping": 1.0}
    final = resolve_config(config | {"bf16": {"enabled": True}}, **RECIPE)
    assert final["train_batch_size"] == 64


def test_the_parts_of_a_step_are_not_deepspeeds_business():
    """With two parts DeepSpeed is told of one: 64 queries, 8 processes, 4 at a time."""
    final = resolve_config({"gradient_accumulation_steps": 2}, **{**RECIPE, "local_batch": 4})
    assert (final["train_batch_size"], final["gradient_accumulation_steps"]) == (32, 1)


def test_a_batch_that_cannot_be_shared_is_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"train\.batch_size=64 .* 5 queries on each of 8"):
        resolve_config({}, **{**RECIPE, "local_batch": 5})


# accelerate


def test_accelerate_without_deepspeed_gives_no_file():
    assert from_accelerate({}) is None
    assert from_accelerate({"ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}) is None


def test_the_file_of_accelerate_is_taken():
    environ = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds_configs/zero2.json"}
    assert from_accelerate(environ) == Path("ds_configs/zero2.json")


@pytest.mark.parametrize("file", [{}, {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "none"}])
def test_a_stage_without_a_file_is_refused_with_the_file_to_give(file: dict[str, str]):
    environ = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", **file}
    with pytest.raises(UserError, match=r"zero_stage 3 without a DeepSpeed file.*ds_configs/accelerate_zero3\.yaml"):
        from_accelerate(environ)


def test_there_is_an_accelerate_file_for_every_strategy_and_they_differ_in_the_strategy_alone():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "ds_configs").glob("accelerate_*.yaml")}
    assert files.pop("accelerate_ddp")["distributed_type"] == "MULTI_GPU"
    named = {stem: tree["deepspeed_config"].pop("deepspeed_config_file") for stem, tree in files.items()}
    assert named == {f"accelerate_{Path(name).stem}": name for name in shipped_names()}
    assert all(tree == files["accelerate_zero3"] for tree in files.values())


# Processes


def _stepped(forks: Forks, tmp_path: Path, files: list[str]) -> dict[str, Any]:
    """What ``ds_worker.py`` wrote, from two processes."""
    out = tmp_path / "out.json"
    forks.together([WORKER, out, *files], 2)
    return json.loads(out.read_text())


def _difference(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    return max(abs(a - b) for name in one for a, b in zip(one[name], other[name], strict=True))


def _judge(found: dict[str, Any], name: str) -> None:
    stage, size = int(name[4]), sum(map(len, found["plain"].values()))
    for precision, bound in (("fp32", 1e-6), ("bf16", 0.005)):
        got = found[f"{name} {precision}"]
        assert got["stage"] == stage
        assert got["kept"] == (size // 2 if stage == 3 else size), "ZeRO 3, and only it, cuts the parameters"
        if (stage, precision) != (0, "bf16"):
            assert _difference(found["plain"], got["after"]) < bound


@pytest.mark.slow
def test_every_shipped_file_is_stepped_by_deepspeed_like_one_process(forks: Forks, tmp_path: Path):
    """Two processes, two AdamW steps with clipping; NVMe has a test of its own.

    Slow: DeepSpeed is initialized fourteen times; what a file makes it do shows in no other way.
    """
    names = [Path(name).stem for name in shipped_names() if "nvme" not in name]
    found = _stepped(forks, tmp_path, [f"ds_configs/{name}.json" for name in names])
    assert found["world"] == 2
    for name in names:
        _judge(found, name)


@pytest.mark.slow
@pytest.mark.timeout(2400)  # the first time DeepSpeed compiles its part
def test_nvme_offload_is_stepped_by_deepspeed_like_one_process(forks: Forks, tmp_path: Path):
    """Slow where it runs: DeepSpeed compiles its asynchronous reader and writer first."""
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("AsyncIOBuilder")
    if builder is None or not builder.is_compatible():
        pytest.skip(
            "DeepSpeed's async_io cannot be built here: it needs the headers of libaio (libaio-dev) and a compiler"
        )
    _judge(_stepped(forks, tmp_path, ["ds_configs/zero3_nvme.json"]), "zero3_nvme")


PRINTS = """
import os, sys
keys = ("RANK", "WORLD_SIZE", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE")
sys.stdout.write(" ".join(["ENV", *(f"{key}={os.environ.get(key)}" for key in keys)]) + "\\n")  # in one piece
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "zero3"])
def test_accelerate_starts_two_processes_with_its_file(name: str, tmp_path: Path):
    """Slow: accelerate itself, which takes seconds to import."""
    script = tmp_path / "prints.py"
    script.write_text(PRINTS)
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
            "--config_file", f"ds_configs/accelerate_{name}.yaml", "--num_processes", "2",
            "--main_process_port", str(free_port()), str(script),
        ],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = sorted(re.findall(r"ENV RANK=(\d) WORLD_SIZE=(\d) ACCELERATE_USE_DEEPSPEED=(\S+)", done.stdout))
    deepspeed = "true" if name != "ddp" else "None"
    assert [entry[:2] for entry in said] == [("0", "2"), ("1", "2")], done.stdout
    assert all(entry[2].lower() == deepspeed.lower() for entry in said)
    assert name == "ddp" or f"ds_configs/{name}.json" in done.stdout


@pytest.mark.slow
def test_importing_the_checks_imports_neither_torch_nor_deepspeed():
    """Slow: an interpreter that has imported nothing yet."""
    module = "neucore_xl.training.engines.deepspeed_file"
    code = f"import sys, {module}; sys.exit(len({{'torch', 'deepspeed'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120).returncode == 0
