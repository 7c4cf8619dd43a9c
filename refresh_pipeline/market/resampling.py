"""Longer candles from shorter ones, on the market's calendar, and of how many base bars each one was made."""

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import RESAMPLED_COLUMNS, Candles, Floats
from refresh_pipeline.market.timeframe import Timeframe

# How each column of a longer bar follows from the bars inside it; whatever is not named is summed, as volume is.
FIRST = {"open", "bid_open", "ask_open"}
HIGHEST = {"high", "bid_high", "ask_high"}
LOWEST = {"low", "bid_low", "ask_low"}
LAST = {"close", "bid_close", "ask_close"}


def resample(candles: Candles, timeframe: Timeframe, calendar: Calendar) -> Candles:
    """Candles of a longer timeframe from candles of one that divides it.

    Open is the first bar's, high and low the extremes, close the last bar's, volume the sum of what is known (NaN
    where no bar knows one). A bar that has not ended yet comes out like any other: leaving it off is the caller's
    part, who knows the time.

    >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
    >>> minutes = Candles.of(["2024-01-01T00:00", "2024-01-01T00:01", "2024-01-01T00:05"], open=[1, 2, 3],
    ...                      high=[4, 5, 6], low=[1, 1, 2], close=[2, 3, 4], volume=[10, 20, 30])
    >>> five = resample(minutes, Timeframe.m5, CryptoCalendar())
    >>> five["high"], five["volume"]
    (array([5., 6.]), array([30., 30.]))
    """
    ordered = candles.sorted()
    if len(ordered) == 0:
        return ordered
    opens = calendar.floor(timeframe, ordered.open_time)
    starts = np.flatnonzero(np.concatenate([[True], opens[1:] != opens[:-1]]))
    columns = {name: _aggregate(name, values, starts) for name, values in ordered.columns.items()}
    return Candles(opens[starts], columns, candles.malformed)


def resample_counted(candles: Candles, timeframe: Timeframe, base: Timeframe, calendar: Calendar) -> Candles:
    """Like `resample`, with the columns `base_bars` and `complete` (1 or 0).

    `base_bars` counts the bars of `base` that a longer bar was made of; `complete` says whether these are all that the
    calendar expects in it. Bars that are missing or were rejected are no reason to leave a longer bar out.

    >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
    >>> two = Candles.of(["2024-01-01T00:00", "2024-01-01T00:01"], open=[1, 2], high=[4, 5], low=[1, 1], close=[2, 3])
    >>> bars = resample_counted(two, Timeframe.m5, Timeframe.m1, CryptoCalendar())
    >>> bars["base_bars"], bars["complete"]
    (array([2.]), array([0.]))
    """
    ordered = candles.sorted()
    bars = resample(ordered, timeframe, calendar)
    if len(bars) == 0:
        return Candles(
            bars.open_time, {**bars.columns, **{name: np.array([]) for name in RESAMPLED_COLUMNS}}, candles.malformed
        )
    _, counts = np.unique(calendar.floor(timeframe, ordered.open_time), return_counts=True)
    ends = calendar.closes(timeframe, bars.open_time)
    expected = calendar.bar_index(base, ends) - calendar.bar_index(base, bars.open_time)
    counted = (counts.astype(np.float64), (counts >= expected).astype(np.float64))
    return Candles(
        bars.open_time, {**bars.columns, **dict(zip(RESAMPLED_COLUMNS, counted, strict=True))}, candles.malformed
    )


def _aggregate(name: str, values: Floats, starts: np.ndarray) -> Floats:
    if name in FIRST:
        return values[starts]
    if name in HIGHEST:
        return np.maximum.reduceat(values, starts)
    if name in LOWEST:
        return np.minimum.reduceat(values, starts)
    if name in LAST:
        ends = np.append(starts[1:], len(values)) - 1
        return values[ends]
    known = ~np.isnan(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    return np.where(np.logical_or.reduceat(known, starts), total, np.nan)
