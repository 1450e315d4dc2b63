"""An OpenAI-compatible server on loopback that misbehaves as told; every sentence that it is asked is written down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | str  # status and JSON (or text); "cut": half an answer; "hang": none in time
Behaviour = Callable[[str, dict[str, Any], int], Reply]  # of the sentence, the request and how often it was asked


def steps_of(text: str) -> str:
    """An answer that any checker accepts: the whole sentence is one edit."""
    return json.dumps({"steps": [{"operation": "keep", "phrase": text, "concepts": [], "implied": []}]})


def completion(content: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content} | message,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def good(text: str, request: dict[str, Any], asked: int) -> Reply:
    return 200, completion(steps_of(text))


class Loopback:
    """``asked``: sentences in the order in which they came; ``requests``: their bodies; ``keys``: what came along."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class _Handler(BaseHTTPRequestHandler):
    loopback: Loopback
    protocol_version = "HTTP/1.0"  # a connection per question: a server that ends is really gone

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][-1]["content"].split("\n", 1)[1]
        own = self.loopback
        with own.lock:
            own.asked.append(text)
            own.requests.append(request)
            own.keys.add(self.headers.get("Authorization"))
            times = own.asked.count(text)
        reply = own.behaviour(text, request, times)
        if reply == "hang":
            time.sleep(2)
            self.close_connection = True
            return
        if reply == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"id": "1", "choi')
            self.close_connection = True
            return
        assert isinstance(reply, tuple)
        status, body = reply
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


@contextmanager
def serving(behaviour: Behaviour = good, port: int = 0) -> Iterator[Loopback]:
    """The server, in threads of this process, for the time of the block."""
    loopback = Loopback(behaviour)
    handler = type("Handler", (_Handler,), {"loopback": loopback})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *about: None  # type: ignore[method-assign]
    loopback.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
