"""The address of a server: what is one, what of it may be shown, and what is hidden wherever it comes back.

User names, passwords and queries of an address are often keys. They go to the server and nowhere else: to no message,
log or file.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from neucore_xl.errors import UserError

EXAMPLE = "http://localhost:8000/v1"
HIDDEN = "…"
_LABEL = re.compile(r"[\w-]{1,63}")


@dataclass(frozen=True)
class Address:
    """``url`` has user and password but no query; ``shown`` has neither; ``host`` is what a sentence calls it."""

    url: str
    shown: str
    host: str
    query: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, option: str = "--endpoint") -> Address:
        """``text`` as an address; raises ``UserError``, which repeats it only where it cannot hold a secret."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:  # brackets, the port
            raise _no_address(text, option) from None
        place = f"[{host}]" if ":" in host else host
        named = place + (f":{port}" if port is not None else "")
        strange = any(c.isspace() or not c.isprintable() for c in text)
        if strange or parts.scheme not in ("http", "https") or not _is_host(host) or port == 0:
            raise _no_address(text, option)
        user, at, network = parts.netloc.rpartition("@")
        if network.lower().rstrip(":") != named:  # something behind the brackets, zeros before the port
            raise _no_address(text, option)
        path = parts.path.rstrip("/")
        secrets = {*query.values(), *parts.query.split("&")}
        if user:
            words = [unquote(word) for word in user.split(":", 1)]
            secrets |= {user, *user.split(":", 1), *words, base64.b64encode(":".join(words).encode()).decode()}
        return cls(
            url=f"{parts.scheme}://{user}{at}{network}{path}",
            shown=f"{parts.scheme}://{named}{path}",
            host=named,
            query=query,
            secrets=tuple(sorted(secrets - {""}, key=len, reverse=True)),
        )

    def hide(self, text: str, *more: str) -> str:
        """``text`` without the secrets of this address and ``more``, where they stand as words of their own."""
        for secret in (*more, *self.secrets):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
        return text


def shown_address(text: str) -> str:
    """An address that somebody else wrote, such as where a server redirects to, without user, password and query."""
    try:
        return Address.parse(text).shown
    except UserError:
        return text[:60] if _harmless(text) else HIDDEN


def _no_address(text: str, option: str) -> UserError:
    shown = f" {text[:100]!r}" if _harmless(text) else ""
    why = "" if shown else " (it is not repeated here, for it may hold a password)"
    return UserError(f"{option}{shown} is no address of a server, such as {EXAMPLE}{why}")


def _harmless(text: str) -> bool:
    return not any(c in text for c in "@?#=")


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return False
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
