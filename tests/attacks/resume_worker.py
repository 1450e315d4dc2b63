"""Saves shards as training does, swaps their pickles and goes on from them: ``python resume_worker.py FOLDER``.

One process; what becomes of each case goes to FOLDER/found.json.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs" / "checkpoints"))
import torch
import xxhash
import zero_worker as training  # type: ignore[import-not-found]

from neucore_xl.parallel.world import World
from neucore_xl.runs.checkpoints.checkpoint import read_checkpoint
from neucore_xl.runs.checkpoints.restore import engine_source, load_engine
from neucore_xl.runs.checkpoints.save import save_together, write_shards
from neucore_xl.runs.checkpoints.universal import parameter_names, universal_folder
from neucore_xl.runs.checkpoints.weights import stored_shapes

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
PARAMETERS = {"offload_param": {"device": "cpu"}}
KINDS: dict[str, tuple[int, dict[str, Any], bool]] = {  # stage, more of ZeRO, bf16
    "0": (0, {}, False),
    "1": (1, {}, False),
    "2": (2, {}, False),
    "3": (3, {}, False),
    "2-offload": (2, OFFLOAD, False),
    "3-offload": (3, OFFLOAD | PARAMETERS, False),
    "1-bf16": (1, {}, True),
    "2-bf16": (2, {}, True),
    "3-bf16": (3, {}, True),
}


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def engine_of(kind: str, folder: Path | None, universal: bool = False) -> tuple[Any, Any, Any]:
    """An engine, its model and the names, after loading what is in ``folder``."""
    import deepspeed

    stage, more, bf16 = KINDS[kind]
    model, optimizer, scheduler = training.build()
    names = parameter_names(model, optimizer)
    config = training.config(stage, universal, World())
    config["zero_optimization"].update(more)
    if bf16:
        config["bf16"] = {"enabled": True}
    source = None
    if folder is not None:
        source = engine_source(read_checkpoint(folder), World(), stage, names)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    if source is not None:
        load_engine(engine, source, World(), names)
    return engine, model, names


def step_of(engine: Any) -> float:
    x, y = training.batch(0, World())
    if not engine.bfloat16_enabled():
        loss = engine(x, y)
        engine.backward(loss)
        engine.step()
        return float(loss)
    return 0.0


def save(kind: str, where: Path) -> Path:
    """A checkpoint of that kind after one step."""
    engine, model, _ = engine_of(kind, None)
    step_of(engine)
    contents = training.Contents(
        1,
        training.IDENTITY,
        strategy="deepspeed",
        zero_stage=KINDS[kind][0],
        tensors=stored_shapes(model, model.backbone),
    )
    return save_together(where, World(), contents, lambda into: write_shards(engine, into)).path


def outcome(kind: str, folder: Path, marker: Path, universal: bool = False) -> dict[str, Any]:
    try:
        loss = step_of(engine_of(kind, folder, universal)[0])
        return {"error": None, "loss": loss, "ran": marker.exists()}
    except Exception as error:
        return {"error": str(error), "kind": type(error).__name__, "ran": marker.exists()}
    finally:
        marker.unlink(missing_ok=True)


def swapped(folder: Path, to: Path, content: Any, within: str = "zero") -> Path:
    shutil.copytree(folder, to)
    for path in (to / within).rglob("*.pt"):
        torch.save(content, path)
    return to


def outside(where: Path, marker: Path) -> dict[str, Any]:
    """Converting shards whose parameters have names that lead out of the folder."""
    folder = where / "outside" / "step-00000001"
    shutil.copytree(where / "1" / "step-00000001", folder, ignore=shutil.ignore_patterns("universal"))
    for path in (folder / "zero").rglob("*.pt"):
        content = torch.load(path, weights_only=False)
        inner = content.get("optimizer_state_dict", content)
        for key in ("param_slice_mappings", "param_shapes"):
            inner[key] = [{str(marker): v for v in m.values()} for m in inner.get(key, [])]
        content["module"] = {}
        torch.save(content, path)
    try:
        universal_folder(read_checkpoint(folder), World())
        return {"error": None, "ran": marker.exists()}
    except Exception as error:
        return {"error": str(error), "kind": type(error).__name__, "ran": marker.exists()}
    finally:
        shutil.rmtree(marker, ignore_errors=True)


def main() -> None:
    import deepspeed
    import deepspeed.ops

    where = Path(sys.argv[1])
    marker = where / "marker"
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled
    deepspeed.init_distributed("gloo")
    found: dict[str, Any] = {}
    for kind in KINDS:
        good = save(kind, where / kind)
        found[f"good-{kind}"] = outcome(kind, good, marker)
        evil = swapped(good, where / f"evil-{kind}" / good.name, {"module": Evil(marker)})
        found[f"evil-{kind}"] = outcome(kind, evil, marker)
        if kind in ("1", "2", "3"):
            nonsense = swapped(good, where / f"nonsense-{kind}" / good.name, {"module": 5})
            found[f"nonsense-{kind}"] = outcome(kind, nonsense, marker)
    one = where / "1" / "step-00000001"
    found["good-universal"] = outcome("2", one, marker, universal=True)
    evil = swapped(one, where / "evil-universal" / one.name, {"module": Evil(marker)}, "universal")
    manifest = json.loads((evil / "universal" / "manifest.json").read_text())
    pieces = {name: evil / "universal" / name for name in manifest["files"]}
    manifest["files"] = {name: path.stat().st_size for name, path in pieces.items()}
    manifest["checksums"] = {name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for name, path in pieces.items()}
    (evil / "universal" / "manifest.json").write_text(json.dumps(manifest))
    found["evil-universal"] = outcome("2", evil, marker, universal=True)
    found["outside"] = outside(where, marker)
    (where / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
