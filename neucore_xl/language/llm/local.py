"""A language model on this machine as a ``Writer``: batches of like length, greedy, held to each sentence's grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.llm import wire
from neucore_xl.language.llm.answers import Answer
from neucore_xl.language.llm.check import read_lemmas
from neucore_xl.language.llm.loading import LanguageModel, Precision, load_language_model
from neucore_xl.language.llm.prompt import Prompt
from neucore_xl.language.spacy_pipeline import load_pipeline, pipeline_identity

CUT_SHORT = "cut short"
TOO_LONG = "too long"
UNREADABLE = "nothing that the model's vocabulary can write"

MAX_CHARACTERS = 2_000  # of a sentence: captions are shorter, pasted files are not worth their minutes
_PLACE = "@@sentence@@"  # where the sentence comes, in a prompt that is not yet filled in


class LocalWriter:
    """Answers sentences with a causal or a sequence-to-sequence model of ``transformers``.

    Args:
        model: hub name, folder or GGUF file, or a model that is loaded already.
        prompt: what is asked; a chat template is used where the model has one.
        revision: of a hub name.
        batch_size: sentences at once; halved for good when memory runs out for the first time.
        max_steps: longest sequence that the grammar admits.
        max_new_tokens: an answer longer than this is cut short, and fails.
        language: the spaCy pipeline whose lemmas are the concepts that the grammar admits.
        share_prefix: compute what all sentences share of the prompt once, and not once per sentence.

    Raises ``UserError`` for a model that cannot be loaded or cannot be held to a grammar.
    """

    def __init__(
        self,
        model: str | Path | LanguageModel,
        *,
        prompt: Prompt,
        revision: str | None = None,
        batch_size: int = 16,
        device: str = "auto",
        precision: Precision = "auto",
        max_steps: int = 6,
        max_new_tokens: int = 256,
        language: LanguageSettings | None = None,
        share_prefix: bool = True,
    ) -> None:
        from neucore_xl.language.llm.constrain import TokenVocabulary

        if batch_size < 1 or max_new_tokens < 1 or max_steps < 1:
            raise UserError("batch size, steps and new tokens of a language model must be at least 1")
        self.language = language or LanguageSettings()
        self._pipeline = pipeline_identity(load_pipeline(self.language.spacy_model))  # cheaper to miss than a model
        self.loaded = (
            model
            if isinstance(model, LanguageModel)
            else load_language_model(model, revision=revision, device=device, precision=precision)
        )
        self.prompt = prompt
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.max_new_tokens = max_new_tokens
        self.chat = bool(getattr(self.loaded.tokenizer, "chat_template", None)) and not self.loaded.encoder_decoder
        self._halved = False
        self._tokenizer = self.loaded.tokenizer
        self._ends = _end_tokens(self.loaded)
        self._vocabulary = TokenVocabulary(self._tokenizer, _width(self.loaded.model), self._ends)
        self._control = _control_tokens(self._tokenizer)
        self._head, self._tail = self._frame()
        self._share = share_prefix and not self.loaded.encoder_decoder
        room = self._room()
        if room is not None and room < 1:
            raise UserError(
                f"the prompt {prompt.name} with {max_new_tokens} new tokens does not fit into the "
                f"context of {self.loaded.name}: take a shorter prompt, fewer new tokens or another model"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """All that an answer depends on beside its sentence."""
        return {
            "model": self.loaded.name,
            "revision": self.loaded.revision,
            "prompt": self.prompt.version,
            "decoding": {
                "greedy": True,
                "form": "arrays",
                "chat": self.chat,
                "precision": self.loaded.precision,
                "max_steps": self.max_steps,
                "max_new_tokens": self.max_new_tokens,
                "max_characters": MAX_CHARACTERS,
                "grammar": wire.VERSION,
                "constrained_by": self._vocabulary.library,
            },
            "lemmas": {"pipeline": self._pipeline, "parts_of_speech": sorted(self.language.parts_of_speech)},
        }

    def write(self, texts: Sequence[str]) -> Iterator[list[Answer]]:
        """Answers batch by batch, the longest sentences first: what does not fit into memory shows at once."""
        order = sorted(texts, key=len, reverse=True)
        begin = 0
        while begin < len(order):
            batch = order[begin : begin + self.batch_size]
            try:
                answers = self._answers(batch)
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
                continue
            begin += len(batch)
            yield answers

    def _answers(self, texts: Sequence[str]) -> list[Answer]:
        room = self._room()
        lemmas = read_lemmas([t[:MAX_CHARACTERS] for t in texts], self.language)
        done: list[Answer] = []
        asked: list[tuple[str, list[int], str]] = []
        for text, of_text in zip(texts, lemmas, strict=True):
            read, ids = self._read(text) if len(text) <= MAX_CHARACTERS else ("", None)
            spells: Callable[[str], bool] = self._vocabulary.spells
            if ids is None or (room is not None and len(ids) > room):
                done.append(Answer(text, "", failure=TOO_LONG))
                continue
            rules = wire.grammar(read, of_text.concepts, self.max_steps, spells=spells)
            if rules is None:
                done.append(Answer(text, "", failure=UNREADABLE))
            else:
                asked.append((text, ids, rules))
        return [*done, *self._generate(asked)] if asked else done

    def _generate(self, asked: Sequence[tuple[str, list[int], str]]) -> list[Answer]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from neucore_xl.language.llm.constrain import GrammarEnds, GrammarMasks, Rows

        rows = Rows(self._vocabulary, [rules for _, _, rules in asked])
        inputs = self._inputs([ids for _, ids, _ in asked])
        with torch.inference_mode():
            self.loaded.model.generate(
                **inputs,
                generation_config=self._decoding,
                logits_processor=LogitsProcessorList([GrammarMasks(rows)]),
                stopping_criteria=StoppingCriteriaList([GrammarEnds(rows)]),
            )
        return [
            Answer(
                text,
                raw,
                prompt_tokens=len(self._head) + len(ids) + len(self._tail),
                tokens=len(written),
                failure=failure or (None if done else CUT_SHORT),
            )
            for (text, ids, _), raw, written, failure, done in zip(
                asked, rows.texts(), rows.written, rows.failures, rows.done, strict=True
            )
        ]

    def _inputs(self, sentences: Sequence[list[int]]) -> dict[str, Any]:
        """Padded ids and mask ``[rows, tokens]``, and the cache of the shared prefix where there is one.

        A shared prefix stands before the padding, so that it has the same place in every row.
        """
        import torch

        pad = self._decoding.pad_token_id
        ids, mask = [], []
        rest = [[*sentence, *self._tail] for sentence in sentences]
        longest = max(map(len, rest))
        cache = self._prefix(len(rest), longest + self.max_new_tokens) if self._share else None
        for row in rest:
            gap = longest - len(row)
            parts: tuple[tuple[list[int], int], ...]
            if self.loaded.encoder_decoder:
                parts = (([*self._head, *row], 1), ([pad] * gap, 0))
            elif cache is not None:
                parts = ((self._head, 1), ([pad] * gap, 0), (row, 1))
            else:
                parts = (([pad] * gap, 0), ([*self._head, *row], 1))
            ids.append([token for piece, _ in parts for token in piece])
            mask.append([kept for piece, kept in parts for _ in piece])
        device = self.loaded.model.device
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        if cache is not None:
            inputs["past_key_values"] = cache
        return inputs

    def _prefix(self, rows: int, room: int) -> Any:
        """The cache of the shared part of the prompt for ``rows`` rows; None for caches that cannot be repeated."""
        if self._prefix_cache is None:
            return None
        from neucore_xl.language.llm.prefix import repeated

        return repeated(self._prefix_cache, rows, room)

    @cached_property
    def _prefix_cache(self) -> Any:
        from neucore_xl.language.llm.prefix import prefix_cache

        return prefix_cache(self.loaded.model, self._head)

    @cached_property
    def _decoding(self) -> Any:
        """Greedy, and nothing of what the model's own settings add (penalties, forced tokens)."""
        from transformers import GenerationConfig

        own = self.loaded.model.generation_config
        pad = self._tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self._ends),
            pad_token_id=self._ends[0] if pad is None else pad,
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        self.loaded.model.generation_config = config
        return config

    def _frame(self) -> tuple[list[int], list[int]]:
        """The tokens before the sentence, the same for all, and those behind it."""
        if self.chat:
            whole = _rendered(self._tokenizer, self.prompt.messages(_PLACE, "arrays"))
            before, after = list[int](), list[int]()
        else:
            whole = self.prompt.plain(_PLACE, "arrays")
            before, after = _around(self._tokenizer)
        head, _, tail = whole.rpartition(_PLACE)
        return [*before, *self._tokens(head)], [*self._tokens(tail), *after]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _read(self, text: str) -> tuple[str, list[int] | None]:
        """A sentence as the model reads it, with its tokens: control tokens in it are broken up into mere text."""
        read = wire.shown(text)
        for _ in range(3):
            for token in self._control:
                if token in read:
                    read = read.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else " ")
            ids = self._tokens(read)
            if not self._control_ids.intersection(ids):
                return read, ids
            read = re.sub(r"[^\w\s]", " ", read)
        return read, None

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        ids = {self._tokenizer.convert_tokens_to_ids(token) for token in self._control}
        return frozenset(ids) - {self._tokenizer.unk_token_id}

    def _room(self) -> int | None:
        """Tokens that a sentence may have; None where the model sets no bound."""
        context = getattr(self.loaded.model.config, "max_position_embeddings", None)
        if not isinstance(context, int) or self.loaded.encoder_decoder:
            return None
        return context - len(self._head) - len(self._tail) - self.max_new_tokens

    def _halve(self, error: Exception) -> None:
        """Half the batch from here on, the first time that memory runs out."""
        import torch

        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "out of memory" not in str(error).lower():
            raise error
        if self._halved or self.batch_size == 1:
            raise UserError(
                f"{self.loaded.name} runs out of memory with {self.batch_size} sentences at once, after one try with "
                "more: give a smaller --batch-size"
            ) from error
        self._halved = True
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The chat as text; templates that know no system turn get it at the head of the first question."""
    settings = {
        "tokenize": False,
        "add_generation_prompt": True,
        "enable_thinking": False,  # templates that do not know a word pass it over
        "date_string": "01 Jan 2026",  # the same prompt every day
    }
    try:
        return str(tokenizer.apply_chat_template(messages, **settings))
    except Exception:
        system, first, *rest = messages
        joined = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
        try:
            return str(tokenizer.apply_chat_template([joined, *rest], **settings))
        except Exception as error:
            raise UserError(f"the model's chat template fails: {' '.join(str(error).split())[:200]}") from error


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and behind a text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for begin in range(len(full) - len(bare) + 1):
        if full[begin : begin + len(bare)] == bare:
            return full[:begin], full[begin + len(bare) :]
    return [], []


def _control_tokens(tokenizer: Any) -> list[str]:
    """Tokens that steer a model and must never come out of a sentence, longest first."""
    special = {str(t) for t in tokenizer.all_special_tokens}
    added = {t for t in tokenizer.get_added_vocab() if t.strip() and not t[0].isalnum()}
    return sorted(special | added, key=lambda t: (-len(t), t))


def _end_tokens(loaded: LanguageModel) -> tuple[int, ...]:
    ends = loaded.model.generation_config.eos_token_id
    found = [*(ends if isinstance(ends, list) else [ends]), loaded.tokenizer.eos_token_id]
    known = tuple(dict.fromkeys(int(t) for t in found if t is not None))
    if not known:
        raise UserError(f"{loaded.name} has no end token: take a model that can end an answer")
    return known


def _width(model: Any) -> int:
    """Number of scores per token."""
    return int(model.get_output_embeddings().weight.shape[0])
