"""The systems of the literature as their equations say: one query, one token at a time, nothing of the package.

``p`` holds the values of a composer's parameters by name, widened to float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HEADS, LAYERS = 2, 2
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
