"""The calendar of currencies, metals and index CFDs: days from 17:00 to 17:00 New York, Sunday to Friday."""

from collections.abc import Mapping
from datetime import date, timedelta
from functools import cached_property, lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars import us_holidays
from refresh_pipeline.market.calendars.base import (
    DAY,
    FIRST_SUNDAY,
    Calendar,
    length_of,
    months_begun,
    steps_begun,
    zone_offsets,
)
from refresh_pipeline.market.calendars.overlay import Hours, Runs, SpecialDays
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

YEARS = range(1960, 2101)
# Minutes from the beginning of a trading day, 17:00 New York.
WHOLE_DAY, UNTIL_13, UNTIL_14, SINCE_18, SINCE_19 = 24 * 60, 20 * 60, 21 * 60, 60, 120
# Measured on OANDA's EUR/USD H1: it closed at 14:00 on the eves of 2012 to 2015, has kept holidays that fall on a
# Sunday on the Monday since 2016, and has opened at 19:00 after the holidays since 2017.
EARLY_EVES, MONDAYS_SINCE, LATE_SINCE = range(2012, 2016), 2016, 2017
# Until September 2015 the daily break of futures on metals and indices began at 17:15.
SHORT_BREAK = (date(1960, 1, 5), date(2015, 9, 18))


class FxCalendar(Calendar):
    """Open from Sunday to Friday 17:00 New York; days begin at 17:00 New York, weeks on Sunday.

    Bars longer than an hour are aligned to 17:00 New York, so they move against UTC twice a year; both changes fall
    into a weekend. The trading days dated 25 December and 1 January are closed, and so is the Monday after one that
    falls on a Sunday. Source: OANDA's daily alignment, held against its H1 candles of 2007 to 2018.

    >>> FxCalendar().last_closed(Timeframe.H4, np.datetime64("2024-06-14T20:45"))
    np.datetime64('2024-06-14T13:00:00.000000')
    """

    name = "fx"
    zone = "America/New_York"
    version = 2
    open_share = 5 / 7
    hourly_deadlines = "0 0-17 * * 1-5"
    daily_deadlines = "0 18 * * 1-5"
    daily_break = np.timedelta64(0, "us")
    quiet_until = np.timedelta64(10, "h").astype("timedelta64[us]")
    day_begins = day_ends = np.timedelta64(17, "h").astype("timedelta64[us]")

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
        regular = (into_week < 5 * DAY) & (into_week % DAY >= self.daily_break)
        just_after = trading + np.timedelta64(1, "us")
        return np.where(self._special.among(trading), self._special.trades_between(trading, just_after), regular)

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
        regular = (weeks * 5 + days) * self._bars_a_day(length) + self._bars_into_day(into_day, length)
        return regular - self._regular_bars_on_special_days(trading, length) + self._runs(length).begun_before(trading)

    def is_off_peak(self, times: Times) -> NDArray[np.bool_]:
        """From 17:00 to 03:00 New York: before London opens; and while the market is closed."""
        times = np.asarray(times, dtype=TIME_UNIT)
        into_day = (self._trading_time(times) - FIRST_SUNDAY) % DAY
        return ~self.is_open(times) | (into_day < self.quiet_until)

    def _bars_a_day(self, length: np.timedelta64) -> int:
        return int(DAY // length) - int(self.daily_break // length)

    def _bars_into_day(self, into_day: NDArray[np.timedelta64], length: np.timedelta64) -> NDArray[np.int64]:
        return np.maximum(steps_begun(into_day, length) - int(self.daily_break // length), 0)

    def _regular_bars_on_special_days(self, trading: Times, length: np.timedelta64) -> NDArray[np.int64]:
        days = self._special_weekdays
        if not len(days):
            return np.zeros(np.shape(trading), dtype=np.int64)
        begun = np.searchsorted(days, trading, side="left")
        into_last = np.minimum(trading - days[np.maximum(begun - 1, 0)], DAY)
        bars = (begun - 1) * self._bars_a_day(length) + self._bars_into_day(into_last, length)
        return np.where(begun > 0, bars, 0)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        if timeframe > Timeframe.D1:
            return super()._has_session(timeframe, grid)
        trading = self._trading_time(grid)
        special = self._special.trades_between(trading, trading + length_of(timeframe))
        return np.where(self._special.among(trading), special, self._is_regular(timeframe, trading))

    def _is_regular(self, timeframe: Timeframe, trading: Times) -> NDArray[np.bool_]:
        # A bar longer than the break in which it begins has trading afterwards.
        rest = self.daily_break if length_of(timeframe) > self.daily_break else np.timedelta64(0, "us")
        into_week = (trading + rest - FIRST_SUNDAY) % (7 * DAY)
        return (into_week < 5 * DAY) & (into_week % DAY >= self.daily_break)

    def allows(self, timeframe: Timeframe, times: Times) -> NDArray[np.bool_]:
        """See Calendar; a bar in regular hours is allowed on a day that closes early."""
        tolerated = self._early.among(self._trading_time(times)) & (self.floor(timeframe, times) == times)
        tolerated &= self._is_regular(timeframe, self._trading_time(times)) | (timeframe > Timeframe.D1)
        return super().allows(timeframe, times) | tolerated

    def _is_uneven(self, hours: Times) -> NDArray[np.bool_]:
        return self._special.among(self._trading_time(hours))

    @cached_property
    def _special(self) -> SpecialDays:
        return SpecialDays.of(self._with_overlay(self._rules()))

    @cached_property
    def _special_weekdays(self) -> Times:
        """The special days on which the rules of the week give a session."""
        days = self._special.days
        return days[(days - FIRST_SUNDAY) % (7 * DAY) < 5 * DAY]

    @cached_property
    def _early(self) -> SpecialDays:
        """The days on which only a part of the class's instruments stops early, or is closed."""
        rules = self._rules().items()
        early = {day: hours for day, hours in rules if hours and hours[-1][1] < WHOLE_DAY}
        return SpecialDays.of(early | {day: () for day, hours in rules if not hours and day not in _pairs()})

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _runs(self, length: np.timedelta64) -> Runs:
        return self._special.runs(length)

    def _rules(self) -> Mapping[date, tuple[Hours, ...]]:
        """The special days of every year, by the date on which the trading day begins."""
        return _pairs()

    def _with_overlay(self, rules: Mapping[date, tuple[Hours, ...]]) -> dict[date, tuple[Hours, ...]]:
        # A trading day begins at 17:00 on the day before its date.
        begins, eve = int(self.day_begins // np.timedelta64(1, "m")), timedelta(days=1)
        days = dict(rules)
        for day, minute in self.overlay.early_closes:
            hours = days.get(day - eve, self._regular_hours())
            end = (minute - begins) % WHOLE_DAY or WHOLE_DAY
            days[day - eve] = tuple((first, min(last, end)) for first, last in hours if first < end)
        for day, hours in self.overlay.sessions:
            into = [((first - begins) % WHOLE_DAY, (last - begins) % WHOLE_DAY or WHOLE_DAY) for first, last in hours]
            days[day - eve] = tuple(sorted(into))
        return days | {day - eve: () for day in self.overlay.closed}

    def _regular_hours(self) -> tuple[Hours, ...]:
        return ((int(self.daily_break // np.timedelta64(1, "m")), WHOLE_DAY),)

    def _trading_time(self, utc: Times) -> Times:
        return utc + zone_offsets(self.zone, utc) - self.day_begins

    def _utc(self, trading: Times) -> Times:
        local = trading + self.day_begins
        guess = local - zone_offsets(self.zone, local)
        return local - zone_offsets(self.zone, guess)


class RestingFxCalendar(FxCalendar):
    """The same for metals and index CFDs: a break from 17:00 to 18:00 New York, and the US holidays of futures.

    They are closed on Good Friday and close at 13:00 New York on the other US holidays; candles after that hour are
    allowed and not expected. Source: CME Globex, as exchange_calendars 4.13.2 has it (calendar CMES), with Juneteenth.
    """

    open_share = 5 / 7 * 23 / 24
    daily_break = np.timedelta64(1, "h").astype("timedelta64[us]")
    classes = MappingProxyType({})

    def _rules(self) -> Mapping[date, tuple[Hours, ...]]:
        return _futures()


FxCalendar.classes = MappingProxyType({"metal": RestingFxCalendar(), "index": RestingFxCalendar()})


@lru_cache(maxsize=1)
def _pairs() -> Mapping[date, tuple[Hours, ...]]:
    """The special days of currency pairs, by the date on which the trading day begins."""
    days: dict[date, tuple[Hours, ...]] = {}
    for year in YEARS:
        for holiday in (date(year, 1, 1), date(year, 12, 25)):
            _add_holiday(days, holiday)
        if year in EARLY_EVES:
            days |= {_begin(date(year, 12, day)): ((0, UNTIL_14),) for day in (24, 31)}
    return MappingProxyType(days)


def _add_holiday(days: dict[date, tuple[Hours, ...]], holiday: date) -> None:
    closed = us_holidays.observed(holiday) if holiday.weekday() == 6 and holiday.year >= MONDAYS_SINCE else holiday
    if closed.weekday() >= 5:
        return
    days[_begin(closed)] = ()
    follows = closed + timedelta(days=1)
    if follows.weekday() < 5 and closed != holiday:
        days[_begin(follows)] = ((SINCE_18, WHOLE_DAY),)
    elif follows.weekday() < 5 and (holiday.year, holiday.month) >= (LATE_SINCE, 12):
        days[_begin(follows)] = ((SINCE_19, WHOLE_DAY),)


@lru_cache(maxsize=1)
def _futures() -> Mapping[date, tuple[Hours, ...]]:
    """The special days of metals and index CFDs, by the date on which the trading day begins."""
    first, last = SHORT_BREAK
    every = (first + timedelta(days=number) for number in range((last - first).days + 1))
    # The day that begins on Sunday has its break before it.
    days: dict[date, tuple[Hours, ...]] = {
        _begin(day): ((0, 15), (SINCE_18, WHOLE_DAY)) for day in every if 0 < day.weekday() < 5
    }
    for year in YEARS:
        for day in us_holidays.early_closes(year):
            morning = days.get(_begin(day), ((SINCE_18, WHOLE_DAY),))
            days[_begin(day)] = (*morning[:-1], (SINCE_18, UNTIL_13))
        days |= {_begin(day): () for day in us_holidays.closed_days(year)}
    return MappingProxyType(days)


def _begin(day: date) -> date:
    """The date on which the trading day of a date begins."""
    return day - timedelta(days=1)
