"""A BERT of one's own beside the backbone: read from a folder, and trained along.

Legend: B texts, L tokens of the longest, H width of the transformer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neucore_xl.config.schema import ModelSettings
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_json
from neucore_xl.language.spacy_pipeline import readable

log = logging.getLogger(__name__)
NOTHING = -1  # fills a row of ids behind its text: no id of any tokenizer
_CONFIG_LIMIT = 1 << 20  # bytes
_MOST = 128  # tokens of a text that are read


class LanguageTokenizer:
    """Sentences to ids of the folder's own tokenizer, marks of start and end among them. Picklable.

    ``length``: tokens of the longest. Without ``folder`` it has a length and cannot be called.
    """

    def __init__(self, folder: Path | None, positions: int) -> None:
        self._tokenizer: Any = None
        if folder is not None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.length = min(_MOST, positions - 1)  # one place is left for an image

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``[B, L]`` int64, -1 behind each text; what lies beyond 128 tokens, or the transformer's places, is cut."""
        rows = [
            torch.tensor(self._tokenizer(readable(text), truncation=True, max_length=self.length)["input_ids"])
            for text in texts
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NOTHING).long()


class LanguageModel(nn.Module):
    """The BERT of ``model.language_model``, without its pooler; dropout is ``model.dropout``.

    Raises ``UserError`` where the setting is null, or names no folder, no BERT, or weights that are not whole. On the
    meta device neither weights nor a tokenizer are read, and where there is no folder the sizes are those of BERT base.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        meta = torch.get_default_device().type == "meta"
        folder = check_folder(settings, needed=not meta)
        self.bert, self.tokenizer = _outlined(folder) if meta else _opened(folder, settings.dropout)
        self.width = int(self.bert.config.hidden_size)

    def forward(self, ids: Tensor, image: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Words ``[B, L, H]`` of ``ids [B, L]``, and their mask ``[B, L]``, true on what is no padding.

        With ``image [B, H]``, a token of the second segment behind the words, both have one more place, its output
        at the end. Its position is the one after the text's own last, so padding changes nothing.
        """
        mask = ids != NOTHING
        x = self.bert.embeddings.word_embeddings(ids.clamp_min(0))
        position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        kind = torch.zeros_like(ids)
        if image is not None:
            x = torch.cat([x, image.to(x.dtype)[:, None]], 1)
            position = torch.cat([position, mask.sum(1, keepdim=True)], 1)
            second = min(1, self.bert.config.type_vocab_size - 1)
            kind = torch.cat([kind, torch.full_like(kind[:, :1], second)], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        # transformers asks whether anything is masked, which shapes (meta or fake tensors) cannot answer
        given = mask.long() if type(ids) is Tensor and not ids.is_meta else None
        out = self.bert(inputs_embeds=x, attention_mask=given, position_ids=position, token_type_ids=kind)
        return out.last_hidden_state, mask


def check_folder(settings: ModelSettings, *, needed: bool = True) -> Path:
    """The folder of ``model.language_model``, which must be set; ``needed``: and be there, with a BERT's config.

    Raises ``UserError`` otherwise. Nothing large is read.
    """
    folder = settings.language_model
    if folder is None:
        raise UserError(
            f"model.language_model is not set: {settings.name} reads its words with a pretrained BERT; give the "
            "folder of one, as transformers writes it (config.json, weights, tokenizer)."
        )
    if not folder.is_dir():
        if needed:
            raise UserError(f"model.language_model: there is no folder {folder}; correct it.")
        return folder
    if not (folder / "config.json").is_file():
        raise UserError(f"model.language_model {folder} holds no BERT: there is no config.json; name another folder.")
    try:
        kind = read_json(folder / "config.json", dict, limit=_CONFIG_LIMIT).get("model_type")
    except UserError as error:
        raise UserError(f"model.language_model {folder} holds no BERT: {error}") from None
    if kind != "bert":
        raise UserError(
            f"model.language_model {folder} is of type {kind!r}: only a BERT (model_type bert) can be read."
        )
    return folder


def _outlined(folder: Path) -> tuple[Any, LanguageTokenizer]:
    """The network as shapes, of the sizes of BERT base where there is no folder."""
    from transformers import BertConfig, BertModel

    if folder.is_dir():
        config = BertConfig.from_pretrained(folder)
    else:
        log.warning("there is no folder %s: the sizes are those of BERT base", folder)
        config = BertConfig()
    return BertModel(config, add_pooling_layer=False), LanguageTokenizer(None, config.max_position_embeddings)


def _opened(folder: Path, dropout: float) -> tuple[Any, LanguageTokenizer]:
    from transformers import BertConfig, BertModel
    from transformers.utils import logging as verbose

    shown, verbosity = verbose.is_progress_bar_enabled(), verbose.get_verbosity()
    verbose.disable_progress_bar()
    verbose.set_verbosity_error()  # weights of a pretraining head that nothing here reads are no news
    try:
        config = BertConfig.from_pretrained(folder)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        read: Any = BertModel.from_pretrained(folder, config=config, add_pooling_layer=False, output_loading_info=True)
        network, loaded = read
        tokenizer = LanguageTokenizer(folder, config.max_position_embeddings)
    except Exception as error:  # of transformers and what it reads with: of more kinds than one can list
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"model.language_model {folder} holds no BERT ({line[:160].rstrip('.: ')}): it needs config.json, weights "
            "and a tokenizer, as transformers writes them."
        ) from error
    finally:
        verbose.set_verbosity(verbosity)
        if shown:
            verbose.enable_progress_bar()
    if lacking := sorted(loaded["missing_keys"]):
        raise UserError(f"model.language_model {folder} lacks {lacking[0]} and {len(lacking) - 1} other weights.")
    return network.float(), tokenizer
