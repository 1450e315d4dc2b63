from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neucore_xl.config.schema import FusionSettings, LossSettings
from neucore_xl.data.triplets import Gallery, Split, Triplet
from neucore_xl.encoding.collate import Collator
from neucore_xl.errors import UserError
from neucore_xl.language.sequence import OPERATION_INDEX, FusionSequence, Operation, Step
from neucore_xl.language.vocabulary import Vocabulary

NAMES = [f"i{n}" for n in range(8)]


class Echo:
    """Inputs that hand out what they were asked for: image numbers as [U, 1], text lengths as [B, 1]."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def images(self, names: Sequence[str]) -> Tensor:
        assert len(set(names)) == len(names)
        return torch.tensor([[float(name[1:])] for name in names])

    def texts(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(list(texts))
        return torch.tensor([[len(t)] for t in texts])


def split_of(triplets: Sequence[Triplet]) -> Split:
    paths = {name: Path(name) for name in NAMES}
    return Split("cirr", "train", Path(), tuple(triplets), {"": Gallery(tuple(NAMES), paths)})


def collator(
    triplets: Sequence[Triplet],
    loss: LossSettings | None = None,
    sequences: dict[str, FusionSequence] | None = None,
    concepts: dict[str, tuple[str, ...]] | None = None,
    vocabulary: Vocabulary | None = None,
    max_steps: int = 6,
) -> Collator:
    return Collator(
        Echo(),
        sequences or {},
        concepts or {},
        vocabulary,
        FusionSettings(max_steps=max_steps),
        loss or LossSettings(),
        split_of(triplets),
    )


def column_names(batch) -> list[str]:
    return [f"i{int(batch.images[i, 0])}" for i in batch.gallery.tolist()]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Triplet], LossSettings]:
    triplets = []
    for number in range(draw(st.integers(1, 7))):
        subset = draw(st.lists(st.sampled_from(NAMES), min_size=6, max_size=6, unique=True))
        soft = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1.0, 0.5, 0.0, -1.0]), max_size=3))
        reference, target = draw(st.sampled_from(NAMES)), draw(st.sampled_from(NAMES))
        text = draw(st.sampled_from(["a", "bb"]))
        triplets.append(Triplet(str(number), reference, target, text, subset=tuple(subset), target_soft=soft))
    loss = LossSettings(reference_negatives=draw(st.booleans()), subset_negatives=draw(st.integers(0, 4)))
    return triplets, loss


@given(batches())
def test_every_batch_is_consistent(drawn: tuple[list[Triplet], LossSettings]) -> None:
    triplets, loss = drawn
    batch = collator(triplets, loss)(triplets)
    columns = column_names(batch)
    images = [f"i{int(x)}" for x in batch.images[:, 0]]
    assert len(set(columns)) == len(columns)
    assert len(set(images)) == len(images)
    used = {*batch.reference.tolist(), *batch.gallery.tolist()}
    assert used == set(range(len(images)))
    assert [images[i] for i in batch.reference] == [t.reference for t in triplets]
    assert [columns[i] for i in batch.positive] == [t.target for t in triplets]
    assert batch.exclude.shape == (len(triplets), len(columns))
    answers = {}
    for t in triplets:
        answers.setdefault((t.reference, t.text), set()).add(t.target)
    for row, t in enumerate(triplets):
        right = {n for n, value in t.target_soft.items() if value > 0} | answers[t.reference, t.text]
        expected = [name in right and name != t.target for name in columns]
        assert batch.exclude[row].tolist() == expected
    assert not batch.exclude[torch.arange(len(batch)), batch.positive].any()
    if loss.reference_negatives:
        assert {t.reference for t in triplets} <= set(columns)
    if not loss.reference_negatives and not loss.subset_negatives:
        assert set(columns) == {t.target for t in triplets}


@given(batches())
def test_every_query_finds_its_subset_negatives(drawn: tuple[list[Triplet], LossSettings]) -> None:
    triplets, loss = drawn
    columns = set(column_names(collator(triplets, loss)(triplets)))
    for t in triplets:
        others = [u.target for u in triplets if (u.reference, u.text) == (t.reference, t.text)]
        right = {t.reference, *others, *(n for n, value in t.target_soft.items() if value > 0)}
        candidates = set(t.subset) - right
        assert len(candidates & columns) >= min(loss.subset_negatives, len(candidates))


def test_subset_negatives_depend_on_the_batch_alone() -> None:
    subset = tuple(NAMES[:6])
    triplets = [Triplet(str(n), "i0", "i1", f"text {n}", subset=subset) for n in range(12)]
    make = collator(triplets, LossSettings(subset_negatives=1))
    first, second = triplets[:2], [triplets[0], triplets[7]]
    assert torch.equal(make(first).gallery, pickle.loads(pickle.dumps(make))(first).gallery)
    assert column_names(make(first)) == column_names(collator(triplets, LossSettings(subset_negatives=1))(first))
    drawn = {tuple(column_names(make([triplets[0], t]))) for t in triplets[1:]}
    assert len(drawn) > 1, "other batches draw other members"
    assert column_names(make(second)) == column_names(make(second))


def test_queries_of_one_target_share_its_column() -> None:
    triplets = [Triplet("a", "i0", "i2", "x"), Triplet("b", "i1", "i2", "y"), Triplet("c", "i2", "i0", "z")]
    batch = collator(triplets)(triplets)
    assert batch.positive.tolist() == [0, 0, 1]
    assert column_names(batch) == ["i2", "i0"]
    assert batch.images.tolist() == [[0.0], [1.0], [2.0]]
    assert batch.ids == ("a", "b", "c")
    assert not batch.exclude.any()


SEQUENCES = {
    "add dogs, no cat": FusionSequence(
        "add dogs, no cat",
        (Step(Operation.ADDITION, ("dog",), "add dogs"), Step(Operation.NEGATION, ("cat",), "no cat")),
    ),
    "dog": FusionSequence("dog", (Step(Operation.CHANGE, ("dog",), "dog"),)),
    "": FusionSequence("", ()),
}
CONCEPTS = {"add dogs, no cat": ("dog", "cat"), "dog": ("dog",)}


def three() -> list[Triplet]:
    return [Triplet(str(n), "i0", "i1", text) for n, text in enumerate(SEQUENCES)]


def test_the_sequence_is_packed_and_short_texts_are_distinct() -> None:
    make = collator(three(), sequences=SEQUENCES, concepts=CONCEPTS, vocabulary=Vocabulary(["cat", "dog", "sun"]))
    batch = make(three())
    s = batch.sequence
    assert make.inputs.asked[-1] == ["add dogs", "no cat", "dog", "cat"]
    assert s.phrase.tolist() == [[0, 1], [2, 0], [0, 0]]
    assert s.step_mask.tolist() == [[True, True], [True, False], [False, False]]
    add, no, change = (OPERATION_INDEX[o] for o in (Operation.ADDITION, Operation.NEGATION, Operation.CHANGE))
    assert s.operation.tolist() == [[add, no], [change, 0], [0, 0]]
    assert s.concept.tolist() == [[2, 3], [2, 0], [0, 0]]
    assert s.concept_mask.tolist() == [[True, True], [True, False], [False, False]]
    assert batch.concept_labels is not None
    assert batch.concept_labels.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_long_sequences_are_merged_to_the_most_steps() -> None:
    make = collator(three(), sequences=SEQUENCES, max_steps=1)
    assert make.sequence(three()[:1]).step_mask.shape == (1, 1)
    assert make.inputs.asked[-1] == ["add dogs, no cat"]


def test_without_steps_and_concepts_one_blank_short_text_remains() -> None:
    make = collator(three())
    s = make.sequence(three())
    assert s.phrase.shape == s.concept.shape == s.step_mask.shape == (3, 0)
    assert s.phrase.dtype == s.operation.dtype == torch.long
    assert s.step_mask.dtype == torch.bool
    assert make.inputs.asked == [[""]]


@pytest.mark.parametrize("vocabulary", [None, Vocabulary([])])
def test_no_labels_without_vocabulary(vocabulary: Vocabulary | None) -> None:
    assert collator(three(), concepts=CONCEPTS, vocabulary=vocabulary)(three()).concept_labels is None


def test_no_labels_without_concept_loss() -> None:
    loss = LossSettings(concept_weight=0.0)
    assert collator(three(), loss, concepts=CONCEPTS, vocabulary=Vocabulary(["dog"]))(three()).concept_labels is None


def test_queries_need_no_target_and_keep_their_rows() -> None:
    unlabelled = [Triplet("a", "i3", None, "dog"), Triplet("b", "i4", None, "")]
    make = collator(unlabelled, sequences=SEQUENCES, concepts=CONCEPTS)
    images, texts, sequence = make.queries(unlabelled)
    assert images.tolist() == [[3.0], [4.0]]
    assert texts.tolist() == [[3], [0]]
    assert sequence.step_mask.tolist() == [[True], [False]]
    with pytest.raises(UserError, match="triplet a has no target"):
        make(unlabelled)


def test_a_random_reference_is_that_of_another_query_and_the_same_whoever_asks() -> None:
    class Repeated(Echo):
        def images(self, names: Sequence[str]) -> Tensor:  # two queries may have one reference
            return torch.tensor([[float(name[1:])] for name in names])

    triplets = [Triplet(str(n), f"i{n % 4}", f"i{4 + n % 4}", "dog") for n in range(12)]
    inputs, loss = Repeated(), LossSettings(reference_negatives=True)

    def drawing(split: Sequence[Triplet], seed: int = 0, random: bool = True) -> Collator:
        return Collator(
            inputs, {}, {}, None, FusionSettings(), loss, split_of(split), seed=seed, random_reference=random
        )

    def shown(batch) -> list[float]:
        return batch.images[batch.reference, 0].tolist()

    true = drawing(triplets, random=False)
    own = [float(t.reference[1:]) for t in triplets]
    make = drawing(triplets)
    images, _, _ = make.queries(triplets)
    assert images[:, 0].tolist() == [x for t in triplets for x in make.queries([t])[0][:, 0].tolist()]
    drawn = [images[:, 0].tolist(), shown(make(triplets)), shown(drawing(triplets, seed=1)(triplets))]
    for row in drawn:
        assert set(row) == {0.0, 1.0, 2.0, 3.0}
        assert all(a != b for a, b in zip(row, own, strict=True))
    assert len({tuple(row) for row in drawn}) == 3  # training draws anew, another run otherwise
    parts = make.parts(triplets, 3, (0, 1, 2))
    assert [x for part in parts for x in shown(part)] == drawn[1]

    batch, plain = make(triplets), true(triplets)  # what is a column, and which is right, does not change
    assert column_names(batch) == column_names(plain)
    for field in ("positive", "exclude"):
        assert torch.equal(getattr(batch, field), getattr(plain, field))
    targets = [f"i{int(batch.images[n, 0])}" for n in batch.target_images]
    assert targets == [t.target for t in triplets]

    alone = drawing(triplets[:1])
    assert alone.queries(triplets[:1])[0].tolist() == [[0.0]]  # no other image to draw
