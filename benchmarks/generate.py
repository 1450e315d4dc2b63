"""How fast the generated benchmark is written, what its sentences are like, and how far one modality alone goes.

    python benchmarks/generate.py [--images 4000] [--workers 2] [--queries 600]

The last block needs no model. "image alone" ranks the gallery by the similarity that built the subsets, the best that
an observer without the text can do; "text alone" guesses among all images of which the words are true; "both" ranks the
images that fit the statements as edits of the reference by their similarity to it. It tells what is possible, not
what a model reaches.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from neucore_xl.language.sequence import FusionSequence, Operation
from neucore_xl.shapes.claims import fits_alone, holds
from neucore_xl.shapes.difference import difference
from neucore_xl.shapes.generate import generate
from neucore_xl.shapes.plan import Plan, Query, plan_split
from neucore_xl.shapes.scene import SHAPES, Palette, Scene
from neucore_xl.shapes.sentence import sentence
from neucore_xl.shapes.subsets import scene_features

# What these clauses name is in the target too; other clauses may name what is gone.
NAMES_TARGET = (Operation.CARDINALITY, Operation.COMPARATIVE, Operation.SPATIAL, Operation.KEEP, Operation.DIRECT)


def named_shapes(told: FusionSequence) -> set[str]:
    """Shapes that the sentence says the target shows, as far as its words tell without the reference."""
    words = {c for s in told.steps if s.operation in NAMES_TARGET and "instead" not in s.phrase for c in s.concepts}
    words = {{"disc": "circle", "block": "square", "hoop": "ring"}.get(w, w) for w in words}
    gone = {c for s in told.steps if s.operation is Operation.CHANGE for c in s.concepts}
    return (words & set(SHAPES)) - gone


def one_query(plan: Plan, query: Query, features: np.ndarray, told: FusionSequence) -> dict[str, float]:
    """Chance (or fact, 0 or 1) of the target being found, by measure."""
    near = features @ features[query.reference]
    near[query.reference] = -np.inf
    shapes = named_shapes(told)

    def words_fit(scene: Scene) -> bool:
        return shapes <= {g.shape for g in scene.groups} and all(fits_alone(s, scene) for s in query.statements)

    alone = np.array([words_fit(scene) for scene in plan.scenes])
    alone[query.reference] = False
    reference = plan.scenes[query.reference]
    both = np.array([all(holds(s, difference(reference, x)) for s in query.statements) for x in plan.scenes])
    others = [m for m in query.members if m != query.reference]
    found: dict[str, float] = {"fitting the text alone": alone.sum(), "fitting both": both.sum()}
    for name, scores, pool in (
        ("image alone", near, range(len(near))),
        ("text alone", alone * 1.0, range(len(near))),
        ("both", np.where(both, near + 2, near), range(len(near))),
    ):
        for measure, among, k in (("R@1", pool, 1), ("R@5", pool, 5), ("R@10", pool, 10), ("R_subset@1", others, 1)):
            values = scores[list(among)]
            above, tied = (values > scores[query.target]).sum(), (values == scores[query.target]).sum()
            found[f"{name} {measure}"] = 100 * min(1.0, max(0.0, (k - above) / tied))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queries", type=int, default=600, help="queries of a gallery of 500 for the last block")
    arguments = parser.parse_args()
    val = arguments.images // 8
    for layout in ("cirr", "fashion-iq"):
        with tempfile.TemporaryDirectory() as folder:
            made = generate(
                Path(folder) / layout, layout=layout, train=arguments.images - 2 * val, val=val, test=val, seed=0,
                workers=arguments.workers, progress=False,
            )  # fmt: skip
        print(f"{layout}: {sum(made.images.values()) / made.seconds:.0f} images/s, {sum(made.pairs.values())} pairs")
    plan = plan_split("benchmark", 500, Palette())
    told = [sentence(q.statements, plan.difference(q), q.rng("benchmark")) for q in plan.queries]
    print(f"words per sentence: {np.mean([len(s.text.split()) for s in told]):.1f}")
    steps = Counter(len(s.steps) for s in told)
    print("steps per sentence (%):", {n: round(100 * k / len(told), 1) for n, k in sorted(steps.items())})
    share = Counter(op.value for s in told for op in {step.operation for step in s.steps})
    print("sentences with an operation (%):", {n: round(100 * k / len(told), 1) for n, k in share.most_common()})
    features = scene_features(plan.scenes)
    sample = list(zip(plan.queries, told, strict=True))[: arguments.queries]
    rows = [one_query(plan, query, features, text) for query, text in sample]
    for name in rows[0]:
        print(f"{name}: {np.mean([r[name] for r in rows]):.1f}")


if __name__ == "__main__":
    main()
