"""What belongs to a day, a week or a month of the calendar: anchored VWAP with its bands, and pivots in all variants.

Everything at a bar is as known at its close; a refresh may begin inside a period, and goes on from states. The plain
VWAP of sessions and their floor traders' pivots are in sessions.py.
"""

from collections.abc import Sequence

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.rolling import ratio
from refresh_pipeline.analytics.sessions import Sessions, pivots
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import Floats
from refresh_pipeline.market.timeframe import Timeframe

PERIODS = {"day": Timeframe.D1, "week": Timeframe.W1, "month": Timeframe.MN1}
FIBONACCI = (0.382, 0.618, 1.0)
CAMARILLA = (1 / 12, 1 / 6, 1 / 4, 1 / 2)
_RUNNING = ("start", "value", "volume", "square", "high", "low", "close", "open")
_PREVIOUS = ("high", "low", "close", "open")


def states(period: str) -> tuple[str, ...]:
    """The states of `anchored_columns`."""
    return tuple(f"{period}_{name}" for name in (*_RUNNING, *(f"previous_{each}" for each in _PREVIOUS)))


def anchored_columns(bars: Bars, calendar: Calendar, period: str) -> Sequence[Values]:
    """The columns of a period, then its states.

    Of a day: VWAP plus and less one and two deviations, then Fibonacci's, Camarilla's, Woodie's and DeMark's pivots.
    Of a week or a month: VWAP, then the floor traders' pivots.
    """
    periods = Sessions.of(bars, calendar, PERIODS[period], f"{period}_start")
    high, low, close, volume = bars["high"], bars["low"], bars["close"], bars["volume_or_0"]
    typical = (high + low + close) / 3
    value = periods.running(np.add, f"{period}_value", typical * volume, begins_at=0.0)
    traded = periods.running(np.add, f"{period}_volume", volume, begins_at=0.0)
    square = periods.running(np.add, f"{period}_square", typical**2 * volume, begins_at=0.0)
    highest = periods.running(np.fmax, f"{period}_high", high)
    lowest = periods.running(np.fmin, f"{period}_low", low)
    opened = periods.running(np.fmin, f"{period}_open", periods.firsts(bars["open"]))
    ends = {"high": highest, "low": lowest, "close": close, "open": opened}
    before = [periods.of_previous(f"{period}_{name}", f"{period}_previous_{name}", each) for name, each in ends.items()]
    known = np.where(np.isnan(bars["volume"]), 0.0, traded)
    vwap = ratio(value, known)
    carried = [periods.day, value, traded, square, highest, lowest, close, opened, *before]
    if period != "day":
        return [vwap, *pivots(*before[:3]), *carried]
    deviation = np.sqrt(np.maximum(ratio(square, known) - vwap**2, 0.0))
    bands = [vwap + times * deviation for times in (1, -1, 2, -2)]
    return [
        *bands,
        *fibonacci(*before[:3]),
        *camarilla(*before[:3]),
        *woodie(before[0], before[1], before[2], opened),
        *demark(before[0], before[1], before[2], before[3]),
        *carried,
    ]


def fibonacci(high: Floats, low: Floats, close: Floats) -> list[Floats]:
    """R1 to R3, then S1 to S3: the pivot point plus and less 38.2, 61.8 and 100 % of the range.

    >>> [round(float(each[0]), 3) for each in fibonacci(np.array([12.0]), np.array([9.0]), np.array([12.0]))]
    [12.146, 12.854, 14.0, 9.854, 9.146, 8.0]
    """
    point, reach = (high + low + close) / 3, high - low
    return [point + part * reach for part in FIBONACCI] + [point - part * reach for part in FIBONACCI]


def camarilla(high: Floats, low: Floats, close: Floats) -> list[Floats]:
    """R1 to R4, then S1 to S4: the close plus and less 1.1 times parts of the range.

    >>> [round(float(each[0]), 3) for each in camarilla(np.array([12.0]), np.array([9.0]), np.array([12.0]))]
    [12.275, 12.55, 12.825, 13.65, 11.725, 11.45, 11.175, 10.35]
    """
    reach = 1.1 * (high - low)
    return [close + part * reach for part in CAMARILLA] + [close - part * reach for part in CAMARILLA]


def woodie(high: Floats, low: Floats, close: Floats, opened: Floats) -> list[Floats]:
    """Pivot point, R1, R2, S1, S2; the point weighs the current day's open twice, `close` takes no part.

    >>> [float(each[0]) for each in woodie(np.array([12.0]), np.array([9.0]), np.array([12.0]), np.array([11.5]))]
    [11.0, 13.0, 14.0, 10.0, 8.0]
    """
    point, reach = (high + low + 2 * opened) / 4, high - low
    return [point, 2 * point - low, point + reach, 2 * point - high, point - reach]


def demark(high: Floats, low: Floats, close: Floats, opened: Floats) -> list[Floats]:
    """Pivot point, R1, S1; all four are of the day before.

    >>> [float(each[0]) for each in demark(np.array([12.0]), np.array([9.0]), np.array([12.0]), np.array([10.0]))]
    [11.25, 13.5, 10.5]
    """
    doubled = np.where(close < opened, low, np.where(close > opened, high, close))
    total = high + low + close + doubled
    return [total / 4, total / 2 - low, total / 2 - high]
