"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, ``transformers serve``, …), many questions at a time.

The client library waits and asks again after refused connections, timeouts, full queues and errors of the server, with
growing pauses; what comes back and is no completion is asked for again here. When that does not help either, one
harmless question tells a server that is down (``UserError``: the run goes on later) from one that cannot cope with
this one sentence.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from neucore_xl.errors import UserError
from neucore_xl.language.llm.answers import Answer
from neucore_xl.language.llm.prompt import Prompt
from neucore_xl.language.llm.wire import json_schema

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

API_KEY = "OPENAI_API_KEY"  # environment variable; servers of one's own rarely ask for one
TIMEOUT = 120.0  # seconds for one answer
RETRIES = 6  # pauses of 0.5, 1, 2, 4, 8, 8 s
HARMLESS = "Make it red."

_FORMATS = ("json_schema", "json_object", "none")  # what is asked of a server, the strictest that it takes
_OF_THE_SENTENCE = (400, 413, 422)  # statuses by which a server refuses what it was asked
_LONGEST_PAUSE = 8.0


class _Trouble(Exception):
    """What became of a question, all retries included; ``status`` of HTTP where there was one."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


class ServerWriter:
    """Answers of ``model`` at ``endpoint`` (``http://host:port/v1``), ``parallel`` questions at a time.

    ``revision`` is a label of your own: the server says nothing of its weights. The key comes from the environment
    (``OPENAI_API_KEY``). The endpoint is no part of the identity: the same model may answer elsewhere next time.
    Raises ``UserError`` for an ``endpoint`` that is no address; all else is found when the first answer is asked for.
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
        retries: int = RETRIES,
        max_steps: int,
        max_new_tokens: int,
    ) -> None:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(f"--endpoint {endpoint!r} is no address of a server, such as http://localhost:8000/v1")
        self.endpoint, self.model, self.revision, self.prompt = endpoint.rstrip("/"), model, revision, prompt
        self.parallel, self.timeout, self.retries = max(1, parallel), timeout, retries
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self._server = f"the server at {address.hostname}" + (f":{address.port}" if address.port else "")
        self._format: str | None = None  # of _FORMATS, once the server was asked
        self._limit = "max_tokens"

    @property
    def identity(self) -> dict[str, Any]:
        """Asks the server, once, how strictly it holds a model to a form; raises ``UserError`` if it is silent."""
        if self._format is None:
            self._format = _run(self._find_format())
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
        loop = asyncio.new_event_loop()
        client = self._client()
        waiting = iter(texts)
        running: set[asyncio.Task[Answer]] = set()
        try:
            while True:
                while len(running) < self.parallel and (text := next(waiting, None)) is not None:
                    running.add(loop.create_task(self._answer(client, text)))
                if not running:
                    return
                done, running = loop.run_until_complete(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                failures = [error for task in done if (error := task.exception()) is not None]
                if answers := [task.result() for task in done if task.exception() is None]:
                    yield answers
                if failures:
                    raise failures[0]
        finally:
            loop.run_until_complete(_leave(client))
            loop.close()

    async def _answer(self, client: AsyncOpenAI, text: str) -> Answer:
        try:
            completion = await self._ask(client, text, self._format or "none", self.max_new_tokens)
        except _Trouble as trouble:
            await self._require_alive(client, trouble)
            why = "refused by the server" if trouble.status in _OF_THE_SENTENCE else "not answered by the server"
            return Answer(text, "", failure=f"{why} (HTTP {trouble.status})" if trouble.status else why)
        choice, usage = completion.choices[0], completion.usage
        failure = None
        if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
            failure = "filtered by the server"
        elif choice.finish_reason == "length":
            failure = "cut short"
        return Answer(
            text,
            choice.message.content or "",
            prompt_tokens=usage.prompt_tokens if usage else 0,
            tokens=usage.completion_tokens if usage else 0,
            failure=failure,
        )

    async def _ask(self, client: AsyncOpenAI, text: str, form: str, tokens: int) -> ChatCompletion:
        """One completion of the right shape, or ``_Trouble``; raises ``UserError`` for what no retry can help."""
        import openai

        messages: Any = self.prompt.messages(text, "objects")
        more: Any = {self._limit: tokens} | self._response_format(form)
        pause = 0.5
        for attempt in range(client.max_retries + 1):
            if attempt:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                completion = await client.chat.completions.create(
                    model=self.model, messages=messages, temperature=0, **more
                )
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UserError(
                    f"{self._server} asks for a key (HTTP {error.status_code}): set {API_KEY} to one that it knows"
                ) from error
            except openai.NotFoundError as error:
                raise UserError(
                    f"{self._server} knows no model {self.model!r} or no chat (HTTP 404: {_said(error)}): ask it for "
                    f"{self.endpoint}/models; most addresses end with /v1"
                ) from error
            except openai.APIStatusError as error:
                what = f"answers HTTP {error.status_code} ({_said(error)})"
                raise _Trouble(what, error.status_code) from error
            except openai.APITimeoutError as error:
                raise _Trouble(f"did not answer within {self.timeout:g} s") from error
            except openai.APIConnectionError as error:
                raise _Trouble(f"cannot be reached ({error.__cause__ or error})") from error
            except (openai.APIError, ValueError, TypeError):  # not JSON, though it says so
                continue
            if _is_completion(completion):
                return completion
        raise _Trouble("answers something that is no chat completion")

    async def _require_alive(self, client: AsyncOpenAI, trouble: _Trouble) -> None:
        """Raises ``UserError`` unless the server answers a harmless question, now."""
        try:
            await self._ask(client.with_options(max_retries=0), HARMLESS, self._format or "none", 16)
        except _Trouble as again:
            asked = f"asked {self.retries + 1} times" if trouble.status not in _OF_THE_SENTENCE else "asked twice"
            raise UserError(f"{self._server} {again} ({asked})") from again

    async def _find_format(self) -> str:
        """The strictest response format that the server takes."""
        async with self._client(retries=min(self.retries, 2)) as client:
            refused = ""
            for form in _FORMATS:
                try:
                    try:
                        await self._ask(client, HARMLESS, form, 16)
                    except _Trouble as trouble:
                        if "max_completion_tokens" not in str(trouble) or self._limit != "max_tokens":
                            raise
                        self._limit = "max_completion_tokens"  # what newer servers call the same
                        await self._ask(client, HARMLESS, form, 16)
                    return form
                except _Trouble as trouble:
                    if trouble.status not in _OF_THE_SENTENCE:
                        raise UserError(
                            f"{self._server} {trouble}: see that it runs, answers at {self.endpoint} and holds the "
                            f"model {self.model!r}"
                        ) from trouble
                    refused = refused or str(trouble)
        raise UserError(f"{self._server} refuses a harmless question: it {refused}")

    def _response_format(self, form: str) -> dict[str, Any]:
        if form == "none":
            return {}
        if form == "json_object":
            return {"response_format": {"type": "json_object"}}
        schema = {"name": "edits", "strict": True, "schema": json_schema(self.max_steps)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _client(self, retries: int | None = None) -> AsyncOpenAI:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise UserError("--endpoint needs the client library: pip install 'neucore-xl[llm]'") from error
        return AsyncOpenAI(
            base_url=self.endpoint,
            api_key=os.environ.get(API_KEY) or "none",
            timeout=self.timeout,
            max_retries=self.retries if retries is None else retries,
        )


async def _leave(client: AsyncOpenAI) -> None:
    """End whatever is still under way, a wait that a signal broke off included."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await client.close()


def _is_completion(answer: Any) -> bool:
    """Whether there is a message to read: the client takes any JSON for a completion."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        return False
    message = getattr(choices[0], "message", None)
    return isinstance(getattr(message, "content", 0), str | None) or bool(getattr(message, "refusal", None))


def _said(error: Any) -> str:
    """The server's own words, short and on one line."""
    body = getattr(error, "body", None)
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    return " ".join(str(said or error.message).split())[:200]


def _run(coroutine: Coroutine[Any, Any, str]) -> str:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
