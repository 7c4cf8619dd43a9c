"""Any exchange of ccxt, an optional extra. ccxt brings its own HTTP client and its knowledge of exchanges.

The limits that all processes share slow ccxt down, in place of its own; its errors become errors of `sources`.
"""

import asyncio
import importlib
import importlib.util
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
import httpx
import numpy as np
from pydantic import Field

from refresh_pipeline.extras import install_command
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, Floats, instant
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe, UnknownTimeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources.concurrency import in_background, put_failures, side_by_side
from refresh_pipeline.sources.http_client import (
    QUERY,
    BaseUrl,
    Put,
    Rate,
    RateLimited,
    RateLimitTimeout,
    RetryPolicy,
    T,
    attempts,
    served_at,
)
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions
from refresh_pipeline.sources.rate_limits import SharedLimit

log = logging.getLogger(__name__)

ORIGIN, STREAM_ORIGIN = re.compile(r"^https?://[^/]+"), re.compile(r"^wss?://[^/]+")
# Weeks begin on a Thursday at some exchanges; they and months are made from days.
LONGEST_NATIVE = Timeframe.D1
ASSUMED_ROWS = 500
MINUTE = 60.0
# By the server's clock, when it gave the newest answer that this task has received.
SERVED_AT: ContextVar[np.datetime64 | None] = ContextVar("served_at", default=None)


class CcxtOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    exchange: str
    base_url: BaseUrl | None = None
    # Without one, what ccxt knows of the exchange.
    rate: Rate | None = None
    # Candles an answer holds; without it, what ccxt knows.
    rows: int | None = Field(default=None, ge=1)
    # The host of live mode's WebSockets, ws:// or wss://; without it the exchange's own, or the host of base_url.
    stream_url: str | None = Field(default=None, pattern=r"^wss?://\S+$")

    @property
    def stream(self) -> str | None:
        """The host of WebSockets; None for the exchange's own."""
        if self.stream_url or self.base_url is None:
            return self.stream_url
        return "ws" + self.base_url.removeprefix("http")


class CcxtSource(HttpSource[CcxtOptions]):
    """Candles of an exchange, closed ones only, by the earlier of the machine's clock and the answer's `Date`."""

    options_model = CcxtOptions

    def _prepare(self) -> None:
        """See HttpSource; the exchange gives the name and the timeframes.

        Raises:
            MarketError: ccxt is not installed or does not know the exchange.
        """
        self._ccxt = _ccxt(self._market)
        self._exchange_class = _exchange_class(self._ccxt, self._market, self._options.exchange)
        self.kind = f"ccxt:{self._options.exchange}"
        self._timeframe_names = _native(self._exchange_class().timeframes or {})
        self.native_timeframes = tuple(sorted(self._timeframe_names))
        # The exchange's markets and currencies, once it has been asked: a megabyte that a live run would ask for anew
        # at each close.
        self._known: tuple[list[Any], Any] | None = None

    def _default_symbol(self, instrument: str) -> str:
        return instrument

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source."""
        return in_background(partial(self._produce, requests, now))

    async def _produce(self, requests: Sequence[Request], now: datetime, put: Put) -> None:
        if not requests:
            return
        async with self._session(instant(now)) as session:
            try:
                await self._load_markets(session)
            except SourceError as error:
                await put_failures(requests, error, put)
                return
            await side_by_side(requests, session.chunks, put)

    @asynccontextmanager
    async def _session(self, now: np.datetime64) -> AsyncGenerator["FetchSession", None]:
        """A client of the exchange for the running event loop, closed with the block."""
        exchange = self._exchange_class({"enableRateLimit": True, "timeout": int(self._retry_policy.answer * 1000)})
        if self._options.base_url:
            exchange.urls["api"] = _elsewhere(exchange.urls["api"], ORIGIN, self._options.base_url)
        if self._options.stream:
            exchange.urls["api"] = _elsewhere(exchange.urls["api"], STREAM_ORIGIN, self._options.stream)
        throttle = _Throttle(self._exchange_limit(exchange.rateLimit), self._retry_policy)
        _note_dates(exchange)
        # What ccxt awaits before each of its requests.
        exchange.throttle = throttle.wait
        try:
            yield FetchSession(self._market, self._options, self._ccxt, exchange, throttle, self._timeframe_names, now)
        finally:
            await exchange.close()
            throttle.close()

    async def _load_markets(self, session: "FetchSession") -> None:
        """Let the client know which symbols there are, and what the exchange calls them.

        Raises:
            SourceError: the exchange does not say.
        """
        if self._known is None:
            await session.ask(session.exchange.load_markets)
            self._known = list(session.exchange.markets.values()), session.exchange.currencies
        else:
            session.exchange.set_markets(*self._known)

    def _exchange_limit(self, milliseconds: float) -> SharedLimit:
        rate = self._options.rate
        requests = rate.requests if rate else max(int(MINUTE * 1000 / milliseconds), 1)
        return self._limit(self.kind, requests, rate.seconds if rate else MINUTE)


def _ccxt(market: Market) -> Any:
    """The library, if it is there; it takes a second to import."""
    if importlib.util.find_spec("ccxt") is None:
        raise MarketError(f"market {market.name!r}: source.kind: 'ccxt' needs an extra: {install_command('ccxt')}")
    return importlib.import_module("ccxt.async_support")


def _exchange_class(ccxt: Any, market: Market, name: str) -> Any:
    if name not in ccxt.exchanges:
        raise MarketError(
            f"market {market.name!r}: source: exchange: found {name!r}; allowed: one of {', '.join(ccxt.exchanges)}"
        )
    return getattr(ccxt, name)


def _native(timeframes: dict[str, Any]) -> dict[Timeframe, str]:
    """Which of ours the exchange has, and what ccxt calls them."""
    names: dict[Timeframe, str] = {}
    for name in timeframes:
        try:
            timeframe = Timeframe.parse(name)
        except UnknownTimeframe:
            continue
        if timeframe <= LONGEST_NATIVE:
            names.setdefault(timeframe, name)
    return names


def _elsewhere(urls: Any, origin: re.Pattern[str], base_url: str) -> Any:
    """The exchange's addresses of one kind at another host."""
    if isinstance(urls, dict):
        return {name: _elsewhere(url, origin, base_url) for name, url in urls.items()}
    return origin.sub(base_url.rstrip("/"), urls) if isinstance(urls, str) else urls


def _note_dates(exchange: Any) -> None:
    """Let each task see when the server says that its newest answer was given."""
    passed_on = exchange.on_rest_response

    def noted(code: int, reason: str, url: str, method: str, headers: dict[str, str], *rest: Any) -> Any:
        served = served_at(httpx.Response(code, headers={"date": _header(headers, "date")}))
        SERVED_AT.set(None if served is None else instant(served))
        return passed_on(code, reason, url, method, headers, *rest)

    exchange.on_rest_response = noted


def _header(headers: dict[str, str], name: str) -> str:
    return next((text for key, text in headers.items() if key.lower() == name), "")


@dataclass(slots=True)
class _Throttle:
    """Waits for the shared limit, first come, first served."""

    limit: SharedLimit
    retry_policy: RetryPolicy
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def wait(self, cost: float | None = None) -> None:
        waited, weight = 0.0, max(math.ceil(cost or 1), 1)
        async with self.lock:
            while wait := self.limit.take(weight):
                waited += wait
                if waited > self.retry_policy.limits:
                    raise RateLimitTimeout(
                        f"next request allowed in {wait:.0f} s ({self.limit.because}), which exceeds the budget of "
                        f"{self.retry_policy.limits:.0f} s; a later run will retry"
                    )
                await asyncio.sleep(wait)

    def close(self) -> None:
        try:
            self.limit.close()
        except (SourceError, OSError) as error:
            log.info("the unused part of the limit is not returned: %s", error)


@dataclass(frozen=True, slots=True)
class FetchSession:
    """The requests of one fetch: the exchange, the throttle and the time that they share."""

    market: Market
    options: CcxtOptions
    ccxt: Any
    exchange: Any
    throttle: _Throttle
    timeframe_names: dict[Timeframe, str]
    now: np.datetime64

    async def chunks(self, request: Request) -> AsyncGenerator[Fetched, None]:
        """A chunk per page, oldest first."""
        series, since, length = request.series, request.since, length_of(request.series.timeframe)
        symbol, until = self.market.symbol(series.instrument, str), min(request.until, self.now)
        rows = self._rows(symbol)
        while since < until:
            started = time.monotonic()
            candles = await self._page(series, symbol, since, min(int((until - since) / length) + 2, rows))
            newest = candles.open_time.max() if len(candles) else since
            # Nothing in a whole page's time: not listed yet, or closed for long.
            following = newest + length if newest > since or len(candles) else since + rows * length
            ends = self.market.calendar_of(series.instrument).closes(series.timeframe, candles.open_time)
            closed = candles.where(ends <= min(self.now, SERVED_AT.get() or self.now))
            closed, since = closed.between(request.since, until).sorted(), following
            yield Fetched(series, closed, last=bool(since >= until), seconds=time.monotonic() - started)
            if since >= until:
                return
        yield Fetched(series, Candles.none())

    def _rows(self, symbol: str) -> int:
        try:
            return self.options.rows or self.exchange.feature_value(symbol, "fetchOHLCV", "limit") or ASSUMED_ROWS
        except self.ccxt.BaseError as error:
            raise self.ours(error) from None

    async def _page(self, series: Series, symbol: str, since: np.datetime64, rows: int) -> Candles:
        stamp = int(since.astype("datetime64[ms]").astype(np.int64))
        timeframe = self.timeframe_names[series.timeframe]
        received = await self.ask(partial(self.exchange.fetch_ohlcv, symbol, timeframe, stamp, rows))
        rows_by_column = np.array(received, dtype=np.float64).reshape(len(received), 1 + len(CANDLE_COLUMNS)).T
        columns = dict[str, Floats](zip(CANDLE_COLUMNS, rows_by_column[1:], strict=True))
        candles = Candles(rows_by_column[0].astype("datetime64[ms]").astype(TIME_UNIT), columns)
        return candles.where(candles.open_time >= since)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """What ccxt answers, within the limits; asked again where that may help.

        Raises:
            SourceError: it has no answer.
        """
        return await attempts(self.throttle.retry_policy)(self._attempt, question)

    async def _attempt(self, question: Callable[[], Awaitable[T]]) -> T:
        try:
            return await question()
        except self.ccxt.BaseError as error:
            raise self.ours(error) from None

    def ours(self, error: Exception) -> SourceError:
        """An error of ccxt as one of ours."""
        text = f"{self.options.exchange}: {type(error).__name__}: {QUERY.sub('?***', excerpt(str(error)))}"
        if isinstance(error, self.ccxt.RateLimitExceeded | self.ccxt.DDoSProtection):
            seconds = self.throttle.retry_policy.first_wait
            self.throttle.limit.pause(seconds, text)
            return RateLimited(text, seconds)
        # An answer that breaks off is no fault of the exchange's.
        if isinstance(error, self.ccxt.NetworkError) or isinstance(error.__cause__, aiohttp.ClientError):
            return TransientError(text)
        if isinstance(error, self.ccxt.BadSymbol):
            return PermanentError(f"{text}. Give the instrument ccxt's name as its `symbol` in the market's YAML")
        return PermanentError(text)
