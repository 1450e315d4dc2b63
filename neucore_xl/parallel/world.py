"""The processes of one job: who this one is, and the few things that all of them do together.

A ``World`` of one process needs no process group and does nothing in its collective methods, so that callers never
ask how many there are. What travels between processes here is small (flags, sentences, settings): it goes through
CPU tensors, never through the accelerator. ``in_step`` keeps ranks together whose work takes them different times.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from neucore_xl.errors import UserError, one_sentence

T = TypeVar("T")

BEAT = 10.0  # seconds between two meetings of `in_step`: far below the timeout of any process group


@dataclass
class World:
    """``rank`` 0 writes and prints; ``local_rank`` numbers the processes of one node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    host: str = field(default_factory=socket.gethostname)

    @property
    def is_main(self) -> bool:
        """True in the one process that writes and prints."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there is anyone to wait for."""
        return self.world_size > 1

    def gather(self, value: T) -> list[T]:
        """The ``value`` (any picklable object) of every rank, in the order of the ranks, on every rank."""
        if not self.many:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The ``value`` of rank 0."""
        if not self.many:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def any_of(self, flags: int) -> int:
        """Bitwise or of everybody's ``flags`` (0 to 2^31)."""
        if not self.many:
            return flags
        bits = torch.tensor([(flags >> i) & 1 for i in range(31)], dtype=torch.uint8)
        dist.all_reduce(bits, op=dist.ReduceOp.MAX)
        return sum(int(bit) << i for i, bit in enumerate(bits.tolist()))

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over ranks of each of ``values``; not a number where it is one on any rank."""
        if not self.many:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return (total / self.world_size).tolist()

    def barrier(self) -> None:
        """Wait for everybody."""
        self.any_of(0)

    def on_main(self, function: Callable[[], T]) -> T:
        """What ``function`` returned on rank 0, on every rank; its ``UserError`` is raised on every rank."""
        return self.broadcast(self.on_main_only(function))  # type: ignore[return-value]

    def on_main_only(self, function: Callable[[], T]) -> T | None:
        """What ``function`` returned, on rank 0 alone; None on the others, on which its ``UserError`` is raised too."""
        result: T | None = None
        with self.agreed():
            if self.is_main:
                result = function()
        return result

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that ends well everywhere or nowhere: a ``UserError`` of any rank is raised on every rank.

        The block must hold no collective operation that another rank's error would skip. With many ranks the
        sentence names the ranks that raised it, and their nodes. Other exceptions end the process as they do
        everywhere.
        """
        failed: UserError | None = None
        try:
            yield
        except (UserError, OSError) as error:
            if not self.many:
                raise
            said = one_sentence(error)
            if said is None:
                raise
            failed = UserError(said[0])
            failed.exit_code = said[1]
        if not self.many:
            return
        found = self.gather((str(failed), failed.exit_code, self.host) if failed else None)
        if any(found):
            raise _joined(found)


ALONE = World()  # the world of one process


def in_step(world: World, work: Generator[Any, None, None], beat: float = BEAT) -> None:
    """Exhaust ``work`` on every rank, each its own; returns on all when the last is done.

    The ranks meet about every ``beat`` seconds between two items of their work, so that one that is done early (or
    waits for a lock) is never long in one collective operation, and a ``UserError`` of one rank is raised on all of
    them within seconds, not at the end. ``work`` must hold no collective operation; it is closed in any case.
    """
    try:
        if not world.many:
            for _ in work:
                pass
            return
        pending = True
        while True:
            with world.agreed():
                pending = pending and _advance(work, beat)
            if not world.any_of(int(pending)):
                return
    finally:
        work.close()


def _joined(found: list[tuple[str, int, str] | None]) -> UserError:
    """One error for all: the first sentence, and who said it unless everybody did."""
    who = [(rank, entry) for rank, entry in enumerate(found) if entry is not None]
    text, code, _ = who[0][1]
    same = [(rank, entry[2]) for rank, entry in who if entry[0] == text]
    if len(same) < len(found):
        text = f"{', '.join(f'rank {rank} on {host}' for rank, host in same)}: {text}"
        others = len(who) - len(same)
        if others:
            text += f" ({others} other ranks failed otherwise)"
    error = UserError(text)
    error.exit_code, error.on_all_ranks = code, True
    return error


def _advance(work: Generator[Any, None, None], seconds: float) -> bool:
    """Take items of ``work`` for about ``seconds``; false when there are no more."""
    end = time.monotonic() + seconds
    return any(time.monotonic() >= end for _ in work)
