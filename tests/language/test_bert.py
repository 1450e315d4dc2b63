"""A BERT of one's own: its ids, its words beside those of transformers, its place in a batch, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel

from neucore_xl.config.schema import ModelSettings, Settings, TrainSettings
from neucore_xl.errors import UserError
from neucore_xl.language.bert import LanguageModel
from neucore_xl.models.registry import build_composer
from neucore_xl.training.optim import parameter_groups

TEXTS = ["a red dog", "make it two more cats", ""]


def opened(folder: Path | None, dropout: float = 0.0) -> LanguageModel:
    return LanguageModel(ModelSettings(name="maaf-bert", language_model=folder, dropout=dropout))


def test_ids_end_where_the_text_does_and_survive_pickling(bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    for written in folder.glob("tokenizer*"):
        written.unlink()  # vocab.txt says it too, as in the folders of the first BERTs
    tokenizer = opened(folder).tokenizer
    ids = pickle.loads(pickle.dumps(tokenizer))(TEXTS)
    assert ids.tolist() == [[2, 5, 6, 7, 3, -1, -1], [2, 8, 9, 10, 11, 12, 3], [2, 3, -1, -1, -1, -1, -1]]
    assert tokenizer(["red " * 50]).shape == (1, 11)  # twelve positions, one of them an image's
    assert tokenizer(["a \ud800 dog"]).shape == (1, 5)


def test_words_are_those_of_transformers_and_padding_changes_nothing(bert_folder: Path) -> None:
    model = opened(bert_folder).eval()
    ids = model.tokenizer(TEXTS)
    words, mask = model(ids)
    assert mask.sum(1).tolist() == [5, 7, 2]
    reference = BertModel.from_pretrained(bert_folder, add_pooling_layer=False).eval()
    image = torch.randn(3, model.width, generator=torch.Generator().manual_seed(0))
    together, _ = model(ids, image)
    for n, row in enumerate(ids):
        alone = row[row >= 0][None]
        wanted = reference(input_ids=alone).last_hidden_state[0]
        torch.testing.assert_close(words[n, : alone.shape[1]], wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[n, -1], model(alone, image[n : n + 1])[0][0, -1], atol=1e-5, rtol=1e-5)


def test_it_is_trained_at_the_rate_of_towers_with_the_dropout_of_the_heads(
    bert_folder: Path, make_backbone: Any, vocabulary: Any
) -> None:
    named = {"name": "cirplant-pretrained", "language_model": bert_folder, "dropout": 0.25, "heads": 2, "width": 16}
    composer = build_composer(Settings.model_validate({"model": named}), make_backbone(), vocabulary)
    settings = TrainSettings(lr=1e-2, lr_backbone=1e-5, lr_scalars=None)
    groups = {g["name"]: g for g in parameter_groups(composer, composer.backbone, settings)}  # type: ignore[arg-type]
    assert {n: g["lr"] for n, g in groups.items()} == {
        "heads": 1e-2, "heads-vectors": 1e-2, "backbone": 1e-5, "backbone-vectors": 1e-5
    }  # fmt: skip
    own = {id(p) for p in composer.language.parameters()}  # type: ignore[union-attr]
    held = {id(p) for n, g in groups.items() if n.startswith("backbone") for p in g["params"]}
    assert held == own
    assert {m.p for m in composer.language.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}  # type: ignore[union-attr]


def test_what_is_no_bert_is_one_sentence(bert_folder: Path, tmp_path: Path) -> None:
    def copy(name: str, **config: Any) -> Path:
        shutil.copytree(bert_folder, tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return tmp_path / name

    no_weights, no_config = copy("weights"), copy("config")
    (no_weights / "model.safetensors").unlink()
    (no_config / "config.json").unlink()
    cut = copy("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    for folder, sentence in (
        (None, "model.language_model is not set: maaf-bert reads its words with a pretrained BERT"),
        (tmp_path / "nowhere", "there is no folder"),
        (bert_folder / "config.json", "there is no folder"),
        (copy("other", model_type="roberta"), "of type 'roberta': only a BERT"),
        (copy("deeper", num_hidden_layers=4), r"lacks encoder\.layer\.3\..* and 15 other weights"),
        (copy("wider", hidden_size=30), "holds no BERT"),
        (no_weights, "holds no BERT"),
        (no_config, "holds no BERT"),
        (cut, "holds no BERT"),
    ):
        with pytest.raises(UserError, match=sentence) as refused:
            opened(folder)
        assert len(str(refused.value).splitlines()) == 1
