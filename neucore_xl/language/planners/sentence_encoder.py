"""Unit vectors of short texts by any transformers encoder: the mean over its tokens, on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.errors import UserError
from neucore_xl.language.spacy_pipeline import readable

if TYPE_CHECKING:
    import torch

_MAX_TOKENS = 128  # a clause is never that long; what lies behind is not read
_BATCH = 64
_FAILURES = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)  # of from_pretrained


class SentenceEncoder:
    """A transformers encoder by folder or name of the hub; of an encoder-decoder the encoder is taken.

    ``hash`` is of the words that the tokenizer knows and of every weight used: a folder and the hub's name of the same
    model have the same one. Raises ``UserError`` when there is no such model or it cannot be had.
    """

    def __init__(self, model: str | Path) -> None:
        self._tokenizer, self._model = _load(str(model))
        self.hash = _hash(self._tokenizer, self._model)
        positions = getattr(self._model.config, "max_position_embeddings", None) or 0
        self._length = min(n for n in (_MAX_TOKENS, self._tokenizer.model_max_length, positions) if n > 0)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Float32 unit vectors ``[N, D]``, in the order of ``texts``."""
        import torch

        if not texts:
            return torch.zeros(0, self._model.config.hidden_size)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))  # equal lengths: little padding
        rows: list[torch.Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                batch = [readable(texts[i]) for i in order[start : start + _BATCH]]
                inputs = self._tokenizer(
                    batch, padding=True, truncation=True, max_length=self._length, return_tensors="pt"
                )
                tokens = self._model(**inputs).last_hidden_state.float()  # [B, L, D]
                mask = inputs["attention_mask"].unsqueeze(-1).to(tokens.dtype)
                mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
                rows.append(torch.nn.functional.normalize(mean, dim=1))
        return torch.cat(rows)[torch.tensor(order).argsort()]

    def means(self, groups: Sequence[Sequence[str]]) -> torch.Tensor:
        """Unit vectors ``[len(groups), D]``: the direction of the mean of each group's vectors."""
        import torch

        return torch.nn.functional.normalize(torch.stack([self.embed(group).mean(dim=0) for group in groups]), dim=1)


def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and network, from a folder, the cache of the hub, or the hub itself."""
    if Path(model).is_dir():
        try:
            tokenizer, network = _from_pretrained(model)
        except _FAILURES as error:
            raise UserError(
                f"the folder {model} holds no transformers encoder ({_first_line(error)}): it needs config.json, "
                "weights and a tokenizer, as save_pretrained writes them"
            ) from error
    elif model.startswith(("/", ".", "~")):
        raise UserError(f"there is no folder {model}: give that of a sentence encoder, or a name of the hub")
    else:
        tokenizer, network = _from_hub(model)
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, network.float().eval()


def _from_hub(model: str) -> tuple[Any, Any]:
    """From the cache where it is whole; nothing is asked of the network for it."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        return _from_pretrained(snapshot_download(model, local_files_only=True))
    except _FAILURES:
        pass
    try:
        HfApi().model_info(model, timeout=10)  # says at once what a download would say after a minute of retries
        return _from_pretrained(model)
    except Exception as error:  # of a client library: of more kinds than one can list
        raise UserError(
            f"the sentence encoder {model!r} is neither a folder nor in the cache of the hub, and cannot be had from "
            f"the hub ({_first_line(error)}): check the name, or give the folder of a copy"
        ) from error


def _from_pretrained(model: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a checkpoint without a pooler is not worth its report: means need none
    try:
        network, loaded = AutoModel.from_pretrained(model, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(model)
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    lacking = [name for name in sorted(loaded["missing_keys"]) if not _is_pooler(name)]
    if lacking:
        raise ValueError(f"its weights lack {lacking[0]} and {len(lacking) - 1} others")
    return tokenizer, network


def _is_pooler(name: str) -> bool:
    """Whether a weight is of the pooler, which means over tokens do not use; random where a checkpoint has none."""
    return "pooler" in name.split(".")


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:160].rstrip(".: ")


def _hash(tokenizer: Any, model: Any) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, weight in sorted((n, w) for n, w in model.state_dict().items() if not _is_pooler(n)):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
