"""What a query of a split brings to a forward pass: ``python benchmarks/query_content.py RECIPE [key=value …]``.

Phrases and concept names are short texts, each encoded once a batch; ``neucore-xl plan`` assumes a number of them
per query (``neucore_xl/sizing/blank.py``), and this counts it on real annotations. No image is opened.
Example: ``python benchmarks/query_content.py cirr-vit-b16 data.root=data/cirr data.train_split=val``.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from neucore_xl.config.load import load_settings
from neucore_xl.data.datasets import open_from_settings
from neucore_xl.encoding.cache import cache_root
from neucore_xl.encoding.sentences import sentence_facts
from neucore_xl.errors import UserError
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.sequence import clip_steps
from neucore_xl.language.vocabulary import Vocabulary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    try:
        settings = load_settings(options.recipe, options.overrides)
        split = open_from_settings(settings.data, settings.data.train_split)
        tagger = ConceptTagger(settings.language, cache_root(settings.train))
        facts = sentence_facts(settings, tagger, [split], cache_root(settings.train))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    texts = [t.text for t in split.triplets]
    steps = [clip_steps(facts.sequences[t], settings.fusion.max_steps).steps for t in texts]
    concepts = [facts.concepts[t] for t in texts]
    vocabulary = Vocabulary.build(concepts, settings.language.min_count)
    print(f"{settings.data.name} {split.name}: {len(texts)} queries, {len(vocabulary.names)} concepts in all")
    for name, counts in (("steps", [len(s) for s in steps]), ("concepts", [len(c) for c in concepts])):
        print(f"{name} of a query: mean {np.mean(counts):.2f}, 99 % have at most {np.quantile(counts, 0.99):.0f}")
    order = np.random.default_rng(0).permutation(len(texts))
    for size in (4, 16, 64, 256, 1024):
        distinct, widest, longest = [], [], []
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            short = {step.phrase for r in rows for step in steps[r]} | {name for r in rows for name in concepts[r]}
            distinct.append(len(short) / size)
            widest.append(max(len(concepts[r]) for r in rows))
            longest.append(max(len(steps[r]) for r in rows))
        print(
            f"batches of {size}: {np.mean(distinct):.2f} distinct short texts a query (at most {max(distinct):.2f}), "
            f"padded to {np.mean(longest):.1f} steps and {np.mean(widest):.1f} concepts (at most {max(widest)})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
