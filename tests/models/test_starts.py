"""Where queries start: parts against loops in float64, ridge maps against their formula, and what the search finds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neucore_xl.language.bag import NO_WORD, word_keys
from neucore_xl.language.sequence import OPERATION_INDEX, Operation
from neucore_xl.models.layers import l2
from neucore_xl.models.starts.pairs import Pairs
from neucore_xl.models.starts.ridge import Columns, solved, word_features
from neucore_xl.models.starts.search import HELD, LEAST, _cut, search
from neucore_xl.models.starts.start import AUTO, TABLE, Start

D = 8
CLOSED = ("product", "sum", "steps", "ridge", "ridge-words")


def unit(*shape: int, seed: int = 0) -> Tensor:
    return l2(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def made_pairs(n: int = 400, images: int = 120, *, answer: str, seed: int = 0) -> Pairs:
    """Pairs whose target is nearly what one part says: the words, the text, or image and text together."""
    draw = torch.Generator().manual_seed(seed)
    table, words = unit(40, D, seed=seed + 1), torch.randint(0, 40, (n, 3), generator=draw)
    text, reference = unit(n, D, seed=seed + 2), torch.randint(0, images, (n,), generator=draw)
    first = unit(images, D, seed=seed + 3)
    wanted = {
        "words": table[words].sum(1),
        "text": text,
        "sum": first[reference] + 2 * text,
    }[answer]
    targets = l2(wanted + 0.1 * torch.randn(n, D, generator=draw))
    return Pairs(torch.cat([first, targets]), text, reference, images + torch.arange(n), words + 1)


def test_words_of_a_sentence_are_distinct_numbers_of_the_words_alone() -> None:
    keys = word_keys("Remove the Dog, the dog!")
    assert keys == (*word_keys("remove"), *word_keys("THE"), *word_keys("dog"))
    assert all(NO_WORD < key < 2**63 for key in keys)
    assert word_keys("") == word_keys("?!") == ()
    assert word_keys("straße 猫") == (*word_keys("straße"), *word_keys("猫"))


def test_tf_idf_by_hand() -> None:
    words = torch.tensor([[5, 9, 0], [5, 7, 9], [5, 0, 0], [3, 0, 0]])
    table, idf, matrix = word_features(words)
    assert table.tolist() == [5, 9]  # sorted, and those in two sentences or more
    expected = [math.log(5 / 4) + 1, math.log(5 / 3) + 1]
    assert idf.tolist() == pytest.approx(expected)
    length = math.hypot(*expected)
    rows = [[expected[0] / length, expected[1] / length]] * 2 + [[1, 0], [0, 0]]
    np.testing.assert_allclose(matrix.toarray(), rows, rtol=1e-6)


def test_the_table_keeps_the_most_frequent_words() -> None:
    often = torch.arange(1, TABLE + 100)
    words = torch.stack([often, often, torch.where(often <= TABLE, often, 0)], 1).T
    table, idf, matrix = word_features(words)
    assert (len(table), len(idf), matrix.shape[1]) == (TABLE, TABLE, TABLE)
    assert table.max() == TABLE


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 5), st.floats(0.3, 30), st.integers(0, 2**31 - 1))
def test_ridge_is_its_formula_whichever_side_is_longer(
    n: int, dense: int, words: int, penalty: float, seed: int
) -> None:
    import scipy.sparse

    draw = np.random.default_rng(seed)
    left = draw.standard_normal((n, dense)).astype(np.float32)
    right = (draw.standard_normal((n, words)) * (draw.random((n, words)) < 0.5)).astype(np.float32)
    y = draw.standard_normal((n, 3)).astype(np.float32)
    x = Columns(left, scipy.sparse.csr_array(right) if words else None)
    ((found_for, weights),) = solved(x, y, [penalty])
    whole = np.hstack([left, right]).astype(np.float64)
    expected = np.linalg.solve(whole.T @ whole + penalty * np.eye(dense + words), whole.T @ y)
    assert found_for == penalty
    np.testing.assert_allclose(weights, expected, atol=2e-4)
    np.testing.assert_allclose(x @ weights, whole @ weights, atol=1e-4)
    np.testing.assert_allclose(x.rows(torch.tensor([n - 1])) @ weights, whole[-1:] @ weights, atol=1e-4)


def slow_start(start: Start, image: Tensor, text: Tensor, words: list[int]) -> Tensor:
    """One query in float64, one word and one channel at a time."""

    def one(x: list[float]) -> list[float]:
        length = math.sqrt(sum(v * v for v in x))
        return [v / length for v in x]

    def centred(x: Tensor, mean: Tensor) -> list[float]:
        return one([float(a) - float(b) for a, b in zip(x, mean, strict=True)])

    i, t = centred(image, start.image_mean), centred(text, start.text_mean)
    table = {int(key): row for row, key in enumerate(start.word_table)}
    known = [table[word] for word in words if word in table]
    idf = one([float(start.word_idf[row]) for row in known]) if known else []
    ridge, mapped = [0.0] * D, [0.0] * D
    for d in range(D):
        for k in range(D):
            ridge[d] += i[k] * float(start.ridge[k, d]) + t[k] * float(start.ridge[D + k, d])
            mapped[d] += i[k] * float(start.word_ridge[k, d])
        ridge[d] += float(start.ridge[2 * D, d])
        mapped[d] += float(start.word_ridge[D, d])
        for weight, row in zip(idf, known, strict=True):
            mapped[d] += weight * float(start.word_ridge[D + 1 + row, d])
    parts = {"image": i, "text": t, "ridge": one(ridge), "words": one(mapped)}
    total = [sum(float(w) * parts[p][d] for w, p in zip(start.weights, start.parts, strict=True)) for d in range(D)]
    return torch.tensor(one(total), dtype=torch.float64)


def fitted_start() -> Start:
    start = Start(D, AUTO, centring=True)
    draw = torch.Generator().manual_seed(5)
    table = torch.cat([torch.tensor([3, 8, 21]), start.word_table[3:]])
    fitted = {name: torch.randn(b.shape, generator=draw) for name, b in start.named_buffers() if name != "word_table"}
    start.load(fitted | {"word_table": table, "word_idf": fitted["word_idf"].abs()})
    return start


def test_a_start_is_its_parts() -> None:
    start, image, text = fitted_start(), unit(4, D, seed=1), unit(4, D, seed=2)
    words = [[3, 21, 4], [8, 0, 0], [5, 0, 0], [0, 0, 0]]
    found = start(image, text, torch.tensor(words))
    for row, named in enumerate(words):
        slow = slow_start(start, image[row], text[row], [w for w in named if w])
        torch.testing.assert_close(found[row].double(), slow, rtol=0, atol=2e-6)


def test_order_and_filling_of_words_change_nothing() -> None:
    start, image, text = fitted_start(), unit(1, D, seed=1), unit(1, D, seed=2)
    a = start(image, text, torch.tensor([[3, 21, 8]]))
    b = start(image, text, torch.tensor([[0, 8, 3, 0, 21, 0]]))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, start(image, text, torch.tensor([[3, 8]])))


@pytest.mark.parametrize("parts", [(), AUTO, ("ridge",), ("words",), ("image", "steps")])
def test_before_it_is_fitted_a_start_is_the_reference(parts: Any) -> None:
    start, image = Start(D, parts), unit(3, D)
    torch.testing.assert_close(start(image, unit(3, D, seed=1), torch.ones(3, 2, dtype=torch.long)), image)
    torch.testing.assert_close(start.image(image), image)


@pytest.mark.parametrize(("answer", "better", "worse"), [("words", "words", "text"), ("text", "text", "image")])
def test_the_search_finds_the_part_that_answers(answer: str, better: Any, worse: Any) -> None:
    found = search(Start(D, AUTO, centring=True), made_pairs(answer=answer), max_scale=100)
    assert found is not None
    weights, ranks = found.report["weights"], found.report["reciprocal_rank_of_each"]
    assert weights[better] > max(weights["image"], weights[worse])  # type: ignore[index]
    assert ranks[better] > ranks[worse]  # type: ignore[index]
    assert found.report["reciprocal_rank"] >= max(ranks.values()) - 1e-6  # type: ignore[operator, attr-defined]


def test_the_search_weighs_text_against_image() -> None:
    pairs = made_pairs(answer="sum")
    found = search(Start(D, ("image", "text"), free=("text",)), pairs, max_scale=100)
    assert found is not None
    assert found.report["weights"] == {"image": 1.0, "text": 2.0}
    assert found.log_scale == pytest.approx(math.log(100.0))  # hardly any noise: as sharp as may be
    start = Start(D, ("image", "text"), free=("text",))
    start.load(found.buffers)
    mine = start(pairs.images[pairs.reference], pairs.text)
    assert (mine * pairs.images[pairs.target]).sum(1).mean() > 0.9
    sharp = search(Start(D, ("image", "text"), free=("text",)), pairs, max_scale=14.2849)
    assert sharp is not None
    assert math.exp(sharp.log_scale) == pytest.approx(14.2849)


def test_a_seed_gives_the_same_start_and_few_pairs_give_none() -> None:
    pairs = made_pairs(answer="words")
    one, two = (search(Start(D, AUTO, centring=True), pairs, max_scale=100, seed=3) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.report == two.report
    assert all(torch.equal(one.buffers[name], two.buffers[name]) for name in one.buffers)
    few = replace(pairs, **{n: getattr(pairs, n)[: LEAST - 1] for n in ("text", "reference", "target", "words")})
    assert search(Start(D, AUTO), few, max_scale=100) is None


@given(st.integers(LEAST, 200), st.integers(1, 30), st.integers(0, 2**31 - 1))
def test_pairs_of_one_reference_are_held_out_together(n: int, references: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pairs = replace(made_pairs(n, answer="text"), reference=torch.randint(0, references, (n,), generator=draw))
    held, rest = _cut(pairs, seed)
    assert sorted(torch.cat([held, rest]).tolist()) == list(range(n))
    assert 0 < len(held) <= n - len(held)
    shared = set(pairs.reference[held].tolist()) & set(pairs.reference[rest].tolist())
    assert not shared or len(held) == min(HELD, max(n // 5, 8))  # where one reference would have been most of them


@pytest.fixture
def built(make_backbone: Any, vocabulary: Any) -> Any:
    """``built(name)``: the closed form on a small random tower."""
    from neucore_xl.config.schema import Settings
    from neucore_xl.models.registry import build_composer

    backbone = make_backbone()

    def build(name: str) -> Any:
        tree = Settings.model_validate({"model": {"name": name, "width": 16, "heads": 2}})
        return build_composer(tree, backbone, vocabulary).eval()

    return build


def test_closed_forms_have_nothing_to_train_but_the_temperature(built: Any) -> None:
    for name in CLOSED:
        composer = built(name)
        assert composer.closed_form
        trained = [n for n, _ in composer.named_parameters() if not n.startswith("backbone.")]
        assert trained == ["temperature.theta"]


def test_the_product_multiplies_two_similarities(built: Any, make_batch: Any) -> None:
    composer = built("product")
    batch = make_batch(composer.backbone)
    out = composer("train", batch)
    scores = composer.score(out.queries, out.targets)
    for q in range(3):
        image, text = l2(batch.images.pooled[batch.reference[q]]), l2(batch.texts.pooled[q])
        for g, column in enumerate(batch.gallery):
            y = l2(batch.images.pooled[column])
            assert scores[q, g].item() == pytest.approx(float(image @ y) * float(text @ y), abs=1e-6)


def test_steps_add_phrases_and_take_negations_away(built: Any, make_batch: Any) -> None:
    composer = built("steps")
    composer.start.load({"weights": torch.tensor([1.0, 2.0])})
    batch = make_batch(composer.backbone)
    sequence = batch.sequence
    negation = OPERATION_INDEX[Operation.NEGATION]
    operations = torch.where(torch.arange(3) == 1, negation, OPERATION_INDEX[Operation.ADDITION]).expand(3, 3)
    batch = replace(batch, sequence=replace(sequence, operation=operations))
    f = composer("train", batch).queries["vector"]
    for q in range(3):
        total = l2(batch.images.pooled[batch.reference[q]]).double()
        for k in range(3):
            if sequence.step_mask[q, k]:
                phrase = l2(sequence.short_texts.pooled[sequence.phrase[q, k]]) - composer.anchor
                total = total + 2.0 * (-1 if k == 1 else 1) * phrase.double()
        torch.testing.assert_close(f[q].double(), total / total.norm(), atol=1e-6, rtol=0)
