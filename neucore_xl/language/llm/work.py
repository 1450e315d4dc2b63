"""Planning many sentences: those that are not stored yet, portion by portion, killed and resumed at will.

``plan_pending`` plans and stores, ``merge`` turns a complete store into the sequence file. Shards are dealt by a
sentence's place among the distinct sentences of the data set, so that n processes agree without speaking.
``show_rates`` tells how fast it goes and how long it will take.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Record, Timing
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.sequence import check_sequence
from neucore_xl.language.sequence_file import Noted, write_sequences
from neucore_xl.progress import track

if TYPE_CHECKING:
    from rich.console import Console

WINDOW = 1024  # sentences that are sorted by length together; what was stored is told the planner between windows
EVERY = 30.0  # seconds between two lines of a log file


class RecordPlanner(Protocol):
    """What is asked of a planner here: records in finished portions, and all that they depend on."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def records(self, texts: Sequence[str]) -> Iterator[list[Record]]: ...


@dataclass(frozen=True)
class Shard:
    """Sentences ``index``, ``index + count``, ``index + 2 count`` … of a list; ``index`` counts from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``I/N`` as a shard; raises ``UserError``."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(f"--shard {text!r} is not I/N with I from 0 to N-1, such as 0/4, 1/4, 2/4 and 3/4")
        return cls(int(match[1]), int(match[2]))

    def of(self, texts: Sequence[str]) -> Sequence[str]:
        return texts[self.index :: self.count]


@dataclass
class Tally:
    """What became of sentences: planned by the model, or why not; what was put right; what it cost."""

    sentences: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)  # steps by operation
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of planning; 0 for what was read back

    def add(self, records: Sequence[Record]) -> None:
        for record in records:
            self.sentences += 1
            self.fallbacks.update([record.fallback] if record.fallback else [])
            self.repairs.update(record.repairs)
            self.operations.update(step.operation.value for step in record.sequence.steps)
            self.prompt_tokens += record.prompt_tokens
            self.tokens += record.tokens


def plan_pending(
    planner: RecordPlanner,
    texts: Sequence[str],
    store: SentenceStore,
    *,
    max_steps: int,
    console: Console | None = None,
) -> Tally:
    """Plan and store those of the distinct ``texts`` that are not stored; returns what was planned now.

    A portion is stored as soon as the planner has finished it. Raises ``UserError`` when the planner or the disk
    gives up, and ``Stopped`` on SIGTERM and SIGINT; either way what is stored stays, and the sentence says so.
    """
    store.open()
    tally = Tally()
    pending = store.pending(texts)
    if not pending:
        return tally
    before = len(texts) - len(pending)
    start = last = time.monotonic()
    try:
        with _stop_on_signal(), show_rates(len(texts), before, console) as shown:
            for first in range(0, len(pending), WINDOW):
                window = sorted(pending[first : first + WINDOW], key=len, reverse=True)
                asked = set(window)
                with _ended(planner.records(window)) as portions:
                    for records in portions:
                        if not records:
                            continue
                        _require_sound(records, asked, max_steps)
                        now = time.monotonic()
                        store.put(records, now - last)
                        last = now
                        tally.add(records)
                        shown(len(records), sum(r.tokens for r in records))
                if asked:
                    raise RuntimeError(f"the planner left out {len(asked)} sentences, such as {min(asked)[:60]!r}")
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}. {_how_to_go_on(texts, store)}") from error
    except _Signalled as signalled:
        raise Stopped(signalled.number, _how_to_go_on(texts, store)) from None
    finally:
        tally.seconds = time.monotonic() - start
        with suppress(UserError):  # a full disk has been told of already, and nothing is lost
            store.compact()
    return tally


def merge(
    store: SentenceStore,
    texts: Sequence[str],
    path: Path,
    *,
    planner: str,
    settings: Mapping[str, Any],
    shards: int | None = None,
    force: bool = False,
) -> Tally:
    """Write the sequence file of the distinct ``texts``, in their order; returns what it holds.

    Processes that finish together take turns, and the second finds the same file. Raises ``UserError`` while
    sentences are missing: how many, the first one and, of ``shards`` shards, which.
    """
    store.open()
    if missing := store.pending(texts):
        raise UserError(_missing(missing, texts, store, shards))
    tally = Tally()

    def lines() -> Iterator[Noted]:
        for record in store.read(texts):
            tally.add([record])
            yield record.sequence, {"fallback": record.fallback, "repairs": dict(record.repairs)}

    with _turn(store.folder / "merge.lock"):
        write_sequences(path, lines(), planner=planner, settings=settings, force=force)
    return tally


def timed_records(planner: RecordPlanner, texts: Sequence[str]) -> tuple[list[Record], list[Timing]]:
    """All the records of few ``texts``, in memory, and the time that each portion of them took."""
    records: list[Record] = []
    timings: list[Timing] = []
    last = time.monotonic()
    for portion in planner.records(list(texts)):
        now = time.monotonic()
        timings.append(Timing(len(portion), now - last))
        records += portion
        last = now
    return records, timings


@contextmanager
def show_rates(
    total: int, done: int, console: Console | None = None, every: float = EVERY
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that is called with the sentences and tokens of a finished portion.

    ``done`` of ``total`` sentences were there before and count for no rate. A terminal gets a bar, a log file a line
    every ``every`` seconds and one at the end; both on standard error.
    """
    start, planned, written = time.monotonic(), 0, 0
    with track("sentences", total, console, done=done, quiet_below=0, every=every) as advance:

        def shown(sentences: int, tokens: int) -> None:
            nonlocal planned, written
            planned, written = planned + sentences, written + tokens
            seconds = max(time.monotonic() - start, 1e-9)
            left = timedelta(seconds=round(seconds / planned * (total - done - planned)))
            advance(sentences, f"{planned / seconds:.1f} sentences/s, {written / seconds:.0f} tokens/s, {left} left")

        yield shown


class Stopped(UserError):
    """A signal ended the run in order; ``exit_code`` is the shell's for that signal."""

    def __init__(self, number: int, how: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}. {how}")
        self.exit_code = 128 + number


class _Signalled(KeyboardInterrupt):  # the one that event loops and libraries let pass
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stop_on_signal() -> Iterator[None]:
    """SIGTERM and SIGINT raise in the main thread, once; elsewhere signals are somebody else's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second one must not break what the first one is ending
        raise _Signalled(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended(portions: Iterator[list[Record]]) -> Iterator[Iterator[list[Record]]]:
    """What still writes ``portions`` is ended with the block, not when somebody happens to clean up."""
    try:
        yield portions
    finally:
        if isinstance(portions, Generator):
            portions.close()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold a lock; where the file system has none go on: the file is renamed into place and the same whoever writes."""
    from filelock import FileLock

    lock = FileLock(path)
    try:
        lock.acquire()
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _require_sound(records: Sequence[Record], asked: set[str], max_steps: int) -> None:
    """Strike the sentences off ``asked``; what no check should have let through is a fault of the program."""
    for record in records:
        text = record.sequence.text
        if text not in asked:
            raise RuntimeError(f"the planner answered {text[:60]!r}, which was not asked or is answered already")
        asked.remove(text)
        if problems := check_sequence(record.sequence, max_steps=max_steps):
            raise RuntimeError(f"unsound sequence for {text[:60]!r}: {problems[0]}")


def _how_to_go_on(texts: Sequence[str], store: SentenceStore) -> str:
    stored = len(texts) - len(store.pending(texts))
    return f"{stored} of {len(texts)} sentences are stored in {store.folder}: run the same command to go on."


def _missing(missing: Sequence[str], texts: Sequence[str], store: SentenceStore, shards: int | None) -> str:
    said = (
        f"{len(missing)} of {len(texts)} sentences are not planned yet in {store.folder}, "
        f"the first is {missing[0][:80]!r}"
    )
    if not shards or shards < 2:
        return f"{said}: run the same command without --merge to plan them"
    lacking = set(missing)
    of = sorted({place % shards for place, text in enumerate(texts) if text in lacking})
    named = ", ".join(f"{i}/{shards}" for i in of[:20]) + (", …" if len(of) > 20 else "")
    return f"{said}: run what is left of the shards {named}"
