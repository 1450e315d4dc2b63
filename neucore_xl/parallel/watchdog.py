"""Jobs that hang: who waits, who is behind, and an end to it; and the one sentence for peers that died.

Every rank marks how far it is. The marks travel through the store that the processes met at, never through the file
system. When no rank of the job has made a mark for too long, or one is no longer heard from, one rank prints where
each of them is and all end with exit code 1.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch.distributed as dist

from neucore_xl import terminal
from neucore_xl.parallel.world import World

_GONE = re.compile(
    r"connection closed by peer|connection reset by peer|broken pipe|connection refused|socket closed|socket timeout|"
    r"timed out (waiting|after)|communicator was aborted|remote process|ncclRemoteError|ncclSystemError|"
    r"failed to recv, got 0 bytes|recvValue failed|sendBytes failed|watchdog caught collective operation timeout",
    re.IGNORECASE,
)


class Watchdog:
    """Watches from a thread of its own, from construction to ``close`` (or over a ``with`` block).

    ``hang_minutes``: how long the whole job may be without a mark of any rank. A rank that waits for another makes
    none, and so it is enough that the one at work does. ``silent_seconds``: how long the thread of a rank may be
    unheard (its process or node is gone, or stopped). Construct it on all ranks, after ``start``.
    """

    def __init__(self, world: World, hang_minutes: float, *, silent_seconds: float = 120.0) -> None:
        self._world = world
        self._limit = 60 * hang_minutes
        self._silent = silent_seconds
        self._pause = min(5.0, self._limit / 10, silent_seconds / 10)
        self._mark = _Mark("start", 0, 0, time.monotonic())
        self._counts_from = 0.0  # ages count from here at the earliest
        self._beat = 0
        self._heard: dict[int, tuple[int, float]] = {}  # rank: last beat and when it was new
        self._closed = threading.Event()
        self._store = self._connect() if world.many else None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def mark(self, phase: str, step: int) -> None:
        """This rank has come to ``phase`` of ``step``; no communication. Call it in the same order on all ranks."""
        last = self._mark
        self._mark = _Mark(phase, step, last.nth + 1 if step == last.step else 0, time.monotonic())

    def close(self) -> None:
        """End the watch; this rank is no longer expected to be heard from."""
        self._closed.set()
        self._thread.join(timeout=10)

    # ------------------------------------------------------------ the thread

    def _watch(self) -> None:
        before, unreachable = time.monotonic(), None
        while not self._closed.wait(self._pause):
            now = time.monotonic()
            if now - before > max(30.0, 4 * self._pause):  # the job was suspended: nothing is late for that
                self._counts_from, self._heard = now, {}
            before = now
            try:
                self._look(now)
                unreachable = None
            except dist.DistError:
                # Rank 0 has ended or died. The next collective operation says so, unless it can only wait.
                unreachable = now if unreachable is None else unreachable
                if now - unreachable > self._silent:
                    self._end(
                        f"rank {self._world.rank} on {self._world.host} has not reached rank 0 for {self._silent:g} s: "
                        "its process or node is gone."
                    )
        if self._store is not None:
            with suppress(dist.DistError):
                self._publish(0.0, closed=True)

    def _look(self, now: float) -> None:
        age = now - max(self._mark.at, self._counts_from)
        if self._store is None:
            if age >= self._limit:
                self._end(hang_report([self._sign(age)], self._limit))
            return
        self._publish(age)
        if self._store.check(["ended"]):
            self._end_as_reported()
        # Everybody's marks are read by rank 0; by the others only if rank 0 has failed to act on them.
        late = age >= self._limit + 4 * self._pause
        if not (self._world.is_main or late):
            return
        signs = self._signs(self._store)
        silent = self._silent_ranks(signs, now) if self._world.is_main else []
        if silent:
            self._report(silence_report([signs[rank] for rank in silent], self._silent))
        if age >= self._limit and all(sign.closed or sign.age >= self._limit for sign in signs):
            self._report(hang_report(signs, self._limit))

    def _silent_ranks(self, signs: list[Sign], now: float) -> list[int]:
        silent = []
        for sign in signs:
            beat, since = self._heard.get(sign.rank, (-1, now))
            if beat != sign.beat:
                beat, since = sign.beat, now
            self._heard[sign.rank] = (beat, since)
            if not sign.closed and now - since > self._silent:
                silent.append(sign.rank)
        return silent

    def _publish(self, age: float, closed: bool = False) -> None:
        assert self._store is not None
        self._beat += 1
        sign = self._sign(age, closed)
        self._store.set(str(sign.rank), json.dumps(asdict(sign)))

    def _sign(self, age: float, closed: bool = False) -> Sign:
        mark = self._mark
        where = _main_thread_at() if age > self._limit / 2 else ""
        return Sign(self._world.rank, self._world.host, mark.phase, mark.step, mark.nth, age, self._beat, closed, where)

    def _signs(self, store: dist.Store) -> list[Sign]:
        """Everybody's last sign; a rank that has not begun to watch is at its start."""
        keys = [str(rank) for rank in range(self._world.world_size)]
        if not store.check(keys):
            keys = [key for key in keys if store.check([key])]
        signs = {sign.rank: sign for text in store.multi_get(keys) for sign in [Sign(**json.loads(text))]}
        return [
            signs.get(rank, Sign(rank, "?", "not there yet", 0, -1, self._limit))
            for rank in range(self._world.world_size)
        ]

    def _connect(self) -> dist.Store:
        # A connection of its own: the main thread may wait in the one of the process group.
        store: dist.Store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=min(30.0, self._silent)),
            wait_for_workers=False,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"neucore-xl/watchdog/{attempt}", store)
        self._publish(0.0)
        return self._store

    # ------------------------------------------------------------ the end

    def _report(self, text: str) -> NoReturn:
        """Print ``text`` unless another rank was quicker, and end the process."""
        assert self._store is not None
        if self._store.add("reporter", 1) == 1:
            _say(text)
            self._store.set("ended", "1")
        else:
            time.sleep(2)  # whoever ends first may take the launcher, and with it the report, down
        self._end_as_reported()

    def _end_as_reported(self) -> NoReturn:
        if self._world.is_main:
            time.sleep(2 * self._pause)  # the store ends with this process: the others read of the end there first
        self._end(None)

    def _end(self, text: str | None) -> NoReturn:
        if text is not None:
            _say(text)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the main thread waits in a call that cannot be interrupted


@dataclass(frozen=True)
class Sign:
    """What a rank says of itself: the ``nth`` mark of ``step`` was ``phase``, ``age`` seconds ago.

    ``beat`` counts the signs; ``where`` is the line that its main thread is at, if it has been there for long.
    """

    rank: int
    host: str
    phase: str
    step: int
    nth: int
    age: float
    beat: int = 0
    closed: bool = False
    where: str = ""


def hang_report(signs: Sequence[Sign], limit: float) -> str:
    """Who is behind and who waits, when nobody has made a mark for ``limit`` seconds; one line per place."""
    first = f"hang: no rank has made progress for {_duration(limit)} (train.hang_minutes)"
    at_work = [sign for sign in signs if not sign.closed]
    places: dict[tuple[int, int, str, str], list[Sign]] = {}
    for sign in at_work:
        places.setdefault((sign.step, sign.nth, sign.phase, sign.where), []).append(sign)
    lines = [
        f"  rank {_ranks(here)}: {phase}, step {step}, for {max(sign.age for sign in here):.0f} s"
        + (f", at {where}" if where else "")
        for (step, _, phase, where), here in sorted(places.items())
    ]
    if len(at_work) < len(signs):
        lines.append(f"  rank {_ranks([sign for sign in signs if sign.closed])}: finished")
    least = min((sign.step, sign.nth) for sign in at_work)
    behind = [sign for sign in at_work if (sign.step, sign.nth) == least]
    if len(signs) == 1:
        last = "it is the only one"
    elif len(behind) == len(at_work):
        last = "they are all at the same point"
    else:
        last = f"behind: rank {_ranks(behind)}; {len(at_work) - len(behind)} wait"
    return "\n".join([first, *lines, f"  {last}; started again, the run goes on from its last checkpoint"])


def silence_report(signs: Sequence[Sign], limit: float) -> str:
    """The ranks that were not heard from for ``limit`` seconds, in one sentence."""
    last = ", ".join(f"{sign.phase}, step {sign.step}" for sign in signs[:1])
    return (
        f"lost: rank {_ranks(signs)} was not heard from for {_duration(limit)} (last at {last}): its process or node "
        "is gone or stopped; started again, the run goes on from its last checkpoint."
    )


def lost_peers(error: BaseException, world: World | None = None) -> str | None:
    """One sentence if ``error`` says that other ranks are gone or do not answer, else None."""
    if not isinstance(error, RuntimeError) or not _GONE.search(str(error)):
        return None
    who = f"rank {world.rank} on {world.host}" if world else "this rank"
    return (
        f"{who} lost the other ranks: one of them ended or no longer answers (see its own output); started again, the "
        "run goes on from its last checkpoint."
    )


@dataclass(frozen=True)
class _Mark:
    phase: str
    step: int
    nth: int  # of the marks with this step
    at: float


def _say(text: str) -> None:
    terminal.say(text, stderr=True)


def _main_thread_at() -> str:
    """The innermost line of the main thread that is not in a library: ``loop.py:112 in run_loop``."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return ""
    stack = traceback.extract_stack(frame)
    own = [entry for entry in stack if "site-packages" not in entry.filename and "<frozen" not in entry.filename]
    entry = (own or list(stack))[-1]
    return f"{Path(entry.filename).name}:{entry.lineno} in {entry.name}"


def _ranks(signs: Sequence[Sign]) -> str:
    """``1 on node2``, or ``0-3, 8`` for many."""
    if len(signs) <= 4:
        return ", ".join(f"{sign.rank} on {sign.host}" for sign in signs)
    spans: list[list[int]] = []
    for rank in sorted(sign.rank for sign in signs):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"
