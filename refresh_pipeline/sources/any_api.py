"""Asks one question of any API within limits of time, size and depth; no private address, no secret shown.

Addresses are resolved before connecting, and the connection goes to the address that was checked. A redirect is
followed within the same host alone.
"""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from refresh_pipeline.market.apis import VARIABLE, ApiQuestion, ApiRate, Request
from refresh_pipeline.redaction import clean, excerpt, request_secrets
from refresh_pipeline.sources import PermanentError, Secrets, SourceError, TransientError
from refresh_pipeline.sources.http_client import reason_of
from refresh_pipeline.sources.rate_limits import SharedLimit

SECONDS, LARGEST, DEEPEST, REDIRECTS = 10.0, 5 * 1024 * 1024, 100, 3
AT_ONCE = 16
# Seconds that one question waits at most until its host may be asked; it is asked in a later run otherwise.
PATIENCE = 60.0
MOVED = (301, 302, 303, 307, 308)
USER_AGENT = "refresh-pipeline (api snapshots)"
ATOM = "{http://www.w3.org/2005/Atom}"
# What an entry of a feed is kept with, by the names of RSS and of Atom.
OF_ENTRIES = {
    "title": ("title",),
    "link": ("link",),
    "published": ("pubDate", "published", "updated"),
    "id": ("guid", "id"),
    "summary": ("description", "summary"),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the last answer said of itself, to ask whether it has changed."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer: its payload (parsed JSON, a feed as a mapping, or a text), None where it has not changed (304)."""

    status: int
    payload: Any
    url: str
    content_type: str
    bytes: int
    etag: str | None = None
    last_modified: str | None = None


class AskAgainLater(TransientError):
    """The API asks for silence of so many seconds."""

    def __init__(self, message: str, seconds: float | None) -> None:
        """Seconds is None where the API names no time."""
        super().__init__(message)
        self.seconds = seconds


class _PublicResolver(AbstractResolver):
    """Resolves names, and refuses those of addresses that no stranger's API has."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=socket.AF_UNSPEC)
        results = []
        for kind, _, protocol, _, address in found:
            require_public(str(address[0]), host, self._allow_private)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


def require_public(address: str, host: str, allow_private: bool) -> None:
    """Refuse an address of this machine, a private network, or a cloud's own services.

    Raises:
        PermanentError: the address is not public, and the collection does not allow private ones.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    if not allow_private and (not mapped.is_global or mapped.is_multicast):
        raise PermanentError(
            f"{host} is {address}, which is not public; set allow_private: true in the collection's file"
        )


class ApiClient:
    """Asks the questions of one collection; enter it for a run."""

    def __init__(
        self, secrets: Secrets, limits_dir: Path, *, allow_private: bool = False, patience: float = PATIENCE
    ) -> None:
        """`secrets` gives credentials by the names of their settings; `limits_dir` holds the accounts of hosts."""
        self._secrets, self._limits_dir, self._allow_private = secrets, limits_dir, allow_private
        self._patience = patience
        self._limits: dict[tuple[str, ApiRate], SharedLimit] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> "ApiClient":
        connector = aiohttp.TCPConnector(resolver=_PublicResolver(self._allow_private), limit=AT_ONCE, limit_per_host=4)
        # A proxy would resolve names itself.
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, headers={"User-Agent": USER_AGENT})
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._session.close()

    async def ask(self, question: ApiQuestion, known: Known = Known()) -> ApiAnswer:
        """The answer of the first way that works.

        Raises:
            PermanentError: asking again does not help.
            TransientError: it may.
        """
        failures: list[SourceError] = []
        for number, way in enumerate(question.ways):
            try:
                await self._wait_for_place(urlsplit(way.url).netloc, question.api.rate)
                # Another host's tag says nothing of this one's answer.
                return await self._asked(way, question, known if number == 0 else Known())
            except SourceError as error:
                failures.append(error)
        raise _of_all(failures)

    async def _wait_for_place(self, host: str, rate: ApiRate) -> None:
        """Return once the host may be asked, by everybody on this machine together.

        Raises:
            AskAgainLater: that takes too long.
        """
        if (host, rate) not in self._limits:
            # An account for each length of window: what several rates of one length allow is counted together.
            name = f"api-{host}-{rate.seconds:g}s"
            self._limits[host, rate] = SharedLimit(self._limits_dir, name, rate.requests, rate.seconds)
        limit, patience = self._limits[host, rate], self._patience
        while (seconds := limit.take(1)) > 0:
            patience -= seconds
            if patience < 0:
                used_up = f"{rate.requests} requests in {rate.seconds:g} s are used up"
                raise AskAgainLater(f"{host}: {limit.because}; rate: {used_up}", seconds)
            await asyncio.sleep(seconds)

    async def _asked(self, way: Request, question: ApiQuestion, known: Known) -> ApiAnswer:
        keys = {name: self._key(name) for name in question.variables}
        with request_secrets(list(keys.values())):
            try:
                async with self._places, asyncio.timeout(SECONDS):
                    return await self._answer(_with_keys(way, keys), way.url, question, known)
            except TimeoutError:
                raise TransientError(f"{way.url}: no answer within {SECONDS:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                cause = error.__cause__
                if isinstance(cause, PermanentError):
                    raise cause from None
                raise TransientError(clean(f"{way.url}: no answer: {reason_of(error)}")) from None
            except SourceError as error:
                error.args = (clean(f"{way.url}: {error}"),)
                raise

    def _key(self, name: str) -> str:
        value = self._secrets(name)
        if not value:
            raise PermanentError(
                f"the key {name} is not set; set it in the environment, .env or ~/.refresh/config.json"
            )
        return value

    async def _answer(self, way: Request, shown: str, question: ApiQuestion, known: Known) -> ApiAnswer:
        async with await self._sent(way, known) as response:
            body = await self._body(response)
            if response.status == 304:
                return ApiAnswer(304, None, shown, "", 0, known.etag, known.last_modified)
            _require_success(response, body)
            kind = response.headers.get("Content-Type", "")
            return ApiAnswer(
                response.status,
                payload_of(body, kind, question.api.answer),
                shown,
                kind[:100],
                len(body),
                response.headers.get("ETag"),
                response.headers.get("Last-Modified"),
            )

    async def _sent(self, way: Request, known: Known) -> aiohttp.ClientResponse:
        url, headers = way.url, {**way.headers, **_conditions(known)}
        params: Mapping[str, str] | None = way.params
        for _ in range(REDIRECTS + 1):
            self._require_literal(url)
            body = None if way.body is None else json.dumps(way.body).encode()
            sent = {"Content-Type": "application/json", **headers} if body else headers
            response = await self._session.request(
                way.method, url, params=params, headers=sent, data=body, allow_redirects=False
            )
            if response.status not in MOVED or "Location" not in response.headers:
                return response
            target = str(response.url.join(URL(response.headers["Location"])))
            await response.release()
            if urlsplit(target).netloc != urlsplit(url).netloc:
                raise PermanentError(f"redirects to another host ({urlsplit(target).netloc}); put its address into url")
            url, params = target, None
        raise PermanentError(f"redirects more than {REDIRECTS} times")

    def _require_literal(self, url: str) -> None:
        """A host that is an address is not resolved, so it is checked here."""
        host = urlsplit(url).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        require_public(host, host, self._allow_private)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > LARGEST:
                raise PermanentError(f"received more than {LARGEST >> 20} MB")
            parts.append(part)
        return b"".join(parts)


def _of_all(failures: Sequence[SourceError]) -> SourceError:
    """One error for all ways: transient where one of them is, with the longest silence that was asked for."""
    text = "; ".join(str(error) for error in failures)
    if any(error.transient for error in failures):
        silences = [error.seconds for error in failures if isinstance(error, AskAgainLater)]
        if len(silences) == len(failures):
            return AskAgainLater(text, max((seconds for seconds in silences if seconds), default=None))
        return TransientError(text)
    return PermanentError(text)


def _with_keys(way: Request, keys: Mapping[str, str]) -> Request:
    return Request.model_construct(**{name: _replaced(value, keys) for name, value in way.model_dump().items()})


def _replaced(value: Any, keys: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: keys[match[1]], value)
    if isinstance(value, Mapping):
        return {name: _replaced(part, keys) for name, part in value.items()}
    return [_replaced(part, keys) for part in value] if isinstance(value, list | tuple) else value


def _conditions(known: Known) -> dict[str, str]:
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in headers.items() if value}


def _require_success(response: aiohttp.ClientResponse, body: bytes) -> None:
    if response.status < 300:
        return
    text = f"HTTP {response.status}: {excerpt(body[:300].decode('utf-8', 'replace'))}"
    if response.status in (418, 429):
        raise AskAgainLater(text, _silence(response.headers.get("Retry-After", "")))
    if response.status >= 500 or response.status == 408:
        raise TransientError(text)
    raise PermanentError(text)


def _silence(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    if text.strip().isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((until - now()).total_seconds(), 0.0)


def payload_of(body: bytes, content_type: str, answer: str) -> Any:
    """What an answer says: parsed JSON, a feed's entries, or its text.

    Raises:
        PermanentError: it is something else than was asked for, or nested too deep.
    """
    text = body.decode("utf-8-sig", "replace")
    if answer == "text":
        return text
    if answer == "rss":
        return _feed(body)
    try:
        payload = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise PermanentError(f"expected JSON of at most {DEEPEST} levels") from None
    except ValueError as error:
        kind = content_type.partition(";")[0] or "no content type"
        raise PermanentError(f"expected JSON, received {kind}: {excerpt(text[:200])} ({error})") from None
    _require_shallow(payload)
    return payload


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _require_shallow(payload: Any) -> None:
    level, depth = [payload], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise PermanentError(f"expected JSON of at most {DEEPEST} levels")
        level = [
            part
            for value in level
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
        ]


def _feed(body: bytes) -> dict[str, Any]:
    """The entries of RSS or Atom, newest as the feed orders them.

    Raises:
        PermanentError: it is neither, or declares entities, which may blow up.
    """
    if b"<!DOCTYPE" in body[:2000] or b"<!ENTITY" in body:
        raise PermanentError("expected a feed, received a document with a DOCTYPE")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 (without entities there is nothing to expand)
    except ElementTree.ParseError as error:
        raise PermanentError(f"expected RSS or Atom: {error}") from None
    entries = root.findall(".//item") or root.findall(f".//{ATOM}entry")
    if not entries and root.tag not in ("rss", f"{ATOM}feed"):
        raise PermanentError(f"expected RSS or Atom, received <{excerpt(root.tag)}>")
    return {"items": [{name: _of_entry(entry, tags) for name, tags in OF_ENTRIES.items()} for entry in entries]}


def _of_entry(entry: ElementTree.Element, tags: Sequence[str]) -> str | None:
    for tag in tags:
        for found in (entry.find(tag), entry.find(f"{ATOM}{tag}")):
            if found is not None:
                return (found.text or found.get("href") or "").strip()
    return None
