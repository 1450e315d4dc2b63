"""Constrained decoding: every row of a batch is held to the grammar of its own sentence (llguidance).

``transformers`` asks for the scores of the next token (``GrammarMasks``) and whether a row is finished
(``GrammarEnds``); both share one ``Rows``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from neucore_xl.errors import UserError
from neucore_xl.language.llm.wire import STRUCTURE

if TYPE_CHECKING:
    from llguidance import LLMatcher


# Text that a grammar leaves no choice about is tokenised by llguidance as the tokenizer would: wrong, and fatal to the
# row, with tokenizers that put a blank before every text (sentencepiece). There the model chooses the tokens.
_FREE = '%llguidance {"no_forcing": true}\n'


class TokenVocabulary:
    """A tokenizer as the grammar sees it: which bytes each token spells.

    Args:
        tokenizer: a fast tokenizer of ``transformers``.
        size: width of the model's scores, which may be more than the tokenizer's tokens.
        ends: tokens that end an answer.

    Raises ``UserError`` for a tokenizer that cannot be read, or whose tokens cannot spell an answer.
    """

    def __init__(self, tokenizer: Any, size: int, ends: Sequence[int]) -> None:
        try:
            from llguidance import LLExecutor, LLTokenizer
        except ImportError as error:
            raise UserError(
                f"constrained decoding needs llguidance ({error}): pip install 'neucore-xl[llm]'"
            ) from error
        try:
            self.tokens = LLTokenizer(_described(tokenizer), n_vocab=size, eos_token=list(ends))
        except Exception as error:  # whatever the file of a user's tokenizer holds
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"the model's tokenizer cannot be used for constrained decoding ({said}): "
                "take a model with a fast tokenizer"
            ) from error
        self.executor = LLExecutor()
        self.bytewise = (json.loads(_described(tokenizer)).get("decoder") or {}).get("type") == "ByteLevel"
        self.size = size
        self._single = self._single_characters()
        missing = [c for c in STRUCTURE if not self.spells(c)]
        if missing:
            raise UserError(f"the model's vocabulary cannot write {' '.join(missing)}: take another model")

    def spells(self, character: str) -> bool:
        """Whether tokens of one character, or of single bytes, write ``character``."""
        try:
            whole = character.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return False
        return whole in self._single or all(bytes([b]) in self._single for b in whole)

    def _single_characters(self) -> set[bytes]:
        special = self.tokens.is_special_token
        spelled = (self.tokens.decode_bytes([i]) for i in range(self.tokens.vocab_size) if not special(i))
        return {s for s in spelled if 0 < len(s) <= 4}

    @property
    def library(self) -> str:
        return f"llguidance {version('llguidance')}"


class Rows:
    """The state of every row of a batch: its matcher, what it wrote, and why it failed if it did."""

    def __init__(self, vocabulary: TokenVocabulary, grammars: Sequence[str]) -> None:
        from llguidance import LLMatcher

        self.vocabulary = vocabulary
        preamble = "" if vocabulary.bytewise else _FREE
        self.matchers: list[LLMatcher] = [LLMatcher(vocabulary.tokens, preamble + g, log_level=0) for g in grammars]
        self.written: list[list[int]] = [[] for _ in grammars]
        self.failures: list[str | None] = [_error(m) for m in self.matchers]
        self.done = [f is not None for f in self.failures]

    def allowed(self) -> torch.Tensor:
        """Bits of the tokens that may come next, int32 ``[rows, ceil(vocabulary / 32)]``; all for a finished row."""
        from llguidance.torch import fill_next_token_bitmask_par

        mask = torch.full((len(self.matchers), (self.vocabulary.size + 31) // 32), -1, dtype=torch.int32)
        live = [(m, i) for i, m in enumerate(self.matchers) if not self.done[i]]
        if live:
            fill_next_token_bitmask_par(self.vocabulary.executor, live, mask)
            for matcher, i in live:
                if matcher.is_error() or not bool(mask[i].any()):
                    self._fail(i, _error(matcher) or "no token fits the grammar")
                    mask[i] = -1
        return mask

    def take(self, tokens: Sequence[int]) -> None:
        """The next token of every row; those of finished rows are not looked at."""
        for i, token in enumerate(tokens):
            if self.done[i]:
                continue
            matcher = self.matchers[i]
            if not matcher.consume_token(token):
                self._fail(i, _error(matcher) or "a token outside the grammar")
                continue
            self.written[i].append(token)
            self.done[i] = matcher.is_stopped()

    def texts(self) -> list[str]:
        """What the rows wrote."""
        ends = set(self.vocabulary.tokens.eos_tokens)
        decode = self.vocabulary.tokens.decode_bytes
        return [decode([t for t in row if t not in ends]).decode("utf-8", "replace") for row in self.written]

    def _fail(self, row: int, why: str) -> None:
        self.failures[row] = why
        self.done[row] = True


class GrammarMasks(LogitsProcessor):
    """Scores ``[rows, vocabulary]`` with what a grammar forbids at minus infinity."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        mask = self.rows.allowed().to(scores.device, non_blocking=True).view(torch.uint8)
        bits = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=scores.device)
        allowed = (mask.unsqueeze(-1) & bits).flatten(1)[:, : scores.shape[1]] != 0  # [rows, vocabulary]
        return scores.masked_fill(~allowed, float("-inf"))


class GrammarEnds(StoppingCriteria):
    """Rows whose answer is complete, ``[rows]``: at the closing bracket, without waiting for an end token."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.rows.take(input_ids[:, -1].tolist())
        return torch.tensor(self.rows.done, device=input_ids.device)


def _described(tokenizer: Any) -> str:
    """A fast tokenizer as JSON that llguidance reads.

    It reads the decoder to learn what bytes a token spells, and does not know T5's (``Metaspace``): that one is said in
    the words of Llama's, which mean the same.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["padding"] = described["truncation"] = None
    if (described.get("decoder") or {}).get("type") == "Metaspace":
        blank = {"type": "Replace", "pattern": {"String": described["decoder"]["replacement"]}, "content": " "}
        described["decoder"] = {"type": "Sequence", "decoders": [blank, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(described)


def _error(matcher: LLMatcher) -> str | None:
    return f"grammar: {matcher.get_error().strip().splitlines()[0][:120]}" if matcher.is_error() else None
