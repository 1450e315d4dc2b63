"""Servers that harm whoever asks them: every kind of answer, for all sentences and for one.

Of a server that answers nothing else, one sentence tells before the work. Of one that so answers one sentence, the
others are planned as if nothing had happened, and that one as the clause planner would.

Slow: a minute, half of it in the pauses before a question is asked again, which belong to what is tested.
"""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neucore_xl.config.schema import LanguageSettings
from neucore_xl.errors import UserError, one_sentence
from neucore_xl.language.llm.planner import LlmPlanner
from neucore_xl.language.llm.prompt import load_prompt
from neucore_xl.language.llm.server import ServerWriter
from neucore_xl.language.llm.store import SentenceStore
from neucore_xl.language.llm.work import Tally, merge, plan_pending
from neucore_xl.language.sequence import check_sequence
from neucore_xl.language.sequence_file import read_sequences
from tests.attacks.hostile import OK, Attack, Talk, completion, forever, good, http, serving, steps_of

pytestmark = pytest.mark.slow

KEY = "sesame-0123456789"
TEXTS = [f"make dog number {word} bigger" for word in ("one", "two", "three")]
BAD = TEXTS[1]
MOST = 48 << 20  # bytes that a flood sends at the most: six times what is read
BOMB = 16 << 20  # blanks in a compressed answer
ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b2J\u202e\r\b\x00"

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def says(*pieces: bytes) -> Attack:
    return lambda talk: talk.send(*pieces)


def answers(make: Callable[[Talk], Any], **options: Any) -> Attack:
    """A whole HTTP answer with what ``make`` gives, as JSON unless it is text or bytes."""

    def attack(talk: Talk) -> None:
        body = make(talk)
        talk.send(http(body if isinstance(body, str | bytes) else json.dumps(body), **options))

    return attack


def raw(body: str | bytes, **options: Any) -> Attack:
    return answers(lambda talk: body, **options)


def slowly(start: bytes, *pieces: bytes) -> Attack:
    def attack(talk: Talk) -> None:
        talk.send(start)
        talk.trickle(forever(*pieces))

    return attack


def flood(start: bytes, piece: bytes) -> Attack:
    def attack(talk: Talk) -> None:
        talk.send(start)
        talk.flood(piece, MOST)

    return attack


def packed(pack: Callable[[bytes], bytes], encoding: str, blanks: int = 0) -> Attack:
    """A good answer, compressed."""
    return answers(
        lambda talk: pack((" " * blanks + json.dumps(completion(talk.sentence))).encode()), content_encoding=encoding
    )


def usage(value: str) -> Attack:
    """A good answer with numbers that nobody can have counted."""

    def make(talk: Talk) -> str:
        return json.dumps(completion(talk.sentence, usage="HERE")).replace('"HERE"', value)

    return answers(make)


def counted(number: str) -> Attack:
    return usage(f'{{"prompt_tokens": {number}, "completion_tokens": {number}, "total_tokens": {number}}}')


def message(content: Any, **choice: Any) -> Attack:
    def make(talk: Talk) -> Any:
        return completion(talk.sentence, choices=[{"index": 0, "finish_reason": "stop", "message": content} | choice])

    return answers(make)


DEEP = "[" * 50_000 + "]" * 50_000
DIGITS = "9" * 5000

# What can be of no use: the server answers something else than a completion, or in a way that nobody should wait for.
BAD_ANSWERS: dict[str, Attack] = {
    "never answers": lambda talk: talk.wait(2.0),
    "dribbles the body": slowly(OK + b"Content-Length: 50000\r\n\r\n", b" "),
    "dribbles a good beginning": slowly(OK + b"Content-Length: 50000\r\n\r\n", b'{"choices": [', b"1,", b"1,"),
    "dribbles without a length": slowly(OK + b"\r\n", b" "),
    "dribbles chunks": slowly(CHUNKED, b"1\r\n \r\n"),
    "dribbles the status line": slowly(b"HTTP/1.1 200 ", b"O"),
    "dribbles headers": slowly(OK, b"x-more: of it\r\n"),
    "goes on with 100 Continue": slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "dribbles an error": slowly(b"HTTP/1.1 500 Oh\r\nContent-Length: 50000\r\n\r\n", b"x"),
    "floods blanks": flood(OK + b"\r\n", b" " * 65536),
    "floods chunks": flood(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "floods under a length": flood(OK + b"Content-Length: 999999999999\r\n\r\n", b"[" * 65536),
    "floods an error": flood(b"HTTP/1.1 400 No\r\n\r\n", b"x" * 65536),
    "floods headers": flood(OK, b"x-more: " + b"y" * 1000 + b"\r\n"),
    "a status line without end": flood(b"HTTP/1.1 200 ", b"O" * 65536),
    "a header without end": flood(OK + b"x-more: ", b"y" * 65536),
    "a bomb of gzip": packed(gzip.compress, "gzip", BOMB),
    "a bomb of deflate": packed(zlib.compress, "deflate", BOMB),
    "a bomb in a bomb": packed(lambda b: gzip.compress(gzip.compress(b)), "gzip, gzip", BOMB),
    "gzip that nobody asked for": packed(gzip.compress, "gzip"),
    "gzip that is none": packed(lambda b: b"\x1f\x8b" + b, "gzip"),
    "brotli that is none": packed(lambda b: b"\xff" * 99 + b, "br"),
    "closes at once": lambda talk: None,
    "closes after the headers": says(OK + b"Content-Length: 5000\r\n\r\n"),
    "closes in the headers": says(OK + b"Content-Le"),
    "closes half-way": says(OK + b'Content-Length: 5000\r\n\r\n{"choices": [{"mes'),
    "closes in a chunk": says(CHUNKED + b"ff\r\n{"),
    "a negative length": raw("{}", content_length="-5"),
    "a length of words": raw("{}", content_length="some"),
    "two lengths": says(OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n{}     "),
    "a length of 5,000 digits": raw("{}", content_length=DIGITS),
    "chunks of garbage": says(CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk of 2^64 bytes": says(CHUNKED + b"ffffffffffffffffffff\r\n{}"),
    "a chunk of less than nothing": says(CHUNKED + b"-2\r\n{}\r\n"),
    "not HTTP": says(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "random bytes": says(bytes(range(256)) * 40),
    "HTTP 9": says(b"HTTP/9.9 200 OK\r\n\r\n{}"),
    "a status of words": says(b"HTTP/1.1 fine\r\n\r\n{}"),
    "status 999": raw("{}", status="999 What"),
    "switching protocols": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    "a header of 200 kB": raw("{}", x_more="y" * 200_000),
    "headers with escapes": says(OK + b"x-\x1b[31m: \x1b]0;owned\x07\r\n\r\n{}"),
    "no content": raw("", status="204 No Content"),
    "not modified": raw("", status="304 Not Modified"),
    "redirected to itself": lambda talk: talk.send(http("", "307 Again", location=talk.path)),
    "redirected to a script": raw("", status="307 There", location="javascript:alert(1)"),
    "redirected to a file": raw("", status="302 There", location="file:///etc/passwd"),
    "redirected to nowhere": raw("", status="308 There"),
    "redirected to no address": raw("", status="301 There", location="http://[::1"),
    "redirected with escapes": raw("", status="307 There", location="http://x/\x1b[31m"),
    "HTML": raw("<html>router login</html>", content_type="text/html"),
    "HTML that says it is JSON": raw("<html>router login</html>"),
    "nothing": raw(""),
    "null": raw("null"),
    "a list": raw("[]"),
    "a text": raw('"hello"'),
    "a number": raw("7"),
    "NaN": raw("NaN"),
    "half of the JSON": answers(lambda talk: json.dumps(completion(talk.sentence))[:100]),
    "two answers in one": answers(lambda talk: json.dumps(completion(talk.sentence)) * 2),
    "deep lists": raw(DEEP),
    "deep objects": raw('{"a":' * 50_000 + "1" + "}" * 50_000),
    "deep choices": raw(f'{{"choices": {DEEP}}}'),
    "a deep message": answers(lambda t: f'{{"choices": [{{"message": {{"content": {"[" * 900 + "]" * 900}}}}}]}}'),
    "not UTF-8": raw(b'{"choices": "\xff\xfe"}'),
    "an error in good order": raw('{"error": {"message": "no", "code": 1}}'),
    "no choices": raw('{"choices": []}'),
    "choices that are an object": raw('{"choices": {"0": {"message": {"content": "[]"}}}}'),
    "choices that are a text": raw('{"choices": "stop"}'),
    "a choice that is null": raw('{"choices": [null]}'),
    "a choice that is a number": raw('{"choices": [7]}'),
    "a choice that is a list": raw('{"choices": [["message"]]}'),
    "no message": raw('{"choices": [{}]}'),
    "a message that is null": message(None),
    "a message that is a text": message("hello"),
    "a message that is a list": message([{"content": "x"}]),
    "content that is a number": message({"content": 7}),
    "content that is true": message({"content": True}),
    "content that is a list": message({"content": [{"type": "text", "text": "x"}]}),
    "content that is an object": message({"content": {"steps": []}}),
    "500 for ever": raw('{"error": {"message": "out of memory"}}', status="500 Oh"),
    "500 with escapes": raw(json.dumps({"error": {"message": ESCAPES}}), status="500 \x1b[31mOh"),
    "503 in plain escapes": raw(ESCAPES.encode(), status="503 Oh", content_type="text/plain"),
    "400 with escapes": raw(json.dumps({"detail": ESCAPES}), status="400 No"),
    "400 of great depth": raw(f'{{"error": {{"message": {"[" * 900 + "]" * 900}}}}}', status="400 No"),
    "400 of a list": raw('{"error": {"message": ["a", {"b": 1}]}}', status="400 No"),
    "400 of a number": raw('{"error": 7}', status="400 No"),
    "422 of a long number": raw(f'{{"message": {DIGITS}}}', status="422 No"),
    "429 for a year": raw("{}", status="429 Full", retry_after="31536000"),
    "429 before now": raw("{}", status="429 Full", retry_after="-1"),
    "429 for not a number of seconds": raw("{}", status="429 Full", retry_after="nan"),
    "429 till the end of days": raw("{}", status="429 Full", retry_after="Fri, 31 Dec 9999 23:59:59 GMT"),
    "408 without a word": raw("", status="408 Late"),
    "409 and nothing": raw("", status="409 Conflict"),
    "418": raw("{}", status="418 Teapot"),
    "a type of unknown letters": raw("\u00fc", status="500 Oh", content_type="text/plain; charset=rot13"),
    "numbers that are too large": answers(
        lambda t: json.dumps(completion(t.sentence)).replace('"created": 0', f'"created": {DIGITS}')
    ),
}

# What a careless reader stumbles over though the answer is one.
GOOD_ANSWERS: dict[str, Attack] = {
    "chunks of one byte": lambda talk: talk.send(
        CHUNKED, *(b"1\r\n%c\r\n" % c for c in json.dumps(completion(talk.sentence)).encode()), b"0\r\n\r\n"
    ),
    "more than its length": lambda talk: talk.send(http(completion(talk.sentence)), b"x" * 5000),
    "a type of pictures": answers(lambda talk: completion(talk.sentence), content_type="image/png"),
    "no type": answers(lambda talk: completion(talk.sentence), content_type=None),
    "a type of unknown letters": answers(
        lambda talk: completion(talk.sentence), content_type="application/json; charset=rot13"
    ),
    "identity": answers(lambda talk: completion(talk.sentence), content_encoding="identity"),
    "a byte-order mark": answers(lambda talk: b"\xef\xbb\xbf" + json.dumps(completion(talk.sentence)).encode()),
    "a thousand cookies": answers(
        lambda talk: completion(talk.sentence), set_cookie="a=" + "b" * 3000
    ),
    "usage below zero": counted("-5"),
    "usage in fractions": counted("1.5"),
    "usage of words": counted('"many"'),
    "usage of escapes": counted(json.dumps(ESCAPES)),
    "usage of lists": counted("[1]"),
    "usage of objects": counted("{}"),
    "usage that is true": counted("true"),
    "usage without numbers": counted("null"),
    "usage of 19 digits": counted("9223372036854775807"),
    "usage that is a list": usage("[1, 2]"),
    "usage that is a text": usage('"none"'),
    "usage that is a number": usage("7"),
    "usage that is null": usage("null"),
    "usage that is empty": usage("{}"),
    "an index of words": answers(
        lambda t: completion(
            t.sentence, choices=[{"index": "a", "finish_reason": 7, "message": {"content": steps_of(t.sentence)}}]
        )
    ),
    "a finish that is a list": answers(
        lambda t: completion(
            t.sentence, choices=[{"finish_reason": ["stop"], "message": {"content": steps_of(t.sentence)}}]
        )
    ),
    "a model of escapes": answers(lambda talk: completion(talk.sentence, model=ESCAPES, id=ESCAPES)),
    "tools that are none": answers(lambda t: completion(t.sentence, tool_calls={"x": 1}, logprobs=[None])),
}  # fmt: skip

# An answer in good order whose text is of no use: the sentence falls back, whatever the server's other answers.
USELESS_TEXTS: dict[str, Any] = {
    "empty": "",
    "escapes": ESCAPES,
    "deep": DEEP,
    "deep objects": '{"steps": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
    "long numbers": f'{{"steps": [{DIGITS}, 1e400, -{DIGITS}]}}',
    "half characters": '{"steps": [{"operation": "\\ud800", "phrase": "\\udfff", "concepts": ["\\ud800"]}]}',
    "steps of numbers": '{"steps": [1, 2, [3, 4], {"operation": 5, "phrase": 6, "concepts": 7}]}',
    "a million steps": '{"steps": [' + ",".join(["[]"] * 300_000) + "]}",
    "another sentence": steps_of("rm -rf /"),
    "escapes in the steps": json.dumps({"steps": [{"operation": ESCAPES, "phrase": ESCAPES, "concepts": [ESCAPES]}]}),
    "NUL": "\x00" * 1000,
    "null": None,
    "HTML": "<script>alert(1)</script>",
    "text of 1 MB": "x" * 1_000_000,
}


def writer(url: str, **options: Any) -> ServerWriter:
    asked: dict[str, Any] = {"max_steps": 6, "max_new_tokens": 64, "parallel": 2, "retries": 0, "timeout": 0.5}
    return ServerWriter(url, "tiny", prompt=load_prompt(), **(asked | options))


def told(error: UserError) -> str:
    """What a terminal shows of it: one line, short, without control characters and without the key."""
    said = one_sentence(error)
    assert said is not None
    assert said[1] == 2
    assert KEY not in said[0]
    assert len(said[0]) < 1500
    assert all(c.isprintable() for c in said[0]), said[0]
    return said[0]


def planner(url: str, **options: Any) -> LlmPlanner:
    """One question at a time: who waits for nobody else is told apart from who waits for too long."""
    made = writer(url, **({"parallel": 1, "timeout": 1.0} | options))
    return LlmPlanner(made, LanguageSettings(), 6, form="objects")


def reasons_of(url: str) -> dict[str, str | None]:
    """All of ``TEXTS`` planned; why each fell back, if it did."""
    made = planner(url)
    found = {r.sequence.text: r for records in made.records(TEXTS) for r in records}
    assert sorted(found) == sorted(TEXTS)
    assert not [p for r in found.values() for p in check_sequence(r.sequence, max_steps=6)]
    return {text: record.fallback for text, record in found.items()}


def planned(url: str, folder: Path) -> Tally:
    """All of ``TEXTS`` planned by the model, stored, merged and read again."""
    made = planner(url)
    store = SentenceStore(folder, made.settings)
    tally = plan_pending(made, TEXTS, store, max_steps=6)
    merge(store, TEXTS, folder / "llm.jsonl", planner="llm", settings=made.settings)
    read = read_sequences(folder / "llm.jsonl")
    assert list(read.by_text) == TEXTS
    assert not tally.fallbacks
    assert not read.notes
    return tally


def only(attack: Attack) -> Attack:
    """The attack on one sentence; the others are answered well."""
    return lambda talk: (attack if talk.sentence == BAD else good)(talk)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.parametrize("attack", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_server_of_no_use_is_told_of_in_one_sentence(attack: Attack) -> None:
    with serving(attack) as server:
        with pytest.raises(UserError) as caught:
            _ = writer(server.url).identity
        said = told(caught.value)
    assert said.startswith(f"the server at 127.0.0.1:{server.port} ")
    assert server.sent < MOST
    assert not server.outlasted


@pytest.mark.parametrize("attack", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_one_answer_of_no_use_costs_one_sentence(attack: Attack) -> None:
    with serving(only(attack)) as server:
        reasons = reasons_of(server.url)
    assert reasons.pop(BAD)
    assert set(reasons.values()) == {None}
    assert server.sent < MOST
    assert not server.outlasted


@pytest.mark.parametrize("attack", GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
def test_an_odd_answer_is_an_answer(attack: Attack, tmp_path: Path) -> None:
    with serving(attack) as server:
        tally = planned(server.url, tmp_path)
    assert 0 <= tally.tokens < 1000
    assert 0 <= tally.prompt_tokens < 1000
    assert type(tally.tokens) is type(tally.prompt_tokens) is int


@pytest.mark.parametrize("content", USELESS_TEXTS.values(), ids=USELESS_TEXTS)
def test_what_a_model_writes_costs_at_most_its_sentence(content: Any) -> None:
    with serving(only(message({"role": "assistant", "content": content}))) as server:
        reasons = reasons_of(server.url)
    assert reasons.pop(BAD)
    assert set(reasons.values()) == {None}


def test_nothing_compressed_is_asked_for() -> None:
    with serving() as server:
        _ = writer(server.url).identity
    assert {talk.headers["accept-encoding"] for talk in server.talks} == {"identity"}


@pytest.mark.parametrize("status", ["301 There", "302 There", "303 There", "307 There", "308 There"])
def test_key_and_sentences_stay_with_the_server_that_was_named(status: str) -> None:
    with serving() as other:
        sends_on = raw(
            "", status=status, location=f"http://me:hushhush@127.0.0.1:{other.port}/v1/chat/completions?key=hushhush"
        )
        with serving(sends_on) as server, pytest.raises(UserError) as caught:
            _ = writer(server.url).identity
        assert not other.talks
    said = told(caught.value)
    assert f"http://127.0.0.1:{other.port}/v1/chat/completions" in said
    assert "hushhush" not in said


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("401 Who", {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
        ("403 No", {"error": {"message": f"{KEY} may not"}}),
        ("404 No", {"error": {"message": f"no such path for {KEY}"}}),
        ("500 Oh", {"error": {"message": f"Traceback: headers = {{'Authorization': 'Bearer {KEY}'}}"}}),
        ("400 No", {"detail": f"me:word@ and {KEY}"}),
        ("429 Full", {"error": {"message": f"quota of {KEY} is used up"}}),
    ],
)
def test_a_key_that_the_server_repeats_is_not_repeated_here(status: str, body: dict[str, Any]) -> None:
    with serving(raw(json.dumps(body), status=status)) as server, pytest.raises(UserError) as caught:
        _ = writer(server.url).identity
    told(caught.value)


@pytest.mark.parametrize(
    "key", ["sesame\nx: y", "sesame\r", "s\u00e9same", "sesame\x00", "\ud800sesame", "ses ame\x1b"]
)
def test_a_key_that_no_header_can_hold(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not key.isascii() or "\x00" in key:
        monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server:
        try:
            _ = writer(server.url).identity
        except UserError as error:
            said = told(error)
            assert "OPENAI_API_KEY" in said
            assert "same" not in said
        assert all(talk.headers["authorization"] in ("Bearer sesame", "Bearer s\u00e9same") for talk in server.talks)


ADDRESSES = [
    "", " ", "localhost:8000", "http://", "http:///v1", "https://:8000/v1", "ftp://x/v1", "file:///etc/passwd",
    "http://[::1", "http://::1]/v1", "http://[::1]x/v1", "http://[zz]/v1", "http://x:99999/v1", "http://x:-1/v1",
    "http://x:eight/v1", "http://local host/v1", " http://x/v1", "http://x/v1\n", "http://x/\x1b[31mv1", "http://x\x00/v1",
    "http://x/v1\r\nX-Evil: 1", "http://\u202ex/v1", "http://\ud800/v1", "javascript:alert(1)", "http:x", "//x/v1",
    "http://" + "a" * 300 + "/v1", "http://..../v1", "http://a\u3002\u3002b/v1", "\x1b]0;owned\x07",
    "http://x:" + "1" * 5000 + "/v1", "http://" + "x" * 100_000, "unix:///run/x.sock", "http://x^y/v1", "http://<x>/v1",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=[ascii(a)[1:31] for a in ADDRESSES])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UserError, match="is no address of a server") as caught:
        _ = writer(address).identity
    told(caught.value)


SECRETS = [
    "http://me:hushhush@{host}/v1", "http://hushhush@{host}/v1", "http://{host}/v1?key=hushhush",
    "http://me:hushhush@{host}/v1?key=hushhush#hushhush", "http://me:hush%40hushhush@{host}/v1",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
@pytest.mark.parametrize(
    "attack",
    [
        raw("{}", status="404 No"),
        raw("{}", status="500 Oh"),
        raw("{}", status="401 Who"),
        raw("{}", status="400 No"),
        raw("x"),
        lambda talk: None,
        lambda talk: talk.send(http({"error": {"message": f"{talk.path} {talk.headers}"}}, "500 Oh")),
        lambda talk: talk.send(http("", "307 There", location=f"http://me:hushhush@127.0.0.1{talk.path}")),
    ],
    ids=["404", "500", "401", "400", "no JSON", "closed", "repeated", "redirected"],
)
def test_what_is_secret_in_an_address_is_not_repeated(address: str, attack: Attack) -> None:
    with serving(attack) as server, pytest.raises(UserError) as caught:
        _ = writer(address.format(host=f"127.0.0.1:{server.port}")).identity
    assert "hushhush" not in told(caught.value)
    assert server.talks


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hushhush@[::1/v1", "http://me:hushhush@x:99999/v1", "htp://me:hushhush@x/v1", "me:hushhush@x",
        "http://x y/?key=hushhush", "http://me:hush/hushhush@x/v1", "http://me:hush?hushhush@x/v1",
        "http://me:hush hushhush@x/v1", "http://x:99999/v1?key=hushhush", "http://x y/v1#hushhush",
    ],
)  # fmt: skip
def test_what_is_secret_in_no_address_is_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match="is no address of a server") as caught:
        _ = writer(address).identity
    assert "hushhush" not in told(caught.value)


def test_user_and_query_of_an_address_reach_its_server_and_no_file(tmp_path: Path) -> None:
    with serving() as server:
        planned(f"http://me:hushhush@127.0.0.1:{server.port}/v1?key=hushhush", tmp_path)
    assert {talk.path for talk in server.talks} == {"/v1/chat/completions?key=hushhush"}
    assert all(talk.headers["authorization"].startswith("Basic ") for talk in server.talks)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hush" not in path.read_bytes()


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(UserError, match="cannot be reached") as caught:
        _ = writer("http://nobody.invalid/v1", timeout=5.0).identity
    told(caught.value)


def test_a_port_that_listens_and_takes_nobody_in() -> None:
    """Its queue is full: connecting itself does not end."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        with pytest.raises(UserError, match=r"did not answer within 0.5 s|cannot be reached") as caught:
            _ = writer(f"http://127.0.0.1:{port}/v1").identity
        for each in waiting:
            each.close()
    told(caught.value)
