"""Who may ask over HTTP: pure decisions on a request's head, and the ASGI shell that applies them.

A web page in the user's browser can send requests to this machine, under a name of its own choice. So the guard looks
at Host (DNS rebinding), Origin and Sec-Fetch-Site (requests of other sites). Where a key is set, it asks for it: in a
header from programs, in a signed cookie from browsers (see `login`).
"""

import json
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from refresh_pipeline.api.login import COOKIE, LOGIN, Keys, login_page, session_cookie

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
READING = ("GET", "HEAD")
OTHER_SITES = ("cross-site", "same-site")
HTTP_PORT = 80
# A form with one key in it.
LONGEST_FORM = 4096
# Wrong keys that one address may try in a minute.
WRONG_KEYS_A_MINUTE = 10
POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered: an HTTP status, a name for programs, a sentence for people."""

    status: int
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head, as decisions need it. Header names are in lower case."""

    kind: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> "Head":
        """The head of an ASGI scope. A header that is sent twice has both values, which match nothing allowed."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        query = scope.get("query_string", b"").decode("latin-1")
        return cls(scope["type"], scope.get("method", "GET"), scope["path"], query, headers)

    @property
    def parts(self) -> list[str]:
        """The path's names; a doubled or closing slash makes none."""
        return [part.lower() for part in self.path.split("/") if part]


@dataclass(frozen=True, slots=True)
class Rules:
    """What one server answers: under which host names, and which of its paths are special.

    `mutating` paths hold what a GET may change (Dagster's GraphQL): they take POST of JSON alone. Paths that begin with
    one of `closed` are answered to nobody. `public` paths need no key.
    """

    hosts: frozenset[str]
    mutating: frozenset[str] = frozenset()
    closed: tuple[str, ...] = ()
    public: frozenset[str] = frozenset()


def host_names(port: int, further: Iterable[str] = ()) -> frozenset[str]:
    """The values of Host that a server on this port answers.

    >>> sorted(host_names(3000, ["Candles.example.org"]))
    ['127.0.0.1:3000', '[::1]:3000', 'candles.example.org', 'localhost:3000']
    """
    own = {f"{name}:{port}" for name in LOOPBACK} | (set(LOOPBACK) if port == HTTP_PORT else set())
    return frozenset(own | {name.strip().lower() for name in further if name.strip()})


def refusal(head: Head, rules: Rules) -> Refusal | None:
    """Why this request is not answered, whoever sent it; None where it may be."""
    return _foreign_host(head, rules) or _foreign_site(head, rules) or _closed(head, rules)


def _foreign_host(head: Head, rules: Rules) -> Refusal | None:
    host = head.headers.get("host", "")
    if host.lower() in rules.hosts:
        return None
    allowed = ", ".join(sorted(rules.hosts))
    return Refusal(
        421, "host-not-allowed", f"Host: found {host!r}, allowed: {allowed}; add a name by REFRESH_API_HOSTS"
    )


def _foreign_site(head: Head, rules: Rules) -> Refusal | None:
    origin = head.headers.get("origin")
    if origin is None and head.kind == "websocket":
        return Refusal(403, "origin-not-allowed", "a WebSocket needs an Origin")
    if origin is not None and not _is_ours(origin, rules):
        return Refusal(403, "origin-not-allowed", f"Origin: found {origin!r}; only pages of this server may ask")
    if head.headers.get("sec-fetch-site") in OTHER_SITES and not _is_navigation(head, rules):
        return Refusal(403, "origin-not-allowed", "another site's page asked; only pages of this server may ask")
    return None


def _is_ours(origin: str, rules: Rules) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() in rules.hosts


def _is_navigation(head: Head, rules: Rules) -> bool:
    """Whether somebody followed a link: the page is shown, the site that holds the link learns nothing of it."""
    is_page = head.method == "GET" and not rules.mutating.intersection(head.parts)
    return is_page and head.headers.get("sec-fetch-mode") == "navigate"


def _closed(head: Head, rules: Rules) -> Refusal | None:
    if any(part.startswith(rules.closed) for part in head.parts if rules.closed):
        return Refusal(403, "closed", f"{head.path}: this path is closed")
    if head.kind == "http" and rules.mutating.intersection(head.parts):
        return _unsafe_question(head)
    return None


def _unsafe_question(head: Head) -> Refusal | None:
    if head.method != "POST":
        return Refusal(405, "method-not-allowed", f"{head.path}: found {head.method}, allowed: POST")
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Refusal(
            415, "unsupported-media-type", f"{head.path}: found {kind or 'no type'}, allowed: application/json"
        )
    if any(name == "query" for name, _ in parse_qsl(head.query, keep_blank_values=True)):
        return Refusal(400, "invalid-parameter", f"{head.path}: the query belongs into the body, not into the address")
    return None


@dataclass(slots=True)
class _WrongKeys:
    """How often each address tried a wrong key within the last minute."""

    tries: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def note(self, address: str, now: float) -> None:
        self.tries[address].append(now)

    def too_many(self, address: str, now: float) -> bool:
        tries = self.tries.get(address)
        if tries is None:
            return False
        while tries and tries[0] <= now - 60:
            tries.popleft()
        if not tries:
            del self.tries[address]
        return len(tries) >= WRONG_KEYS_A_MINUTE


class Guard:
    """An ASGI app in front of another: refuses what the rules forbid, asks for a key where one is set."""

    def __init__(self, app: App, rules: Rules, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._app, self._rules, self._keys, self._clock = app, rules, keys, clock
        self._wrong_keys = _WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        head, address = Head.of(scope), str((scope.get("client") or ("",))[0])
        reason = refusal(head, self._rules)
        if reason is None and self._keys and head.path not in self._rules.public:
            if head.kind == "http" and head.path == LOGIN:
                await self._log_in(head, address, receive, send)
                return
            reason = self._unauthorized(head, address)
        if reason is None:
            await self._app(scope, receive, _unframed(send))
        elif head.kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason.name})
        elif reason.status == 401 and _is_from_a_person(head):
            await _redirect(send, f"{LOGIN}?next={quote(head.path)}")
        else:
            await _refuse(send, reason)

    def _unauthorized(self, head: Head, address: str) -> Refusal | None:
        if self._keys.session_is_valid(_cookie(head.headers.get("cookie", "")), self._clock()):
            return None
        given = _key_of(head.headers)
        if given is None:
            return Refusal(
                401, "unauthorized", "a key is needed: X-API-Key or Authorization: Bearer, or log in at /login"
            )
        return self._wrong_key(given, address)

    def _wrong_key(self, given: str, address: str) -> Refusal | None:
        now = self._clock()
        if self._wrong_keys.too_many(address, now):
            return Refusal(429, "rate-limited", "too many wrong keys; wait a minute")
        if self._keys.match(given):
            return None
        self._wrong_keys.note(address, now)
        return Refusal(401, "unauthorized", "the key is wrong; REFRESH_API_KEY of the server has the right one")

    async def _log_in(self, head: Head, address: str, receive: Receive, send: Send) -> None:
        following = _local_path(dict(parse_qsl(head.query)).get("next", "/"))
        if head.method != "POST":
            await _page(send, 200, login_page(following, ""))
            return
        reason = self._wrong_key(await _form_key(receive), address)
        if reason is not None:
            await _page(send, reason.status, login_page(following, reason.detail))
            return
        now = self._clock()
        cookie = session_cookie(self._keys.session(now), secure=_is_https(head.headers.get("origin", "")))
        await _redirect(send, following, [(b"set-cookie", cookie.encode())])


def _is_from_a_person(head: Head) -> bool:
    return head.method == "GET" and "text/html" in head.headers.get("accept", "")


def _is_https(origin: str) -> bool:
    return origin.startswith("https://")


def _key_of(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else None) or None


def _cookie(header: str) -> str:
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


def _local_path(path: str) -> str:
    """A path of this server, whatever was asked for.

    >>> _local_path("/runs?x=1"), _local_path("//evil.example"), _local_path("https://evil.example")
    ('/runs?x=1', '/', '/')
    """
    parts = urlsplit(path)
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc
    return path if is_local and path.isprintable() else "/"


async def _form_key(receive: Receive) -> str:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST_FORM or message["type"] != "http.request" or not message.get("more_body"):
            return dict(parse_qsl(body[:LONGEST_FORM].decode("latin-1"))).get("key", "")


def _unframed(send: Send) -> Send:
    """The same, with headers that keep other pages from framing the answer or guessing its type."""

    async def with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers} - {FRAMING[0]}
            message["headers"] = headers + [header for header in SAFE_HEADERS if header[0] not in there]
        await send(message)

    return with_headers


# A second policy beside a page's own: both hold.
FRAMING = (b"content-security-policy", b"frame-ancestors 'none'")
SAFE_HEADERS = [
    (b"x-frame-options", b"DENY"),
    FRAMING,
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


async def _refuse(send: Send, reason: Refusal) -> None:
    problem = {"type": f"/problems/{reason.name}", "status": reason.status, "detail": reason.detail}
    headers = [(b"content-type", b"application/problem+json")]
    headers += [(b"www-authenticate", b"Bearer")] if reason.status == 401 else []
    headers += [(b"retry-after", b"60")] if reason.status == 429 else []
    headers += [(b"allow", b"POST")] if reason.status == 405 else []
    await _answer(send, reason.status, json.dumps(problem).encode(), headers)


async def _page(send: Send, status: int, page: str) -> None:
    await _answer(send, status, page.encode(), [(b"content-type", b"text/html; charset=utf-8")])


async def _redirect(send: Send, path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await _answer(send, 303, b"", [(b"location", path.encode("latin-1", "replace")), *headers])


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": status, "headers": [length, *headers, *SAFE_HEADERS]}
    await send({**start, "headers": [*start["headers"], (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": body})
