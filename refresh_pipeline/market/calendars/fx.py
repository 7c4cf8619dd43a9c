"""The calendar of currencies, metals and index CFDs: days from 17:00 to 17:00 New York, Sunday to Friday."""

from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import (
    DAY,
    FIRST_SUNDAY,
    Calendar,
    length_of,
    months_begun,
    steps_begun,
    zone_offsets,
)
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe


class FxCalendar(Calendar):
    """Open from Sunday to Friday 17:00 New York; days begin at 17:00 New York, weeks on Sunday.

    Bars longer than an hour are aligned to 17:00 New York, so they move against UTC twice a year; both changes fall
    into a weekend. The trading days dated 25 December and 1 January are closed. Metals and index CFDs pause in the
    first hour of each day. Source: OANDA's daily alignment, held against its H1 candles of 2007 to 2018.

    >>> FxCalendar().last_closed(Timeframe.H4, np.datetime64("2024-06-14T20:45"))
    np.datetime64('2024-06-14T13:00:00.000000')
    """

    name = "fx"
    zone = "America/New_York"
    open_share = 5 / 7
    hourly_deadlines = "0 0-17 * * 1-5"
    daily_deadlines = "0 18 * * 1-5"
    daily_break = np.timedelta64(0, "us")
    quiet_until = np.timedelta64(10, "h").astype("timedelta64[us]")
    day_begins = np.timedelta64(17, "h").astype("timedelta64[us]")

    def floor(self, timeframe: Timeframe, times: Times) -> Times:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        if timeframe <= Timeframe.H1:
            return times - (times - np.datetime64(0, "us")) % length_of(timeframe)
        # In trading time the day that begins on Sunday 17:00 is Sunday 00:00.
        trading = self._trading_time(times)
        if timeframe is Timeframe.MN1:
            # A month begins with the trading day dated its 1st: 17:00 on the day before.
            floored = (trading + DAY).astype("datetime64[M]").astype(TIME_UNIT) - DAY
        else:
            since = FIRST_SUNDAY if timeframe is Timeframe.W1 else np.datetime64(0, "us")
            floored = trading - (trading - since) % length_of(timeframe)
        return self._utc(floored)

    def is_open(self, times: Times) -> NDArray[np.bool_]:
        """See Calendar."""
        trading = self._trading_time(np.asarray(times, dtype=TIME_UNIT))
        into_week = (trading - FIRST_SUNDAY) % (7 * DAY)
        in_session = (into_week < 5 * DAY) & (into_week % DAY >= self.daily_break)
        holidays = _fx_holidays()
        last = np.maximum(np.searchsorted(holidays, trading, side="right") - 1, 0)
        into_holiday = trading - holidays[last]
        return in_session & ~((into_holiday >= np.timedelta64(0, "us")) & (into_holiday < DAY))

    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """See Calendar."""
        trading, length = self._trading_time(np.asarray(times, dtype=TIME_UNIT)), length_of(timeframe)
        if timeframe is Timeframe.MN1:
            return months_begun(trading + DAY)
        if timeframe is Timeframe.W1:
            return steps_begun(trading - FIRST_SUNDAY, length)
        weeks, into_week = np.divmod(trading - FIRST_SUNDAY, 7 * DAY)
        days, into_day = np.divmod(into_week, DAY)
        days, into_day = np.minimum(days, 5), np.where(days < 5, into_day, np.timedelta64(0, "us"))
        in_holidays = self._holidaybars_before(trading, length)
        return (weeks * 5 + days) * self._bars_a_day(length) + self._bars_into_day(into_day, length) - in_holidays

    def is_off_peak(self, times: Times) -> NDArray[np.bool_]:
        """From 17:00 to 03:00 New York: before London opens; and while the market is closed."""
        times = np.asarray(times, dtype=TIME_UNIT)
        into_day = (self._trading_time(times) - FIRST_SUNDAY) % DAY
        return ~self.is_open(times) | (into_day < self.quiet_until)

    def _bars_a_day(self, length: np.timedelta64) -> int:
        return int(DAY // length) - int(self.daily_break // length)

    def _bars_into_day(self, into_day: NDArray[np.timedelta64], length: np.timedelta64) -> NDArray[np.int64]:
        return np.maximum(steps_begun(into_day, length) - int(self.daily_break // length), 0)

    def _holidaybars_before(self, trading: Times, length: np.timedelta64) -> NDArray[np.int64]:
        holidays = _fx_holidays()
        begun = np.searchsorted(holidays, trading, side="left")
        into_last = np.minimum(trading - holidays[np.maximum(begun - 1, 0)], DAY)
        bars = (begun - 1) * self._bars_a_day(length) + self._bars_into_day(into_last, length)
        return np.where(begun > 0, bars, 0)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        if timeframe > Timeframe.D1:
            return super()._has_session(timeframe, grid)
        # A bar longer than the rest in which it begins has trading afterwards.
        rest = self.daily_break if length_of(timeframe) > self.daily_break else np.timedelta64(0, "us")
        return self.is_open(grid + rest)

    def _trading_time(self, utc: Times) -> Times:
        return utc + zone_offsets(self.zone, utc) - self.day_begins

    def _utc(self, trading: Times) -> Times:
        local = trading + self.day_begins
        guess = local - zone_offsets(self.zone, local)
        return local - zone_offsets(self.zone, guess)


class RestingFxCalendar(FxCalendar):
    """The same with a daily rest from 17:00 to 18:00 New York, as metals and index CFDs have it."""

    open_share = 5 / 7 * 23 / 24
    daily_break = np.timedelta64(1, "h").astype("timedelta64[us]")


FxCalendar.classes = MappingProxyType({"metal": RestingFxCalendar(), "index": RestingFxCalendar()})


@lru_cache(maxsize=1)
def _fx_holidays() -> Times:
    """When the closed trading days begin, in trading time; those on weekends left out."""
    dated = np.array(
        [f"{year}-{day}" for year in range(1960, 2101) for day in ("01-01", "12-25")], dtype="datetime64[D]"
    )
    # A trading day begins on the day before its date.
    return (dated[np.is_busday(dated)] - 1).astype(TIME_UNIT)
