"""Candles of an exchange's WebSocket by way of ccxt, each once a later candle of its series has proved its close.

ccxt drops an exchange's own closed flag, so that every candle it tells of may still be forming. What goes over REST is
`ccxt_exchange`'s part.
"""

import asyncio
import importlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, instant
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Secrets, SourceError, TransientError, no_secrets
from refresh_pipeline.sources.ccxt_exchange import CcxtSource, FetchSession
from refresh_pipeline.sources.streaming import ClosedCandle, Listener

log = logging.getLogger(__name__)

# Series that share a connection, at most: exchanges allow from 25 (Bitfinex) over 100 to a thousand.
SERIES_A_CONNECTION = 100
# Milliseconds between two subscriptions: ccxt slows them down by its limit for REST, a second at some exchanges.
BETWEEN_SUBSCRIPTIONS = 250.0
# Seconds before the first attempt to connect again; each later wait is twice as long, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
# Seconds between two looks whether a connection is silent, at most.
LOOK = 1.0
# Days begin where the exchange's do, in Hong Kong for instance.
LONGEST_STREAMED = Timeframe.H4
# A candle that opens later than now and a second proves nothing.
AHEAD = np.timedelta64(1, "s")
# Candles that ccxt keeps of a series: those that wait here are kept apart.
KEPT_BY_CCXT = 10

# A candle as it comes: milliseconds since 1970, then CANDLE_COLUMNS.
Row = Sequence[Any]


class CcxtStream(CcxtSource):
    """The closed candles of an exchange, as far as its WebSocket tells of candles."""

    def __init__(
        self,
        market: Market,
        limits_dir: Path,
        secrets: Secrets = no_secrets,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The streams of one market.

        Raises:
            MarketError: ccxt knows no candles of this exchange's WebSocket.
        """
        super().__init__(market, limits_dir, secrets)
        self._clock, self._loading = clock, asyncio.Lock()
        # The open time of each series' candle that was believed last: most messages are of the same candle.
        self._believed: dict[Series, np.datetime64] = {}
        # Series of which a candle could not be read.
        self._unreadable: set[Series] = set()

    def _prepare(self) -> None:
        """See HttpSource; the client is the one with WebSockets, which comes with ccxt."""
        super()._prepare()
        pro = importlib.import_module("ccxt.pro")
        name = self._options.exchange
        found = getattr(pro, name) if name in pro.exchanges else None
        if found is None or not found().has.get("watchOHLCV"):
            raise MarketError(
                f"market {self._market.name!r}: live: found source.exchange {name!r}, whose candles ccxt does not "
                "stream; allowed: an exchange for which ccxt says has['watchOHLCV'], for instance bybit, kraken or okx"
            )
        self._exchange_class, self._cache_class = found, _recorder_class()
        self.streamed_timeframes = tuple(each for each in self.native_timeframes if each <= LONGEST_STREAMED)

    async def listen(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """See Streaming."""
        live = self._market.live
        async with asyncio.TaskGroup() as group:
            for part in connections(series, live.streams if live else 1):
                group.create_task(self._keep(part, listener, silence))

    async def _keep(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """Hold one connection after another for ever, each with a new client: nothing of the last one remains."""
        wait = FIRST_WAIT
        while True:
            try:
                async with self._session(instant(self._clock())) as session:
                    async with self._loading:
                        await self._load_markets(session)
                    connection = _Connection(self, session, series, listener, silence)
                    reason = await connection.followed()
                wait = FIRST_WAIT if connection.is_open else wait
            except (SourceError, OSError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {excerpt(str(error))}"
            listener.ended(series, reason)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT)

    def new_cache(self) -> Any:
        """A place for ccxt to keep a series' candles, which also remembers what has come since it was last asked."""
        return self._cache_class(KEPT_BY_CCXT)

    def names(self, series: Series) -> tuple[str, str]:
        """What ccxt calls the instrument and the timeframe."""
        return self._market.symbol(series.instrument, str), self._timeframe_names[series.timeframe]

    def believed(self, series: Series, rows: Iterable[Row]) -> Iterator[tuple[np.datetime64, tuple[float, ...]]]:
        """The candles that can be read, lie on the market's grid and have begun."""
        for row in rows:
            if (candle := read_row(row)) is None:
                if series not in self._unreadable:
                    log.warning("%s: candles of its stream cannot be read, such as %s", series, excerpt(str(row)))
                self._unreadable.add(series)
            elif candle[0] == self._believed.get(series) or self._is_bar(series, candle[0]):
                self._believed[series] = candle[0]
                yield candle

    def _is_bar(self, series: Series, opens: np.datetime64) -> bool:
        """Whether a bar of the market's grid opens then, and has begun."""
        grid = self._market.calendar_of(series.instrument).floor(series.timeframe, np.array([opens]))[0]
        return bool(grid == opens and opens <= instant(self._clock()) + AHEAD)


class _Connection:
    """One client's WebSockets for some series, until one of them ends or all are silent."""

    def __init__(
        self, stream: CcxtStream, session: FetchSession, series: Sequence[Series], listener: Listener, silence: float
    ) -> None:
        self._stream, self._session, self._series = stream, session, series
        self._listener, self._silence = listener, silence
        self._heard = time.monotonic()
        # Whether any candle has come.
        self.is_open = False
        # By ccxt's limit for REST, 487 subscriptions would take minutes.
        exchange = session.exchange
        exchange.tokenBucket = {
            **(exchange.tokenBucket or {}),
            "algorithm": "leakyBucket",
            "refillRate": 1 / BETWEEN_SUBSCRIPTIONS,
        }
        exchange.options = {**exchange.options, "ws": {**(exchange.options.get("ws") or {}), "cost": 1}}

    async def followed(self) -> str:
        """Hand over closed candles until the connection ends; gives the reason."""
        tasks = {asyncio.create_task(self._follow(each)): each for each in self._series}
        try:
            while tasks:
                look = min(self._silence, LOOK)
                ended, _ = await asyncio.wait(tasks, timeout=look, return_when=asyncio.FIRST_COMPLETED)
                refused = {tasks.pop(task): _error_of(task) for task in ended}
                for error in refused.values():
                    if not isinstance(error, SourceError) or error.transient:
                        return f"{type(error).__name__}: {excerpt(str(error))}"
                for series, error in refused.items():
                    log.warning("%s: REST alone serves it: %s", series, error)
                if time.monotonic() - self._heard > self._silence:
                    return f"no candle within {self._silence:g} s"
            return "the exchange streams none of its series"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, series: Series) -> None:
        """Listen to one series.

        Raises:
            SourceError: the connection has ended, or the exchange refuses the series.
        """
        exchange, (symbol, timeframe) = self._session.exchange, self._stream.names(series)
        recorder, successors = self._stream.new_cache(), Successors()
        while True:
            try:
                # A market's YAML may have the exchange's own name; ccxt keeps candles by its own.
                exchange.ohlcvs.setdefault(exchange.market(symbol)["symbol"], {}).setdefault(timeframe, recorder)
                returned = await exchange.watch_ohlcv(symbol, timeframe)
            except self._session.ccxt.BaseError as error:
                raise self._session.ours(error) from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # ccxt cancels what waits for a connection that it closes.
                raise TransientError("the connection was closed") from None
            self._note()
            # Some exchanges' candles are kept elsewhere: then what ccxt returns is all there is.
            rows = recorder.taken() or as_rows(returned)
            for open_time, values in successors.closed(self._stream.believed(series, rows)):
                self._listener.closed(ClosedCandle(series, open_time, values))

    def _note(self) -> None:
        self._heard = time.monotonic()
        if not self.is_open:
            self.is_open = True
            self._listener.opened(self._series)


class Successors:
    """Which candles of one series are closed, over one connection: those that a later one has come after.

    The first that comes is a snapshot and proves nothing. Its newest candle counts once a message has told of it anew:
    what happened between the snapshot and the next candle may have been lost.
    """

    def __init__(self) -> None:
        """Nothing has come."""
        self._newest: np.datetime64 | None = None
        # The newest candle as it was told last; None for that of the snapshot.
        self._values: tuple[float, ...] | None = None

    def closed(
        self, candles: Iterable[tuple[np.datetime64, tuple[float, ...]]]
    ) -> list[tuple[np.datetime64, tuple[float, ...]]]:
        """Take in candles of one message or several, in the order in which they came; gives those that are closed now.

        >>> minute = np.datetime64("2024-06-03T12:00", "us")
        >>> seen = Successors()
        >>> seen.closed([(minute, (1.0,))]), seen.closed([(minute, (2.0,))])
        ([], [])
        >>> seen.closed([(minute + np.timedelta64(1, "m"), (3.0,))])
        [(np.datetime64('2024-06-03T12:00:00.000000'), (2.0,))]
        """
        told = dict(candles)
        if not told:
            return []
        if self._newest is None:
            self._newest = max(told)
            return []
        known = {} if self._values is None else {self._newest: self._values}
        known |= {time: values for time, values in told.items() if time >= self._newest}
        if not known:
            return []
        self._newest = max(known)
        self._values = known.pop(self._newest)
        return sorted(known.items())


def connections(series: Sequence[Series], streams: int) -> list[list[Series]]:
    """The series of each connection, of one timeframe each: Kraken's client confuses timeframes of one connection.

    >>> m1, h1 = Series("A", Timeframe.m1), Series("A", Timeframe.H1)
    >>> [[each.key for each in part] for part in connections([m1, h1, Series("B", Timeframe.m1)], 1)]
    [['A|m1', 'B|m1'], ['A|H1']]
    """
    members: dict[Timeframe, list[Series]] = {}
    for each in series:
        members.setdefault(each.timeframe, []).append(each)
    parts = []
    for part in members.values():
        count = max(streams, -(-len(part) // SERIES_A_CONNECTION))
        parts += [shared for number in range(count) if (shared := part[number::count])]
    return parts


def read_row(row: Row) -> tuple[np.datetime64, tuple[float, ...]] | None:
    """A candle's open time and values; None where it is none.

    >>> read_row([1717416000000, "1", "2", "1", "1.5", 7])
    (np.datetime64('2024-06-03T12:00:00.000000'), (1.0, 2.0, 1.0, 1.5, 7.0))
    """
    try:
        opens, values = int(row[0]), tuple(float(value) for value in row[1 : 1 + len(CANDLE_COLUMNS)])
    except (TypeError, ValueError, LookupError, OverflowError):
        return None
    if len(values) < len(CANDLE_COLUMNS) or not all(map(math.isfinite, values)):
        return None
    return np.datetime64(opens, "ms").astype(TIME_UNIT), values


def as_rows(returned: Any) -> list[Row]:
    """What `watch_ohlcv` returns as rows: some exchanges give one candle without a list around it."""
    rows = list(returned) if isinstance(returned, list) else []
    return [rows] if rows and not isinstance(rows[0], list) else rows


def _error_of(task: "asyncio.Task[None]") -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _recorder_class() -> Any:
    """A cache of ccxt's that also hands over every candle that was put into it, in order.

    What `watch_ohlcv` returns is the cache's end, as long as there was news: at exchanges whose snapshot begins with
    the newest candle, that is not where the news is.
    """
    base = importlib.import_module("ccxt.async_support.base.ws.cache").ArrayCacheByTimestamp

    class Recorder(base):
        def __init__(self, max_size: int) -> None:
            super().__init__(max_size)
            self.heard: list[Row] = []

        def append(self, item: list[Any]) -> None:
            self.heard.append(list(item))
            super().append(item)

        def taken(self) -> list[Row]:
            heard, self.heard = self.heard, []
            return heard

    return Recorder
