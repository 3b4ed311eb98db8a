"""Who may talk to the page's server: this machine's browser, with the address that was printed, and nobody else."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 8 * 2**20  # of what a page may send; a mask of 2048 x 2048 is half of it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """Lets through what has the token as the first part of its path and one of `hosts` as its host.

    A page of another site can neither read nor write here: its requests name another host (also where its name was
    made to point to this machine) or another origin, and it can't know the token.
    """

    def __init__(self, app: App, token: str, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        refused = self._refused(scope)
        if refused is not None:
            return await _answer(send, *refused)
        prefix = f"/{self.token}"
        inner = {**scope, "root_path": scope.get("root_path", "") + prefix}

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        return await self.app(inner, receive, guarded)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if host not in self.hosts:
            return 403, "this page is answered to under the address that was printed only"
        first = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        if not secrets.compare_digest(first.encode(), self.token.encode()):
            return 404, "not found"
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get("origin", f"http://{host}") != f"http://{host}":
                return 403, "another site may not decide here"
            if not headers.get("content-length", "").isdigit() or int(headers["content-length"]) > MOST_BYTES:
                return 413, f"say how long it is, at most {MOST_BYTES} bytes"
        return None


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
