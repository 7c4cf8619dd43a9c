"""How series stand against their calendar at an instant: how complete, how old, how far behind; all at once."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import Floats, Times, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# A refresh is due at each close of the shortest timeframe and takes its time: one tick late is not stale yet.
TICKS_OF_GRACE = 2


def allowed_delay(timeframes: Iterable[Timeframe]) -> timedelta:
    """For how long a candle of a market with these timeframes may be on its way after its close."""
    return timedelta(minutes=min(timeframes).minutes) * TICKS_OF_GRACE


def latest_due(market: Market, now: datetime) -> dict[Series, np.datetime64]:
    """The newest candle that should be stored of each series at `now`."""
    return {
        series: newest
        for (calendar, timeframe), members in market.by_calendar(market.series).items()
        for newest in [calendar.last_closed(timeframe, instant(now - allowed_delay(market.timeframes)))]
        for series in members
    }


def completeness(
    calendar: Calendar, timeframe: Timeframe, first_open_times: Times, counts: NDArray[np.int64], now: datetime
) -> Floats:
    """The share of the candles to expect that is there, from each series' first one to the last closed at `now`.

    >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
    >>> completeness(CryptoCalendar(), Timeframe.H1, np.array(["2024-01-01T00"], dtype="datetime64[us]"),
    ...              np.array([3]), datetime(2024, 1, 1, 4, 30))
    array([0.75])
    """
    expected = calendar.count(timeframe, first_open_times, calendar.last_closed(timeframe, instant(now)))
    # Candles outside the expected sessions must not make up for missing ones beyond the whole.
    return np.minimum(counts / np.maximum(expected, 1), 1.0)


def data_age(calendar: Calendar, timeframe: Timeframe, last_open_times: Times, now: datetime) -> Floats:
    """Seconds between the close of each series' newest candle and `now`."""
    return (instant(now) - calendar.closes(timeframe, last_open_times)) / np.timedelta64(1, "s")


def bars_behind(calendar: Calendar, timeframe: Timeframe, last_open_times: Times, now: datetime) -> NDArray[np.int64]:
    """How many candles have closed after each series' newest one."""
    # Counted from just after it, so that a newest candle off the grid is not taken for one of them.
    return calendar.count(
        timeframe, last_open_times + np.timedelta64(1, "us"), calendar.last_closed(timeframe, instant(now))
    )
