"""The base of venues that are asked for windows of time, each with as many rows as one answer holds.

A venue adds its timeframes, what it is asked, and how its rows are read. How requests are retried and slowed down is
`http_client`'s part.
"""

import logging
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import httpx
import numpy as np

from refresh_pipeline.market.adjustments import Adjustment
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, Malformed, instant
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError
from refresh_pipeline.sources.concurrency import in_background, put_failures, side_by_side
from refresh_pipeline.sources.http_client import Client, Put, served_at
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rows import floats, malformed, number

log = logging.getLogger(__name__)

Options = TypeVar("Options", bound=SourceOptions)
# Of one window; a venue that repeats its token would be asked without an end.
MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class Ask:
    """What one window asks for: a path below `base_url`, and its params."""

    path: str
    params: Mapping[str, Any]


class WindowedSource(HttpSource[Options], Generic[Options]):
    """Candles by windows of time, oldest first, those that have closed."""

    # What the venue calls its timeframes.
    called: Mapping[Timeframe, str]
    # Rows that one answer holds.
    rows: int
    # Requests in so many seconds.
    pace: tuple[int, float]
    # Whether `headers` holds a key.
    has_key = False

    @property
    def native_timeframes(self) -> Sequence[Timeframe]:
        """See Source."""
        return tuple(self.called)

    @abstractmethod
    def ask(self, symbol: str, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Ask:
        """The request for candles that open from `since` to `until` (excluded)."""

    @abstractmethod
    def read(self, response: httpx.Response, symbol: str) -> Sequence[Any]:
        """The rows of an answer, each a sequence of microseconds since 1970, open, high, low, close, volume.

        Raises:
            SourceError: the answer is not good.
        """

    def following(self, response: httpx.Response) -> Mapping[str, Any]:
        """The params of the window's next page besides its others; none where an answer holds the whole window."""
        return {}

    def headers(self) -> dict[str, str]:
        """What every request carries.

        Raises:
            PermanentError: a credential is missing.
        """
        return {}

    def opened(self, request: Request, candles: Candles) -> Candles:
        """The candles with the opening times of the market's calendar, for a venue that stamps them otherwise."""
        return candles

    def adjustments(self, response: httpx.Response, instrument: str) -> Sequence[Adjustment]:
        """The splits and dividends that an answer with candles tells of besides."""
        return ()

    def ask_adjustments(self, symbol: str, since: np.datetime64, until: np.datetime64) -> Ask | None:
        """The request for splits and dividends from `since` to `until`; None where there is none of its own."""
        return None

    def read_adjustments(self, response: httpx.Response, instrument: str) -> Sequence[Adjustment]:
        """The splits and dividends of an answer to `ask_adjustments`.

        Raises:
            SourceError: the answer is not good.
        """
        return ()

    def session_of(self, instrument: str, moment: np.datetime64) -> np.datetime64:
        """The open time of the day's bar that an instant lies in."""
        return self._market.calendar_of(instrument).floor(Timeframe.D1, np.array([moment], dtype=TIME_UNIT))[0]

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; a venue that tells the time in its answers is believed rather than this machine's clock."""
        return in_background(partial(self._produce, requests, instant(now)))

    async def _produce(self, requests: Sequence[Request], now: np.datetime64, put: Put) -> None:
        try:
            headers = self.headers()
        except PermanentError as error:
            await put_failures(requests, error, put)
            return
        limit = self._limit(venue_at(self.kind, self.base_url), *self.pace)
        secrets = tuple(headers.values()) if self.has_key else ()
        async with self._client(self.base_url, limit, headers, secrets=secrets) as client:
            await side_by_side(requests, partial(self._chunks, client, now), put)

    async def _chunks(self, client: Client, now: np.datetime64, request: Request) -> AsyncGenerator[Fetched, None]:
        windows = self._windows(request, min(request.until, now))
        for since, until in windows:
            started = time.monotonic()
            found, beside = await self._window(client, now, request, (since, until))
            candles = found.between(request.since, request.until).between(since, until).sorted()
            last = bool(until == windows[-1][1])
            told = await self._told(client, request, min(request.until, now)) if last else ()
            seconds = time.monotonic() - started
            yield Fetched(request.series, candles, last=last, seconds=seconds, adjustments=(*beside, *told))
        if not windows:
            yield Fetched(request.series, Candles.none())

    async def _window(
        self, client: Client, now: np.datetime64, request: Request, window: tuple[np.datetime64, np.datetime64]
    ) -> tuple[Candles, Sequence[Adjustment]]:
        symbol = self.symbol(request.series.instrument)
        ask, pages, told = self.ask(symbol, request.series.timeframe, *window), [], []
        more: Mapping[str, Any] = {}
        for _ in range(MOST_PAGES):
            page = partial(self._page, request, symbol, now)
            candles, beside, more = await client.get(ask.path, {**ask.params, **more}, 1, page)
            pages.append(candles)
            told += beside
            if not more:
                return Candles.concatenated(pages), told
        raise PermanentError(f"expected a window of {self.rows} rows, received more than {MOST_PAGES} pages")

    async def _told(self, client: Client, request: Request, until: np.datetime64) -> Sequence[Adjustment]:
        """Splits and dividends by a request of their own where a session begins in the stretch; none if that fails."""
        instrument, since = request.series.instrument, request.since
        ask = self.ask_adjustments(self.symbol(instrument), since, until)
        if ask is None or self.session_of(instrument, since) == self.session_of(instrument, until):
            return ()
        try:
            return await client.get(
                ask.path, ask.params, 1, lambda response: self.read_adjustments(response, instrument)
            )
        except SourceError as error:
            log.info("%s: splits and dividends: %s", request.series, error)
            return ()

    def _windows(self, request: Request, until: np.datetime64) -> list[tuple[np.datetime64, np.datetime64]]:
        step = length_of(request.series.timeframe) * max(self.rows - 1, 1)
        starts = np.arange(request.since, until, step, dtype=TIME_UNIT)
        return list(zip(starts, [*starts[1:], until], strict=True))

    def _page(
        self, request: Request, symbol: str, now: np.datetime64, response: httpx.Response
    ) -> tuple[Candles, Sequence[Adjustment], Mapping[str, Any]]:
        candles = self.opened(request, candles_of(self.read(response, symbol)))
        served = served_at(response)
        now = min(now, instant(served)) if served else now
        calendar = self._market.calendar_of(request.series.instrument)
        closed = calendar.closes(request.series.timeframe, candles.open_time) <= now
        told = self.adjustments(response, request.series.instrument)
        return candles.where(closed), told, self.following(response)


def candles_of(rows: Sequence[Any]) -> Candles:
    """Candles of rows; a price that is no number is NaN, a row without a time or with too few cells is set aside.

    >>> candles_of([(1_700_000_000_000_000, "1", "2", "1", "1.5", None)])["close"]
    array([1.5])
    """
    good: list[Sequence[Any]] = []
    rejected: list[Malformed] = []
    for row in rows:
        is_row = isinstance(row, list | tuple) and len(row) > len(CANDLE_COLUMNS) and _is_time(row[0])
        if is_row:
            good.append(row)
        else:
            rejected.append(malformed(row, "a candle has a time, four prices and a volume"))
    opens = np.array([int(row[0]) for row in good], dtype=np.int64).astype(TIME_UNIT)
    cells = [[number(row[at]) for row in good] for at in range(1, len(CANDLE_COLUMNS) + 1)]
    columns = dict(zip(CANDLE_COLUMNS, floats(cells), strict=True))
    return Candles(opens, columns, tuple(rejected))


def _is_time(value: object) -> bool:
    # Between 1970 and 2286, in microseconds.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**16


def of_milliseconds(row: Any) -> Any:
    """A row with its first cell, a text of milliseconds since 1970, in microseconds."""
    if not isinstance(row, list) or not row or not isinstance(row[0], str) or not row[0].isdecimal():
        return row
    return [int(row[0]) * 1000, *row[1:]]


def milliseconds(moment: np.datetime64) -> int:
    """An instant in milliseconds since 1970."""
    return int(moment.astype(np.int64)) // 1000
