"""The key-value cache of a prompt's beginning: computed once, given to every row of a batch.

``DynamicCache`` grows by concatenation: each new token copies all keys and values, the shared prefix of every row
included. With a prompt of some six hundred tokens that copying takes longer than the model. Here the room for all
tokens of a batch is set aside at once and filled in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, ``[rows, heads, tokens, width]``: views of tensors with room for ``room`` more."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._keys, self._values = (_with_room(t, rows, room) for t in (keys, values))
        self._show(keys.shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; returns all keys and values."""
        begin, end = self._tokens, self._tokens + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            self._keys, self._values = (_with_room(t[:, :, :begin], len(t), end) for t in (self._keys, self._values))
        self._keys[:, :, begin:end] = key_states
        self._values[:, :, begin:end] = value_states
        return self._show(end)

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._tokens = tokens
        keys, values = self._keys[:, :, :tokens], self._values[:, :, :tokens]
        self.keys, self.values = keys, values
        return keys, values


def prefix_cache(model: Any, tokens: Sequence[int]) -> DynamicCache | None:
    """The cache of ``tokens`` for one row; None where it cannot be given to rows that are padded behind it.

    Sliding windows and recurrent states count padding as tokens: those models read the whole prompt for every row.
    """
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=model.device)
        cache = model(input_ids=ids, use_cache=True).past_key_values
    plain = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return cache if plain else None


def repeated(cache: DynamicCache, rows: int, room: int) -> DynamicCache:
    """A cache of ``rows`` equal rows with room for ``room`` more tokens; ``cache`` is left as it is."""
    copy = DynamicCache()
    layers: list[Any] = cache.layers  # each filled: the prefix has passed the model
    copy.layers = [RoomyLayer(layer.keys, layer.values, rows, room) for layer in layers]
    return copy


def _with_room(states: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    _, heads, tokens, width = states.shape
    wide = states.new_empty(rows, heads, tokens + room, width)
    wide[:, :, :tokens] = states
    return wide
