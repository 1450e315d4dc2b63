"""The systems of the literature against their equations, written once more: one query, one token, one pair at a time.

Nothing here is shared with the package but the values of parameters, read by name and widened to float64. Compared are
queries, targets, scores of all pairs and penalties, and the gradient of a random sum of them in every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

HEADS, LAYERS = 2, 2
LANGUAGE: dict[str, Path] = {}  # the BERT of systems that have one, once it is there
P = dict[str, Tensor]


# --- elementary, on vectors [d] ---


def linear(p: P, name: str, x: Tensor) -> Tensor:
    y = p[f"{name}.weight"] @ x
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def norm(p: P, name: str, x: Tensor, least: float = 1e-5) -> Tensor:
    centred = x - x.sum() / len(x)
    return centred / ((centred * centred).sum() / len(x) + least).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def softmax(x: Tensor) -> Tensor:
    e = (x - x.max().detach()).exp()
    return e / e.sum()


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum().sqrt()


def sized(x: Tensor) -> Tensor:
    return unit(x) * math.sqrt(len(x))


def two_layers(p: P, name: str, x: Tensor) -> Tensor:
    return linear(p, f"{name}.3", relu(linear(p, f"{name}.0", x)))


def average(vectors: list[Tensor]) -> Tensor:
    total = torch.zeros_like(vectors[0])
    for v in vectors:
        total = total + v
    return total / len(vectors)


def projected(p: P, name: str, vectors: list[Tensor]) -> list[Tensor]:
    return [linear(p, f"{name}.1", norm(p, f"{name}.0", x)) for x in vectors]


def attended(p: P, name: str, tokens: list[Tensor]) -> list[Tensor]:
    """Attention of real tokens over themselves, in heads."""
    pairs = [linear(p, f"{name}.key_value", n) for n in tokens]
    d = len(tokens[0])
    h = d // HEADS
    after = []
    for own in tokens:
        q = linear(p, f"{name}.query", own)
        parts = []
        for head in range(HEADS):
            cut = slice(head * h, (head + 1) * h)
            weights = softmax(torch.stack([q[cut] @ pair[:d][cut] / math.sqrt(h) for pair in pairs]))
            parts.append(sum((w * pair[d:][cut] for w, pair in zip(weights, pairs, strict=True)), torch.zeros(h)))
        after.append(linear(p, f"{name}.out", torch.cat(parts)))
    return after


def block(p: P, name: str, tokens: list[Tensor]) -> list[Tensor]:
    """A pre-norm transformer block over real tokens alone."""
    seen = attended(p, f"{name}.attention", [norm(p, f"{name}.norm1", x) for x in tokens])
    after = [x + y for x, y in zip(tokens, seen, strict=True)]
    inner = [gelu(linear(p, f"{name}.mlp.0", norm(p, f"{name}.norm2", x))) for x in after]
    return [x + linear(p, f"{name}.mlp.3", y) for x, y in zip(after, inner, strict=True)]


# --- one query: i and t̂ [D], tokens [N][Dv], real words [L][Dt] ---


def gated_residual(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    i, t = sized(i), sized(t)
    both = torch.cat([i, t])
    gate = linear(p, "composition.gate.2", relu(norm(p, "composition.gate.0", both)))
    inner = relu(linear(p, "composition.residual.2", relu(norm(p, "composition.residual.0", both))))
    a = p["composition.weights"]
    return a[0] * sigmoid(gate) * i + a[1] * linear(p, "composition.residual.4", inner)


def concat(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    return two_layers(p, "mlp", torch.cat([sized(i), sized(t)]))


def convolved(p: P, name: str, grid: dict[tuple[int, int], Tensor]) -> dict[tuple[int, int], Tensor]:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    out = {}
    for row, column in grid:
        y = bias
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if (row + down, column + right) in grid:
                    y = y + weight[:, :, down + 1, right + 1] @ grid[row + down, column + right]
        out[row, column] = y
    return out


def lastconv(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    s = math.isqrt(len(tokens))
    places = [(n // s, n % s) for n in range(len(tokens))]
    x = dict(zip(places, projected(p, "image_tokens", tokens), strict=True))
    said = linear(p, "sentence", sized(t))
    both = {k: norm(p, "modification.norm", torch.cat([v, said])) for k, v in x.items()}
    maps = {}
    for name in ("gate", "residual"):
        inner = {k: relu(v) for k, v in convolved(p, f"modification.{name}.0", both).items()}
        maps[name] = convolved(p, f"modification.{name}.2", inner)
    a = p["modification.weights"]
    changed = [a[0] * sigmoid(maps["gate"][k]) * x[k] + a[1] * maps["residual"][k] for k in places]
    return linear(p, "out", average(changed))


def mrn(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    h = sized(t)
    for s in range(3):
        seen = torch.tanh(linear(p, f"blocks.{s}.image2", torch.tanh(linear(p, f"blocks.{s}.image1", sized(i)))))
        h = linear(p, f"blocks.{s}.shortcut", h) + torch.tanh(linear(p, f"blocks.{s}.question", h)) * seen
    return h


def film(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    made = linear(p, "modulation", sized(t))
    gamma, beta = made[: len(made) // 2], made[len(made) // 2 :]
    x = projected(p, "image_tokens", tokens)
    return linear(p, "out", average([v + relu((1 + gamma) * linear(p, "content", v) + beta) for v in x]))


def relationship(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    x = projected(p, "image_tokens", tokens)
    first = torch.cat([p[f"relations.{name}.weight"] for name in ("first", "second", "text")], 1)
    pairs = []
    for a in x:
        for b in x:
            inner = relu(first @ torch.cat([a, b, sized(t)]) + p["relations.text.bias"])
            pairs.append(linear(p, "relations.last", inner))
    return two_layers(p, "mlp", average(pairs))


def transformed(p: P, tokens: list[Tensor]) -> list[Tensor]:
    for layer in range(LAYERS):
        tokens = block(p, f"transformer.blocks.{layer}", tokens)
    return [norm(p, "transformer.norm", x) for x in tokens]


def mixed(p: P, words: list[Tensor], depths: list[list[Tensor]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What the transformer of `maaf` makes of the depth before the last, of the last, and of the words."""
    early, late = depths[-2:]
    told = projected(p, "words", words) if words else []
    x = transformed(p, told + projected(p, "image_tokens", late) + projected(p, "earlier_tokens.0", early))
    return x[len(told) + len(late) :], x[len(told) : len(told) + len(late)], x[: len(told)]


def maaf(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[list[Tensor]]) -> Tensor:
    early, late, told = mixed(p, words, tokens)
    return (average(early) + average(late) + average(told)) / 3


def maaf_it(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[list[Tensor]]) -> Tensor:
    early, late, _ = mixed(p, words, tokens)
    return (average(early) + average(late)) / 2


def maaf_rp(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[list[Tensor]]) -> Tensor:
    early, late, told = mixed(p, words, tokens)
    return (average(early + late) + average(told)) / 2


def val(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[list[Tensor]]) -> Tensor:
    parts = []
    for depth, given in enumerate(tokens):
        name = f"compositions.{depth}"
        x = projected(p, f"image_tokens.{depth}", given)
        z = [linear(p, f"{name}.join", torch.cat([v, sized(t)])) for v in x]
        channel = sigmoid(linear(p, f"{name}.channels", average(z)))
        added = attended(p, f"{name}.attention", z)
        w = p[f"{name}.weights"]
        out = []
        for v, place, more in zip(x, z, added, strict=True):
            joint = channel * sigmoid(linear(p, f"{name}.places", place))
            out.append(w[0] * joint * v + w[1] * more)
        parts.append(average(out))
    return torch.cat(parts)


def turned(p: P, i: Tensor, t: Tensor, sign: int) -> Tensor:
    i, t = sized(i), sized(t)
    z = two_layers(p, "composition.image.1", norm(p, "composition.image.0", i))
    theta = two_layers(p, "composition.angle.1", norm(p, "composition.angle.0", t))
    phi = torch.polar(torch.ones_like(theta), sign * theta) * z
    rows = [z, theta, i, phi.real, phi.imag]
    d, kernel = len(i), p["composition.conv.weight"]
    signal = []  # what all channels say at each place
    for x in range(d):
        y = p["composition.conv.bias"]
        for step in (-1, 0, 1):
            if 0 <= x + step < d:
                y = y + kernel[:, :, step + 1] @ torch.stack([row[x + step] for row in rows])
        signal.append(y)
    # the cells of an adaptive pooling overlap where 16 does not divide
    cells = [torch.stack(signal[c * d // 16 : -(-(c + 1) * d // 16)]) for c in range(16)]
    channels = [cell[:, channel].max() for channel in range(len(kernel)) for cell in cells]
    a = p["composition.weights"]
    rho, rho_conv = (
        mapping(p, f"composition.{name}", x)
        for name, x in (("linear", torch.cat([phi.real, phi.imag])), ("convolved", torch.stack(channels)))
    )
    return a[1] * rho + a[0] * rho_conv


def mapping(p: P, name: str, x: Tensor) -> Tensor:
    return linear(p, f"{name}.4", relu(linear(p, f"{name}.2", relu(norm(p, f"{name}.0", x)))))


def composeae(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    return turned(p, i, t, 1)


def cosmo(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    t = sized(t)
    x = projected(p, "image_tokens", tokens)
    mean = average(x)
    spread = (average([(v - mean) * (v - mean) for v in x]) + 1e-5).sqrt()
    content = [(v - mean) / spread for v in x]
    d = len(mean)
    h = d // HEADS
    for number in range(2):
        name = f"content.{number}"
        values = [linear(p, f"{name}.value", linear(p, f"{name}.merge", torch.cat([v, t]))) for v in content]
        keys = [linear(p, f"{name}.key", v) for v in content]
        meant = linear(p, f"{name}.meant", t)
        after = []
        for v in content:
            q, parts = linear(p, f"{name}.query", v), []
            for head in range(HEADS):
                cut = slice(head * h, (head + 1) * h)
                together = softmax(torch.stack([q[cut] @ k[cut] / math.sqrt(h) for k in keys]))
                told = softmax(torch.stack([o[cut] @ meant[cut] / math.sqrt(h) for o in content]))
                weights = together + told
                parts.append(sum((w * o[cut] for w, o in zip(weights, values, strict=True)), torch.zeros(h)))
            after.append(v + p[f"{name}.weight"][0] * linear(p, f"{name}.out", torch.cat(parts)))
        content = after
    gate, style = sigmoid(linear(p, "style_gate", t)), linear(p, "style", t)
    gamma, beta = gate[:d] * spread + style[:d], gate[d:] * mean + style[d:]
    return linear(p, "out", average([gamma * v + beta for v in content]))


def tcir(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    told = projected(p, "words", words)
    fused = []
    for v in projected(p, "image_tokens", tokens):
        weights = softmax(torch.stack([v @ w / math.sqrt(len(w)) for w in told]))
        c = sum((a * w for a, w in zip(weights, told, strict=True)), torch.zeros_like(v))
        g = sigmoid(linear(p, "gate", torch.cat([v, c])))
        fused.append(g * v + (1 - g) * c)
    return linear(p, "out", average(fused))


def cirplant(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    x = [w + p["kind"][0] for w in projected(p, "words", words)]
    x.append(sized(linear(p, "image", sized(i))) + p["kind"][1])
    for layer in range(LAYERS):
        x = block(p, f"blocks.{layer}", x)
    return x[-1]


def bert(p: P, ids: list[int], image: Tensor | None = None) -> list[Tensor]:
    """Devlin et al. (2019): norms behind the sums, learned positions; an image is one more token, of segment 1."""
    e = "language.bert.embeddings"
    entered = [(p[f"{e}.word_embeddings.weight"][n], 0) for n in ids] + ([] if image is None else [(image, 1)])
    x = [
        norm(
            p,
            f"{e}.LayerNorm",
            v + p[f"{e}.position_embeddings.weight"][n] + p[f"{e}.token_type_embeddings.weight"][k],
            1e-12,
        )
        for n, (v, k) in enumerate(entered)
    ]
    for layer in range(3):
        name = f"language.bert.encoder.layer.{layer}"
        told = [[linear(p, f"{name}.attention.self.{part}", v) for part in ("query", "key", "value")] for v in x]
        h = len(x[0]) // 2
        after = []
        for v, (q, _, _) in zip(x, told, strict=True):
            parts = []
            for cut in (slice(0, h), slice(h, 2 * h)):
                weights = softmax(torch.stack([q[cut] @ k[cut] / math.sqrt(h) for _, k, _ in told]))
                parts.append(sum((w * o[cut] for w, (_, _, o) in zip(weights, told, strict=True)), torch.zeros(h)))
            seen = linear(p, f"{name}.attention.output.dense", torch.cat(parts))
            after.append(norm(p, f"{name}.attention.output.LayerNorm", v + seen, 1e-12))
        inner = [gelu(linear(p, f"{name}.intermediate.dense", v)) for v in after]
        x = [
            norm(p, f"{name}.output.LayerNorm", v + linear(p, f"{name}.output.dense", y), 1e-12)
            for v, y in zip(after, inner, strict=True)
        ]
    return x


def maaf_bert(p: P, i: Tensor, t: Tensor, words: list[int], tokens: list[list[Tensor]]) -> Tensor:
    return maaf(p, i, t, bert(p, words), tokens)


def cirplant_pretrained(p: P, i: Tensor, t: Tensor, words: list[int], tokens: list[Tensor]) -> Tensor:
    return bert(p, words, sized(linear(p, "image", sized(i))))[-1]


def combiner(p: P, i: Tensor, t: Tensor, words: list[Tensor], tokens: list[Tensor]) -> Tensor:
    i, t = sized(i), sized(t)
    m = torch.cat([relu(linear(p, "text.0", t)), relu(linear(p, "image.0", i))])
    share = sigmoid(two_layers(p, "share", m))
    return two_layers(p, "combination", m) + share * t + (1 - share) * i


SLOW: dict[str, Callable[..., Tensor]] = {
    "random": gated_residual, "random-image-text": concat, "tirg": gated_residual, "tirg-lastconv": lastconv,
    "mrn": mrn, "film": film, "relationship": relationship, "maaf": maaf, "maaf-it": maaf_it, "maaf-rp": maaf_rp,
    "val": val, "composeae": composeae, "cosmo": cosmo, "tcir": tcir, "cirplant": cirplant, "combiner": combiner,
    "maaf-bert": maaf_bert, "cirplant-pretrained": cirplant_pretrained,
}  # fmt: skip
DEEP = ("maaf", "maaf-it", "maaf-rp", "maaf-bert", "val")  # given the tokens of every depth, the earliest first


def target(name: str, p: P, pooled: Tensor, tokens: Any) -> Tensor:
    if name.startswith("maaf"):
        early, late, _ = mixed(p, [], tokens)
        return unit(average(early + late) if name == "maaf-rp" else average(early) + average(late))
    if name == "val":
        return unit(torch.cat([average(projected(p, f"image_tokens.{k}", x)) for k, x in enumerate(tokens)]))
    if name.startswith("cirplant"):
        return unit(linear(p, "image", sized(pooled)))
    return unit(pooled)


def artemis(p: P, i: Tensor, t: Tensor, y: Tensor) -> Tensor:
    t = sized(t)
    a_explicit, a_implicit = softmax(two_layers(p, "explicit", t)), softmax(two_layers(p, "implicit", t))
    asked = unit(linear(p, "asked", t)) @ unit(a_explicit * y)
    return asked + unit(a_implicit * unit(i)) @ unit(a_implicit * y)


# --- the comparison ---


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
