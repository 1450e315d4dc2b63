"""How good planners are: agreement with a truth file, or what they make of real sentences, in one table.

    python benchmarks/planners.py clauses clauses-encoder --truth S/truth/sequences.val.jsonl
    python benchmarks/planners.py clauses llm --model MODEL --truth FILE --limit 100
    python benchmarks/planners.py clauses clauses-encoder --real data/cirr --split val --examples 20 --write FILE.md

``single`` is the floor: the whole sentence as one ``direct_addressing`` step without concepts. A sequence file stands
in for a planner with ``--file NAME=PATH``. ``--limit N`` takes N sentences at even distances in the order of the
file. Where an answer of a language model was not taken, the clause planner's steps are scored in its place; the rows
"of answers taken" leave these sentences out. The seconds are those of planning, after loading, on this machine; they
are taken over portions of sentences. Definitions: ``neucore_xl/prepare/scoring.py``;
docs/planners.md has the results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neucore_xl.cli.output import write_own, write_report
from neucore_xl.config.schema import FusionSettings, LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.estimates import Estimate, mean
from neucore_xl.language.llm.answers import Record, Timing
from neucore_xl.language.sequence import OPERATIONS, FusionSequence, Operation, check_sequence
from neucore_xl.language.sequence_file import read_sequences
from neucore_xl.prepare.scoring import Rates, SequenceScore, score_records, score_sequences, seconds_per_sentence
from neucore_xl.prepare.sequences import sentences_of

# Share of sentences (%) that name an aspect: Table 1 of Liu et al. (2021), column CIRR.
TABLE_1 = {
    Operation.CARDINALITY: 29.3, Operation.ADDITION: 15.2, Operation.NEGATION: 11.9, Operation.DIRECT: 57.4,
    Operation.CHANGE: 31.7, Operation.COMPARATIVE: 51.7, Operation.SPATIAL: 61.4, Operation.VIEWPOINT: 12.7,
}  # fmt: skip
CONJUNCTION = 43.7
PORTION = 32  # sentences that are timed together
MARK = "<!-- written by benchmarks/planners.py -->"


@dataclass
class Planned:
    """The sequences of one planner, its model's records where it has one, and the time taken."""

    name: str
    sequences: dict[str, FusionSequence]
    records: list[Record] | None = None
    timings: list[Timing] = field(default_factory=list)

    def validity(self, max_steps: int) -> Estimate | None:
        """Of a language model the answers that were taken, of rules the sequences that are sound."""
        if self.records is not None:
            return self.rates().validity
        return mean([not check_sequence(s, max_steps=max_steps) for s in self.sequences.values()])

    def rates(self) -> Rates:
        return score_records(self.records or [], self.timings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planners", nargs="*", help="clauses, clauses-encoder, llm, single")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--truth", type=Path, help="truth file to score on")
    where.add_argument("--real", type=Path, metavar="ROOT", help="annotations without a truth")
    parser.add_argument("--split", default="val", help="with --real")
    parser.add_argument("--limit", type=int, metavar="N", help="only N sentences, at even distances")
    parser.add_argument("--model", help="of llm: hub name, folder or GGUF file")
    parser.add_argument("--encoder", help="of clauses-encoder: hub name or folder")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="a sequence file as a planner")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="N sentences with every planner's steps")
    parser.add_argument("--seed", type=int, default=0, help="of the place where the examples begin")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="where the examples go")
    options = parser.parse_args()
    try:
        run(options, Console())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    """Plan, score, print and write what was asked for; raises ``UserError``."""
    if bool(options.examples) != (options.write is not None):
        raise UserError("--examples N and --write FILE.md belong together.")
    truth = None
    if options.truth is not None:
        truth = {t: s for t, s in read_sequences(options.truth).by_text.items() if t.strip()}
        texts, title = list(truth), options.truth.name
    else:
        texts = list(dict.fromkeys(t for t in sentences_of(options.real, options.split) if t.strip()))
        title = f"{options.real.name} {options.split}"
    if options.limit is not None:
        texts = evenly(texts, options.limit)
    max_steps = FusionSettings().max_steps
    everyone = [plan(name, texts, options, max_steps) for name in options.planners]
    for given in options.file:
        name, _, path = given.partition("=")
        everyone.append(from_file(name, Path(path), texts))
    if not everyone:
        raise UserError("Name at least one planner, or a sequence file with --file NAME=PATH.")
    if truth is not None:
        wanted = {t: truth[t] for t in texts}
        scores = {p.name: score_sequences(p.sequences, wanted, records=p.records, timings=p.timings) for p in everyone}
        own = {p.name: own_answers(p, wanted) for p in everyone}
        rows = [truth_row(p, scores[p.name], own[p.name], max_steps) for p in everyone]
        report: dict[str, Any] = {
            name: score.to_json() | {"of_answers_taken": mine.to_json() if (mine := own[name]) else None}
            for name, score in scores.items()
        }
    else:
        rows = [real_row(p, max_steps) for p in everyone]
        report = {p.name: real_json(p, max_steps) for p in everyone}
        rows.append(table_1_row())
    print_table(rows, f"{title}: {len(texts)} sentences", console)
    if options.json is not None:
        write_report(options.json, {"source": title, "sentences": len(texts), "planners": report})
    if options.write is not None:
        chosen = evenly(texts, options.examples, options.seed)
        page = examples(chosen, everyone, f"{title}, {len(chosen)} of {len(texts)} sentences, seed {options.seed}")
        write_own(options.write, page, replaces=lambda old: old.startswith(MARK))


def plan(name: str, texts: Sequence[str], options: argparse.Namespace, max_steps: int) -> Planned:
    """Every text planned by the planner called ``name``, in timed portions."""
    language = LanguageSettings()
    if name == "llm":
        if options.model is None:
            raise UserError("llm needs --model: a hub name, a folder or a GGUF file.")
        from neucore_xl.language.llm.work import timed_records
        from neucore_xl.prepare.llm import LlmOptions, build_llm_planner

        asked = build_llm_planner(LlmOptions.of({"model": options.model}), language, max_steps)
        _ = asked.settings  # loads the model: not a part of the time
        records, timings = timed_records(asked, texts)
        return Planned(name, {r.sequence.text: r.sequence for r in records}, records, timings)
    plans: Callable[[Sequence[str]], list[FusionSequence]]
    if name == "clauses":
        from neucore_xl.language.planners.clauses import ClausePlanner

        plans = ClausePlanner(language, max_steps).plan
    elif name == "single":
        from neucore_xl.language.planners.controls import single

        def plans(given: Sequence[str]) -> list[FusionSequence]:
            return list(single(given).values())

    elif name == "clauses-encoder":
        from neucore_xl.language.planners.encoder import EncoderPlanner

        plans = EncoderPlanner(language, max_steps, options.encoder).plan
    else:
        raise UserError(f"unknown planner {name!r}; known are clauses, clauses-encoder, llm and single")
    plans(["the first sentence pays for what is built on first use"])
    found = Planned(name, {})
    for start in range(0, len(texts), PORTION):
        portion = texts[start : start + PORTION]
        begin = time.perf_counter()
        sequences = plans(portion)
        found.timings.append(Timing(len(portion), time.perf_counter() - begin))
        found.sequences.update((s.text, s) for s in sequences)
    return found


def from_file(name: str, path: Path, texts: Sequence[str]) -> Planned:
    """What a sequence file holds of ``texts``; where it says how they came about, records without a cost."""
    if not name or not path.name:
        raise UserError("--file takes NAME=PATH: what to call the planner, and its sequence file.")
    held = read_sequences(path)
    missing = [t for t in texts if t not in held.by_text]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of {len(texts)} sentences, the first is {missing[0][:80]!r}")
    records = None
    if held.planner == "llm":
        notes = [(t, held.notes.get(t, {})) for t in texts]
        records = [Record(held.by_text[t], n.get("fallback"), n.get("repairs", {})) for t, n in notes]
    return Planned(name, {t: held.by_text[t] for t in texts}, records)


def evenly(texts: Sequence[str], n: int, seed: int | None = None) -> list[str]:
    """``n`` texts at even distances: the middle of each of n equal pieces, or with a seed one random place in all."""
    if n < 1:
        raise UserError(f"at least one sentence must be taken, not {n}")
    n = min(n, len(texts))
    if seed is None:
        return [texts[(2 * i + 1) * len(texts) // (2 * n)] for i in range(n)]
    import numpy as np

    offset = np.random.default_rng(seed).random()
    return [texts[int((i + offset) * len(texts) / n)] for i in range(n)]


Row = dict[str, str]


def truth_row(planned: Planned, score: SequenceScore, mine: SequenceScore | None, max_steps: int) -> Row:
    tau = score.kendall_tau
    own: Row = {}
    if mine is not None:
        own = {
            "of answers taken: operation accuracy": f"{mine.operation_accuracy} ({mine.sentences})",
            "of answers taken: step F1": str(mine.step_f1),
            "of answers taken: concept F1": str(mine.concept_f1),
        }
    return (
        {
            "planner": planned.name,
            "operation accuracy": str(score.operation_accuracy),
            "concept F1": str(score.concept_f1),
            "step F1": str(score.step_f1),
            "Kendall's tau": f"{tau.number()} ({score.ordered_sentences})" if tau else "-",
            "exact match": str(score.exact_match),
        }
        | cost(planned, max_steps)
        | own
    )


def own_answers(planned: Planned, truth: Mapping[str, FusionSequence]) -> SequenceScore | None:
    """The score on the sentences whose model answer was taken: elsewhere the clause planner is scored."""
    taken = {r.sequence.text for r in planned.records or () if r.fallback is None}
    if planned.records is None or not taken:
        return None
    return score_sequences(planned.sequences, {t: s for t, s in truth.items() if t in taken})


def real_row(planned: Planned, max_steps: int) -> Row:
    row = {"planner": planned.name} | cost(planned, max_steps)
    report = real_json(planned, max_steps)
    row["steps a sentence"] = Estimate(**report["steps"]).number()
    row |= {op.value: str(Estimate(**report["operations"][op.value])) for op in OPERATIONS}
    row["more than one step"] = str(Estimate(**report["several"]))
    return row


def table_1_row() -> Row:
    """What people marked in a sample of CIRR, several aspects a sentence."""
    shares = {op.value: f"{TABLE_1[op]:.1f} %" if op in TABLE_1 else "-" for op in OPERATIONS}
    return {"planner": "Table 1, CIRR"} | shares | {"more than one step": f"{CONJUNCTION:.1f} % (conjunction)"}


def real_json(planned: Planned, max_steps: int) -> dict[str, Any]:
    """Figures of sentences without a truth; shares of sentences with at least one step of an operation."""
    from dataclasses import asdict

    plans = list(planned.sequences.values())

    def share(values: Sequence[float]) -> dict[str, Any]:
        estimate = mean(values)
        return asdict(estimate) if estimate else {"value": 0.0, "interval": None}

    return {
        "validity": asdict(planned.validity(max_steps) or Estimate(1.0, None)),
        "rates": planned.rates().to_json() if planned.records is not None else None,
        "steps": share([len(p.steps) for p in plans]),
        "several": share([len(p.steps) > 1 for p in plans]),
        "operations": {op.value: share([any(s.operation is op for s in p.steps) for p in plans]) for op in OPERATIONS},
    }


def cost(planned: Planned, max_steps: int) -> Row:
    """Validity, fallbacks, tokens and seconds: what only some planners have is a dash in the others."""
    rates = planned.rates() if planned.records is not None else None
    seconds = seconds_per_sentence(planned.timings)
    counted = rates is not None and rates.tokens.value > 0
    return {
        "valid": str(planned.validity(max_steps)),
        "repaired": str(rates.repaired) if rates else "-",
        "fallback": str(rates.fallback_total) if rates else "-",
        "why": ", ".join(f"{reason} {100 * e.value:.1f} %" for reason, e in rates.fallback.items()) if rates else "-",
        "tokens a sentence": rates.tokens.number(1) if rates and counted else "-",
        "seconds a sentence": seconds.number(4 if seconds.value < 0.1 else 2) if seconds else "-",
    }


def print_table(rows: Sequence[Row], title: str, console: Console) -> None:
    """One line per measure, one column per planner: intervals are wide, planners few."""
    table = Table(title=title)
    table.add_column("measure [95 %]")
    for row in rows:
        table.add_column(row["planner"])
    for measure in dict.fromkeys(m for row in rows for m in row if m != "planner"):
        table.add_row(measure, *(row.get(measure, "-") or "-" for row in rows))
    console.print(table)


def examples(texts: Sequence[str], everyone: Sequence[Planned], title: str) -> str:
    """A Markdown page: a table of sentences, with the steps of every planner."""
    lines = [MARK, f"{title}; every step as **operation** phrase.", ""]
    lines += [
        "| # | sentence | " + " | ".join(p.name for p in everyone) + " |",
        "|---|---" + "|---" * len(everyone) + "|",
    ]
    for number, text in enumerate(texts, start=1):
        cells = [_steps(p.sequences[text], p) for p in everyone]
        lines.append(f"| {number} | {_cell(text)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _steps(sequence: FusionSequence, planned: Planned) -> str:
    reasons: Mapping[str, str | None] = {r.sequence.text: r.fallback for r in planned.records or ()}
    steps = [f"{i}. **{s.operation.value}** {_cell(s.phrase)}" for i, s in enumerate(sequence.steps, start=1)]
    if reason := reasons.get(sequence.text):
        steps.append(f"*(by clauses: {_cell(reason)})*")
    return "<br>".join(steps)


def _cell(text: str) -> str:
    """A caption as text of one table cell."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    for mark, entity in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "&#124;"),
        ("*", "&#42;"),
        ("_", "&#95;"),
        ("`", "&#96;"),
    ):
        text = text.replace(mark, entity)
    return text


if __name__ == "__main__":
    sys.exit(main())
