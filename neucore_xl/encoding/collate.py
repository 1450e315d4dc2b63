"""A list of triplets becomes one ``Batch``: every image once, every column once, what must not be a negative marked."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from neucore_xl.config.schema import FusionSettings, LossSettings
from neucore_xl.data.batches import Batch, ImageInput, Inputs, SequenceBatch, TextInput
from neucore_xl.data.triplets import Split, Triplet
from neucore_xl.errors import UserError
from neucore_xl.language.bag import word_keys
from neucore_xl.language.sequence import OPERATION_INDEX, FusionSequence, Step, clip_steps

if TYPE_CHECKING:
    from neucore_xl.language.vocabulary import Vocabulary


class Collator:
    """Call it with triplets for a training ``Batch``; ``queries`` needs no targets. Picklable if its inputs are.

    ``sequences`` and ``concepts`` map a triplet's text to its planned edits and to its distinct concepts; a text
    that is absent has none. Everything is a function of the given triplets alone (hard negatives of a subset, and the
    negatives of soft triplets, are drawn with a seed made from ``seed`` and the batch's ids), so a resumed run sees the
    batches of an unbroken one, and the number of loader workers changes nothing. With ``random_reference`` a query is
    given the reference image of another query of ``split``, drawn by ``seed``, its id and, in training, the batch's
    ids; all else stays as it is. ``language`` makes the ids of the sentences for systems that ask for their own.
    """

    def __init__(
        self,
        inputs: Inputs,
        sequences: Mapping[str, FusionSequence],
        concepts: Mapping[str, Sequence[str]],
        vocabulary: Vocabulary | None,
        fusion: FusionSettings,
        loss: LossSettings,
        split: Split,
        *,
        seed: int = 0,
        random_reference: bool = False,
        language: Callable[[Sequence[str]], torch.Tensor] | None = None,
    ) -> None:
        self.inputs = inputs
        self.sequences = sequences
        self.concepts = concepts
        self.vocabulary = vocabulary
        self.fusion = fusion
        self.loss = loss
        self.seed = seed
        self.language = language
        self._drawn = list(dict.fromkeys(t.reference for t in split.triplets)) if random_reference else []
        answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for t in split.triplets:
            if t.target is not None:
                answers[t.reference, t.text].add(t.target)
        self._answers = {query: targets for query, targets in answers.items() if len(targets) > 1}

    def __call__(self, triplets: Sequence[Triplet]) -> Batch:
        """The batch of B labelled triplets; raises ``UserError`` naming a triplet without a target."""
        return self.parts(triplets, 1, (0,))[0]

    def parts(self, triplets: Sequence[Triplet], count: int, wanted: Sequence[int]) -> list[Batch]:
        """The parts numbered ``wanted`` when ``triplets`` are cut into ``count`` equal ones (see ``Batch``).

        The whole batch is planned from names and sentences alone, by every process in the same way: a column belongs
        to the first part that names it, and all parts have the same number of columns and of fusion steps. Only the
        images and texts of the wanted parts are read. Raises ``ValueError`` where ``count`` does not divide.
        """
        if len(triplets) % count:
            raise ValueError(f"{len(triplets)} triplets cannot be cut into {count} equal parts")
        size = len(triplets) // count
        cut = [triplets[p * size : (p + 1) * size] for p in range(count)]
        named = self._named_columns(triplets, cut)
        columns: list[list[str]] = [[] for _ in range(count)]  # by part, each name at its first part only
        seen: set[str] = set()
        for new, names in zip(columns, named, strict=True):
            new.extend(name for name in names if name not in seen)
            seen.update(new)
        width = max(len(part) for part in columns)
        layout = [name for part in columns for name in (*part, *[None] * (width - len(part)))]
        position = {name: i for i, name in enumerate(layout) if name is not None}
        steps = self.longest(triplets)
        batch = _ids(triplets)
        return [self._part(cut[p], named[p], columns[p], width, layout, position, steps, batch) for p in wanted]

    def _named_columns(self, triplets: Sequence[Triplet], cut: Sequence[Sequence[Triplet]]) -> list[list[str]]:
        """The gallery images that each part names: its targets, then its hard negatives."""
        batch = _ids(triplets)
        named = []
        for part in cut:
            names = [_target(t) for t in part]
            if self.loss.reference_negatives:
                names += [t.reference for t in part]
            names += self._subset_negatives(part, batch)
            named.append(list(dict.fromkeys(names)))
        return named

    def _part(
        self,
        triplets: Sequence[Triplet],
        named: Sequence[str],
        columns: Sequence[str],
        width: int,
        layout: Sequence[str | None],
        position: Mapping[str, int],
        steps: int,
        batch: str,
    ) -> Batch:
        images = _Numbered()
        reference = [images.number(self._shown(t, batch)) for t in triplets]
        needed = {*columns, *(_target(t) for t in triplets)}
        for name in named:
            if name in needed:
                images.number(name)
        gallery = [images.number(name) for name in columns]
        return Batch(
            ids=tuple(t.id for t in triplets),
            images=self.inputs.images(images.names),
            reference=torch.tensor(reference, dtype=torch.long),
            texts=self.inputs.texts([t.text for t in triplets]),
            sequence=self.sequence(triplets, steps=steps),
            gallery=torch.tensor([*gallery, *[0] * (width - len(gallery))], dtype=torch.long),
            positive=torch.tensor([position[_target(t)] for t in triplets], dtype=torch.long),
            exclude=self._exclude(triplets, layout, position, batch),
            concept_labels=self._labels(triplets),
            target=torch.tensor([images.number(_target(t)) for t in triplets], dtype=torch.long),
        )

    def queries(
        self, triplets: Sequence[Triplet], *, steps: int | None = None
    ) -> tuple[ImageInput, TextInput, SequenceBatch]:
        """Reference images [B], texts [B] and sequences of queries, labelled or not; ``steps`` as in ``sequence``."""
        return (
            self.inputs.images([self._shown(t) for t in triplets]),
            self.inputs.texts([t.text for t in triplets]),
            self.sequence(triplets, steps=steps),
        )

    def longest(self, triplets: Sequence[Triplet]) -> int:
        """Steps of the longest of their sequences."""
        return max((len(self._steps(t.text)) for t in triplets), default=0)

    def sequence(self, triplets: Sequence[Triplet], *, steps: int | None = None) -> SequenceBatch:
        """Planned edits and named concepts of the B triplets, padded to the longest of each.

        With ``steps`` the edits are padded to that many: processes that share a batch must take the same number of
        fusion steps, whatever their own share needs.
        """
        planned = [self._steps(t.text) for t in triplets]
        concepts = [tuple(self.concepts.get(t.text, ())) for t in triplets]
        short = _Numbered()
        phrase = [[short.number(step.phrase) for step in row] for row in planned]
        concept = [[short.number(name) for name in row] for row in concepts]
        operation = [[OPERATION_INDEX[step.operation] for step in row] for row in planned]
        return SequenceBatch(
            # One blank text where there is none: no tower has to take an empty batch, and index 0 is always valid.
            short_texts=self.inputs.texts(short.names or [""]),
            phrase=_padded(phrase, steps),
            operation=_padded(operation, steps),
            step_mask=(step_mask := _mask(phrase, steps)),
            concept=_padded(concept),
            concept_mask=_mask(concept),
            active=tuple(step_mask.sum(0).tolist()),
            language_ids=None if self.language is None else self.language([t.text for t in triplets]),
            words=_padded([word_keys(t.text) for t in triplets], 1),
        )

    def _shown(self, triplet: Triplet, batch: str = "") -> str:
        """The image that stands for the reference: itself, or with ``random_reference`` another where there is one."""
        if len(self._drawn) < 2:
            return triplet.reference
        draw = random.Random(f"{self.seed}\x1f{triplet.id}\x1f{batch}\x1freference")
        while (name := draw.choice(self._drawn)) == triplet.reference:
            pass
        return name

    def _steps(self, text: str) -> tuple[Step, ...]:
        planned = self.sequences.get(text)
        return clip_steps(planned, self.fusion.max_steps).steps if planned is not None else ()

    def _labels(self, triplets: Sequence[Triplet]) -> torch.Tensor | None:
        if self.vocabulary is None or not self.vocabulary.names or self.loss.concept_weight == 0:
            return None
        return torch.from_numpy(self.vocabulary.labels([self.concepts.get(t.text, ()) for t in triplets]))

    def _also_right(self, triplet: Triplet) -> set[str]:
        """Images that answer the query too: soft targets above 0, and targets of the same query elsewhere."""
        soft = {name for name, value in triplet.target_soft.items() if value > 0}
        return (soft | self._answers.get((triplet.reference, triplet.text), set())) - {triplet.target or ""}

    def _subset_negatives(self, triplets: Sequence[Triplet], batch: str) -> Iterable[str]:
        count = self.loss.subset_negatives
        if not count:
            return
        for t in triplets:
            banned = {t.reference, t.target} | self._also_right(t)
            members = [name for name in dict.fromkeys(t.subset) if name not in banned]
            yield from random.Random(f"{self.seed}\x1f{t.id}\x1f{batch}").sample(members, min(count, len(members)))

    def _exclude(
        self, triplets: Sequence[Triplet], layout: Sequence[str | None], position: Mapping[str, int], batch: str
    ) -> torch.Tensor:
        filling = torch.tensor([name is None for name in layout], dtype=torch.bool)
        exclude = filling.repeat(len(triplets), 1)
        for row, t in enumerate(triplets):
            barred = self._also_right(t)
            if self.loss.kind == "soft-triplet":
                barred = self._not_sampled(t, position, batch)
            for name in barred:
                if name in position:
                    exclude[row, position[name]] = True
        return exclude

    def _not_sampled(self, triplet: Triplet, position: Mapping[str, int], batch: str) -> set[str]:
        """All columns but the ``loss.negatives`` that are drawn for the query; drawn by name, so in any order."""
        named = sorted(position.keys() - {triplet.target} - self._also_right(triplet))
        draw = random.Random(f"{self.seed}\x1f{triplet.id}\x1f{batch}\x1fnegatives")
        return set(position) - set(draw.sample(named, min(self.loss.negatives, len(named))))


class _Numbered:
    """Distinct names in first-seen order and the number of each."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]


def _ids(triplets: Sequence[Triplet]) -> str:
    return "\x1f".join(t.id for t in triplets)


def _target(triplet: Triplet) -> str:
    if triplet.target is None:
        raise UserError(f"triplet {triplet.id} has no target: train on a labelled split (data.train_split).")
    return triplet.target


def _padded(rows: Sequence[Sequence[int]], least: int | None = None) -> torch.Tensor:
    width = max([*(len(row) for row in rows), least or 0])
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long).view(len(rows), width)


def _mask(rows: Sequence[Sequence[int]], least: int | None = None) -> torch.Tensor:
    width = max([*(len(row) for row in rows), least or 0])
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return torch.arange(width)[None, :] < lengths[:, None]
