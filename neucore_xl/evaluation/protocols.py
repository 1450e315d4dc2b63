"""How a split of each dataset is scored for validation. A new dataset registers its own, or takes ``recall_at``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from neucore_xl.data.switches import Switches
from neucore_xl.data.triplets import Split
from neucore_xl.errors import UserError, did_you_mean, nearest
from neucore_xl.evaluation import cirr, fashion_iq
from neucore_xl.evaluation.metrics import hit_at
from neucore_xl.evaluation.ranking import Chunk, checked, columns, rank_of_target
from neucore_xl.evaluation.result import Result

Chunks = Mapping[str, Iterable[Chunk]]  # gallery key → consecutive (first query, scores [q, G])
Protocol = Callable[[Split, Chunks, Switches], Result]

_REGISTERED: dict[str, Protocol] = {}


def register(dataset: str, protocol: Protocol) -> None:
    """Score splits of ``dataset`` by ``protocol`` from now on.

    ``protocol(split, chunks, switches)`` gets a labelled split, its scores (of each gallery, the rows are the split's
    triplets of that category in order, the columns the gallery's names in order) and how the split was read. The
    ``headline`` of the ``Result`` chooses the best checkpoint. Raises ``UserError`` where the dataset has another one.
    """
    if _REGISTERED.get(dataset, protocol) is not protocol:
        raise UserError(f"Dataset {dataset!r} has a protocol already; register the new one under another name.")
    _REGISTERED[dataset] = protocol


def protocol_of(dataset: str) -> Protocol:
    """The protocol of ``dataset``; raises ``UserError`` with the nearest name where none is registered."""
    if dataset in _REGISTERED:
        return _REGISTERED[dataset]
    hint = did_you_mean(nearest(dataset, _REGISTERED))
    raise UserError(
        f"No protocol scores dataset {dataset!r}{hint} (there are protocols of {', '.join(_REGISTERED)}): register one "
        "in neucore_xl.evaluation.protocols."
    )


def evaluate(split: Split, chunks: Chunks, switches: Switches) -> Result:
    """The measures of ``split`` by its own dataset's protocol, in percent; ``UserError`` where there is none."""
    return protocol_of(split.dataset)(split, chunks, switches)


def recall_at(*ks: int, reference: Literal["drop", "keep"] = "drop") -> Protocol:
    """A protocol for a dataset without conventions of its own: R@K for ``ks`` and, as ``mean``, their mean.

    Every query counts alike; the reference image is taken out of the ranking (``drop``) or left in. A target that is
    not ranked is a miss.
    """

    def protocol(split: Split, chunks: Chunks, switches: Switches) -> Result:
        ids: list[str] = []
        ranks: list[np.ndarray] = []
        for key, gallery in split.galleries.items():
            triplets = [t for t in split.triplets if (t.category or "") == key]
            references = columns([t.reference for t in triplets], gallery.names)
            targets = columns([t.target for t in triplets], gallery.names)
            ids += [t.id for t in triplets]
            for rows, scores in checked(chunks[key], [t.id for t in triplets], len(gallery)) if triplets else ():
                out = references[rows] if reference == "drop" else None
                ranks.append(rank_of_target(scores, targets[rows], out))
        rank = np.concatenate(ranks)
        hits = {f"R@{k}": hit_at(rank, k) for k in ks}
        mean = np.mean(list(hits.values()), axis=0)
        return Result(
            protocol={
                "dataset": split.dataset,
                "split": split.name,
                "gallery_sizes": {key or "all": len(gallery) for key, gallery in split.galleries.items()},
                "reference": "taken out" if reference == "drop" else "kept",
                "ties": "against the target",
                "mean": f"({' + '.join(hits)}) / {len(hits)}",
            },
            metrics={name: float(values.mean()) for name, values in hits.items()} | {"mean": float(mean.mean())},
            ids=tuple(ids),
            per_query={"rank": rank, "mean": mean},
        )

    return protocol


def _cirr(split: Split, chunks: Chunks, switches: Switches) -> Result:
    """Hard labels."""
    return cirr.evaluate(split, chunks[""], labels="hard")


def _fashion_iq(split: Split, chunks: Chunks, switches: Switches) -> Result:
    """The full galleries, the reference kept, macro averages."""
    return fashion_iq.evaluate(split, chunks, captions=switches.captions)


register("cirr", _cirr)
register("fashion-iq", _fashion_iq)
