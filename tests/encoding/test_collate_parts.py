"""A batch that is cut into parts: one gallery, every column once, the loss of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl.config.schema import FusionSettings, LossSettings
from neucore_xl.data.batches import Batch, ImageFeatures, TextFeatures
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.training.losses import batch_classification
from neucore_xl.training.triplet_losses import soft_triplet


class NamedInputs:
    """Features that say which image or text they are of."""

    def images(self, names: Sequence[str]) -> ImageFeatures:
        pooled = torch.tensor([[float(name)] for name in names])
        return ImageFeatures(pooled[:, None], pooled)

    def texts(self, texts: Sequence[str]) -> TextFeatures:
        words = torch.zeros(len(texts), 1, 1)
        return TextFeatures(words, words[:, 0], torch.ones(len(texts), 1, dtype=torch.bool))


def triplets_of(pairs: list[tuple[int, int]]) -> list[Triplet]:
    return [Triplet(id=str(i), reference=str(r), target=str(t), text=f"text {r % 3}") for i, (r, t) in enumerate(pairs)]


def collator_of(triplets: list[Triplet], negatives: bool, loss: LossSettings | None = None) -> Collator:
    names = tuple(dict.fromkeys(n for t in triplets for n in (t.reference, t.target or "")))
    gallery = Gallery(names, {n: Path(n) for n in names})
    split = Split("cirr", "train", Path(), tuple(triplets), {"": gallery})
    plans = {
        f"text {n}": FusionSequence(f"text {n}", tuple(Step(Operation.ADDITION, (), "dog") for _ in range(n)))
        for n in range(3)
    }
    return Collator(
        NamedInputs(), plans, {}, None, FusionSettings(), loss or LossSettings(reference_negatives=negatives), split
    )


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=12, max_size=12)


def scores_of(batch: Batch, columns: list[float]) -> torch.Tensor:
    """Scores that depend on nothing but the names of reference and column."""
    reference = batch.images.pooled[batch.reference]  # type: ignore[union-attr]
    return torch.sin(13 * reference + 7 * torch.tensor(columns) + 3)


@given(pairs, st.sampled_from([2, 3, 4, 6]), st.booleans())
def test_the_loss_over_the_parts_is_that_of_the_whole(
    drawn: list[tuple[int, int]], count: int, negatives: bool
) -> None:
    triplets = triplets_of(drawn)
    collator = collator_of(triplets, negatives)
    whole, parts = collator(triplets), collator.parts(triplets, count, range(count))
    columns = [float(part.images.pooled[i]) for part in parts for i in part.gallery]  # type: ignore[union-attr]
    own_columns = whole.images.pooled[whole.gallery].flatten().tolist()  # type: ignore[union-attr]
    assert len({len(part.gallery) for part in parts}) == 1
    assert {part.sequence.step_mask.shape[1] for part in parts} == {whole.sequence.step_mask.shape[1]}
    one = torch.ones(1)
    expected = batch_classification(scores_of(whole, own_columns), whole.positive, whole.exclude, one)
    found = [batch_classification(scores_of(p, columns), p.positive, p.exclude, one) for p in parts]
    assert torch.stack(found).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    size = len(triplets) // count
    for number, part in enumerate(parts):
        own = triplets[number * size : (number + 1) * size]
        targets = [float(t.target or "") for t in own]
        assert part.ids == tuple(t.id for t in own)
        assert [columns[p] for p in part.positive] == targets
        assert part.images.pooled[part.target_images].flatten().tolist() == targets  # type: ignore[union-attr]


def test_a_process_reads_only_its_own_images() -> None:
    triplets = triplets_of([(i, i + 20) for i in range(8)])
    collator = collator_of(triplets, negatives=False)
    (part,) = collator.parts(triplets, 4, (2,))
    assert sorted(part.images.pooled.flatten().tolist()) == [4.0, 5.0, 24.0, 25.0]  # type: ignore[union-attr]


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    triplets = triplets_of([(i, i + 20) for i in range(8)])
    with pytest.raises(ValueError, match="8 triplets cannot be cut into 3"):
        collator_of(triplets, negatives=False).parts(triplets, 3, (0,))


@given(pairs, st.sampled_from([1, 2, 3, 6]), st.booleans(), st.integers(1, 4))
def test_negatives_are_drawn_of_the_whole_batch_whatever_its_parts(
    drawn: list[tuple[int, int]], count: int, references: bool, negatives: int
) -> None:
    triplets = triplets_of(drawn)
    loss = LossSettings(kind="soft-triplet", negatives=negatives, reference_negatives=references)
    collator = collator_of(triplets, references, loss)
    every = collator_of(triplets, references)(triplets)
    admitted = {t: admitted_names(every, [every], row) for row, t in enumerate(every.ids)}
    parts = [collator.parts(triplets, n, range(n)) for n in (1, count)]
    found = [{t: admitted_names(p, cut, row) for p in cut for row, t in enumerate(p.ids)} for cut in parts]
    assert found[0] == found[1]
    for name, names in found[0].items():
        assert names <= admitted[name]
        assert len(names) == min(negatives, len(admitted[name]))
    scores = [[soft_triplet(scores_of(p, names_of(cut)), p.positive, p.exclude) for p in cut] for cut in parts]
    assert torch.stack(scores[1]).mean().item() == pytest.approx(scores[0][0].item(), rel=1e-5)


def names_of(parts: list[Batch]) -> list[float]:
    return [float(part.images.pooled[i]) for part in parts for i in part.gallery]  # type: ignore[union-attr]


def admitted_names(part: Batch, parts: list[Batch], row: int) -> set[float]:
    """What may be a negative of the query at ``row``."""
    columns = zip(names_of(parts), part.exclude[row].tolist(), strict=True)
    return {name for c, (name, barred) in enumerate(columns) if not barred and c != int(part.positive[row])}


def test_another_batch_draws_other_negatives() -> None:
    triplets = triplets_of([(n, (n + 1) % 9) for n in range(9)])
    collator = collator_of(triplets, False, LossSettings(kind="soft-triplet"))
    first, second = (collator(rows) for rows in (triplets, triplets[::-1]))
    drawn = [{t: admitted_names(b, [b], row) for row, t in enumerate(b.ids)} for b in (first, second)]
    assert drawn[0] != drawn[1]
