"""The systems of the literature against their equations, written once more (tests/support/equations.py).

Nothing there is shared with the package but the values of parameters, read by name and widened to float64. Compared are
queries, targets, scores of all pairs and penalties, and the gradient of a random sum of them in every parameter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neucore_xl.config.schema import BackboneSettings, Settings
from neucore_xl.data.batches import Batch
from neucore_xl.errors import UserError
from neucore_xl.models.backbone import Backbone, build_backbone
from neucore_xl.models.composer import Composer
from neucore_xl.models.features import FeatureSet
from neucore_xl.models.grid import at_most, from_map, side, to_map
from neucore_xl.models.registry import build_composer
from tests.support.equations import (
    DEEP,
    HEADS,
    LAYERS,
    SLOW,
    P,
    artemis,
    average,
    mapping,
    projected,
    sized,
    target,
    transformed,
    turned,
    unit,
)

LANGUAGE: dict[str, Path] = {}  # the BERT of systems that have one, once it is there


@pytest.fixture(scope="module", autouse=True)
def language(bert_folder: Path) -> None:
    LANGUAGE["model"] = bert_folder


@pytest.fixture(scope="module")
def backbone(configs: dict[str, Path]) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(config=configs["native-vit"], pretrained=None), levels=3)


def build(backbone: Any, vocabulary: Any, name: str, **model: Any) -> Composer:
    """The system with every parameter and drawn weight moved, so that none is still one, zero, or small."""
    torch.manual_seed(0)
    sizes = {"width": 8, "heads": HEADS, "exchange_layers": LAYERS, "language_model": LANGUAGE.get("model")}
    composer = build_composer(
        Settings.model_validate({"model": {"name": name} | sizes | model}), backbone, vocabulary
    ).eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in composer.state_dict().items():
            if not key.startswith(("backbone.", "temperature.")):
                value += 0.2 * torch.randn(value.shape, generator=draw)
    return composer


def widened(composer: Composer) -> P:
    """Parameters and buffers of the head in float64, parameters with a gradient."""
    trained = {n for n, p in composer.named_parameters() if p.requires_grad}
    state = {n: v for n, v in composer.state_dict().items() if not n.startswith("backbone.")}
    return {n: v.double().requires_grad_(n in trained) for n, v in state.items()}


def tokens_of(name: str, batch: Batch, image: int) -> Any:
    """The tokens of an image in float64: a list of them, or one such list a depth."""
    depths = [list(level[image].double()) for level in (*batch.images.levels, batch.images.tokens)]
    return depths if name in DEEP else depths[-1]


def rows_of(name: str, batch: Batch, n: int) -> tuple[Tensor, Tensor, Any, Any]:
    """i, t̂, real words (or ids of them) and tokens of query n, in float64."""
    r = int(batch.reference[n])
    words: Any = [w for w, real in zip(batch.texts.words[n].double(), batch.texts.mask[n], strict=True) if real]
    if name in ("maaf-bert", "cirplant-pretrained"):
        words = [number for number in batch.sequence.language_ids[n].tolist() if number >= 0]
    return batch.images.pooled[r].double(), batch.texts.pooled[n].double(), words, tokens_of(name, batch, r)


def expected(name: str, p: P, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, targets and scores."""
    targets = torch.stack(
        [target(name, p, batch.images.pooled[g].double(), tokens_of(name, batch, int(g))) for g in batch.gallery]
    )
    given = [rows_of(name, batch, n) for n in range(len(batch))]
    if name == "artemis":
        scores = torch.stack([torch.stack([artemis(p, i, t, y) for y in targets]) for i, t, _, _ in given])
        return scores, targets, scores
    queries = torch.stack([unit(SLOW[name](p, *row)) for row in given])
    return queries, targets, torch.stack([torch.stack([f @ y for y in targets]) for f in queries])


def penalties(p: P, batch: Batch) -> P:
    """The three of `composeae`, weighted."""
    found = {"image": torch.tensor(0.0), "text": torch.tensor(0.0), "rotation": torch.tensor(0.0)}
    for n in range(len(batch)):
        i, t, _, _ = rows_of("composeae", batch, n)
        y = batch.images.pooled[batch.target_images[n]].double()
        f = sized(turned(p, i, t, 1))
        for name, wanted in (("image", sized(i)), ("text", sized(t))):
            error = mapping(p, f"{name}_decoder", f) - wanted
            found[name] = found[name] + 0.1 * (error @ error) / len(error) / len(batch)
        found["rotation"] = found["rotation"] + 0.01 * (1 - unit(turned(p, y, t, -1)) @ unit(i)) / len(batch)
    return found


@pytest.mark.parametrize("name", [*SLOW, "artemis"])
def test_values_and_gradients_are_those_of_the_equation(
    name: str, backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    composer = build(backbone, vocabulary, name)
    batch: Batch = make_batch(backbone, images=4)
    first, second = batch.images.levels
    earlier = (first[:, :2], second[:, :3])  # of another size than the last, as in a tower whose maps shrink
    images = replace(batch.images, tokens=batch.images.tokens[:, :9], levels=earlier)  # a map of 3 × 3
    batch = replace(batch, images=images)
    batch = replace(batch, gallery=torch.tensor([3, 0, 2]), positive=torch.tensor([1, 2, 0]), exclude=torch.zeros(3, 3))
    p = widened(composer)
    out = composer("train", batch)
    scores = composer.score(out.queries, out.targets)
    queries, targets, wanted = expected(name, p, batch)
    if name != "artemis":
        torch.testing.assert_close(out.queries["vector"].double(), queries, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(out.targets["vector"].double(), targets, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(scores.double(), wanted, atol=5e-6, rtol=1e-5)

    probe = torch.randn(scores.shape, generator=torch.Generator().manual_seed(5))
    loss, slow = (scores * probe).sum(), (wanted * probe).sum()
    if name == "composeae":
        assert out.penalties is not None
        for key, value in penalties(p, batch).items():
            torch.testing.assert_close(out.penalties[key].double(), value, atol=1e-6, rtol=1e-5)
            loss, slow = loss + out.penalties[key], slow + value
    else:
        assert out.penalties is None
    trained = {n: q for n, q in composer.named_parameters() if q.requires_grad and n != "temperature.theta"}
    assert bool(trained) == (name != "random")
    if trained:
        loss.backward()
        slow.backward()
    for n, q in trained.items():
        assert q.grad is not None, n
        assert q.grad.abs().max() > 0, n
        scale = float(p[n].grad.abs().max())
        torch.testing.assert_close(
            q.grad.double(), p[n].grad, atol=1e-5 + 1e-4 * scale, rtol=1e-3, msg=lambda m, n=n: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", [*SLOW, "artemis"])
def test_the_order_of_a_batch_changes_no_loss(name: str, backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    composer = build(backbone, vocabulary, name)
    batch: Batch = make_batch(backbone)

    def losses(batch: Batch) -> list[Tensor]:
        out = composer("train", batch)
        scores = composer.score(out.queries, out.targets)
        rows = torch.nn.functional.cross_entropy(scores, batch.positive)
        return [rows, *(out.penalties or {}).values()]

    order = torch.tensor([2, 0, 1])
    texts = replace(batch.texts, **{n: getattr(batch.texts, n)[order] for n in ("words", "pooled", "mask")})
    s = batch.sequence
    fields = ("phrase", "operation", "step_mask", "concept", "concept_mask", "language_ids")
    sequence = replace(s, **{n: getattr(s, n)[order] for n in fields})
    moved = replace(
        batch, reference=batch.reference[order], positive=batch.positive[order], texts=texts, sequence=sequence
    )
    for a, b in zip(losses(batch), losses(moved), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_cosine_of_artemis_is_its_score_where_attention_is_even(
    backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    full, cosine = (build(backbone, vocabulary, "artemis", score=s) for s in ("full", "cosine"))
    for composer in (full, cosine):
        with torch.no_grad():
            for part in (composer.explicit, composer.implicit):  # type: ignore[union-attr]
                part[3].weight.zero_()  # type: ignore[index, union-attr, operator]
                part[3].bias.zero_()  # type: ignore[index, union-attr, operator]
    batch: Batch = make_batch(backbone)
    a, b = full("train", batch), cosine("train", batch)
    assert set(b.queries) == {"vector"}
    whole, approximate = full.score(a.queries, a.targets), cosine.score(b.queries, b.targets)
    ratio = whole / approximate  # the length of the sum, one number a query
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4, rtol=1e-3)


def test_what_was_drawn_for_random_is_stored_and_never_trained(backbone: Any, vocabulary: Any) -> None:
    composer = build(backbone, vocabulary, "random")
    assert {n for n, p in composer.named_parameters() if p.requires_grad} == {"temperature.theta"}
    drawn = {n for n in composer.state_dict() if n.startswith("composition.")}
    tirg = build(backbone, vocabulary, "tirg")
    assert drawn == {n for n, _ in tirg.named_parameters() if n.startswith("composition.")}
    assert all(torch.equal(composer.state_dict()[n], tirg.state_dict()[n]) for n in drawn)


def test_the_parts_are_found_again_from_what_was_composed_after_training(
    backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    composer = build(backbone, vocabulary, "composeae")
    batch: Batch = make_batch(backbone)
    optimizer = torch.optim.Adam([p for p in composer.parameters() if p.requires_grad], lr=1e-2)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        found = composer("train", batch).penalties
        history.append({n: v.item() for n, v in found.items()})
        (found["image"] + found["text"] + 10 * found["rotation"]).backward()
        optimizer.step()
    assert all(history[-1][n] < 0.5 * history[0][n] for n in history[0]), (history[0], history[-1])


@pytest.mark.parametrize("n_tokens", [15, 2, 17])
def test_lastconv_needs_a_square_map(n_tokens: int, backbone: Any, vocabulary: Any) -> None:
    class Odd(torch.nn.Module):
        embed_dim, token_width, word_width = 20, 32, 24

    odd = Odd()
    odd.n_tokens = n_tokens  # type: ignore[assignment]
    with pytest.raises(UserError, match=rf"needs a square map of tokens, and this backbone gives {n_tokens} tokens"):
        build(odd, vocabulary, "tirg-lastconv")


def test_the_map_of_tokens_and_back() -> None:
    tokens = torch.arange(2 * 9 * 3).float().view(2, 9, 3)
    assert to_map(tokens)[1, 2, 1, 0] == tokens[1, 3, 2]  # second row, first column
    assert torch.equal(from_map(to_map(tokens)), tokens)
    assert [side(n) for n in (1, 2, 9, 48, 49)] == [1, None, 3, None, 7]
    with pytest.raises(ValueError, match="8 tokens are no square map"):
        to_map(tokens[:, :8])


@pytest.mark.parametrize(("s", "most"), [(8, 49), (14, 49), (5, 8), (7, 49)])
def test_a_finer_map_is_averaged_cell_by_cell(s: int, most: int) -> None:
    tokens = torch.randn(2, s * s, 3, generator=torch.Generator().manual_seed(0)).double()
    cells = min(s, math.isqrt(most))
    wanted = torch.zeros(2, cells * cells, 3).double()
    for row in range(cells):
        for column in range(cells):
            inside = [
                tokens[:, y * s + x]
                for y in range(row * s // cells, -(-(row + 1) * s // cells))
                for x in range(column * s // cells, -(-(column + 1) * s // cells))
            ]
            wanted[:, row * cells + column] = sum(inside) / len(inside)
    torch.testing.assert_close(at_most(tokens, most), wanted)


def test_tokens_that_are_no_map_are_averaged_in_their_order() -> None:
    tokens = torch.arange(12.0).view(1, 12, 1)
    assert at_most(tokens, 12) is tokens
    assert at_most(tokens, 4).flatten().tolist() == [1.0, 4.0, 7.0, 10.0]


def test_features_of_another_batch_do_not_reach_a_query(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    """A layer norm, where the originals have batch norms: training mode too, dropout apart."""
    for name in ("tirg", "tirg-lastconv", "composeae"):
        composer = build(backbone, vocabulary, name, dropout=0.0).train()
        batch: Batch = make_batch(backbone)
        alone = replace(
            batch,
            reference=batch.reference[:1],
            texts=replace(batch.texts, **{n: getattr(batch.texts, n)[:1] for n in ("words", "pooled", "mask")}),
        )
        both: list[FeatureSet] = [
            composer("train", b).queries for b in (batch, replace(alone, target=alone.gallery[:1]))
        ]
        torch.testing.assert_close(both[0]["vector"][:1], both[1]["vector"], atol=1e-6, rtol=1e-5)


def test_with_one_depth_pooling_by_resolution_is_plain_pooling(
    backbone: Any, make_backbone: Any, vocabulary: Any, make_batch: Any
) -> None:
    shallow = make_backbone()
    batch: Batch = make_batch(shallow)
    one, flat = (build(shallow, vocabulary, name) for name in ("maaf", "maaf-rp"))
    a, b = one("train", batch), flat("train", batch)
    assert torch.equal(a.queries["vector"], b.queries["vector"])
    assert torch.equal(a.targets["vector"], b.targets["vector"])
    p = widened(one)
    for n in range(len(batch)):
        _, _, words, tokens = rows_of("", batch, n)
        x = transformed(p, projected(p, "image_tokens", tokens) + projected(p, "words", words))
        wanted = unit(average(x[: len(tokens)]) + average(x[len(tokens) :]))
        torch.testing.assert_close(a.queries["vector"][n].double(), wanted, atol=2e-6, rtol=1e-5)
    deep, deeply = (build(backbone, vocabulary, name) for name in ("maaf", "maaf-rp"))
    batch = make_batch(backbone)
    batch = replace(batch, images=replace(batch.images, tokens=batch.images.tokens[:, :3]))
    assert not torch.equal(deep("train", batch).queries["vector"], deeply("train", batch).queries["vector"])


def test_val_starts_as_the_gated_image(backbone: Any, vocabulary: Any, make_batch: Any) -> None:
    torch.manual_seed(0)
    settings = Settings.model_validate({"model": {"name": "val", "width": 8, "heads": HEADS}})
    composer = build_composer(settings, backbone, vocabulary).eval()
    for composition in composer.compositions:  # type: ignore[union-attr]
        assert composition.weights.tolist() == [1.0, 0.0]
    batch: Batch = make_batch(backbone)
    before = composer("train", batch).queries["vector"]
    with torch.no_grad():
        for composition in composer.compositions:  # type: ignore[union-attr]
            composition.attention.out.weight.add_(1.0)
    assert torch.equal(composer("train", batch).queries["vector"], before)


def test_val_is_refused_where_the_tower_has_fewer_depths(make_backbone: Any, vocabulary: Any) -> None:
    for kind, levels, given in (("coca", 3, 2), ("native-vit", 1, 1)):
        with pytest.raises(UserError, match=rf"system val reads 3 depths .* this backbone gives {given}; take a tower"):
            build(make_backbone(kind, levels=levels), vocabulary, "val")
