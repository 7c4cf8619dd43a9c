"""Who may ask over HTTP: pure decisions on a request's head, and the ASGI shell that applies them.

A web page in the user's browser can send requests to this machine, under a name of its own choice. So the guard looks
at Host (DNS rebinding), Origin and Sec-Fetch-Site (requests of other sites). Where a key is set, it asks for it: in a
header from programs, in a signed cookie from browsers (see `login`).
"""

import ipaddress
import math
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from refresh_pipeline.api.login import COOKIE, LOGIN, Keys, Role, login_page, session_cookie
from refresh_pipeline.api.problems import PROBLEM_TYPE, Problem, problem_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
READING = ("GET", "HEAD", "OPTIONS")
WITH_BODY = ("POST", "PUT", "PATCH")
OTHER_SITES = ("cross-site", "same-site")
HTTP_PORT = 80
# A form with one key in it.
LONGEST_FORM = 4096
# Wrong keys that one address may try in a minute.
WRONG_KEYS_A_MINUTE = 10
# A client may be ahead of its rate by so many seconds.
BURST_SECONDS = 4
# Clients whose rate is kept at once; beyond it, those that have been silent are forgotten.
CLIENTS_KEPT = 10_000
# Where the guard tells the app what the request may do.
ROLE = "refresh_role"
POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered: an HTTP status, a name for programs, a sentence for people."""

    status: int
    name: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


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
    one of `closed` are answered to nobody. `public` paths, and those below `public_folders`, need no key.
    """

    hosts: frozenset[str]
    mutating: frozenset[str] = frozenset()
    closed: tuple[str, ...] = ()
    public: frozenset[str] = frozenset()
    public_folders: tuple[str, ...] = ()
    # Other sites whose pages may ask; "*" for all.
    origins: frozenset[str] = frozenset()
    # Whether the server is the API: programs open WebSockets without an Origin and send their key in the first message,
    # what is no GET takes JSON alone, and read keys open it.
    is_api: bool = False
    # Requests a second of one client; None for any number.
    rate: float | None = None

    def is_public(self, path: str) -> bool:
        """Whether a path needs no key."""
        return path in self.public or path.startswith(self.public_folders)


class OpenDoor(ValueError):
    """A server that other machines would reach without a key."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
    if origin is None and head.kind == "websocket" and not rules.is_api:
        return Refusal(403, "origin-not-allowed", "a WebSocket needs an Origin")
    if origin is not None and {origin, "*"} & rules.origins:
        return None
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
    if rules.is_api and head.kind == "http" and head.method in WITH_BODY and head.path != LOGIN:
        return _media_type(head) if _has_body(head) else None
    return None


def _unsafe_question(head: Head) -> Refusal | None:
    if head.method != "POST":
        return Refusal(405, "method-not-allowed", f"{head.path}: found {head.method}, allowed: POST")
    if reason := _media_type(head):
        return reason
    if any(name == "query" for name, _ in parse_qsl(head.query, keep_blank_values=True)):
        return Refusal(400, "invalid-parameter", f"{head.path}: the query belongs into the body, not into the address")
    return None


def _has_body(head: Head) -> bool:
    return "transfer-encoding" in head.headers or head.headers.get("content-length", "0") != "0"


def _media_type(head: Head) -> Refusal | None:
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Refusal(
            415, "unsupported-media-type", f"{head.path}: found {kind or 'no type'}, allowed: application/json"
        )
    return None


@dataclass(slots=True)
class RateLimits:
    """How many requests each client may still send: `rate` a second, and BURST_SECONDS of it at once."""

    rate: float
    # By client: what is left, and when that was counted.
    left: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def burst(self) -> float:
        """The number of requests that may come at once."""
        return self.rate * BURST_SECONDS

    def take(self, client: str, now: float) -> float:
        """Count a request; gives the seconds to wait, 0 where it may be answered."""
        if len(self.left) > CLIENTS_KEPT:
            self.left = {name: state for name, state in self.left.items() if now - state[1] < BURST_SECONDS}
        left, at = self.left.get(client, (self.burst, now))
        left = min(self.burst, left + max(now - at, 0.0) * self.rate)
        self.left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self.rate


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
        self._rates = RateLimits(rules.rate) if rules.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on with its role."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        head, address = Head.of(scope), str((scope.get("client") or ("",))[0])
        reason = refusal(head, self._rules) or self._too_fast(head, address)
        role: Role | None = None if self._keys else Role.full
        if reason is None and self._keys and not self._rules.is_public(head.path):
            if head.kind == "http" and head.path == LOGIN:
                await self._log_in(head, address, receive, send)
                return
            role, reason = self._authorized(head, address)
        if reason is None:
            await self._app({**scope, ROLE: role}, receive, _unframed(send))
        elif head.kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason.name})
        elif reason.status == 401 and _is_from_a_person(head):
            await _redirect(send, f"{LOGIN}?next={quote(head.path)}")
        else:
            await _refuse(send, reason, head.path)

    def role_of(self, given: str, address: str) -> tuple[Role | None, Refusal | None]:
        """What a key may do, or why it opens nothing; ten wrong ones a minute and address are too many."""
        now = self._clock()
        if self._wrong_keys.too_many(address, now):
            return None, Refusal(429, "rate-limited", "too many wrong keys; wait a minute", {"retry-after": "60"})
        role = self._keys.role(given)
        if role is None or (role is Role.read and not self._rules.is_api):
            self._wrong_keys.note(address, now)
            wrong = "the key is wrong; REFRESH_API_KEY of the server has the right one"
            return None, Refusal(401, "unauthorized", wrong)
        return role, None

    def session_cookie(self, key: str, *, secure: bool) -> str:
        """The Set-Cookie header of a new session of this key."""
        return session_cookie(self._keys.session(self._clock(), key), secure=secure)

    def _too_fast(self, head: Head, address: str) -> Refusal | None:
        if self._rates is None or head.path in self._rules.public:
            return None
        seconds = self._rates.take(address, self._clock())
        if not seconds:
            return None
        rate, burst = self._rates.rate, self._rates.burst
        headers = {
            "retry-after": str(math.ceil(seconds)),
            "ratelimit": f'"default";r=0;t={math.ceil(seconds)}',
            "ratelimit-policy": f'"default";q={burst:g};w={BURST_SECONDS}',
        }
        return Refusal(429, "rate-limited", f"more than {rate:g} requests a second; wait {seconds:.2f} s", headers)

    def _authorized(self, head: Head, address: str) -> tuple[Role | None, Refusal | None]:
        role = self._keys.session_role(_cookie(head.headers.get("cookie", "")), self._clock())
        if role is Role.read and not self._rules.is_api:
            role = None
        if role is None:
            given = key_of(head.headers)
            if given is None and head.kind == "websocket" and self._rules.is_api:
                return None, None
            if given is None:
                needed = "a key is needed: X-API-Key or Authorization: Bearer, or log in at /login"
                return None, Refusal(401, "unauthorized", needed)
            role, reason = self.role_of(given, address)
            if reason is not None:
                return None, reason
        if role is Role.read and head.kind == "http" and head.method not in READING:
            return None, Refusal(403, "read-only-key", f"{head.method} {head.path} needs a key of REFRESH_API_KEY")
        return role, None

    async def _log_in(self, head: Head, address: str, receive: Receive, send: Send) -> None:
        following = _local_path(dict(parse_qsl(head.query)).get("next", "/"))
        if head.method != "POST":
            await _page(send, 200, login_page(following, ""))
            return
        key = await _form_key(receive)
        _, reason = self.role_of(key, address)
        if reason is not None:
            await _page(send, reason.status, login_page(following, reason.detail))
            return
        cookie = self.session_cookie(key, secure=is_https(head.headers.get("origin", "")))
        await _redirect(send, following, [(b"set-cookie", cookie.encode())])


def _is_from_a_person(head: Head) -> bool:
    return head.method == "GET" and "text/html" in head.headers.get("accept", "")


def is_https(origin: str) -> bool:
    """Whether a page came by https."""
    return origin.startswith("https://")


def key_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request's headers give; None where they give none."""
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
            present = {name.lower() for name, _ in headers} - {FRAMING[0]}
            message["headers"] = headers + [header for header in SAFE_HEADERS if header[0] not in present]
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


async def _refuse(send: Send, reason: Refusal, path: str) -> None:
    body = problem_body(
        Problem.of_slug(reason.name) or Problem.internal, reason.detail, path, {"status": reason.status}
    )
    headers = [(b"content-type", PROBLEM_TYPE.encode())]
    headers += [(b"www-authenticate", b"Bearer")] if reason.status == 401 else []
    headers += [(b"allow", b"POST")] if reason.status == 405 else []
    headers += [(name.encode(), value.encode()) for name, value in reason.headers.items()]
    await _answer(send, reason.status, body, headers)


async def _page(send: Send, status: int, page: str) -> None:
    await _answer(send, status, page.encode(), [(b"content-type", b"text/html; charset=utf-8")])


async def _redirect(send: Send, path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await _answer(send, 303, b"", [(b"location", path.encode("latin-1", "replace")), *headers])


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = {"type": "http.response.start", "status": status, "headers": [length, *headers, *SAFE_HEADERS]}
    await send({**start, "headers": [*start["headers"], (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": body})
