"""The calendar of the National Stock Exchange of India: every session from a table with a first and a last day.

Intraday bars are aligned to the first session's opening and end with the session, so that the last one may be short.
Days begin at midnight in India, weeks on Monday, months on the 1st, as Dhan stamps them. The grid has no bars before
the table's first day. After its last day the grid goes on with regular hours on weekdays, and nothing is expected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY, FIRST_MONDAY, Calendar, length_of
from refresh_pipeline.market.calendars.nse_sessions import (
    CORRECTIONS,
    FIRST_DAY,
    HOLIDAYS,
    HOURS,
    LAST_DAY,
    SPECIAL_SESSIONS,
)
from refresh_pipeline.market.calendars.overlay import Hours, Overlay, Runs
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

# India has had no summer time since 1945.
INDIA = np.timedelta64(330, "m").astype("timedelta64[us]")
MICROSECOND = np.timedelta64(1, "us")
# The grid's last day: far beyond every known session.
LAST_GRID_DAY = "2099-12-31"


class NseCalendar(Calendar):
    """Open from 09:15 to 15:30 in India on days that are no holidays, and in special sessions.

    >>> NseCalendar().last_closed(Timeframe.H1, np.datetime64("2026-11-27T12:00"))
    np.datetime64('2026-11-27T09:45:00.000000')
    """

    name = "nse"
    zone = "Asia/Kolkata"
    # 247 days of 6.25 hours a year.
    open_share = 0.176
    hourly_deadlines = "30 10-15 * * 1-5"
    daily_deadlines = "0 17 * * 1-5"

    def close_minutes(self, timeframe: Timeframe) -> str:
        """See Calendar: sessions open at 9:15 and close at 15:30, and the last bar is a short one."""
        if timeframe.minutes >= 60:
            return "15,30"
        return "15,30,45" if timeframe.minutes == 30 else super().close_minutes(timeframe)

    last_known = np.datetime64(LAST_DAY, "us") + DAY - INDIA

    def floor(self, timeframe: Timeframe, times: Times) -> Times:
        """See Calendar."""
        local = np.asarray(times, dtype=TIME_UNIT) + INDIA
        if timeframe is Timeframe.MN1:
            return local.astype("datetime64[M]").astype(TIME_UNIT) - INDIA
        if timeframe is Timeframe.W1:
            return local - (local - FIRST_MONDAY) % length_of(timeframe) - INDIA
        days = local.astype("datetime64[D]").astype(TIME_UNIT)
        if timeframe is Timeframe.D1:
            return days - INDIA
        opens = days + self._sessions.first_openings(days) - INDIA
        floored = opens + (local - INDIA - opens) // length_of(timeframe) * length_of(timeframe)
        # What comes before the session must not begin on the day before.
        return np.maximum(floored, days - INDIA)

    def is_open(self, times: Times) -> NDArray[np.bool_]:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        return self._sessions.trades_between(times, times + MICROSECOND)

    def closes(self, timeframe: Timeframe, open_times: Times) -> Times:
        """See Calendar; a bar up to a day ends with the last session in it."""
        opens = np.asarray(open_times, dtype=TIME_UNIT)
        if timeframe > Timeframe.D1:
            return super().closes(timeframe, opens)
        ends = opens + length_of(timeframe)
        starts, stops = self._sessions.starts, self._sessions.stops
        last = np.maximum(np.searchsorted(starts, ends, side="left") - 1, 0)
        return np.where(stops[last] > opens, np.minimum(stops[last], ends), ends)

    def open_times(self, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Times:
        """See Calendar."""
        if not start < end:
            return np.array([], dtype=TIME_UNIT)
        if not timeframe.is_intraday:
            grid = self._long_bars(timeframe)
            return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]
        runs = self._runs(timeframe)
        first, last = np.searchsorted(runs.starts, np.array([start - DAY, end], dtype=TIME_UNIT))
        grid = Runs(runs.starts[first:last], runs.counts[first:last], runs.length).listed()
        return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]

    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        if timeframe.is_intraday:
            return self._runs(timeframe).begun_before(times)
        return np.searchsorted(self._long_bars(timeframe), times)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        return self._sessions.trades_between(grid, grid + length_of(timeframe))

    @cached_property
    def _sessions(self) -> "_Sessions":
        return _Sessions.of(self.overlay)

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _long_bars(self, timeframe: Timeframe) -> Times:
        """Every day, week or month with a session in it."""
        return np.unique(self.floor(timeframe, self._sessions.starts))

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _runs(self, timeframe: Timeframe) -> Runs:
        """The bars of every session; bars are counted from the day's first opening."""
        sessions = self._sessions
        days = sessions.days()
        origins = days + sessions.first_openings(days) - INDIA
        return Runs.of(origins, sessions.starts, sessions.stops, length_of(timeframe))


@dataclass(frozen=True, slots=True)
class _Sessions:
    """When every session opens and closes, in UTC, in order."""

    starts: Times
    stops: Times

    @classmethod
    def of(cls, overlay: Overlay) -> "_Sessions":
        """The table's sessions and, after its last day, regular hours on weekdays; the overlay's days replace both."""
        special = _special_days(overlay)
        days = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_GRID_DAY) + 1)
        holidays = [f"{year}-{day}" for year, listed in HOLIDAYS.items() for day in listed.split()]
        regular = days[np.is_busday(days, holidays=np.array([*holidays, *special], dtype="datetime64[D]"))]
        opens, closes = _regular_hours(regular.astype(TIME_UNIT))
        listed = [(np.datetime64(day, "us"), pair) for day, hours in special.items() for pair in hours]
        origins = np.array([day for day, _ in listed], dtype=TIME_UNIT)
        minutes = np.array([pair for _, pair in listed], dtype=np.int64).reshape(-1, 2).astype("timedelta64[m]")
        starts = np.concatenate([regular + opens, origins + minutes[:, 0]]) - INDIA
        stops = np.concatenate([regular + closes, origins + minutes[:, 1]]) - INDIA
        order = np.argsort(starts)
        return cls(starts[order], stops[order])

    def days(self) -> Times:
        """Midnight of each session's day, in India's time."""
        return (self.starts + INDIA).astype("datetime64[D]").astype(TIME_UNIT)

    def trades_between(self, since: Times, until: Times) -> NDArray[np.bool_]:
        """Whether a session has a part from `since` to `until` (excluded)."""
        last = np.searchsorted(self.starts, until, side="left") - 1
        return (last >= 0) & (self.stops[np.maximum(last, 0)] > since)

    def first_openings(self, days: Times) -> NDArray[np.timedelta64]:
        """How long after midnight in India each day's first session opens; on a day without one, when it would."""
        first = np.minimum(np.searchsorted(self.starts, days - INDIA), len(self.starts) - 1)
        after_midnight = self.starts[first] + INDIA - days
        usual, _ = _regular_hours(days)
        return np.where((after_midnight >= np.timedelta64(0, "us")) & (after_midnight < DAY), after_midnight, usual)


def _special_days(overlay: Overlay) -> dict[str, tuple[Hours, ...]]:
    """The sessions of the days that are not regular, in minutes from midnight in India."""
    days: dict[str, tuple[Hours, ...]] = {
        day: tuple(_minutes(hours) for hours in listed.split())
        for day, listed in (SPECIAL_SESSIONS | CORRECTIONS).items()
    }
    for day, end in overlay.early_closes:
        hours = days.get(str(day), (_usual(str(day)),))
        days[str(day)] = tuple((first, min(last, end)) for first, last in hours if first < end)
    added: Mapping[str, tuple[Hours, ...]] = {str(day): hours for day, hours in overlay.sessions}
    return days | added | {str(day): () for day in overlay.closed}


def _usual(day: str) -> Hours:
    return _minutes(next(hours for since, hours in reversed(HOURS.items()) if since <= day))


def _minutes(hours: str) -> Hours:
    """The minutes after midnight at which a session opens and closes.

    >>> _minutes("09:15-15:30")
    (555, 930)
    """
    first, last = (int(time[:2]) * 60 + int(time[3:]) for time in hours.split("-"))
    return first, last


def _regular_hours(days: Times) -> tuple[NDArray[np.timedelta64], NDArray[np.timedelta64]]:
    """How long after midnight in India the regular session of each day opens and closes."""
    since = np.array(list(HOURS), dtype=TIME_UNIT)
    minutes = np.array([_minutes(hours) for hours in HOURS.values()]).astype("timedelta64[m]")
    chosen = minutes[np.maximum(np.searchsorted(since, days, side="right") - 1, 0)].astype("timedelta64[us]")
    return chosen[:, 0], chosen[:, 1]
