"""Exchange, pooling, alignment, sequences, fusion, temperature: each against its equation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from neucore_xl.errors import UserError
from neucore_xl.models.alignment import AttentionPool, ConceptScores, Exchange
from neucore_xl.models.fusion import LearnedSequence, MixedFusion, ModulatedNorm, PlannedSequence, ProgressiveFusion
from neucore_xl.models.layers import Attention, ChannelDropout, Temperature


def test_every_position_of_the_exchange_is_its_own() -> None:
    torch.manual_seed(0)
    exchange = Exchange(8, 2, 1, 5, 0.0)
    x = torch.randn(2, 5, 8)
    order = torch.tensor([1, 0, 2, 4, 3])
    # without positions a transformer would give the permuted output; with one shared position too
    assert not torch.allclose(exchange(x[:, order]), exchange(x)[:, order], atol=1e-4)
    assert exchange(x[:, :3]).shape == (2, 3, 8)  # fewer tokens take the first positions
    pair = exchange(x, x)
    assert pair.shape == (2, 10, 8)
    torch.testing.assert_close(pair[:, :5], pair[:, 5:])  # the mark of the second image starts at zero
    with torch.no_grad():
        exchange.second += 0.5 * torch.randn(8)
    pair = exchange(x, x)
    assert not torch.allclose(pair[:, :5], pair[:, 5:], atol=1e-4)


def test_attention_pooling_is_equation_4() -> None:
    torch.manual_seed(0)
    pool, x = AttentionPool(6), torch.randn(3, 4, 6)
    logits = torch.tanh(x @ pool.v1.weight.T + pool.v1.bias) @ pool.v2.weight[0]
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(pool(x), (weights[..., None] * x).sum(1))
    torch.testing.assert_close(pool.weights(x).sum(1), torch.ones(3))


def test_concept_scores_are_equation_5() -> None:
    torch.manual_seed(0)
    foreground, concepts = torch.randn(3, 16), torch.randn(7, 16)
    torch.testing.assert_close(ConceptScores(16, None)(foreground, concepts), foreground @ concepts.T)
    biased = ConceptScores(16, 0.01)(foreground, concepts)
    torch.testing.assert_close(biased, foreground @ concepts.T / 4 - torch.log(torch.tensor(99.0)))


def test_the_learned_sequence_is_equation_7() -> None:
    torch.manual_seed(0)
    sequence = LearnedSequence(6, 3)
    q, w = torch.randn(2, 6), torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    got = sequence(q, w, mask)
    for row, length in ((0, 5), (1, 3)):
        e = torch.zeros(6)
        for k in range(3):
            gate = F.relu(sequence.gate(torch.cat([sequence.per_step[k](q[row]), e])))
            words = w[row, :length]
            logits = sequence.v(torch.tanh(sequence.from_word(words) + sequence.from_gate(gate)))[:, 0]
            e = logits.softmax(0) @ words
            torch.testing.assert_close(got[row, k], e)


def test_a_planned_step_reads_its_operation_and_the_real_words_only() -> None:
    torch.manual_seed(0)
    sequence = PlannedSequence(8, 2, 9, 0.0)
    phrases, words = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    operations = torch.tensor([[0, 1, 2], [3, 4, 5]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    out = sequence(phrases, operations, words, mask)
    changed = words.clone()
    changed[0, 2:] = 100.0
    torch.testing.assert_close(sequence(phrases, operations, changed, mask), out)
    assert not torch.allclose(sequence(phrases, operations + 1, words, mask), out, atol=1e-4)
    changed = words.clone()
    changed[0, 1] += 1
    assert not torch.allclose(sequence(phrases, operations, changed, mask)[0], out[0], atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(valid=st.integers(1, 6), padded=st.integers(0, 4), seed=st.integers(0, 2**31), value=st.floats(-50, 50))
def test_the_modulated_norm_reads_valid_tokens_only(valid: int, padded: int, seed: int, value: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, scale, shift = (torch.randn(*s, generator=g) for s in ((2, valid, 4), (2, 4), (2, 4)))
    want = F.instance_norm(x.transpose(1, 2), eps=1e-5).transpose(1, 2) if valid > 1 else torch.zeros_like(x)
    want = want * (1 + scale[:, None]) + shift[:, None]
    wide = torch.cat([x, torch.full((2, padded, 4), value)], 1)
    mask = (torch.arange(valid + padded) < valid).expand(2, -1)
    torch.testing.assert_close(ModulatedNorm()(wide, mask, scale, shift)[:, :valid], want, atol=1e-4, rtol=1e-4)


def fusion_input() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x, steps = torch.randn(3, 6, 8, generator=g), torch.randn(3, 4, 8, generator=g)
    mask = torch.arange(6) < torch.tensor([[6], [5], [4]])
    return x, mask, steps, torch.arange(4) < torch.tensor([[4], [2], [0]])


def test_masked_steps_leave_x_unchanged_bit_for_bit() -> None:
    torch.manual_seed(0)
    fusion = ProgressiveFusion(8, 2, 0.1).eval()
    torch.nn.init.normal_(fusion.block.modulation[-1].weight)
    x, mask, steps, step_mask = fusion_input()
    out = fusion(x, mask, steps, step_mask)
    assert torch.equal(out[2], x[2])  # no step at all
    assert torch.equal(out[1], fusion(x, mask, steps[:, :2], step_mask[:, :2])[1])  # two steps, then two masked
    noise = torch.where(step_mask[..., None], steps, torch.full_like(steps, 1e4))
    assert torch.equal(fusion(x, mask, noise, step_mask), out)  # what a masked step holds does not matter
    assert torch.equal(fusion.train()(x, mask, steps, step_mask)[2], x[2])  # nor does dropout
    assert not torch.allclose(out[0], x[0], atol=1e-2)
    assert torch.equal(fusion(x, mask, steps[:, :0], step_mask[:, :0]), x)  # K = 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 3))
def test_a_step_runs_on_the_queries_that_have_it(lengths: list[int], padding: int) -> None:
    """The same result as over all rows, for as many rows as are real; a share without a row still calls the block."""
    torch.manual_seed(0)
    fusion = ProgressiveFusion(8, 2, 0.0)
    torch.nn.init.normal_(fusion.block.modulation[-1].weight)
    width = max(lengths) + padding
    step_mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    x, steps = torch.randn(len(lengths), 6, 8), torch.randn(len(lengths), width, 8)
    mask = torch.ones(len(lengths), 6, dtype=torch.bool)
    active = tuple(step_mask.sum(0).tolist())
    rows: list[int] = []
    fusion.block.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    out = fusion(x, mask, steps, step_mask, active)
    assert rows == [max(n, 1) for n in active]
    torch.testing.assert_close(out, fusion(x, mask, steps, step_mask), atol=1e-4, rtol=1e-4)
    for row, length in enumerate(lengths):
        if length == 0:
            assert torch.equal(out[row], x[row])


def test_a_step_changes_what_the_block_does() -> None:
    torch.manual_seed(0)
    fusion = ProgressiveFusion(8, 2, 0.0)
    torch.nn.init.normal_(fusion.block.modulation[-1].weight)
    x, mask, steps, step_mask = fusion_input()
    assert not torch.allclose(fusion(x, mask, steps, step_mask)[0], fusion(x, mask, steps.flip(1), step_mask)[0])


def test_the_mixing_of_neucore_has_noise_in_training_only() -> None:
    torch.manual_seed(0)
    fusion = MixedFusion(8, 2, 0.0, steps=4)
    x, mask, steps, _ = fusion_input()
    sentence = torch.randn(3, 8)
    fusion.train()
    assert not torch.allclose(fusion(x, mask, steps, sentence), fusion(x, mask, steps, sentence))
    fusion.eval()
    out = fusion(x, mask, steps, sentence)
    assert torch.equal(out, fusion(x, mask, steps, sentence))
    pi = fusion.mixing[0](sentence).softmax(-1)
    want = sum(pi[:, k, None, None] * fusion.blocks[0][k](x, mask, steps[:, k]) for k in range(4))
    torch.testing.assert_close(out, want)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.heads = 3 does not divide model.width = 8"):
        Attention(8, 3)


def test_attention_equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    q, kv, mask = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.arange(5) < torch.tensor([[5], [2]])
    torch.testing.assert_close(ours(q, kv, mask), theirs(q, kv, kv, key_padding_mask=~mask)[0])


def test_a_temperature_beyond_its_bound_is_read_as_the_bound_and_comes_back() -> None:
    temperature = Temperature(6.0, 4.6)
    assert temperature.theta.shape == (1,)
    torch.testing.assert_close(temperature(), torch.tensor([4.6]))
    (-temperature()).sum().backward()  # descent would raise θ
    assert temperature.theta.grad is not None
    assert temperature.theta.grad.item() == 0
    temperature.theta.grad = None
    temperature().sum().backward()  # descent would lower θ
    assert temperature.theta.grad is not None
    assert temperature.theta.grad.item() == 1
    below = Temperature(2.65926, 4.6)
    (-2 * below()).sum().backward()
    assert below.theta.grad is not None
    assert below.theta.grad.item() == -2


def test_channels_are_dropped_alike_in_all_rows_whatever_their_number() -> None:
    dropout = ChannelDropout(0.5)
    torch.manual_seed(0)
    short = dropout(torch.ones(3, 2, 64))
    torch.manual_seed(0)
    long = dropout(torch.ones(3, 64, 7).transpose(1, 2))
    assert set(short.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(long, short[:, :1].expand(-1, 7, -1))
    assert torch.equal(dropout.eval()(torch.ones(1, 2, 4)), torch.ones(1, 2, 4))
