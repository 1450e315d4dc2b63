"""Planning many sentences: windows, shards, the merge, signals, memory (neucore_xl.language.llm.work)."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neucore_xl import terminal
from neucore_xl.errors import UserError
from neucore_xl.language.llm import work
from neucore_xl.language.llm.answers import Record
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.llm.work import Shard, Stopped, merge, plan_pending, show_rates, timed_records
from neucore_xl.language.sequence import FusionSequence, Operation, Step
from neucore_xl.language.sequence_file import read_sequences
from tests.support.forks import Forks

TEXTS = [f"make it {'very ' * (i % 5)}red {i}" for i in range(50)]


class Portions:
    """A planner that makes each sentence one edit, ``size`` at a time; ``asked`` are the calls that it got."""

    settings: dict[str, Any] = {"model": "portions"}  # noqa: RUF012

    def __init__(self, size: int = 4, stop_after: int | None = None, error: BaseException | None = None) -> None:
        self.size, self.stop_after, self.error = size, stop_after, error
        self.asked: list[list[str]] = []

    def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
        self.asked.append(list(texts))
        for first in range(0, len(texts), self.size):
            if self.stop_after is not None:
                if self.stop_after == 0:
                    self.fail()
                self.stop_after -= 1
            yield [self.record(t) for t in texts[first : first + self.size]]

    def fail(self) -> None:
        assert self.error is not None
        raise self.error

    def record(self, text: str) -> Record:
        odd = len(text) % 2 == 1
        step = Step(Operation.KEEP, (), text)
        return Record(FusionSequence(text, (step,)), "cut short" if odd else None, {} if odd else {"order": 2}, 9, 3)


def planned(folder: Path, planner: Any, texts: Sequence[str] = TEXTS) -> tuple[SentenceStore, work.Tally]:
    store = SentenceStore(folder, planner.settings)
    return store, plan_pending(planner, texts, store, max_steps=6, console=terminal.console(quiet=True))


def test_windows_are_sorted_by_length_and_everything_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "WINDOW", 20)
    planner = Portions()
    store, tally = planned(tmp_path, planner)
    assert [len(w) for w in planner.asked] == [20, 20, 10]
    for window, texts in zip(planner.asked, (TEXTS[:20], TEXTS[20:40], TEXTS[40:]), strict=True):
        assert set(window) == set(texts)
        assert [len(t) for t in window] == sorted(map(len, texts), reverse=True)
    odd = sum(len(t) % 2 for t in TEXTS)
    assert (tally.sentences, tally.fallbacks, tally.repairs) == (50, {"cut short": odd}, {"order": 2 * (50 - odd)})
    assert (tally.prompt_tokens, tally.tokens, tally.operations) == (450, 150, {"keep": 50})
    assert tally.seconds > 0
    again = Portions()
    assert planned(tmp_path, again)[1].sentences == 0
    assert again.asked == []

    path = tmp_path / "llm.jsonl"
    whole = merge(store, TEXTS, path, planner="llm", settings={"prompt": "p"})
    assert (whole.sentences, whole.fallbacks, whole.tokens) == (50, tally.fallbacks, 150)
    read = read_sequences(path)
    assert list(read.by_text) == TEXTS
    assert read.settings == {"prompt": "p"}
    assert read.notes == {t: {"fallback": "cut short"} if len(t) % 2 else {"repairs": {"order": 2}} for t in TEXTS}


def test_a_planner_that_gives_up_says_how_to_go_on_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    first = Portions(stop_after=3, error=UserError("the model fell over"))
    with pytest.raises(UserError, match=r"the model fell over\. 12 of 50 sentences are stored in .*same command"):
        planned(tmp_path, first)
    done = set(first.asked[0][:12])
    second = Portions()
    store, tally = planned(tmp_path, second)
    assert tally.sentences == 38
    assert {t for window in second.asked for t in window} == set(TEXTS) - done
    merge(store, TEXTS, tmp_path / "broken.jsonl", planner="llm", settings={})
    unbroken = planned(tmp_path / "other", Portions(size=7))[0]
    merge(unbroken, TEXTS, tmp_path / "unbroken.jsonl", planner="llm", settings={})
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_a_sentence(number: int, code: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)

    class Signalled(Portions):
        def fail(self) -> None:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=r"stopped by SIG\w+\. 8 of 50 sentences are stored.*run the same command") as end:
        planned(tmp_path, Signalled(stop_after=2))
    assert end.value.exit_code == code
    assert signal.getsignal(number) == before


@given(st.integers(1, 9), st.lists(st.text(), unique=True))
def test_shards_share_everything_out_evenly(count: int, texts: list[str]) -> None:
    dealt = [Shard(i, count).of(texts) for i in range(count)]
    assert sorted(t for share in dealt for t in share) == sorted(texts)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "1/0", "a/b", "0/2/3", "", "1.5/2"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="is not I/N"):
        Shard.parse(text)
    assert Shard.parse(" 3/4 ") == Shard(3, 4)


def test_a_merge_names_what_is_missing_and_the_shards_that_lack_it(tmp_path: Path) -> None:
    store = SentenceStore(tmp_path, Portions.settings)
    for index in (0, 2):
        plan_pending(Portions(), Shard(index, 4).of(TEXTS), store, max_steps=6, console=terminal.console(quiet=True))
    path = tmp_path / "llm.jsonl"
    with pytest.raises(UserError, match=rf"25 of 50 sentences are not planned yet.*{TEXTS[1]!r}: run .* 1/4, 3/4$"):
        merge(store, TEXTS, path, planner="llm", settings={}, shards=4)
    with pytest.raises(UserError, match=r"25 of 50 .*without --merge"):
        merge(store, TEXTS, path, planner="llm", settings={})
    assert not path.exists()


def test_faults_of_a_planner_are_never_stored(tmp_path: Path) -> None:
    class Forgets(Portions):
        def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
            yield from super().records(texts[:-1])

    class Repeats(Portions):
        def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
            yield [self.record(texts[0])] * 2

    class Invents(Portions):
        def record(self, text: str) -> Record:
            return Record(FusionSequence(text, (Step(Operation.KEEP, (), "of nobody's"),)))

    for kind, said in ((Forgets, "left out 1"), (Repeats, "answered already"), (Invents, "unsound sequence")):
        with pytest.raises(RuntimeError, match=said):
            planned(tmp_path / kind.__name__, kind())


def test_records_with_their_times() -> None:
    records, timings = timed_records(Portions(size=20), TEXTS)
    assert [r.sequence.text for r in records] == TEXTS
    assert [t.sentences for t in timings] == [20, 20, 10]


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    console = terminal.console(record=True, width=200, force_terminal=False, quiet=False)
    with show_rates(100, 40, console, every=0.0) as shown:
        shown(10, 200)
        shown(50, 100)
    lines = console.export_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "sentences: 50 of 100",
        "sentences: 100 of 100",
        "sentences: 100 of 100",
    ]
    assert all("sentences/s" in line and "tokens/s" in line for line in lines)
    assert lines[-1].endswith("0:00:00 left")


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_planned(tmp_path: Path) -> None:
    """Traced peaks of planning and merging; the sentences themselves are made before, as a dataset makes them.

    Slow: 20,000 sentences under tracing, so that what grows with them stands out.
    """

    def peak(count: int) -> int:
        texts = [f"make the dog number {i} a bit larger than the other one" for i in range(count)]
        planner = Portions(size=500)
        tracemalloc.start()
        store = SentenceStore(tmp_path / str(count), planner.settings)
        for window in range(0, count, 1000):  # what the planner would keep is not the question here
            plan_pending(
                planner, texts[window : window + 1000], store, max_steps=6, console=terminal.console(quiet=True)
            )
            planner.asked.clear()
        merge(store, texts, tmp_path / f"{count}.jsonl", planner="llm", settings={})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1000)  # imports
    small, large = peak(2000), peak(20_000)
    print(f"{(large - small) / 18_000:.0f} bytes a sentence, {large / 2**20:.1f} MiB at the peak")
    assert (large - small) / 18_000 < 600  # bytes a sentence: keys and places, no records


@pytest.mark.slow
def test_a_process_ends_in_order_on_sigterm(forks: Forks, tmp_path: Path) -> None:
    """Slow: a process of its own, which the signal ends."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[3])!r}]\n"
        "from pathlib import Path\n"
        "import test_work as t\n"
        "from neucore_xl.errors import UserError\n"
        "class Slow(t.Portions):\n"
        "    def record(self, text):\n"
        "        time.sleep(0.05)\n"
        "        return super().record(text)\n"
        "try:\n"
        "    t.planned(Path(sys.argv[1]), Slow())\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    process = forks.start([script, tmp_path])
    try:
        while not list(tmp_path.glob("llm-*/part-*.parquet")):
            assert process.poll() is None, process.said()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    finally:
        process.kill()
    said = process.said()
    stored = 50 - len(SentenceStore(tmp_path, Portions.settings).pending(TEXTS))
    assert 0 < stored < 50
    assert f"{stored} of 50 sentences are stored" in said
