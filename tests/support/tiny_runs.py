"""A composer of two matrices for what concerns the loop alone, and a tiny dataset with tiny towers for whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from neucore_xl.config.load import load_settings
from neucore_xl.config.schema import Settings
from neucore_xl.data.batches import Batch, ImageFeatures, ImageInput, SequenceBatch, TextFeatures, TextInput
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import ComposerOutput, FeatureSet

WIDTH = 6


class ToyComposer(Composer):
    """query = dropout(reference + W text), target = V image; concepts from the query."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1).requires_grad_(False)
        self.text = nn.Linear(WIDTH, WIDTH)
        self.image = nn.Linear(WIDTH, WIDTH)
        self.concepts = nn.Linear(WIDTH, 3)
        self.dropout = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.ones(1))

    def encode_targets(self, images: ImageInput) -> FeatureSet:
        assert isinstance(images, ImageFeatures)
        return FeatureSet({"f": self.image(images.pooled)})

    def compose(self, reference: ImageInput, text: TextInput, sequence: SequenceBatch) -> FeatureSet:
        assert isinstance(reference, ImageFeatures)
        assert isinstance(text, TextFeatures)
        return FeatureSet({"f": self.dropout(reference.pooled + self.text(text.pooled))})

    def train_outputs(self, batch: Batch) -> ComposerOutput:
        assert isinstance(batch.images, ImageFeatures)
        images = batch.images
        reference = ImageFeatures(images.tokens[batch.reference], images.pooled[batch.reference])
        queries = self.compose(reference, batch.texts, batch.sequence)
        targets = self.encode_targets(images).select(batch.gallery)
        return ComposerOutput(queries, targets, self.log_scale, self.concepts(queries["f"]))

    def score(self, queries: FeatureSet, targets: FeatureSet) -> Tensor:
        return queries["f"].float() @ targets["f"].float().T


def toy_batch(seed: int, size: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    pooled = torch.randn(2 * size, WIDTH, generator=draw)
    none = torch.zeros(size, 0, dtype=torch.long)
    words = TextFeatures(torch.zeros(size, 1, 1), torch.randn(size, WIDTH, generator=draw), torch.ones(size, 1).bool())
    return Batch(
        ids=tuple(f"{seed}-{i}" for i in range(size)),
        images=ImageFeatures(pooled.unsqueeze(1), pooled),
        reference=torch.arange(size),
        texts=words,
        sequence=SequenceBatch(words, none, none, none.bool(), none, none.bool()),
        gallery=torch.arange(size, 2 * size),
        positive=torch.arange(size),
        exclude=torch.zeros(size, size, dtype=torch.bool),
        concept_labels=(torch.rand(size, 3, generator=draw) < 0.5).float(),
    )


@pytest.fixture
def toy() -> Callable[..., ToyComposer]:
    """A seeded toy composer; keyword ``dropout``."""

    def make(dropout: float = 0.0) -> ToyComposer:
        torch.manual_seed(0)
        return ToyComposer(dropout)

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """``batch_of(seed, size=4)``."""
    return toy_batch


TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


def _picture(path: Path, random: Random) -> str:
    """A square of one colour on a background of another; returns the name of its colour."""
    colour, ground = random.sample(sorted(COLOURS), 2)
    picture = Image.new("RGB", (32, 32), COLOURS[ground])
    x, y = random.randrange(16), random.randrange(16)
    picture.paste(COLOURS[colour], (x, y, x + random.randrange(6, 16), y + random.randrange(6, 16)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return colour


def _split(root: Path, split: str, subsets: int, random: Random) -> None:
    """Six pictures and six pairs a subset, in CIRR's files."""
    names, rows = {}, []
    for number in range(subsets):
        members = [f"{split}-{number}-{i}" for i in range(6)]
        colours = [_picture(root / "img_raw" / split / f"{name}.png", random) for name in members]
        names.update({name: f"./{split}/{name}.png" for name in members})
        for i, name in enumerate(members):
            target = members[(i + 1) % 6]
            words = [f"make the square {colours[(i + 1) % 6]}", "move it to the left and add two more dogs"][i % 2]
            rows.append(
                {
                    "pairid": len(rows),
                    "reference": name,
                    "target_hard": target,
                    "target_soft": {target: 1.0},
                    "caption": f"{words} in {colours[i]} light",
                    "img_set": {"id": number, "members": members, "reference_rank": 0, "target_rank": 1},
                }
            )
    for folder, file, content in (
        ("captions", f"cap.rc2.{split}.json", rows),
        ("image_splits", f"split.rc2.{split}.json", names),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / file).write_text(json.dumps(content))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 18 validation pictures in CIRR's layout, and ``towers.json``, a tiny open_clip model."""
    root = tmp_path_factory.mktemp("tiny")
    random = Random(0)
    _split(root, "train", 8, random)
    _split(root, "val", 3, random)
    (root / "towers.json").write_text(json.dumps(TOWERS))
    (root / "recipe.yaml").write_text("{}\n")
    return root


def tiny_run(tiny_data: Path, cache: Path) -> list[str]:
    """``key=value`` settings of a run of ten small steps on ``tiny_data``; dropout is on."""
    return [
        "data.name=cirr",
        f"data.root={tiny_data}",
        "data.workers=0",
        f"backbone.config={tiny_data / 'towers.json'}",
        "backbone.name=towers",
        "backbone.pretrained=null",
        "backbone.freeze=all",
        "model.width=32",
        "model.heads=4",
        "fusion.max_steps=3",
        "train.steps=10",
        "train.batch_size=8",
        "train.device=cpu",
        "train.warmup_steps=2",
        "train.log_every=1",
        "train.validate_every=5",
        "train.checkpoint_every=4",
        f"train.cache_dir={cache}",
    ]


@pytest.fixture
def tiny_overrides(tiny_data: Path, tmp_path: Path) -> list[str]:
    """The settings of ``tiny_run`` with a cache of the test's own."""
    return tiny_run(tiny_data, tmp_path / "cache")


@pytest.fixture
def tiny(tiny_data: Path, tiny_overrides: list[str]) -> Callable[..., Settings]:
    """``tiny("key=value", …)``: those settings under more overrides."""
    return lambda *more: load_settings(str(tiny_data / "recipe.yaml"), [*tiny_overrides, *more])
