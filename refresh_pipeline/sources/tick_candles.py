"""Candles made from last traded prices, one series at a time. Pure: no network and no clock.

They are provisional. A feed that sends snapshots leaves trades out, so that highs, lows and volumes may differ from the
exchange's.
"""

from dataclasses import dataclass

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.streaming import ClosedCandle

# Seconds of a day; no session of India's lies in two days of UTC.
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Tick:
    """The last trade of an instrument: seconds since 1970 (UTC), its price, and what was traded this day until then.

    `day_volume` is None for what is not traded, an index.
    """

    second: int
    price: float
    day_volume: int | None


class Bars:
    """The bar of one timeframe that a second lies in; most seconds lie in the one before's."""

    def __init__(self, calendar: Calendar, timeframe: Timeframe) -> None:
        self._calendar, self._timeframe = calendar, timeframe
        self._newest = (0, 0)

    def bar(self, second: int) -> tuple[int, int] | None:
        """When the bar opens and closes, in seconds since 1970; None while the market is closed."""
        opens, closes = self._newest
        if opens <= second < closes:
            return self._newest
        at = np.array([second], dtype="datetime64[s]").astype(TIME_UNIT)
        if not self._calendar.is_open(at)[0]:
            return None
        begins = self._calendar.floor(self._timeframe, at)
        ends = self._calendar.closes(self._timeframe, begins)
        found = _seconds(begins), _seconds(ends)
        if found[0] > opens:
            self._newest = found
        return found


@dataclass(slots=True)
class _Forming:
    opens: int
    closes: int
    prices: tuple[float, float, float, float]
    # What had been traded this day before the bar; None where it is not known.
    before: int | None


class TickCandles:
    """The candles of one series over one connection.

    A bar that opened before `complete_from` is not told: its beginning was not heard.
    """

    def __init__(self, series: Series, bars: Bars, complete_from: int) -> None:
        """No tick has come."""
        self._series, self._bars, self._complete_from = series, bars, complete_from
        self._forming: _Forming | None = None
        self._day_volume: int | None = None
        self._day = self._closed_until = 0

    def take(self, tick: Tick) -> ClosedCandle | None:
        """Take in a tick; gives the candle that it closes.

        A tick of a bar that is closed, and one with less volume than was known, are late and change nothing.
        """
        if (day := tick.second // DAY) > self._day:
            self._day, self._day_volume = day, None
        if tick.day_volume is not None and self._day_volume is not None and tick.day_volume < self._day_volume:
            return None
        bar = self._bars.bar(tick.second)
        closed = None
        if bar is not None and bar[0] >= self._closed_until:
            if self._forming is None or bar[0] > self._forming.opens:
                closed = self.close(bar[0])
                before = 0 if tick.day_volume is None else self._day_volume
                self._forming = _Forming(*bar, (tick.price, tick.price, tick.price, tick.price), before)
            elif bar[0] < self._forming.opens:
                return None
            first, high, low, _ = self._forming.prices
            self._forming.prices = first, max(high, tick.price), min(low, tick.price), tick.price
        self._day_volume = tick.day_volume
        return closed

    def close(self, second: int) -> ClosedCandle | None:
        """The candle of the forming bar, if it has ended by this second and can be told whole."""
        forming = self._forming
        if forming is None or forming.closes > second:
            return None
        self._forming, self._closed_until = None, forming.closes
        if forming.opens < self._complete_from or forming.before is None:
            return None
        volume = float((self._day_volume or 0) - forming.before)
        opens = np.datetime64(forming.opens, "s").astype(TIME_UNIT)
        return ClosedCandle(self._series, opens, (*forming.prices, volume))


def _seconds(times: np.ndarray) -> int:
    return int(times[0].astype("datetime64[s]").astype(np.int64))
