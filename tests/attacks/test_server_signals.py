"""A signal while a server answers in its own way: planning ends at once, in one sentence, with all that is finished.

Slow: half a minute; a signal needs a process of its own, and one that is waiting.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

from neucore_xl.errors import one_sentence
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.llm.work import Stopped, plan_pending
from tests.attacks.hostile import OK, Attack, Server, Talk, forever, good, serving, until
from tests.attacks.test_servers import BAD_ANSWERS, TEXTS, planner
from tests.support.forks import Forks, clean_environment
from tests.support.small_cirr import SENTENCES, write_cirr

pytestmark = pytest.mark.slow

COMMAND = """
import signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores Ctrl-C for what it starts with `&`
from neucore_xl.cli import main
main(sys.argv[1:])
"""
ENDLESS = (
    "never answers", "dribbles the body", "dribbles without a length", "dribbles chunks", "dribbles the status line",
    "dribbles headers", "goes on with 100 Continue", "dribbles an error",
)  # fmt: skip


def hurries(start: bytes, piece: bytes) -> Attack:
    """Dribbles without a pause, so that the signal meets a program that is at work and does not wait."""

    def attack(talk: Talk) -> None:
        talk.send(start)
        talk.trickle(forever(piece), pause=0.0, patience=30.0)

    return attack


HURRIED = {
    "hurries": hurries(OK + b"Content-Length: 9000000\r\n\r\n", b" "),
    "hurries in chunks": hurries(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "hurries without a length": hurries(OK + b"\r\n", b" "),
    "hurries in headers": hurries(OK, b"a: b\r\n"),
    "hurries to go on": hurries(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
ATTACKS = {name: BAD_ANSWERS[name] for name in ENDLESS} | HURRIED


def signalled(attack: Attack, number: int) -> Attack:
    """Good answers to the harmless question and the first sentence; the second gets ``attack`` and then the signal."""

    def answer(talk: Talk) -> None:
        if len([text for text in talk.server.asked if text in TEXTS]) < 2:
            good(talk)
            return
        if number:
            talk.after = (30 if attack in HURRIED.values() else 3, lambda: os.kill(os.getpid(), number))
        attack(talk)

    return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_signal_ends_an_endless_answer(
    attack: Attack, number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(signalled(attack, number)) as server:
        made = planner(server.url, timeout=60.0)
        store = SentenceStore(tmp_path, made.settings)
        with pytest.raises(Stopped) as caught:
            plan_pending(made, TEXTS, store, max_steps=6)
        assert one_sentence(caught.value) == (str(caught.value), 128 + number)
        assert "1 of 3 sentences are stored" in str(caught.value)
        del caught
        gc.collect()
    assert not server.outlasted
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "Task" not in said
    assert "coroutine" not in said
    server.attack = good
    assert len(store.pending(TEXTS)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_command_that_is_ended_goes_on_where_it_was(number: int, forks: Forks, tmp_path: Path) -> None:
    """While an answer dribbles: one sentence, the code of the signal, and nothing is planned twice."""
    with serving() as server:
        said = ended(server, forks, tmp_path, number, after=2, code=128 + number)
        assert said.startswith(f"error: stopped by {signal.Signals(number).name}. 2 of 4 sentences are stored in ")
        assert "\n" not in said.strip()
        before = len(server.asked)
        process = forks.start(command(server, tmp_path), environment=clean_environment())
        try:
            assert process.wait(300) == 0, process.said()
        finally:
            process.kill()
        assert "planned now: 2 sentences" in process.said()
        assert sum(text in SENTENCES for text in server.asked[before:]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_command_ends_before_its_first_answer(number: int, code: int, forks: Forks, tmp_path: Path) -> None:
    with serving() as server:
        said = ended(server, forks, tmp_path, number, after=-1, code=code)
    assert said.strip() in ("", "Aborted.")


def command(server: Server, folder: Path) -> list[str]:
    script, root = folder / "command.py", folder / "cirr"
    if not root.exists():
        script.write_text(COMMAND.format(root=str(Path(__file__).resolve().parents[2])))
        write_cirr(root, {"train": 12})
    asked = ["--planner", "llm", "--model", "tiny", "--endpoint", server.url, "--parallel", "1"]
    return [str(script), "prepare", "sequences", str(root), *asked]


def ended(server: Server, forks: Forks, folder: Path, number: int, *, after: int, code: int) -> str:
    """What the command says that a signal ends while an answer dribbles, ``after`` so many good ones."""
    dribbling: list[Talk] = []

    def dribble(talk: Talk) -> None:
        if sum(text in SENTENCES for text in talk.server.asked) <= after:
            good(talk)
            return
        dribbling.append(talk)
        talk.send(OK + b"Content-Length: 50000\r\n\r\n")
        talk.trickle(forever(b" "), patience=60.0)

    server.attack = dribble
    process = forks.start(command(server, folder), environment=clean_environment())
    try:
        until(lambda: process.poll() is not None or (bool(dribbling) and dribbling[0].sent > 120), 300)
        process.send_signal(number)
        assert process.wait(300) == code, process.said()
    finally:
        process.kill()
    assert not server.outlasted
    server.attack = good
    return "".join(line for line in process.said().splitlines(True) if not line.startswith("sentences: "))
