"""The client of a model's server: one deadline for a whole answer, a bound on its size, and nothing that deceives.

An HTTP library's timeout is for each read, so a byte now and then keeps it waiting for ever; its answers have any
size, compressed ones a thousand times what was sent; and it goes wherever a server sends it. Here an answer is whole
within ``seconds`` and ``size`` bytes or there is none, a compressed one is refused, and nobody is sent anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from neucore_xl.errors import UserError
from neucore_xl.jsonfile import BadContent, parse_json
from neucore_xl.language.llm.address import Address

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

_MOST_TOKENS = 10**9  # more than that nobody has counted


class Unfit(Exception):
    """The answer is of no use; what is said goes on behind the name of the server."""


def open_client(address: Address, key: str, *, seconds: float, size: int) -> AsyncOpenAI:
    """The client of ``address``, which asks once and raises ``Unfit`` or what ``openai`` raises."""
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError as error:
        raise UserError("--endpoint needs the client library: pip install 'neucore-xl[llm]'") from error

    class Bounded(DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            try:
                return await asyncio.wait_for(self._whole(request, options), seconds)
            except asyncio.TimeoutError:
                raise Unfit(f"did not answer within {seconds:g} s") from None

        async def _whole(self, request: Any, options: dict[str, Any]) -> Any:
            response = await super().send(request, stream=True, **options)
            content = bytearray()
            try:
                if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
                    raise Unfit("sends a compressed answer, though it was asked for none")
                async for piece in response.aiter_raw():
                    content += piece
                    if len(content) > size:
                        raise Unfit(f"sends more than {size:,} bytes for one answer")
            finally:
                await response.aclose()
                self.cookies.clear()  # a server needs none, and one that sends thousands gets none back
            return type(response)(
                response.status_code, headers=response.headers, content=bytes(content), request=request
            )

    return AsyncOpenAI(
        base_url=address.url,
        api_key=key,
        timeout=seconds,
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},
        default_query=address.query,
        http_client=Bounded(timeout=seconds, follow_redirects=False),
    )


@dataclass(frozen=True)
class Reply:
    """A chat completion, as much of it as is looked at."""

    content: str
    finish: str
    refused: bool
    prompt_tokens: int
    tokens: int


def read_reply(body: bytes) -> Reply:
    """What the server wrote; raises ``BadContent`` where that is no chat completion. Its counts are not trusted."""
    data = parse_json(body, "the answer", dict)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise BadContent("the answer holds no message")
    content, refused = message.get("content"), bool(message.get("refusal"))
    if not isinstance(content, str | None) and not refused:
        raise BadContent("the content of the message is no text")
    usage, finish = data.get("usage"), choice.get("finish_reason")
    counted = usage if isinstance(usage, dict) else {}
    return Reply(
        content=content if isinstance(content, str) else "",
        finish=finish if isinstance(finish, str) else "",
        refused=refused,
        prompt_tokens=_count(counted.get("prompt_tokens")),
        tokens=_count(counted.get("completion_tokens")),
    )


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


@contextmanager
def work_of(client: AsyncOpenAI) -> Iterator[Callable[[Coroutine[Any, Any, T]], Future[T]]]:
    """Yields what begins to do something with ``client``; whatever is still under way at the end, ends at once.

    It is done in a thread of its own: answers come in while others are judged, and a signal interrupts whoever waits
    for them and never the work itself, which would leave it half done.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="asking", daemon=True)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop)
    finally:
        loop.call_soon_threadsafe(loop.set_exception_handler, lambda *about: None)  # nobody asks any more
        with suppress(TimeoutError, FutureTimeout):
            asyncio.run_coroutine_threadsafe(_leave(client), loop).result(2.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2.0)
        if not thread.is_alive():
            loop.close()


async def _leave(client: AsyncOpenAI) -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await client.close()
