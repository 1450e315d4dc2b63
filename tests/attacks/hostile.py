"""A server on loopback that says, byte by byte, whatever an attack wants to say to the question it was asked."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PATIENCE = 4.0  # seconds of dribbling: eight times what the tests wait for an answer


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Talk:
    """One connection, its question read: ``sentence``, ``path``, ``headers`` (lower case) and the whole ``request``."""

    def __init__(self, server: Server, connection: socket.socket, head: str, body: bytes) -> None:
        self.server, self.connection = server, connection
        lines = head.split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        self.request: dict[str, Any] = json.loads(body or b"{}")
        turns = self.request.get("messages") or [{"content": "\n"}]
        self.sentence: str = turns[-1]["content"].partition("\n")[2]
        self.sent = 0
        self.after: tuple[int, Callable[[], None]] | None = None  # what happens when so many pieces have trickled

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.sendall(piece)
            self.sent += len(piece)

    def wait(self, seconds: float) -> None:
        """Say nothing for so long."""
        if self.after is not None:
            self.after[1]()
        self.server.over.wait(seconds)

    def trickle(self, pieces: Iterator[bytes], pause: float = 0.02, patience: float = PATIENCE) -> None:
        """``pieces`` with a pause before each, until the other side has had enough: who has not is ``outlasted``."""
        end = time.monotonic() + patience
        while not self.server.over.wait(pause):
            self.send(next(pieces))
            if self.after is not None:
                left, act = self.after
                self.after = (left - 1, act) if left > 1 else None
                if left == 1:
                    act()
            if time.monotonic() > end:
                self.server.outlasted = True
                return

    def flood(self, piece: bytes, most: int) -> None:
        while self.sent < most and not self.server.over.is_set():
            self.send(piece)


Attack = Callable[[Talk], None]


def http(body: bytes | str | dict[str, Any], status: str = "200 OK", **headers: str | None) -> bytes:
    """A whole answer; ``content_length="9"`` and the like replace headers, None leaves one out."""
    if isinstance(body, dict):
        body = json.dumps(body)
    raw = body if isinstance(body, bytes) else body.encode()
    named: dict[str, str | None] = {"content_type": "application/json", "content_length": str(len(raw))} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode("latin-1") + raw


def steps_of(text: str) -> str:
    """What a good model would write: the whole sentence is one edit."""
    return json.dumps({"steps": [{"operation": "keep", "phrase": text, "concepts": [], "implied": []}]})


def completion(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": steps_of(text)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice], "usage": usage,
    } | more  # fmt: skip


def good(talk: Talk) -> None:
    talk.send(http(completion(talk.sentence)))


class Server:
    """``asked``: sentences in the order in which they came; ``sent``: bytes of the longest answer;
    ``outlasted``: whether somebody listened to it for longer than anybody should."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.over = threading.Event()
        self.outlasted = False
        self.asked: list[str] = []
        self.talks: list[Talk] = []
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.05)
        self.port = int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def sent(self) -> int:
        return max((talk.sent for talk in self.talks), default=0)

    def serve(self) -> None:
        while not self.over.is_set():
            with suppress(OSError):  # nobody yet
                connection, _ = self.listener.accept()
                thread = threading.Thread(target=self._talk, args=(connection,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, StopIteration):
            connection.settimeout(5)
            raw = b""
            while b"\r\n\r\n" not in raw and (piece := connection.recv(1 << 16)):
                raw += piece
            head, _, body = raw.partition(b"\r\n\r\n")
            length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
            while len(body) < length and (piece := connection.recv(1 << 16)):
                body += piece
            if not head:
                return
            talk = Talk(self, connection, head.decode("latin-1"), body)
            self.talks.append(talk)
            self.asked.append(talk.sentence)
            self.attack(talk)


@contextmanager
def serving(attack: Attack = good) -> Iterator[Server]:
    """The server, in threads of this process, for the time of the block."""
    server = Server(attack)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.listener.close()
        thread.join(5)
        for each in server.threads:
            each.join(5)


def forever(*pieces: bytes) -> Iterator[bytes]:
    while True:
        yield from pieces


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
