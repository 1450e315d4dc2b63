"""The language model as a planner: its answers read, judged, and replaced by the clause planner's where they fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.language.llm import check, wire
from neucore_xl.language.llm.answers import Answer, Record, Writer
from neucore_xl.language.planners.clauses import ClausePlanner
from neucore_xl.language.sequence import FusionSequence
from neucore_xl.language.spacy_pipeline import load_pipeline, pipeline_identity


class LlmPlanner:
    """Plans sentences with a language model.

    Args:
        writer: the model.
        language: the spaCy pipeline whose lemmas concepts are checked against, and the clause planner's.
        max_steps: longest sequence; later edits are merged into the last step.
        cache_dir: of the clause planner.
        form: how the writer's answers are spelled.
    """

    def __init__(
        self,
        writer: Writer,
        language: LanguageSettings,
        max_steps: int,
        cache_dir: Path | None = None,
        *,
        form: wire.Form = "arrays",
    ) -> None:
        self.writer = writer
        self.language = language
        self.max_steps = max_steps
        self.cache_dir = cache_dir
        self.form = form

    @property
    def settings(self) -> dict[str, Any]:
        """What a plan depends on beside its sentence: the writer, the rules of the check, the fallback."""
        return {
            "writer": self.writer.identity,
            "check": check.VERSION,
            "pipeline": pipeline_identity(load_pipeline(self.language.spacy_model)),
            "max_steps": self.max_steps,
            "fallback": self._clauses.settings,
        }

    def plan(self, texts: Sequence[str]) -> list[FusionSequence]:
        """One sound sequence per text; none of a blank one's steps."""
        found = {r.sequence.text: r.sequence for records in self.records(texts) for r in records}
        return [found[t] for t in texts]

    def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
        """The records of the distinct texts in finished portions, each text once, in any order."""
        distinct = list(dict.fromkeys(texts))
        blank = [t for t in distinct if not wire.shown(t)]
        if blank:
            yield [self._unasked(t) for t in blank]
        asked = [t for t in distinct if wire.shown(t)]
        if asked:
            for answers in self.writer.write(asked):
                yield self.judged(answers)

    def judged(self, answers: Sequence[Answer]) -> list[Record]:
        """The record of each answer, in order."""
        lemmas = check.read_lemmas([a.text for a in answers], self.language)
        verdicts = []
        for answer, of_text in zip(answers, lemmas, strict=True):
            if answer.failure is not None:
                verdicts.append(check.Verdict(None, reason=answer.failure))
                continue
            steps = wire.parse(answer.raw, self.form)
            verdicts.append(
                check.Verdict(None, reason=steps)
                if isinstance(steps, str)
                else check.judge(answer.text, of_text, steps, self.max_steps)
            )
        rejected = [a.text for a, v in zip(answers, verdicts, strict=True) if v.sequence is None]
        planned = dict(zip(rejected, self._clauses.plan(rejected), strict=True)) if rejected else {}
        return [
            Record(
                sequence=v.sequence or planned[a.text],
                fallback=None if v.sequence is not None else v.reason,
                repairs=v.repairs,
                prompt_tokens=a.prompt_tokens,
                tokens=a.tokens,
            )
            for a, v in zip(answers, verdicts, strict=True)
        ]

    def _unasked(self, text: str) -> Record:
        """A text without anything to read: no steps if it is blank, else (control characters) the clause planner's."""
        if not text.strip():
            return Record(FusionSequence(text, ()))
        return Record(self._clauses.plan([text])[0], fallback="nothing to read")

    @cached_property
    def _clauses(self) -> ClausePlanner:
        return ClausePlanner(self.language, self.max_steps, cache_dir=self.cache_dir)
