"""Binance spot: klines from the public market-data host, long histories from its bulk archives, no key needed.

Contract: binance/binance-spot-api-docs at a5e0bc3ddc. How requests are retried and slowed down is `http_client`'s part.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import numpy as np
from pydantic import Field

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, BulkFile, Candles, Floats, Malformed, Times
from refresh_pipeline.market.model import Market, normalized
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources.binance_archive import (
    ARCHIVE_URL,
    REQUESTS_PER_MINUTE,
    Archive,
    archive_at,
    checksum_of,
    is_worth_it,
    month_of,
    next_archive,
    rows_of,
)
from refresh_pipeline.sources.concurrency import in_background, put_failures, side_by_side
from refresh_pipeline.sources.http_client import (
    BaseUrl,
    Client,
    Put,
    RateLimited,
    Reader,
    T,
    by_status,
    retry_after,
    seconds_into_minute,
)
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rate_limits import SharedLimit
from refresh_pipeline.sources.rows import floats, json_body, number, parse_rows, unexpected

log = logging.getLogger(__name__)

# Case decides: 1m is a minute, 1M a month. H3 is not among them.
INTERVALS = {
    Timeframe.m1: "1m",
    Timeframe.m5: "5m",
    Timeframe.m15: "15m",
    Timeframe.m30: "30m",
    Timeframe.H1: "1h",
    Timeframe.H2: "2h",
    Timeframe.H4: "4h",
    Timeframe.H6: "6h",
    Timeframe.H8: "8h",
    Timeframe.D1: "1d",
    Timeframe.W1: "1w",
    Timeframe.MN1: "1M",
}
# The venue's bars hang on UTC, whatever calendar the market has.
GRID = CryptoCalendar()

PAGE_ROWS = 1000
MINUTE = 60.0
# As documented in 2026; exchangeInfo has the last word.
ASSUMED_WEIGHT_PER_MINUTE = 6000
KLINES_WEIGHT = 2
TIME_WEIGHT = 1
EXCHANGE_INFO_WEIGHT = 20

OVER_LIMIT_CODE = -1003
TRANSIENT_CODES = {-1000, -1001, -1006, -1007, -1008}
UNKNOWN_SYMBOL_CODE = -1121
REFUSED = {
    403: "Binance's firewall has refused the request; check the instrument's symbol, and ask less or from elsewhere",
    451: "Binance does not serve this place; set base_url to https://data-api.binance.vision, or ask from elsewhere",
}
# A month of minutes has two megabytes.
LONGEST_DOWNLOAD = 120.0
# The shortest ban there is, for one that does not say how long it lasts.
SHORTEST_BAN = 120.0

WEIGHT = re.compile(r"[0-9]{1,9}")
ROW_FIELDS = 12
CLOSE_TIME_FIELD = 6
# Milliseconds have 13 digits until the year 2286, microseconds 16 since 2001.
FIRST_MICROSECOND = 10**14
# In the year 2286.
LATEST_STAMP = 10**16
# 2010 in milliseconds: before any exchange of coins; a clock of before is none (JSON's true is 1).
FIRST_STAMP = 1_262_304_000_000

DATA_API = "https://data-api.binance.vision"
DATA_STREAM = "wss://data-stream.binance.vision"


class BinanceOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = DATA_API
    # Without one: Binance's own where base_url is Binance's own, else none.
    archive_url: BaseUrl | None = None
    # The host of live mode's WebSocket streams, ws:// or wss://; without it Binance's own, or the host of base_url.
    stream_url: str | None = Field(default=None, pattern=r"^wss?://\S+$")

    @property
    def stream(self) -> str:
        """The host of WebSocket streams."""
        if self.stream_url or self.base_url == DATA_API:
            return self.stream_url or DATA_STREAM
        return "ws" + self.base_url.removeprefix("http")

    @property
    def archive(self) -> str | None:
        """The host of bulk archives, if there is one."""
        return self.archive_url or (ARCHIVE_URL if self.base_url == DATA_API else None)


class BinanceSource(HttpSource[BinanceOptions]):
    """Klines of any spot symbol, closed ones only, by the venue's own clock."""

    kind = "binance"
    options_model = BinanceOptions
    native_timeframes = tuple(INTERVALS)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; what the machine's clock says is not asked for, the venue tells its own time."""
        return in_background(partial(self._produce, requests))

    def reissued(self, files: Mapping[Series, Sequence[BulkFile]]) -> dict[Series, list[BulkFile]]:
        """See Reissuing; a file whose checksum cannot be had now is looked at another time."""
        return asyncio.run(self._reissued(files)) if self._options.archive and any(files.values()) else {}

    async def _reissued(self, files: Mapping[Series, Sequence[BulkFile]]) -> dict[Series, list[BulkFile]]:
        async with self._archive() as client:

            async def is_changed(file: BulkFile) -> bool:
                try:
                    return await checksum_of(client, file.path) not in (None, file.sha256)
                except SourceError as error:
                    log.info("%s", error)
                    return False

            flat = [(series, file) for series, read in files.items() for file in read]
            answers = await asyncio.gather(*(is_changed(file) for _, file in flat))
        changed: dict[Series, list[BulkFile]] = {}
        for (series, file), answer in zip(flat, answers, strict=True):
            if answer:
                changed.setdefault(series, []).append(file)
        return changed

    def _archive(self) -> Client:
        url = self._options.archive or ARCHIVE_URL
        limit = self._limit(venue_at("binance-archive", url), REQUESTS_PER_MINUTE, MINUTE)
        return Client(url, limit, replace(self._retry_policy, answer=max(self._retry_policy.answer, LONGEST_DOWNLOAD)))

    async def _produce(self, requests: Sequence[Request], put: Put) -> None:
        if not requests:
            return
        base_url = self._options.base_url
        limit = self._limit(venue_at(self.kind, base_url), ASSUMED_WEIGHT_PER_MINUTE, MINUTE)
        async with self._client(base_url, limit) as client, self._archive() as archive:
            session = _FetchSession(self._market, client, limit, archive if self._options.archive else None)
            try:
                # Asked before any candle: one that was closed then is complete in every later answer.
                server_now = await session.server_time()
                await session.learn_limit()
            except SourceError as error:
                await put_failures(requests, error, put)
                return
            await side_by_side(requests, partial(session.chunks, server_now=server_now), put)


class _FetchSession:
    """The requests of one fetch: the client, the limit and the archive that they share."""

    def __init__(self, market: Market, client: Client, limit: SharedLimit, archive: Client | None) -> None:
        self._market = market
        self._client = client
        self._limit = limit
        self._archive = archive

    async def server_time(self) -> np.datetime64:
        return await self._ask("/api/v3/time", {}, TIME_WEIGHT, _read_time)

    async def learn_limit(self) -> None:
        """Ask for the limit unless somebody on this machine has within a day; a mirror may have none to tell."""
        if self._limit.is_learnt():
            return
        # Halted symbols are few: the answer that lists all of them has several megabytes.
        params = {"symbolStatus": "HALT", "showPermissionSets": "false"}
        try:
            self._limit.learn(await self._ask("/api/v3/exchangeInfo", params, EXCHANGE_INFO_WEIGHT, _read_limit))
        except SourceError as error:
            log.info("%d a minute is assumed, as the venue states no limit: %s", ASSUMED_WEIGHT_PER_MINUTE, error)

    async def chunks(self, request: Request, server_now: np.datetime64) -> AsyncGenerator[Fetched, None]:
        """A chunk per page or archive, oldest first."""
        until = min(request.until, server_now)
        since, has_more = request.since, bool(request.since < until)
        archived = self._archive is not None and is_worth_it(request.series.timeframe, since, until, server_now)
        while has_more:
            if archived:
                since, fetched = await self._long(replace(request, since=since, until=until), server_now)
            else:
                since, fetched = await self._page(request.series, since, until, server_now)
            has_more = bool(since < until)
            yield replace(fetched, last=not has_more)
            if not has_more:
                return
        yield Fetched(request.series, Candles.none())

    async def _page(
        self, series: Series, since: np.datetime64, until: np.datetime64, server_now: np.datetime64
    ) -> tuple[np.datetime64, Fetched]:
        """Where to go on, and what one page has."""
        started = time.monotonic()
        rows = await self._klines(series, since, until)
        candles, ends = read_klines(rows)
        following = _following(series.timeframe, candles.open_time, len(rows), since, until)
        opens = candles.open_time
        closed = candles.where((ends < server_now) & (opens >= since) & (opens < until)).sorted()
        fetched = Fetched(series, closed, last=False, seconds=time.monotonic() - started)
        return until if following is None else following, fetched

    async def _long(self, request: Request, server_now: np.datetime64) -> tuple[np.datetime64, Fetched]:
        """The same for a long history: an archive where one begins, else a page up to where the next one does."""
        series, since, until = request.series, request.since, request.until
        archive = archive_at(series.timeframe, since, until, server_now)
        if archive is None:
            return await self._page(series, since, next_archive(series.timeframe, since, until, server_now), server_now)
        fetched = await self._archived(series, archive)
        if fetched is not None:
            return archive.until, fetched
        # Not listed yet, or not published: the API knows where there is something.
        first = await self._klines(series, since, until, rows=1)
        opens = read_klines(first)[0].open_time
        if len(opens) and opens[0] < archive.until:
            # Page by page up to the archive's end: from its second candle on nothing is taken for its beginning.
            return await self._page(series, since, archive.until, server_now)
        begins = max(month_of(opens[0]), archive.until) if len(opens) else until
        return begins, Fetched(series, Candles.none(), last=False)

    async def _archived(self, series: Series, archive: Archive) -> Fetched | None:
        assert self._archive is not None
        started = time.monotonic()
        path = archive.path(self._symbol(series), INTERVALS[series.timeframe])
        checksum = await checksum_of(self._archive, path)
        if checksum is None:
            return None
        candles, _ = read_klines(await rows_of(self._archive, path, checksum))
        file = BulkFile(path, checksum, archive.since, archive.until)
        whole = candles.between(archive.since, archive.until).sorted()
        return Fetched(series, whole, last=False, seconds=time.monotonic() - started, file=file)

    def _symbol(self, series: Series) -> str:
        return self._market.symbol(series.instrument, normalized)

    async def _klines(
        self, series: Series, since: np.datetime64, until: np.datetime64, rows: int = PAGE_ROWS
    ) -> list[Any]:
        symbol = self._symbol(series)
        interval = INTERVALS.get(series.timeframe)
        if interval is None:
            raise PermanentError(f"Binance has no {series.timeframe}; it has {', '.join(INTERVALS)}")
        params = {
            "symbol": symbol,
            "interval": interval,
            "startTime": max(-(-_microseconds(since) // 1000), 0),
            # Both ends are inclusive there.
            "endTime": (_microseconds(until) - 1) // 1000,
            "limit": rows,
        }
        try:
            return await self._ask("/api/v3/klines", params, KLINES_WEIGHT, _read_list)
        except PermanentError as error:
            error.args = (f"symbol {symbol}: {error}",)
            raise

    async def _ask(self, path: str, params: Mapping[str, str | int], weight: int, read: Reader[T]) -> T:
        def observe_and_read(response: httpx.Response) -> T:
            used = response.headers.get("x-mbx-used-weight-1m", "")
            if WEIGHT.fullmatch(used):
                self._limit.observe_server_usage(int(used), MINUTE - seconds_into_minute(response))
            return read(response)

        return await self._client.get(path, params, weight, observe_and_read)


def read_klines(rows: Sequence[Any]) -> tuple[Candles, Times]:
    """Klines as the venue sends them, and when each one ends (exclusive), in microseconds, UTC.

    A row whose times can be read but one of its numbers cannot is a candle of NaN, which no one will take for good; a
    row without the shape of a kline is set aside as malformed.

    >>> kline = [1704067200000, "1.5", "2", "1", "1.7", "10", 1704067259999, "0", 1, "0", "0", "0"]
    >>> candles, ends = read_klines([kline])
    >>> candles["close"], ends
    (array([1.7]), array(['2024-01-01T00:00:59.999000'], dtype='datetime64[us]'))
    """
    return parse_rows(rows, _candles, _row_fault, _repaired)


def _candles(rows: Sequence[Any], malformed: Sequence[Malformed]) -> tuple[Candles, Times]:
    if not rows:
        return Candles.of([], malformed, open=[], high=[], low=[], close=[], volume=[]), np.array([], dtype=TIME_UNIT)
    if any(type(row) is not list or len(row) < ROW_FIELDS for row in rows):
        raise ValueError("not all of it is klines")
    fields = list(zip(*rows, strict=False))
    numbers = floats(fields[1 : 1 + len(CANDLE_COLUMNS)])
    if np.isnan(numbers).any():
        numbers[:, np.isnan(numbers).any(axis=0)] = np.nan
    columns = dict[str, Floats](zip(CANDLE_COLUMNS, numbers, strict=True))
    opens, ends = _times((fields[0], fields[CLOSE_TIME_FIELD]))
    return Candles(opens, columns, tuple(malformed)), ends


def _times(stamps: Sequence[Any]) -> Times:
    numbers = np.array(stamps, dtype=np.int64)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < LATEST_STAMP):
        raise ValueError("not all of it is times")
    return np.where(numbers < FIRST_MICROSECOND, numbers * 1000, numbers).astype(TIME_UNIT)


def _row_fault(row: Any) -> str | None:
    if not isinstance(row, list) or len(row) < ROW_FIELDS:
        return f"a kline is a list of {ROW_FIELDS} fields"
    try:
        times = [int(row[0]), int(row[CLOSE_TIME_FIELD])]
    except (TypeError, ValueError, OverflowError):
        times = []
    if not times or not all(0 <= time < LATEST_STAMP for time in times):
        return "its times cannot be read"
    return None


def _repaired(row: list[Any]) -> list[Any]:
    return [int(row[0]), *map(number, row[1:])]


def _following(
    timeframe: Timeframe, opens: Times, rows: int, since: np.datetime64, until: np.datetime64
) -> np.datetime64 | None:
    """Where the next page begins; None when there is none.

    Fewer rows than asked for are no sign of the end, as a host may send fewer at a time; an empty page is.
    """
    new = opens[(opens >= since) & (opens < until)]
    if len(new) and (nearest := new.max() + length_of(timeframe)) >= until:
        # As usual at a refresh: no bar opens before it, so the calendar need not be asked.
        return nearest
    if len(new):
        return GRID.closes(timeframe, GRID.floor(timeframe, new[[new.argmax()]]))[0]
    if len(opens) and (opens < since).all():
        raise PermanentError(f"asked for candles from {since}, received older ones only; is base_url a Binance host?")
    if rows >= PAGE_ROWS:
        raise PermanentError(f"none of {rows} rows says when it opened; is base_url a Binance host?")
    return None


def _microseconds(moment: np.datetime64) -> int:
    return int(moment.astype(TIME_UNIT).astype(np.int64))


def _read_list(response: httpx.Response) -> list[Any]:
    body = _read_json(response)
    if not isinstance(body, list):
        raise PermanentError(f"expected a list of klines, received {excerpt(response.text)}; is base_url right?")
    return body


def _read_time(response: httpx.Response) -> np.datetime64:
    body = _read_json(response)
    stamp = body.get("serverTime") if isinstance(body, dict) else None
    if not isinstance(stamp, int) or not FIRST_STAMP <= stamp < LATEST_STAMP:
        raise PermanentError(f"expected serverTime, received {excerpt(response.text)}; is base_url right?")
    return _times([stamp])[0]


def _read_limit(response: httpx.Response) -> int:
    body = _read_json(response)
    try:
        limits = [each for each in body["rateLimits"] if each["rateLimitType"] == "REQUEST_WEIGHT"]
        per_minute = [int(each["limit"]) // int(each["intervalNum"]) for each in limits if each["interval"] == "MINUTE"]
        return max(min(per_minute), 1)
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        raise PermanentError(f"expected rateLimits, received {excerpt(response.text)}") from None


def _read_json(response: httpx.Response) -> Any:
    """The body of a good answer.

    Raises:
        PermanentError, TransientError: the answer is not good, by its status or by the code in it.
    """
    if response.status_code in REFUSED:
        raise PermanentError(f"HTTP {response.status_code}: {REFUSED[response.status_code]}")
    body, is_json = json_body(response)
    code = body.get("code") if isinstance(body, dict) else None
    error = _by_code(response, code, body) if isinstance(code, int) else by_status(response)
    if error is not None:
        raise error
    if is_json:
        return body
    raise unexpected(response, "JSON", "; is base_url right?")


def _by_code(response: httpx.Response, code: int, body: dict[str, Any]) -> SourceError:
    text = f"HTTP {response.status_code}, code {code}: {excerpt(str(body.get('msg')))}"
    if response.status_code == 418:
        return RateLimited(text, retry_after(response) or SHORTEST_BAN)
    if response.status_code == 429 or code == OVER_LIMIT_CODE:
        return RateLimited(text, retry_after(response))
    by_http = by_status(response)
    if code in TRANSIENT_CODES or isinstance(by_http, TransientError):
        silence = retry_after(response)
        return TransientError(text) if silence is None else RateLimited(text, silence)
    if code == UNKNOWN_SYMBOL_CODE:
        return PermanentError(f"{text} Check the instrument's name, or give it its `symbol` in the market's YAML")
    return PermanentError(text)
