"""One polite HTTP client for all venues, and how its answers reach a caller that knows nothing of asyncio.

`rate_limits` decides when a request may be sent. The reader that a source hands in decides what an answer means.
"""

import asyncio
import errno
import json
import logging
import os
import re
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from refresh_pipeline.redaction import clean, excerpt, request_secrets
from refresh_pipeline.sources import Fetched, PermanentError, SourceError, TransientError
from refresh_pipeline.sources.rate_limits import LONGEST_PAUSE, Limit

log = logging.getLogger(__name__)
# It writes whole URLs at INFO, secrets in the query included.
logging.getLogger("httpx").setLevel(logging.WARNING)

T = TypeVar("T")
Put = Callable[[Fetched], Awaitable[None]]
Reader = Callable[[httpx.Response], T]

CONNECTIONS = 32
# Chunks that may wait for a consumer that is slower than the network; with 1,000 rows each they are 4 MB.
CHUNKS_AHEAD = 64
# Waking the other thread's loop takes as long as reading an answer: room is made for so many chunks at once.
RELEASED_AT_ONCE = 16
# Of an answer's body, after decoding. The largest that is asked for has some thirty megabytes.
LARGEST_ANSWER = 64 * 1024 * 1024
# The one coding that is asked for; a server may leave it out.
CODING = "gzip"
UNCODED = ("", "identity")
SECONDS = re.compile(r"\d{1,12}(\.\d+)?")
# What aiohttp says of a connection that fails; the address, and its reason.
NOT_CONNECTED = re.compile(r"Cannot connect to host (\S+) ssl:\S+ \[(.*)\]", re.S)
QUERY = re.compile(r"\?[^\s'\"]+")
BASE_URL = re.compile(r"https?://[^/\s@?#]+(/[^\s?#]*)?")


def _http_url(url: str) -> str:
    if not BASE_URL.fullmatch(url):
        raise ValueError("allowed: http:// or https://, a host, a port and a path where needed")
    return url


# Where a venue is, as a market's YAML may say.
BaseUrl = Annotated[str, AfterValidator(_http_url)]


class Rate(BaseModel):
    """How often the API may be asked, by everybody on this machine together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(ge=1)
    seconds: float = Field(ge=0.001)


class RateLimited(TransientError):
    """The venue limits requests: for a stated number of seconds, or for a time that the retry policy decides."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class RateLimitTimeout(TransientError):
    """The pause exceeds the time that a request waits: the request fails now, and a later run retries."""


class AccessDenied(PermanentError):
    """The venue refuses this client, whatever the request: the client sends no further requests."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is worth waiting for, in seconds."""

    attempts: int = 6
    # Doubled with every attempt, up to the longest.
    first_wait: float = 0.5
    longest_wait: float = 20.0
    # For one answer, from connecting to its last byte.
    answer: float = 20.0
    # For the venue's limits and pauses, over all attempts.
    limits: float = 120.0


@dataclass(slots=True)
class _HttpRequest:
    """One request on its way through its attempts."""

    method: str
    path: str
    weight: int
    params: Mapping[str, str | int] = field(default_factory=dict)
    # What a POST says, as JSON.
    body: bytes | None = None
    attempts: int = 0
    waited: float = 0.0


@cache
def _tls() -> ssl.SSLContext:
    """Once a process, as reading all certificates takes longer than a dozen requests."""
    return httpx.create_ssl_context()


class Client:
    """Asks one venue: kept-alive connections, retries with back-off, everybody's limits, no secret in any text."""

    def __init__(
        self,
        base_url: str,
        limit: Limit,
        retry_policy: RetryPolicy,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        secrets: Sequence[str] = (),
    ) -> None:
        """A client to be entered; the values of `headers` are taken for secrets, and so are `secrets`."""
        self._limit = limit
        self._retry_policy = retry_policy
        self._sleep = sleep
        values = [*(headers or {}).values(), *secrets]
        self._secrets = [*values, *(word for value in values for word in value.split())]
        self._host = httpx.URL(base_url).netloc.decode().rpartition("@")[2]
        self._base_url = base_url.rstrip("/")
        self._timeout = {"timeout": httpx.Timeout(retry_policy.answer).as_dict()}
        pool = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=30.0)
        sent = {"Accept-Encoding": CODING, **(headers or {})}
        self._http = httpx.AsyncClient(headers=sent, transport=AiohttpTransport(verify=_tls(), limits=pool))
        # First come, first served: the order in which requests are made is the order of the catalog.
        self._turn = asyncio.Lock()
        self._refusal = ""

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)
        # What cannot be given back is forgotten after one window anyway.
        with suppress(SourceError, OSError):
            self._limit.close()

    async def get(self, path: str, params: Mapping[str, str | int], weight: int, read: Reader[T]) -> T:
        """What `read` makes of the venue's answer; what it raises as transient is asked again.

        Raises:
            PermanentError: asking again will not help.
            TransientError: the attempts or the waiting time of the retry policy are used up.
        """
        return await self._run(_HttpRequest("GET", path, weight, params=params), read)

    async def post(self, path: str, body: Mapping[str, Any], weight: int, read: Reader[T]) -> T:
        """The same for a question that is put as JSON; only for those that change nothing, as it may be put twice."""
        return await self._run(_HttpRequest("POST", path, weight, body=json.dumps(body).encode()), read)

    async def _run(self, request: _HttpRequest, read: Reader[T]) -> T:
        try:
            return await self._attempt(request, read)
        except SourceError as error:
            if not _worth_another_attempt(error):
                raise
            # Only now: the machinery of retries takes a tenth of a small request's time.
            return await attempts(self._retry_policy, self._sleep)(_after(error, self._attempt), request, read)

    async def _attempt(self, request: _HttpRequest, read: Reader[T]) -> T:
        request.attempts += 1
        with request_secrets(self._secrets):
            return await self._answered(request, read)

    async def _answered(self, request: _HttpRequest, read: Reader[T]) -> T:
        try:
            await self._wait_for_turn(request)
            return read(await self._answer(request))
        except AccessDenied as error:
            # The same words for all series: what one of them asked for has nothing to do with it.
            self._refusal = self._refusal or f"{self._host}: {self._redacted(str(error))}"
            raise AccessDenied(self._refusal) from None
        except SourceError as error:
            if isinstance(error, RateLimited):
                self._pause(error, request)
            error.args = (f"{request.method} {self._host}{request.path}: {self._redacted(str(error))}",)
            raise

    async def _wait_for_turn(self, request: _HttpRequest) -> None:
        async with self._turn:
            while not self._refusal and (wait := self._limit.take(request.weight)):
                request.waited += wait
                if request.waited > self._retry_policy.limits:
                    raise RateLimitTimeout(
                        f"next request allowed in {wait:.0f} s ({self._limit.because}), which exceeds the budget of "
                        f"{self._retry_policy.limits:.0f} s; a later run will retry ({self._limit.remedy})"
                    )
                await self._sleep(wait)
            if self._refusal:
                raise AccessDenied(self._refusal)

    async def _answer(self, request: _HttpRequest) -> httpx.Response:
        try:
            async with asyncio.timeout(self._retry_policy.answer):
                answer = await self._http.send(self._request(request), stream=True)
                try:
                    return _whole(answer, await _body(answer))
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise TransientError(f"no answer within {self._retry_policy.answer:g} s") from None
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            # Without its cause, which may show the whole URL.
            raise TransientError(f"no answer: {reason_of(error)}; is the venue reachable?") from None

    def _request(self, request: _HttpRequest) -> httpx.Request:
        # By hand, as the client takes a quarter of a small request's time to merge URLs.
        url = f"{self._base_url}{request.path}{'?' if request.params else ''}{urlencode(request.params)}"
        headers = self._http.headers
        if request.body is not None:
            headers = headers.copy()
            headers.update({"Content-Type": "application/json", "Accept": "application/json"})
        return httpx.Request(request.method, url, headers=headers, content=request.body, extensions=self._timeout)

    def _pause(self, error: RateLimited, request: _HttpRequest) -> None:
        seconds = error.seconds
        if seconds is None:
            seconds = min(self._retry_policy.first_wait * 2**request.attempts, self._retry_policy.longest_wait)
        log.warning("rate limited: pausing all requests to %s for %.1f s", self._host, seconds)
        self._limit.pause(seconds, self._redacted(str(error)))

    def _redacted(self, text: str) -> str:
        return QUERY.sub("?***", clean(text))


def reason_of(error: BaseException) -> str:
    """Why there was no answer, without the words that the HTTP library says to itself.

    >>> reason_of(OSError("Cannot connect to host a.org:443 ssl:default [Name or service not known]"))
    'cannot connect to a.org:443: Name or service not known'
    """
    text = str(error) or type(error).__name__
    failed = NOT_CONNECTED.fullmatch(text)
    if failed is None:
        return text
    numbers = [cause.errno or 0 for cause in _causes(error) if isinstance(cause, OSError)]
    known = [os.strerror(number) for number in numbers if number in errno.errorcode]
    return f"cannot connect to {failed[1]}: {known[-1] if known else failed[2]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


async def _body(answer: httpx.Response) -> bytes:
    """The decoded body, read in pieces and never more than LARGEST_ANSWER.

    Raises:
        PermanentError: it is longer, or in another coding than gzip.
        TransientError: the coding is broken.
    """
    coding = answer.headers.get("content-encoding", "").strip().lower()
    if coding not in (CODING, *UNCODED):
        raise PermanentError(f"expected an answer in {CODING} or uncoded, received content-encoding {excerpt(coding)}")
    unpack = gzip_unpacker(LARGEST_ANSWER) if coding == CODING else None
    parts, size = [], 0
    async for piece in answer.aiter_raw():
        try:
            part = unpack(piece) if unpack else piece
        except zlib.error as error:
            raise TransientError(f"the answer is no {CODING}: {error}") from None
        size += len(part)
        if size > LARGEST_ANSWER:
            raise PermanentError(f"received more than {LARGEST_ANSWER >> 20} MB; is base_url right?")
        parts.append(part)
    return b"".join(parts)


def gzip_unpacker(largest: int) -> Callable[[bytes], bytes]:
    """What unpacks a gzip stream piece by piece; it makes no piece longer than `largest` and one byte."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def unpack(piece: bytes) -> bytes:
        nonlocal stream
        parts, size = [], 0
        while piece and size <= largest:
            if stream.eof:
                # Several streams behind one another are one file.
                stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            part = stream.decompress(piece, largest + 1 - size)
            parts.append(part)
            size += len(part)
            piece = stream.unconsumed_tail or stream.unused_data
        return b"".join(parts)

    return unpack


def _whole(answer: httpx.Response, body: bytes) -> httpx.Response:
    """The answer with its decoded body."""
    headers = [
        (name, value)
        for name, value in answer.headers.raw
        if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
    ]
    return httpx.Response(
        answer.status_code, headers=headers, content=body, request=answer.request, extensions=answer.extensions
    )


def attempts(retry_policy: RetryPolicy, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncRetrying:
    """As many attempts as one request is worth, with growing pauses, for as long as its error is transient."""
    return AsyncRetrying(
        sleep=sleep,
        stop=stop_after_attempt(retry_policy.attempts),
        wait=wait_exponential(multiplier=retry_policy.first_wait, max=retry_policy.longest_wait)
        + wait_random(0, retry_policy.first_wait),
        retry=retry_if_exception(_worth_another_attempt),
        before_sleep=_log_retry,
        reraise=True,
    )


def _after(error: SourceError, attempt: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Attempts of which the first has been made, and has come to this error."""
    made: list[SourceError] = [error]

    async def further(*arguments: Any) -> T:
        if made:
            raise made.pop()
        return await attempt(*arguments)

    return further


def is_fit_for_a_header(secret: str) -> bool:
    """Whether a token can be one at all: what was pasted with quotes, line ends or blanks in it cannot be sent.

    >>> is_fit_for_a_header("eyJhbGciOi.J9"), is_fit_for_a_header("eyJhbG\u201d"), is_fit_for_a_header("two words")
    (True, False, False)
    """
    return secret.isascii() and secret.isprintable() and " " not in secret


def by_status(response: httpx.Response) -> SourceError | None:
    """What HTTP itself says of an answer: None when it is good."""
    if response.is_success:
        return None
    text = f"HTTP {response.status_code}: {excerpt(response.text)}"
    silence = retry_after(response)
    if response.status_code in (418, 429) or silence is not None:
        return RateLimited(text, silence)
    if response.status_code >= 500 or response.status_code == 408:
        return TransientError(text)
    if response.is_redirect:
        return PermanentError(f"{text}; the venue has moved: put its new address into base_url")
    return PermanentError(text)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds of silence that an answer asks for, given as a number or as a date; None when it asks for none."""
    text = response.headers.get("retry-after", "").strip()
    if SECONDS.fullmatch(text):
        return min(float(text), LONGEST_PAUSE)
    until = _http_date(text)
    if until is None:
        return None
    now = _http_date(response.headers.get("date", "")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_PAUSE)


def served_at(response: httpx.Response) -> datetime | None:
    """When the server says that it answered, to the second; None when it does not tell the time."""
    return _http_date(response.headers.get("date", ""))


def seconds_into_minute(response: httpx.Response) -> float:
    """How far the server's own minute has gone; 0.0 when it does not tell the time."""
    date = served_at(response)
    return float(date.second) if date else 0.0


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _worth_another_attempt(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not isinstance(error, RateLimitTimeout)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("attempt %d in %.1f s, after the error: %s", state.attempt_number + 1, state.upcoming_sleep, error)
