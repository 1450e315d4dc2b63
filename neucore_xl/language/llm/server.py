"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, ``transformers serve``, …), many questions at a time.

After refused connections, answers that do not come in time or are of no use, full queues and errors of the server it is
asked again, with growing pauses. When that does not help, one harmless question tells a server that is down
(``UserError``: the run goes on later) from one that cannot cope with this one sentence.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent
from neucore_xl.language.llm.address import Address, shown_address
from neucore_xl.language.llm.answers import Answer
from neucore_xl.language.llm.client import Reply, Unfit, open_client, read_reply, work_of
from neucore_xl.language.llm.prompt import Prompt
from neucore_xl.language.llm.wire import json_schema

if TYPE_CHECKING:
    from openai import AsyncOpenAI

API_KEY = "OPENAI_API_KEY"  # environment variable; servers of one's own rarely ask for one
TIMEOUT = 120.0  # seconds for one answer, from connecting to its last byte
LONGEST_TIMEOUT = 86_400.0
SIZE = 8 << 20  # bytes of one answer: thirty times what a model of a long context can write
SMALLEST_SIZE, LARGEST_SIZE = 4096, 1 << 30
RETRIES = 6  # pauses of 0.5, 1, 2, 4, 8, 8 s
HARMLESS = "Make it red."

_FORMATS = ("json_schema", "json_object", "none")  # what is asked of a server, the strictest that it takes
_OF_THE_SENTENCE = (400, 413, 422)  # statuses by which a server refuses what it was asked
_PASSING = (408, 409, 429)  # statuses that may be others a little later, as those from 500 on
_LONGEST_PAUSE = 8.0
_LONGEST_ASKED = 60.0  # seconds that a server may ask to be left alone for


class _Trouble(Exception):
    """What became of a question, all retries included: ``status`` of HTTP where there was one, and what to do."""

    def __init__(self, what: str, status: int | None = None, *, advice: str = "") -> None:
        super().__init__(what)
        self.status, self.advice = status, advice


class ServerWriter:
    """Answers of ``model`` at ``endpoint`` (``http://host:port/v1``), ``parallel`` questions at a time.

    ``revision`` is a label of your own: the server says nothing of its weights. The key comes from the environment
    (``OPENAI_API_KEY``). The endpoint is no part of the identity: the same model may answer elsewhere next time.
    ``timeout``: seconds until a whole answer must be there; ``size``: its most bytes. Raises ``UserError`` for an
    ``endpoint`` that is no address and a key that cannot be sent; all else is found when the first answer is asked for.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        prompt: Prompt,
        revision: str | None = None,
        parallel: int = 8,
        timeout: float = TIMEOUT,
        size: int = SIZE,
        retries: int = RETRIES,
        max_steps: int,
        max_new_tokens: int,
    ) -> None:
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise UserError(f"--timeout {timeout:g}: give seconds above 0, at most {LONGEST_TIMEOUT:g}")
        if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
            raise UserError(f"--max-answer-bytes {size}: give a number from {SMALLEST_SIZE} to {LARGEST_SIZE}")
        self.address = Address.parse(endpoint)
        self.model, self.revision, self.prompt = model, revision, prompt
        self.parallel, self.timeout, self.size, self.retries = max(1, parallel), timeout, size, retries
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self._key = _key()
        self._server = f"the server at {self.address.host}"
        self._format: str | None = None  # of _FORMATS, once the server was asked
        self._limit = "max_tokens"

    @property
    def identity(self) -> dict[str, Any]:
        """Asks the server, once, how strictly it holds a model to a form; raises ``UserError`` if it is silent."""
        if self._format is None:
            client = self._client()
            with work_of(client) as begin:
                self._format = begin(self._find_format(client)).result()
        return {
            "writer": "server",
            "model": self.model,
            "revision": self.revision,
            "prompt": self.prompt.version,
            "decoding": {
                "form": "objects",
                "response_format": self._format,
                "temperature": 0,
                "max_steps": self.max_steps,
                "max_new_tokens": self.max_new_tokens,
            },
        }

    def write(self, texts: Sequence[str]) -> Iterator[list[Answer]]:
        """Answers as they come in. Raises ``UserError`` when the server gives up; what came before was handed on."""
        _ = self.identity
        client = self._client()
        waiting = iter(texts)
        running: set[Future[Answer]] = set()
        with work_of(client) as begin:
            while True:
                while len(running) < self.parallel and (text := next(waiting, None)) is not None:
                    running.add(begin(self._answer(client, text)))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                failures = [error for each in done if (error := each.exception()) is not None]
                if answers := [each.result() for each in done if each.exception() is None]:
                    yield answers
                if failures:
                    raise failures[0]

    async def _answer(self, client: AsyncOpenAI, text: str) -> Answer:
        try:
            reply = await self._ask(client, text, self._format or "none", self.max_new_tokens, self.retries)
        except _Trouble as trouble:
            await self._require_alive(client, trouble)
            why = "refused by the server" if trouble.status in _OF_THE_SENTENCE else "not answered by the server"
            return Answer(text, "", failure=f"{why} (HTTP {trouble.status})" if trouble.status else why)
        failure = None
        if reply.finish == "content_filter" or reply.refused:
            failure = "filtered by the server"
        elif reply.finish == "length":
            failure = "cut short"
        return Answer(text, reply.content, prompt_tokens=reply.prompt_tokens, tokens=reply.tokens, failure=failure)

    async def _ask(self, client: AsyncOpenAI, text: str, form: str, tokens: int, retries: int) -> Reply:
        """One completion of the right shape, or ``_Trouble``; raises ``UserError`` for what no retry can help."""
        pause = 0.5
        for left in range(retries, -1, -1):
            try:
                return await self._ask_once(client, text, form, tokens)
            except _Trouble as trouble:
                passing = trouble.status is None or trouble.status in _PASSING or trouble.status >= 500
                if not left or not passing:
                    raise
                asked = _asked_pause(trouble)
            await asyncio.sleep(pause if asked is None else asked)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("asked at least once")

    async def _ask_once(self, client: AsyncOpenAI, text: str, form: str, tokens: int) -> Reply:
        import openai

        messages: Any = self.prompt.messages(text, "objects")
        more: Any = {self._limit: tokens} | self._response_format(form)
        try:
            answer = await client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, temperature=0, **more
            )
            return read_reply(answer.content)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"{self._server} asks for a key (HTTP {error.status_code}): set {API_KEY} to one that it knows"
            ) from error
        except openai.NotFoundError as error:
            raise UserError(
                f"{self._server} knows no model {self.model!r} or no chat (HTTP 404: {self._said(error)}): ask it for "
                f"{self.address.shown}/models; most addresses end with /v1"
            ) from error
        except openai.APIStatusError as error:
            raise self._by_status(error) from error
        except openai.APITimeoutError as error:
            raise _Trouble(f"did not answer within {self.timeout:g} s") from error
        except BadContent as error:
            raise _Trouble("answers something that is no chat completion") from error
        except Exception as error:  # whatever the other side makes libraries stumble over
            cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
            if isinstance(cause, Unfit):
                raise _Trouble(str(cause)) from error
            what = " ".join(str(cause or error).split())[:200] or type(cause or error).__name__
            raise _Trouble(f"cannot be reached ({self._hidden(what)})") from error

    def _by_status(self, error: Any) -> _Trouble:
        """What an answer with an error's status means; its words are the server's own, short and on one line."""
        status = error.status_code
        if 300 <= status < 400:
            where = error.response.headers.get("location", "")
            to = shown_address(where)[:200] if where else "no address"
            return _Trouble(
                f"sends questions on to {self._hidden(to)} (HTTP {status}), where neither they nor a key are sent",
                status,
                advice="give --endpoint the address of a server that answers itself",
            )
        return _Trouble(f"answers HTTP {status} ({self._said(error)})", status)

    def _said(self, error: Any) -> str:
        body = getattr(error, "body", None)
        said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
        return self._hidden(" ".join((said if isinstance(said, str) else error.message).split())[:200])

    def _hidden(self, words: str) -> str:
        """``words`` of somebody else without the key and what is secret in the address."""
        return self.address.hide(words, *([self._key] if self._key else []))

    async def _require_alive(self, client: AsyncOpenAI, trouble: _Trouble) -> None:
        """Raises ``UserError`` unless the server answers a harmless question, now."""
        try:
            await self._ask(client, HARMLESS, self._format or "none", 16, retries=0)
        except _Trouble as again:
            asked = f"asked {self.retries + 1} times" if trouble.status not in _OF_THE_SENTENCE else "asked twice"
            raise UserError(f"{self._server} {again} ({asked})") from again

    async def _find_format(self, client: AsyncOpenAI) -> str:
        """The strictest response format that the server takes."""
        retries = min(self.retries, 2)
        refused = ""
        for form in _FORMATS:
            try:
                try:
                    await self._ask(client, HARMLESS, form, 16, retries)
                except _Trouble as trouble:
                    if "max_completion_tokens" not in str(trouble) or self._limit != "max_tokens":
                        raise
                    self._limit = "max_completion_tokens"  # what newer servers call the same
                    await self._ask(client, HARMLESS, form, 16, retries)
                return form
            except _Trouble as trouble:
                if trouble.status not in _OF_THE_SENTENCE:
                    see = f"see that it runs, answers at {self.address.shown} and holds the model {self.model!r}"
                    raise UserError(f"{self._server} {trouble}: {trouble.advice or see}") from trouble
                refused = refused or str(trouble)
        raise UserError(f"{self._server} refuses a harmless question: it {refused}")

    def _response_format(self, form: str) -> dict[str, Any]:
        if form == "none":
            return {}
        if form == "json_object":
            return {"response_format": {"type": "json_object"}}
        schema = {"name": "edits", "strict": True, "schema": json_schema(self.max_steps)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _client(self) -> AsyncOpenAI:
        return open_client(self.address, self._key or "none", seconds=self.timeout, size=self.size)


def _key() -> str:
    """The key of the environment; raises ``UserError``, without a word of it, where no header can hold it."""
    key = os.environ.get(API_KEY, "").strip()
    if not all("!" <= c <= "~" for c in key):
        raise UserError(
            f"{API_KEY} holds characters that a key cannot have (blanks, line breaks, accents): set it again"
        )
    return key


def _asked_pause(trouble: _Trouble) -> float | None:
    """The seconds for which the server asks to be left alone, if it says so in numbers and means a minute at most."""
    response = getattr(trouble.__cause__, "response", None)
    try:
        seconds = float(response.headers["retry-after"]) if response is not None else 0.0
    except (KeyError, ValueError):
        return None
    return seconds if 0 < seconds <= _LONGEST_ASKED else None
