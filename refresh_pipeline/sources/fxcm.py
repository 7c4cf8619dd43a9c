"""FXCM's public archive: bid and ask candles of currency pairs from 2012 on, a file a week, about a week late; no key.

Minutes and hours come in weekly files, days in yearly ones; days that the yearly files do not have yet are made from
hours. Contract: what others measured, as nobody documents the archive. Volume is not in it.
"""

import json
import logging
import os
import time
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from refresh_pipeline.market.calendars.base import DAY
from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.candles import PRICE_COLUMNS, QUOTE_COLUMNS, TIME_UNIT, Candles, Malformed, instant
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, TransientError
from refresh_pipeline.sources.concurrency import in_background, side_by_side
from refresh_pipeline.sources.http_client import BaseUrl, Client, Put, RateLimited, by_status, retry_after
from refresh_pipeline.sources.http_source import HttpSource, SourceOptions, venue_at
from refresh_pipeline.sources.rows import floats, number, parse_rows

log = logging.getLogger(__name__)

# Weeks and days of the archive hang on New York, whatever calendar the market has.
GRID = FxCalendar()
FIRST = np.datetime64("2012-01-01", "us")
HEADER = "DateTime,BidOpen,BidHigh,BidLow,BidClose,AskOpen,AskHigh,AskLow,AskClose"
FIELDS = len(HEADER.split(","))

# Nobody states a limit; one that is passed is answered by 403.
SECONDS_PER_REQUEST = 0.5
SILENCE = 60.0
# What is not there is not asked for again for so long: most of it never comes, and the newest week comes once a week.
ABSENT_FOR = 6 * 3600.0
# A week of minutes unpacks to 700 kB.
LARGEST = 50 * 1024 * 1024
# 2026 lacks 14 weeks in a row. As many as this before any candle, and the pair is not in the archive.
MISSING_WEEKS = 26
# A week's file is looked for beside its number too, so the neighbours are needed soon after.
FILES_KEPT = 4
LAST_WEEK = 53


class FxcmOptions(SourceOptions):
    """The options of this source in a market's YAML."""

    base_url: BaseUrl = "https://candledata.fxcorporate.com"


class FxcmSource(HttpSource[FxcmOptions]):
    """Minutes, hours and days of finished weeks; what the archive lacks, it lacks without a failure."""

    kind = "fxcm"
    options_model = FxcmOptions
    native_timeframes = (Timeframe.m1, Timeframe.H1, Timeframe.D1)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; a week that is not over by `now` is not asked for."""
        return in_background(partial(self._produce, requests, instant(now)))

    async def _produce(self, requests: Sequence[Request], now: np.datetime64, put: Put) -> None:
        venue = venue_at(self.kind, self._options.base_url)
        limit = self._limit(venue, 1, SECONDS_PER_REQUEST)
        absent = Absent(self._limits_dir / f"{venue.replace(':', '_')}.absent.json")
        async with self._client(self._options.base_url, limit) as client:
            try:
                await side_by_side(requests, partial(self._chunks, client, absent, now), put)
            finally:
                absent.save()

    async def _chunks(
        self, client: Client, absent: "Absent", now: np.datetime64, request: Request
    ) -> AsyncGenerator[Fetched, None]:
        """A chunk per file, oldest first; that no more will come is said by an empty one."""
        series = request.series
        archive = _Archive(client, absent, now, self.symbol(series.instrument))
        since, until = max(request.since, FIRST), min(request.until, now)
        source = archive.days if series.timeframe is Timeframe.D1 else partial(archive.weeks, series.timeframe)
        started = time.monotonic()
        async for candles in source(since, until):
            closed = candles.where(GRID.closes(series.timeframe, candles.open_time) <= now).between(since, until)
            yield Fetched(series, self._sided(closed.sorted()), last=False, seconds=time.monotonic() - started)
            started = time.monotonic()
        yield Fetched(series, Candles.none())

    def _sided(self, candles: Candles) -> Candles:
        if self._market.two_sided:
            return candles
        kept = {name: values for name, values in candles.columns.items() if name not in QUOTE_COLUMNS}
        return Candles(candles.open_time, kept, candles.malformed)


class Absent:
    """The files that were not there when somebody on this machine last asked; forgotten after some hours."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._until: dict[str, float] = {}
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            now = time.time()
            # An instant beyond the longest wait is from a clock that was ahead.
            fresh = {str(path): float(until) for path, until in stored.items()}
            self._until = {path: until for path, until in fresh.items() if now < until <= now + ABSENT_FOR}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is unreadable and starts empty: %s", file, error)

    def __contains__(self, path: str) -> bool:
        return path in self._until

    def add(self, path: str) -> None:
        """Not there just now."""
        self._until[path] = time.time() + ABSENT_FOR

    def save(self) -> None:
        """Keep it for others, if there is room; what another process has found meanwhile it finds again."""
        fresh = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self._until), encoding="utf-8")
            fresh.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written, so missing files are requested again: %s", self._file, error)


class _Archive:
    """The files of one pair."""

    def __init__(self, client: Client, absent: Absent, now: np.datetime64, symbol: str) -> None:
        self._client = client
        self._absent = absent
        self._now = now
        self._symbol = symbol
        self._files: dict[str, Candles | None] = {}

    async def weeks(
        self, timeframe: Timeframe, since: np.datetime64, until: np.datetime64
    ) -> AsyncGenerator[Candles, None]:
        """The candles of each week from one instant to another, of which the archive has a file."""
        found, missing = False, 0
        for start, end in _weeks(since, until, self._now):
            candles = await self._week(timeframe, start, end)
            if candles is not None:
                found = True
                yield candles
                continue
            missing += 1
            if missing >= MISSING_WEEKS and not found:
                raise PermanentError(
                    f"the archive has none of {MISSING_WEEKS} weeks of {self._symbol}; it has 21 currency pairs, no "
                    f"metals and no indices: check the instrument, or give it its `symbol` in the market's YAML"
                )

    async def days(self, since: np.datetime64, until: np.datetime64) -> AsyncGenerator[Candles, None]:
        """The days of each year, and those that followed, from their hours."""
        following = since
        # A day that begins on the evening of 31 December may be in either file.
        first, last = (moment.astype("datetime64[Y]").astype(int) + 1970 for moment in (since, until + DAY))
        for year in range(first, last + 1):
            candles = await self._file(f"/D1/{self._symbol}/{year}.csv.gz")
            if candles is not None:
                following = np.append(GRID.closes(Timeframe.D1, candles.open_time), following).max()
                yield candles
        async for hours in self.weeks(Timeframe.H1, following, until):
            days = resample(hours, Timeframe.D1, GRID)
            is_whole = GRID.closes(Timeframe.D1, days.open_time) <= GRID.closes(Timeframe.H1, hours.open_time).max()
            yield days.where(is_whole & (days.open_time >= following))

    async def _week(self, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Candles | None:
        monday = (start + DAY).astype("datetime64[D]").astype(date)
        for year, week in _numbers(monday):
            found = await self._file(f"/{timeframe}/{self._symbol}/{year}/{week}.csv.gz")
            candles = None if found is None else found.between(start, end)
            if candles is not None and len(candles):
                return candles
        return None

    async def _file(self, path: str) -> Candles | None:
        if path in self._absent:
            return None
        if path not in self._files:
            self._files[path] = await self._client.get(path, {}, 1, _read)
            if self._files[path] is None:
                self._absent.add(path)
            if len(self._files) > FILES_KEPT:
                del self._files[next(iter(self._files))]
        return self._files[path]


def _weeks(
    since: np.datetime64, until: np.datetime64, now: np.datetime64
) -> Iterable[tuple[np.datetime64, np.datetime64]]:
    """The trading weeks from that of `since` to that of `until` which are over by `now`: no other has a file."""
    first = GRID.floor(Timeframe.W1, np.array([since], dtype=TIME_UNIT))[0]
    starts = GRID.open_times(Timeframe.W1, first, until)
    ends = GRID.closes(Timeframe.W1, starts)
    return zip(starts[ends <= now], ends[ends <= now], strict=True)


def _numbers(monday: date) -> Iterable[tuple[int, int]]:
    """Under which years and numbers the file of a week may lie, the likeliest first.

    Some years count as ISO does, others one less; what is in a file only its timestamps tell.

    >>> list(_numbers(date(2026, 3, 2))), list(_numbers(date(2025, 12, 29)))
    ([(2026, 10), (2026, 9), (2026, 11)], [(2026, 1), (2025, 52), (2026, 2), (2025, 53)])
    """
    numbers = [(monday + timedelta(weeks=more)).isocalendar()[:2] for more in (0, -1, 1)]
    # At the turn of the year one less than the first is more than the last.
    return dict.fromkeys([*numbers, *([(monday.year, LAST_WEEK)] if monday.month == 12 else [])])


def _read(response: httpx.Response) -> Candles | None:
    """The candles of a file, None where there is no such file.

    Raises:
        PermanentError, TransientError: the answer is neither.
    """
    if response.status_code == 404:
        return None
    if response.status_code == 403:
        raise RateLimited("HTTP 403: the archive wants fewer requests", retry_after(response) or SILENCE)
    if error := by_status(response):
        raise error
    try:
        text = _unpacked(response.content).decode("utf-8-sig")
    except (zlib.error, EOFError) as error:
        raise TransientError(f"the file breaks off: {error}") from None
    except UnicodeDecodeError:
        raise PermanentError("expected a CSV file, received bytes that are no text; is base_url right?") from None
    return read_candles(text)


def _unpacked(data: bytes) -> bytes:
    """What a gzip file holds; one that the transport has unpacked already is taken as it is."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    unpacked = unpacking.decompress(data, LARGEST)
    if unpacking.unconsumed_tail:
        raise PermanentError(f"expected a week of candles, received a file of more than {LARGEST >> 20} MB")
    if not unpacking.eof:
        raise EOFError("its end is missing")
    return unpacked


def read_candles(text: str) -> Candles:
    r"""The candles of a file: bid and ask as they stand there, and the middle between them; volume is not known.

    A price that is no number makes its candle one of NaN; a row that is none is set aside as malformed. A bid above its
    ask, as there are some, is left as it is.

    >>> rows = "05/31/2024 20:59:00.000,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3"
    >>> candles = read_candles(f"{HEADER}\n{rows}")
    >>> candles.open_time[0], float(candles["bid_high"][0]), round(float(candles["high"][0]), 5)
    (np.datetime64('2024-05-31T20:59:00.000000'), 1.3, 1.35)

    Raises:
        PermanentError: this is no file of the archive's.
    """
    header, *lines = text.splitlines() or [""]
    if header.strip() != HEADER:
        raise PermanentError(
            f"expected a file that begins with {HEADER}, received {excerpt(header)}; is base_url right?"
        )
    rows = [line.split(",") for line in lines if line.strip()]
    return parse_rows(rows, _candles, _row_fault, _repaired, text=",".join)


def _candles(rows: Sequence[Sequence[str]], malformed: Sequence[Malformed]) -> Candles:
    opens = np.array([_iso_time(row[0]) for row in rows], dtype=TIME_UNIT)
    quotes = floats([row[1:] for row in rows]).reshape(len(rows), -1 if rows else FIELDS - 1)
    sides = dict(zip(QUOTE_COLUMNS, quotes.T, strict=True))
    middle = {name: (sides[f"bid_{name}"] + sides[f"ask_{name}"]) / 2 for name in PRICE_COLUMNS}
    return Candles.of(opens, malformed, **middle, **sides)


def _iso_time(text: str) -> str:
    return f"{text[6:10]}-{text[:2]}-{text[3:5]}T{text[11:]}"


def _row_fault(fields: Sequence[str]) -> str | None:
    if len(fields) != FIELDS:
        return f"a candle has {FIELDS} fields"
    try:
        np.datetime64(_iso_time(fields[0]), "us")
    except ValueError:
        return "its time cannot be read"
    return None


def _repaired(fields: Sequence[str]) -> list[str]:
    return [fields[0], *(str(number(price)) for price in fields[1:])]
