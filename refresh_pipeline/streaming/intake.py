"""Closed candles in the order in which they can be computed: each once, and none before the one before it.

Streams send late, twice and out of order. A candle waits here until the bar before it has come, or until REST has said
that there is none. Nothing here knows a network or a clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, faults
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.streaming import ClosedCandle

# How far ahead the next bar is looked for: a bar, a weekend, the longest holidays.
_REACHES = (timedelta(days=4), timedelta(days=15), timedelta(days=70))
_NEVER = np.datetime64("0001-01-01", "us")


class Intake:
    """The candles of one market's series that have come and are not computed yet."""

    def __init__(self, market: Market) -> None:
        """No series yet."""
        self._market = market
        # Of each series: the open time of the newest candle that is computed, of the next bar, and what waits.
        self._newest: dict[Series, np.datetime64] = {}
        self._next: dict[Series, np.datetime64] = {}
        self._waiting: dict[Series, dict[np.datetime64, ClosedCandle]] = {}
        # REST has said all that it has of the bars before this instant.
        self._known_until: dict[Series, np.datetime64] = {}
        # Bars whose candle was rejected.
        self._absent: dict[Series, set[np.datetime64]] = {}
        self._following: dict[tuple[Calendar, Timeframe, np.datetime64], np.datetime64] = {}
        # How many candles came again after they were known.
        self.repeated = 0

    @property
    def series(self) -> list[Series]:
        """The series that are taken in."""
        return list(self._newest)

    def begin(self, series: Series, newest: np.datetime64) -> None:
        """Take in a series whose newest stored candle opened then; what waits of it after that goes on waiting."""
        self._newest[series], self._next[series] = newest, self._after(series, newest)
        waiting = self._waiting.get(series, {})
        self._waiting[series] = {time: candle for time, candle in waiting.items() if time > newest}
        self._absent.setdefault(series, set())
        self._known_until.setdefault(series, _NEVER)

    def leave(self, series: Iterable[Series]) -> None:
        """Take in no more of these series until they begin anew; what waits of them goes on waiting."""
        for each in series:
            self._newest.pop(each, None)

    def offer(self, candle: ClosedCandle) -> bool:
        """Take in a candle; False for one that is known already."""
        waiting = self._waiting.setdefault(candle.series, {})
        newest = self._newest.get(candle.series)
        if candle.open_time in waiting or (newest is not None and candle.open_time <= newest):
            self.repeated += 1
            return False
        waiting[candle.open_time] = candle
        return True

    def know(self, series: Series, until: np.datetime64) -> None:
        """All candles that REST has of the bars before an instant have been offered."""
        self._known_until[series] = max(self._known_until.get(series, _NEVER), until)

    def ready(self) -> list[ClosedCandle]:
        """Take out the next candle of each series that has one, and go on to the bar after it."""
        candles = []
        for series in self._newest:
            if (time := self._ready_time(series)) is not None:
                candles.append(self._waiting[series].pop(time))
                self._newest[series], self._next[series] = time, self._after(series, time)
        return candles

    @property
    def has_ready(self) -> bool:
        """Whether any series has a candle that can be computed."""
        return any(self._ready_time(series) is not None for series in self._newest)

    @property
    def is_complete(self) -> bool:
        """Whether every series has a candle that can be computed; the first that has none ends the look."""
        return all(self._ready_time(series) is not None for series in self._newest)

    def reject(self, candles: Sequence[ClosedCandle]) -> None:
        """Go on without these candles, which were taken out: they are no good."""
        for candle in candles:
            self._absent[candle.series].add(candle.open_time)

    def behind(self, now: np.datetime64) -> list[Series]:
        """The series of which a bar has closed by `now` that neither is computed nor can be."""
        last_closed: dict[tuple[Calendar, Timeframe], np.datetime64] = {}
        late = []
        for series, newest in self._newest.items():
            key = (self._market.calendar_of(series.instrument), series.timeframe)
            if key not in last_closed:
                last_closed[key] = key[0].last_closed(series.timeframe, now)
            waits_for_gap = bool(self._waiting[series]) and self._ready_time(series) is None
            if waits_for_gap or (newest < last_closed[key] and not self._waiting[series]):
                late.append(series)
        return late

    def next_bar(self, series: Series) -> np.datetime64:
        """The open time of the first bar that has not come."""
        return self._next[series]

    def newest(self, series: Series) -> np.datetime64:
        """The open time of the newest candle that was taken out."""
        return self._newest[series]

    def _ready_time(self, series: Series) -> np.datetime64 | None:
        waiting = self._waiting[series]
        if not waiting:
            return None
        expected, absent = self._next[series], self._absent[series]
        while expected in absent:
            absent.discard(expected)
            expected = self._next[series] = self._after(series, expected)
        time = min(waiting)
        return time if time <= expected or time <= self._known_until[series] else None

    def _after(self, series: Series, time: np.datetime64) -> np.datetime64:
        """The open time of the bar after the one that opened then."""
        key = (self._market.calendar_of(series.instrument), series.timeframe, time)
        if key not in self._following:
            if len(self._following) > 10_000:
                self._following.clear()
            self._following[key] = following(*key)
        return self._following[key]


def following(calendar: Calendar, timeframe: Timeframe, time: np.datetime64) -> np.datetime64:
    """The open time of the calendar's bar after the one that opened at `time`; its close where none is known.

    >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
    >>> following(CryptoCalendar(), Timeframe.m1, np.datetime64("2024-01-01T00:00", "us"))
    np.datetime64('2024-01-01T00:01:00.000000')
    """
    closes = calendar.closes(timeframe, np.array([time], dtype=TIME_UNIT))[0]
    for reach in _REACHES:
        end = calendar.known_end(closes + np.timedelta64(reach))
        if end <= closes:
            break
        times = calendar.open_times(timeframe, closes, end)
        if len(times):
            return times[0]
    return closes


def good(candles: Sequence[ClosedCandle]) -> Mapping[ClosedCandle, str | None]:
    """Why each candle must not be stored; None for a good one."""
    columns = dict(zip(CANDLE_COLUMNS, np.array([candle.values for candle in candles]).T, strict=True))
    reasons = faults(
        Candles(np.array([candle.open_time for candle in candles], dtype=TIME_UNIT), columns),
        np.arange(len(candles), dtype=np.int32),
    )
    return dict(zip(candles, reasons.tolist(), strict=True))
