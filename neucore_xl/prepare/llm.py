"""Sentences of a dataset → fusion sequences by a language model, stored as they come and resumed at will.

For the command line: ``neucore-xl prepare sequences ROOT --planner llm --model MODEL …`` → ``prepare_llm(root,
options, …) -> Planned``; ``print_planned(result, console)``. See docs/sequences.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError
from neucore_xl.jsonfile import read_json
from neucore_xl.language.llm.server import SIZE, TIMEOUT, ServerWriter
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.llm.work import RecordPlanner, Shard, Tally, merge, plan_pending
from neucore_xl.language.sequence_file import read_header
from neucore_xl.prepare.sequences import DEFAULT_MAX_STEPS, read_sentences

if TYPE_CHECKING:
    from rich.console import Console

    from neucore_xl.language.llm.loading import Precision
    from neucore_xl.language.llm.planner import LlmPlanner

PLANNER = "llm"


@dataclass(frozen=True)
class LlmOptions:
    """Which model, where it runs, and how it is asked.

    ``model``: a hub name, a folder or a GGUF file, or what the server at ``endpoint`` calls it. ``batch_size``,
    ``device`` and ``precision`` are for a model of this process; ``parallel`` (questions at a time), ``timeout``
    (seconds for a whole answer) and ``max_answer_bytes`` for a server.
    """

    model: str
    revision: str | None = None
    endpoint: str | None = None
    prompt: str | None = None  # a shipped one by name, or a file
    batch_size: int = 16
    parallel: int = 8
    timeout: float = TIMEOUT
    max_answer_bytes: int = SIZE
    device: str = "auto"
    precision: Precision = "auto"
    max_new_tokens: int = 256

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LlmOptions:
        """The options with the defaults in the place of None."""
        return cls(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Planned:
    """What was planned now, and what the sequence file holds; ``path`` and ``whole`` are None until all is stored."""

    dataset: str
    splits: tuple[str, ...]
    queries: int
    sentences: int  # distinct
    missing: int  # of them, not stored yet
    folder: Path
    now: Tally
    path: Path | None = None
    whole: Tally | None = None


def build_llm_planner(
    options: LlmOptions,
    language: LanguageSettings | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    cache_dir: Path | None = None,
) -> LlmPlanner:
    """The planner, its model loaded; a server is first asked when settings or records are wanted."""
    from neucore_xl.language.llm.answers import Writer
    from neucore_xl.language.llm.planner import LlmPlanner
    from neucore_xl.language.llm.prompt import DEFAULT, load_prompt
    from neucore_xl.language.llm.wire import Form

    prompt = load_prompt(options.prompt or DEFAULT)
    common: dict[str, Any] = {
        "prompt": prompt,
        "revision": options.revision,
        "max_steps": max_steps,
        "max_new_tokens": options.max_new_tokens,
    }
    writer: Writer
    if options.endpoint is not None:
        writer = ServerWriter(
            options.endpoint,
            options.model,
            parallel=options.parallel,
            timeout=options.timeout,
            size=options.max_answer_bytes,
            **common,
        )
        form: Form = "objects"
    else:
        from neucore_xl.language.llm.local import LocalWriter

        writer = LocalWriter(
            options.model,
            batch_size=options.batch_size,
            device=options.device,
            precision=options.precision,
            language=language,
            **common,
        )
        form = "arrays"
    return LlmPlanner(writer, language or LanguageSettings(), max_steps, cache_dir, form=form)


def stored_identity(root: Path, options: LlmOptions, max_steps: int = DEFAULT_MAX_STEPS) -> dict[str, Any]:
    """The identity under which sentences of these options are stored, without loading the model or asking the server.

    So a login node without a GPU can merge what the nodes planned. Raises ``UserError`` unless there is just one.
    """
    from neucore_xl.language.llm.prompt import DEFAULT, load_prompt

    prompt = load_prompt(options.prompt or DEFAULT).version
    found: dict[Path, dict[str, Any]] = {}
    damaged: list[Path] = []
    for path in sorted((root / "sequences").glob("llm-*/identity.json")):
        try:
            identity = read_json(path, dict)
            writer = identity["writer"]
            decoding = writer["decoding"]
            asked = [writer["prompt"], decoding["form"], decoding["max_new_tokens"], identity["max_steps"]]
            label = str(writer["model"])
        except (UserError, LookupError, TypeError):
            damaged.append(path)
            continue
        place = Path(options.model).expanduser().resolve()  # a local model is stored under its file's or folder's name
        form = "objects" if options.endpoint else "arrays"
        if asked == [prompt, form, options.max_new_tokens, max_steps] and (
            label in (options.model, place.name) or (place / label).is_file()
        ):
            found[path.parent] = identity
    if len(found) > 1 and options.revision is not None:
        found = {p: i for p, i in found.items() if i["writer"].get("revision") == options.revision}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UserError(
            f"several folders hold sentences of {options.model} ({', '.join(p.name for p in found)}; see their "
            "identity.json): give the revision that stands there with --revision, or move away what is not meant"
        )
    also = f" ({damaged[0]} is damaged, and planning writes it again)" if damaged else ""
    raise UserError(
        f"{root / 'sequences'} holds no sentences of {options.model} with these options{also}: plan them first"
    )


def prepare_llm(
    root: Path | str,
    planner: RecordPlanner | Mapping[str, Any],
    *,
    splits: Sequence[str] | None = None,
    shard: Shard | None = None,
    limit: int | None = None,
    out: Path | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    name: str | None = None,
    force: bool = False,
    console: Console | None = None,
) -> Planned:
    """Plan what is not stored yet and, once everything is, write one sequence file.

    Args:
        root, splits, name, force: as for ``prepare_sequences``; all the splits share one store of sentences.
        planner: the planner, or the identity under which everything is stored already: then nothing is planned.
        shard: plan only this share; whichever shard finishes last writes the file.
        limit: the first so many distinct sentences only.
        out: the file; by default ``ROOT/sequences/llm.jsonl``, with splits and limit in its name where given.

    Raises ``UserError`` for wrong input, an existing file of other settings (before the work), a planner that gives
    up, a disk that is full, and sentences that are missing when there is nobody to plan them.
    """
    root = Path(root)
    asked = read_sentences(root, splits, name)
    texts = asked.distinct if limit is None else asked.distinct[:limit]
    identity = planner if isinstance(planner, Mapping) else planner.settings
    store = SentenceStore(root / "sequences", identity)
    settings = _header_settings(store.identity)
    path = out or root / "sequences" / _file_name(asked.splits if splits else (), limit)
    _refuse_existing(path, settings, force)
    now = Tally()
    missing = 0
    if not isinstance(planner, Mapping):
        mine = texts if shard is None else shard.of(texts)
        now = plan_pending(planner, mine, store, max_steps=max_steps, console=console)
        missing = 0 if shard is None else len(store.pending(texts))
    whole = None
    if not missing:
        shards = shard.count if shard else None
        whole = merge(store, texts, path, planner=PLANNER, settings=settings, shards=shards, force=force)
    return Planned(
        dataset=asked.dataset,
        splits=asked.splits,
        queries=asked.queries,
        sentences=len(texts),
        missing=missing,
        folder=store.folder,
        now=now,
        path=path if whole else None,
        whole=whole,
    )


def print_planned(result: Planned, console: Console) -> None:
    """What the model planned and what it did not, and the cost; one line each."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    if result.now.sentences:
        n, seconds = result.now.sentences, max(result.now.seconds, 1e-9)
        say(
            f"planned now: {n} sentences in {seconds:.1f} s, {n / seconds:.2f} sentences/s, "
            f"{result.now.tokens / seconds:.1f} tokens/s"
        )
    tally = result.whole or result.now
    fallen = sum(tally.fallbacks.values())
    say(
        f"{tally.sentences} sentences: {tally.sentences - fallen} by the model, {fallen} by the clause planner"
        + _reasons(tally.fallbacks)
    )
    say(f"repairs: {sum(tally.repairs.values())}" + _reasons(tally.repairs))
    say(f"tokens: {tally.tokens} generated, {tally.prompt_tokens} read")
    if result.whole is None:
        say(
            f"{result.missing} of {result.sentences} sentences of {result.dataset} are still to be planned by other "
            f"shards; the last one writes the sequence file (or `--merge` does), from {result.folder}"
        )
        return
    steps = sum(tally.operations.values())
    say(
        f"{result.dataset} {', '.join(result.splits)}: {result.queries} queries, {result.sentences} distinct "
        f"sentences, {steps} steps ({steps / max(result.sentences, 1):.2f} a sentence) → {result.path}"
    )


def _reasons(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{reason}: {n}' for reason, n in counts.most_common())})" if counts else ""


def _file_name(splits: Sequence[str], limit: int | None) -> str:
    parts = [PLANNER, *(["-".join(splits)] if splits else []), *([f"first{limit}"] if limit is not None else [])]
    return ".".join([*parts, "jsonl"])


def _header_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity, with the version of the prompt where a training run looks for it."""
    writer = identity.get("writer")
    prompt = writer.get("prompt") if isinstance(writer, Mapping) else None
    return {"prompt": prompt} | dict(identity)


def _refuse_existing(path: Path, settings: dict[str, Any], force: bool) -> None:
    """Hours of planning must not end at a file that is in the way."""
    if force or not path.exists():
        return
    header = read_header(path)
    if header["planner"] != PLANNER or header.get("settings") != settings:
        raise UserError(
            f"{path} exists and was planned by another model, prompt or planner: give another name with --out, or "
            "--force to replace it"
        )
