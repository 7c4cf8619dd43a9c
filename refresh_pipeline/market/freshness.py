"""Freshness of series at an instant, by their calendar: completeness, age, bars behind."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Floats, Times, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# A refresh is due at each close of the shortest timeframe and takes its time: one tick late is not stale yet.
TICKS_OF_GRACE = 2
# For so long a source is believed that has no candles of a series while it has those of others.
QUIET_AT_MOST = np.timedelta64(1, "h")
# A clock that is set right steps back by so much in the course of a day.
CLOCK_STEP = np.timedelta64(1, "m")


def allowed_delay(timeframes: Iterable[Timeframe]) -> timedelta:
    """For how long a candle of a market with these timeframes may be on its way after its close."""
    return timedelta(minutes=min(timeframes).minutes) * TICKS_OF_GRACE


def latest_due(market: Market, now: datetime) -> dict[Series, np.datetime64]:
    """The newest candle that should be stored of each series at `now`.

    None past the known end of its calendar, and none of a static market.
    """
    if market.static:
        return {}
    return {
        series: newest
        for (calendar, timeframe), members in market.by_calendar(market.series).items()
        if calendar.known_end(instant(now)) == instant(now)
        for newest in [calendar.last_closed(timeframe, instant(now - allowed_delay(market.timeframes)))]
        for series in members
    }


class Standing(Protocol):
    """What is known of a series: its newest candle, and when its source last answered; None where there is neither."""

    @property
    def series(self) -> Series:
        """The series."""
        ...

    @property
    def last_open_time(self) -> np.datetime64 | None:
        """Opening time of its newest candle."""
        ...

    @property
    def answered_at(self) -> np.datetime64 | None:
        """When its source was last asked for it and answered."""
        ...


AnyStanding = TypeVar("AnyStanding", bound=Standing)


def behind(market: Market, reports: Iterable[AnyStanding], now: datetime) -> list[AnyStanding]:
    """The series that lack the newest candle that is due at `now`.

    An instrument that trades rarely has no candle in quiet minutes, so some series are excused for an hour after the
    first candle that they lack has closed. The source must have been asked since the newest candle closed. It must
    have given that candle to another series of the timeframe. Where it has nothing for any series, all are behind at
    once.
    """
    due = latest_due(market, now)
    reports = [report for report in reports if report.series in due]
    late = [each for each in reports if each.last_open_time is None or each.last_open_time < due[each.series]]
    current = {each.series for each in reports} - {each.series for each in late}
    alive = {series.timeframe for series in current}
    return [
        each
        for each in late
        if each.series.timeframe not in alive or not _is_quiet(market, each, due[each.series], instant(now))
    ]


def _is_quiet(market: Market, report: Standing, due: np.datetime64, now: np.datetime64) -> bool:
    """Whether the source was asked for the candle that is due, and the first one that lacks closed lately."""
    # An answer of the future is from a clock that was ahead: it is not known when the source answered.
    if report.last_open_time is None or report.answered_at is None or report.answered_at > now + CLOCK_STEP:
        return False
    calendar, timeframe = market.calendar_of(report.series.instrument), report.series.timeframe
    last, closed = calendar.closes(timeframe, np.array([report.last_open_time, due], dtype=TIME_UNIT))
    return bool(report.answered_at >= closed and now - calendar.next_close(timeframe, last) < QUIET_AT_MOST)


def completeness(
    calendar: Calendar, timeframe: Timeframe, first_open_times: Times, counts: NDArray[np.int64], now: datetime
) -> Floats:
    """The share of the candles to expect that is there, from each series' first one to the last closed at `now`.

    No candle is expected past the known end of the calendar.

    >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
    >>> completeness(CryptoCalendar(), Timeframe.H1, np.array(["2024-01-01T00"], dtype="datetime64[us]"),
    ...              np.array([3]), datetime(2024, 1, 1, 4, 30))
    array([0.75])
    """
    last = calendar.last_closed(timeframe, calendar.known_end(instant(now)))
    expected = calendar.count(timeframe, first_open_times, last)
    # Candles outside the expected sessions must not make up for missing ones beyond the whole.
    return np.minimum(counts / np.maximum(expected, 1), 1.0)


def short_duration(seconds: float | None) -> str:
    """A duration by its two largest units, without a zero behind; a negative one is said to lie ahead.

    >>> short_duration(7230), short_duration(90), short_duration(200_000), short_duration(None), short_duration(-60)
    ('2h', '1m 30s', '2d 7h', '-', '1m ahead')
    """
    if seconds is None:
        return "-"
    if round(seconds) < 0:
        return f"{short_duration(-seconds)} ahead"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s"))
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count) or "0s"


def data_age(calendar: Calendar, timeframe: Timeframe, last_open_times: Times, now: datetime) -> Floats:
    """Seconds between the close of each series' newest candle and `now`."""
    return (instant(now) - calendar.closes(timeframe, last_open_times)) / np.timedelta64(1, "s")


def closed_since(market: Market, lasts: Mapping[Series, np.datetime64], now: datetime) -> dict[Series, int]:
    """How many candles have closed since the newest stored one, of the series of which candles are expected at `now`.

    None is expected of a static market, and past the last day that a calendar knows.
    """
    counts: dict[Series, int] = {}
    for (calendar, timeframe), members in market.by_calendar(market.series).items():
        stored = [series for series in members if series in lasts]
        if stored and calendar.knows(instant(now)) and not market.static:
            times = np.array([lasts[series] for series in stored], dtype=TIME_UNIT)
            counts |= zip(stored, bars_behind(calendar, timeframe, times, now).tolist(), strict=True)
    return counts


def bars_behind(calendar: Calendar, timeframe: Timeframe, last_open_times: Times, now: datetime) -> NDArray[np.int64]:
    """How many candles have closed after each series' newest one."""
    # Counted from just after it, so that a newest candle off the grid is not taken for one of them.
    return calendar.count(
        timeframe, last_open_times + np.timedelta64(1, "us"), calendar.last_closed(timeframe, instant(now))
    )
