"""A folder of pictures becomes subsets of similar ones: vectors, procedure and files at work together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neucore_xl import files
from neucore_xl.config.schema import Settings
from neucore_xl.data.subsets.draft import Chosen, write_draft
from neucore_xl.data.subsets.folder import Pictures
from neucore_xl.data.subsets.journal import Journal
from neucore_xl.data.subsets.plan import Plan
from neucore_xl.data.subsets.procedure import SIZE, Rule
from neucore_xl.data.subsets.search import Drawn, draw_subsets
from neucore_xl.encoding.cache import cache_root
from neucore_xl.encoding.vectors import PictureVectors
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone
from neucore_xl.progress import track

VERSION = 1  # raised whenever the same pictures and plan give other subsets


@dataclass(frozen=True)
class Made:
    """What was written: per split the subsets with their images, and how they were drawn; and what was left out."""

    chosen: dict[str, Chosen]
    drawn: dict[str, Drawn]
    skipped: dict[str, str] = field(default_factory=dict)

    def counts(self, split: str) -> dict[str, int]:
        """Subsets, pairs and images of ``split``, and what became of the first images that were tried for them."""
        members, drawn = self.chosen[split].members, self.drawn[split]
        return {
            "subsets": len(members),
            "pairs": sum(1 for _ in self.chosen[split].pairs),
            "images": len(self.chosen[split].images),
            "first_images_tried": drawn.tried,
            "discarded": drawn.discarded,
            "overlapping": drawn.overlapping,
        }


def make_subsets(pictures: Pictures, out: Path, settings: Settings, backbone: Backbone, plan: Plan) -> Made:
    """Encode ``pictures``, deal them to splits, draw subsets within each and write them to the new folder ``out``.

    Vectors and what the search found are kept in the cache folder until ``out`` is written: the same call goes on
    where another was stopped. Raises ``UserError`` where too few pictures can be read or are similar, and as
    ``PictureVectors`` and ``write_draft`` do.
    """
    device = next(backbone.parameters()).device
    vectors = PictureVectors(settings, backbone, pictures.paths, device)
    vectors.fill()
    names = [name for name in pictures.names if name in vectors.keys]
    skipped = {**pictures.unusable, **vectors.unreadable}
    plan.check(len(names), f"{len(names)} pictures below {pictures.folder} can be read ({len(skipped)} cannot)")

    work = cache_root(settings.train) / "subsets"
    with files.disk_errors("keeping what was found", work):
        work.mkdir(parents=True, exist_ok=True)
    order = [names[i] for i in np.random.default_rng(plan.seed).permutation(len(names))]
    chosen, drawn, journals, start = {}, {}, [], 0
    with files.locked(work / "lock", wait=True, waiting=f"subsets: waiting for another run that works in {work}"):
        for split, count in plan.dealt(len(names)).items():
            part = order[start : start + count]
            start += count
            journals.append(Journal(work / _digest(split, vectors, part, plan.rule)))
            drawn[split] = _draw(split, vectors.matrix(part), plan, journals[-1], device)
            chosen[split] = Chosen(part, drawn[split].members)
        made = Made(chosen, drawn, skipped)
        write_draft(out, pictures.folder, chosen, _record(pictures, settings, backbone, plan, made))
        for journal in journals:
            journal.remove()
    return made


def _draw(split: str, matrix: np.ndarray, plan: Plan, journal: Journal, device: torch.device) -> Drawn:
    wanted = None if plan.number is None else plan.dealt(plan.number)[split]
    with track(f"subsets of {split}", len(matrix) if wanted is None else wanted) as advance:
        drawn = draw_subsets(
            matrix,
            np.arange(len(matrix)),  # the pictures lie in random order
            plan.rule,
            count=wanted,
            max_shared=plan.max_shared,
            journal=journal,
            device=device,
            tried=lambda images, kept: advance(images if wanted is None else kept),
        )
    if not len(drawn.members):
        rule = plan.rule
        raise UserError(
            f"no subset of {SIZE} similar pictures can be formed of the {len(matrix)} of {split}: with none of them "
            f"as the first are five others found whose cosines to it lie below {rule.near_identical} and more than "
            f"{rule.step} apart; give more pictures, or change --near-identical, --step or --top."
        )
    return drawn


def _digest(split: str, vectors: PictureVectors, names: Sequence[str], rule: Rule) -> str:
    """The name of a search: its vectors, by tower and pictures, in their order, and its rule."""
    digest = hashlib.sha256(json.dumps([VERSION, split, vectors.store.folder.name, asdict(rule)]).encode())
    for name in names:
        digest.update(b"\0" + vectors.keys[name].encode("utf-8", "surrogateescape"))
    return f"found-{digest.hexdigest()[:20]}"


def _record(pictures: Pictures, settings: Settings, backbone: Backbone, plan: Plan, made: Made) -> dict[str, Any]:
    transform = backbone.transform(settings.data.target_pad)
    return {
        "made_by": f"neucore-xl data subsets, version {VERSION} of its procedure",
        "pictures": str(pictures.folder.resolve()),
        "backbone": settings.backbone.model_dump(mode="json"),
        "image_tower": backbone.fingerprint("image"),
        "pixels": asdict(transform),
        "plan": asdict(plan),
        "splits": {split: made.counts(split) for split in made.chosen},
        "skipped": made.skipped,
        "other_files": pictures.others,
    }
