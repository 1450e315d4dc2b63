"""A model behind a server, and everything that a server can do wrong (neucore_xl.language.llm.server)."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loopback import Loopback, Reply, completion, good, serving, steps_of

from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Answer, Record
from neucore_xl.language.llm.prompt import load_prompt
from neucore_xl.language.llm.server import HARMLESS, ServerWriter
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.llm.wire import json_schema
from neucore_xl.language.llm.work import Stopped, plan_pending
from neucore_xl.language.sequence import FusionSequence, Operation, Step

TEXTS = [f"sentence number {i:02}" for i in range(12)]


def writer(url: str, **settings: Any) -> ServerWriter:
    asked: dict[str, Any] = {"max_steps": 6, "max_new_tokens": 64, "parallel": 3, "retries": 1, "timeout": 30.0}
    return ServerWriter(url, "tiny", prompt=load_prompt(), **(asked | settings))


def answers(made: ServerWriter, texts: Sequence[str] = TEXTS) -> dict[str, Answer]:
    found = [a for portion in made.write(texts) for a in portion]
    assert len(found) == len({a.text for a in found}) == len(texts)
    return {a.text: a for a in found}


class WholeSentence:
    """The smallest planner over a writer: an answer becomes one step, a failure is said in the record."""

    def __init__(self, made: ServerWriter) -> None:
        self.writer = made

    @property
    def settings(self) -> dict[str, Any]:
        return self.writer.identity

    def records(self, texts: Sequence[str]) -> Iterator[list[Record]]:
        for portion in self.writer.write(texts):
            yield [
                Record(FusionSequence(a.text, (Step(Operation.KEEP, (), a.text),)), a.failure, {}, 0, a.tokens)
                for a in portion
            ]


def test_every_sentence_is_asked_once_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with serving() as server:
        made = writer(server.url, revision="7")
        found = answers(made)
        assert found == {t: Answer(t, steps_of(t), 7, 3) for t in TEXTS}
        assert sorted(server.asked) == sorted([HARMLESS, *TEXTS])
        assert server.keys == {"Bearer sesame"}
        request = server.requests[-1]
        assert request["response_format"]["json_schema"]["schema"] == json_schema(6)
        assert (request["model"], request["temperature"], request["max_tokens"]) == ("tiny", 0, 64)
        assert request["messages"][0]["role"] == "system"
        assert made.identity == {
            "writer": "server",
            "model": "tiny",
            "revision": "7",
            "prompt": load_prompt().version,
            "decoding": {
                "form": "objects",
                "response_format": "json_schema",
                "temperature": 0,
                "max_steps": 6,
                "max_new_tokens": 64,
            },
        }
        json.dumps(made.identity)
        before = len(server.asked)
        assert list(made.write([])) == []
        assert len(server.asked) == before


@pytest.mark.parametrize(
    ("accepted", "expected"), [({"json_object"}, "json_object"), (set(), "none"), ({"json_schema"}, "json_schema")]
)
def test_the_strictest_response_format_that_the_server_takes_is_settled_once(accepted: set[str], expected: str) -> None:
    def picky(text: str, request: dict[str, Any], asked: int) -> Reply:
        form = request.get("response_format", {}).get("type")
        if form is not None and form not in accepted:
            return 400, {"error": {"message": f"response_format {form} is not supported"}}
        return good(text, request, asked)

    with serving(picky) as server:
        made = writer(server.url)
        assert made.identity["decoding"]["response_format"] == expected
        assert set(answers(made)) == set(TEXTS)
        assert sum(t == HARMLESS for t in server.asked) <= 3
        assert len(server.asked) == server.asked.count(HARMLESS) + len(TEXTS)


def test_a_server_that_calls_the_limit_otherwise() -> None:
    def newer(text: str, request: dict[str, Any], asked: int) -> Reply:
        if "max_tokens" in request:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}}
        return good(text, request, asked)

    with serving(newer) as server:
        made = writer(server.url)
        assert set(answers(made)) == set(TEXTS)
        assert made.identity["decoding"]["response_format"] == "json_schema"
        assert server.requests[-1]["max_completion_tokens"] == 64


def test_what_passes_is_asked_again() -> None:
    troubles: list[Reply] = [(500, {"error": "x"}), "cut", (429, {"error": "full"}), (200, "<html>hello</html>"),
                             (200, {"choices": []}), (200, {"hello": 1}), (200, "null")]  # fmt: skip

    def flaky(text: str, request: dict[str, Any], asked: int) -> Reply:
        if text in TEXTS and asked == 1 and (place := TEXTS.index(text)) < len(troubles):
            return troubles[place]
        return good(text, request, asked)

    with serving(flaky) as server:
        assert answers(writer(server.url, parallel=12)) == {t: Answer(t, steps_of(t), 7, 3) for t in TEXTS}
        assert [server.asked.count(t) for t in TEXTS] == [2] * len(troubles) + [1] * (len(TEXTS) - len(troubles))


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ((400, {"error": {"message": "too long"}}), "refused by the server (HTTP 400)"),
        ((413, "too large"), "refused by the server (HTTP 413)"),
        ((500, {"error": "cannot"}), "not answered by the server (HTTP 500)"),
        ((200, {"choices": []}), "not answered by the server"),
        ((200, completion("", "content_filter")), "filtered by the server"),
        ((200, completion(None, refusal="I will not")), "filtered by the server"),
        ((200, completion('{"steps": [', "length")), "cut short"),
    ],
)
def test_a_sentence_that_the_server_cannot_cope_with_is_a_failure_of_that_sentence(reply: Reply, failure: str) -> None:
    def choosy(text: str, request: dict[str, Any], asked: int) -> Reply:
        return reply if text == TEXTS[4] else good(text, request, asked)

    with serving(choosy) as server:
        found = answers(writer(server.url, retries=0))
        assert found[TEXTS[4]].failure == failure
        assert {t: a.failure for t, a in found.items() if a.failure} == {TEXTS[4]: failure}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((500, {"error": {"message": "out of memory"}}), r"answers HTTP 500 \(out of memory\)"),
        ("cut", "cannot be reached"),
        ("hang", "did not answer within 0.5 s"),
        ((200, "<html>router login</html>"), "answers something that is no chat completion"),
        ((200, {"choices": []}), "answers something that is no chat completion"),
        ((400, {"error": {"message": "no such field"}}), r"answers HTTP 400 \(no such field\)"),
        ((401, {"error": {"message": "who?"}}), "asks for a key .* set OPENAI_API_KEY"),
        ((404, {"error": {"message": "no model tiny"}}), "knows no model 'tiny'.*no model tiny.*/v1/models"),
    ],
)
def test_a_server_that_breaks_down_ends_the_run_and_the_same_command_goes_on(
    reply: Reply, said: str, tmp_path: Path
) -> None:
    broken = False

    def breaks(text: str, request: dict[str, Any], asked: int) -> Reply:
        nonlocal broken
        broken = broken or text == TEXTS[5]
        return reply if broken else good(text, request, asked)

    def run(server: Loopback) -> None:
        made = writer(server.url, retries=0, parallel=1, timeout=0.5 if reply == "hang" else 30.0)
        store = SentenceStore(tmp_path, made.identity)
        plan_pending(WholeSentence(made), TEXTS, store, max_steps=6)

    with serving(breaks) as server:
        with pytest.raises(UserError) as caught:
            run(server)
        message = str(caught.value)
        assert message.startswith(f"the server at 127.0.0.1:{server.port} ")
        assert re.search(said, message), message
        assert re.search(r"5 of 12 sentences are stored in .*: run the same command to go on\.$", message)
        before = [t for t in server.asked if t != HARMLESS]
        broken, server.behaviour = False, good
        server.asked.clear()
        run(server)
        after = [t for t in server.asked if t != HARMLESS]
    assert len(after) == 7
    assert set(before[:5]) | set(after) == set(TEXTS)
    assert not set(before[:5]) & set(after)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((503, {"error": {"message": "loading"}}), r"answers HTTP 503 \(loading\): see that it runs"),
        ((400, {"error": {"message": "pinned to another model"}}), "refuses a harmless question.*pinned to another"),
        ((403, {"error": {"message": "no"}}), "OPENAI_API_KEY"),
        ((200, "hello"), "no chat completion"),
    ],
)
def test_a_server_that_is_of_no_use_is_told_before_the_work(reply: Reply, said: str) -> None:
    with serving(lambda *about: reply) as server, pytest.raises(UserError, match=said):
        _ = writer(server.url, retries=0).identity


def test_nobody_there_and_addresses_that_are_none() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be reached .*see that it runs"):
        _ = writer(f"http://127.0.0.1:{port}/v1", retries=0).identity
    for address in ("localhost:8000", "ftp://x/v1", "", "http://"):
        with pytest.raises(UserError, match="no address of a server"):
            writer(address)


def test_a_server_that_went_away_and_comes_back_is_waited_for() -> None:
    """It is gone when the second sentence is asked for, and there again at the same port a second later."""
    with serving() as server:
        made = writer(server.url, parallel=1, retries=4)
        stream = made.write(TEXTS)
        first = next(stream)
        port = server.port
    back = threading.Event()
    seen: list[str] = []

    def later() -> None:
        back.wait(0.8)
        with serving(port=port) as again:
            done.wait(60)
            seen.extend(again.asked)

    done = threading.Event()
    thread = threading.Thread(target=later)
    thread.start()
    try:
        rest = [a for portion in stream for a in portion]
    finally:
        done.set()
        thread.join()
    assert [a.text for a in (*first, *rest)] == TEXTS
    assert seen == TEXTS[1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_server_is_waited_for(
    number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stuck(text: str, request: dict[str, Any], asked: int) -> Reply:
        if text == TEXTS[3]:
            os.kill(os.getpid(), number)
            return "hang"
        return good(text, request, asked)

    with serving(stuck) as server:
        made = writer(server.url, parallel=1)
        store = SentenceStore(tmp_path, made.identity)
        begin = time.monotonic()
        with pytest.raises(Stopped, match="3 of 12 sentences are stored"):
            plan_pending(WholeSentence(made), TEXTS, store, max_steps=6)
        assert time.monotonic() - begin < 20  # and not the 30 s that it waits for an answer
    gc.collect()
    assert "Task" not in capfd.readouterr().err
