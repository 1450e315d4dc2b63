"""What a training step really takes against what ``neucore-xl plan`` says: ``python benchmarks/memory.py``.

Every line is a fresh process on the CPU: a model of medium size is built, one forward, loss and backward is run to
warm up, and then the peak of the resident memory (VmHWM, which the kernel counts) above the level before the step is
set against ``Rehearsal.activations``. Gradients of parameters are dropped as they arrive in both, as the planner
counts them apart. Small blocks are mapped one by one (MALLOC_MMAP_THRESHOLD_), so that what is freed is given back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOWERS = {
    "embed_dim": 384,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 6},
}
CASES = (
    ("trained", 2, ["backbone.freeze=none"]),
    ("trained", 6, ["backbone.freeze=none"]),
    ("trained, checkpointing", 6, ["backbone.freeze=none", "backbone.activation_checkpointing=true"]),
    ("trained, bf16", 6, ["backbone.freeze=none", "train.precision=bf16"]),
    ("half frozen", 6, ["backbone.freeze={image: 6, text: 3}"]),
    ("frozen, cached", 12, ["backbone.freeze=all"]),
)


def measure(recipe: str, queries: int, overrides: list[str]) -> tuple[int, int]:
    """Bytes of one step as planned and as measured, in this process."""
    import torch

    from neucore_xl.config.load import load_settings
    from neucore_xl.models.backbone import build_backbone
    from neucore_xl.models.registry import composer_class, composer_of
    from neucore_xl.sizing.blank import VOCABULARY, blank_batch
    from neucore_xl.sizing.meta import meta_composer
    from neucore_xl.sizing.rehearsal import Rehearsal
    from neucore_xl.training.losses import objective

    torch.set_num_threads(1)
    settings = load_settings(recipe, [*overrides, "train.device=cpu"])
    meta, meta_backbone = meta_composer(settings, VOCABULARY)
    planned = Rehearsal(meta, meta_backbone, settings, gpu=False, bf16_parameters=False).activations(queries)

    levels = composer_class(settings.model.name).levels
    backbone = build_backbone(settings.backbone, settings.model.tokens, levels=levels)
    concepts = torch.zeros(VOCABULARY, backbone.embed_dim)
    composer = composer_of(settings, backbone, lambda: concepts).train()
    language = composer.language_tokenizer.length if composer.language_tokenizer else 0
    for parameter in composer.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))

    def step() -> None:
        # written to, because pages of zeros that nobody wrote to are not resident
        batch = blank_batch(settings, backbone, queries, language)
        for tensor in (batch.images, batch.concept_labels):
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.train.precision == "bf16"):
            output = composer("train", batch)
        objective(composer, output, batch, settings.loss).total.backward()

    step()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = _status("VmRSS")
    step()
    return planned, _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)  # the child: recipe, queries, settings
    options = parser.parse_args()
    if options.case:
        recipe, queries, *overrides = options.case
        print(json.dumps(measure(recipe, int(queries), overrides)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        towers, recipe = Path(folder) / "towers.json", Path(folder) / "recipe.yaml"
        towers.write_text(json.dumps(TOWERS))
        recipe.write_text(f"backbone: {{config: {towers}, pretrained: null}}\nmodel: {{width: 384, heads: 6}}\n")
        print("| towers | queries | planned MB | measured MB | error of the plan |\n|---|---|---|---|---|")
        for name, queries, overrides in CASES:
            done = subprocess.run(
                [sys.executable, __file__, "--case", str(recipe), str(queries), *overrides],
                capture_output=True, text=True, check=False, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
            )  # fmt: skip
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
            planned, measured = json.loads(done.stdout.splitlines()[-1])
            error = planned / measured - 1
            print(f"| {name} | {queries} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {error:+.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
