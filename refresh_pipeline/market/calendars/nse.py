"""The calendar of the National Stock Exchange of India: every session from a table with a first and a last day.

Intraday bars are aligned to the first session's opening and end with the session, so that the last one may be short.
Days begin at midnight in India, weeks on Monday, months on the 1st, as Dhan stamps them. No bars are expected before
the table's first day; after its last day the calendar refuses every question.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY, FIRST_MONDAY, Calendar, CalendarEnds, length_of
from refresh_pipeline.market.calendars.nse_sessions import (
    CORRECTIONS,
    FIRST_DAY,
    HOLIDAYS,
    HOURS,
    LAST_DAY,
    SPECIAL_SESSIONS,
)
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

# India has had no summer time since 1945.
INDIA = np.timedelta64(330, "m").astype("timedelta64[us]")
MICROSECOND = np.timedelta64(1, "us")


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
        """See Calendar.

        Raises:
            CalendarEnds: an instant lies past the table.
        """
        local = np.asarray(times, dtype=TIME_UNIT) + INDIA
        if timeframe is Timeframe.MN1:
            return local.astype("datetime64[M]").astype(TIME_UNIT) - INDIA
        if timeframe is Timeframe.W1:
            return local - (local - FIRST_MONDAY) % length_of(timeframe) - INDIA
        days = local.astype("datetime64[D]").astype(TIME_UNIT)
        if timeframe is Timeframe.D1:
            return days - INDIA
        self._reject_unknown(local - INDIA)
        opens = days + _first_openings(days) - INDIA
        floored = opens + (local - INDIA - opens) // length_of(timeframe) * length_of(timeframe)
        # What comes before the session must not begin on the day before.
        return np.maximum(floored, days - INDIA)

    def is_open(self, times: Times) -> NDArray[np.bool_]:
        """See Calendar.

        Raises:
            CalendarEnds: an instant lies past the table.
        """
        times = np.asarray(times, dtype=TIME_UNIT)
        self._reject_unknown(times)
        return self._trades_between(times, times + MICROSECOND)

    def closes(self, timeframe: Timeframe, open_times: Times) -> Times:
        """See Calendar; a bar up to a day ends with the last session in it."""
        opens = np.asarray(open_times, dtype=TIME_UNIT)
        if timeframe > Timeframe.D1:
            return super().closes(timeframe, opens)
        ends = opens + length_of(timeframe)
        starts, stops = _sessions()
        last = np.maximum(np.searchsorted(starts, ends, side="left") - 1, 0)
        return np.where(stops[last] > opens, np.minimum(stops[last], ends), ends)

    def open_times(self, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Times:
        """See Calendar.

        Raises:
            CalendarEnds: the end lies past the table.
        """
        self._reject_unknown(np.array([end - MICROSECOND], dtype=TIME_UNIT))
        days = _session_days()
        if timeframe.is_intraday:
            first, last = np.searchsorted(days, np.array([start - DAY, end + DAY], dtype=TIME_UNIT))
            days = days[first:last]
        grid = self._listed(timeframe, days)
        return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]

    def next_close(self, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
        """See Calendar.

        Raises:
            CalendarEnds: that instant lies past the table.
        """
        grid = self._grid(timeframe)
        later = self.closes(timeframe, grid[max(int(np.searchsorted(grid, now, side="right")) - 1, 0) :])
        if not (later > now).any():
            raise self._ended(now)
        return later[later > now][0]

    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        self._reject_unknown(times - MICROSECOND)
        return np.searchsorted(self._grid(timeframe), times)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        self._reject_unknown(grid)
        return self._trades_between(grid, grid + length_of(timeframe))

    def _trades_between(self, since: Times, until: Times) -> NDArray[np.bool_]:
        starts, stops = _sessions()
        last = np.searchsorted(starts, until, side="left") - 1
        return (last >= 0) & (stops[np.maximum(last, 0)] > since)

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - one instance lives as long as the process
    def _grid(self, timeframe: Timeframe) -> Times:
        """Every bar from the first to the last known day: twenty megabytes and a fifth of a second for minutes."""
        return self._listed(timeframe, _session_days())

    def _listed(self, timeframe: Timeframe, days: Times) -> Times:
        """Every bar of these days with a session, which are midnights in India's time."""
        if not timeframe.is_intraday:
            return np.unique(self.floor(timeframe, days - INDIA))
        opens, lasts = days + _first_openings(days) - INDIA, _last_stops(days)
        counts = -(-(lasts - opens) // length_of(timeframe))
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        listed = np.repeat(opens, counts) + number * length_of(timeframe)
        # Only a day in several parts may have a bar without trading.
        doubtful = np.repeat(_has_several_parts(days), counts)
        keep = np.ones(len(listed), dtype=bool)
        keep[doubtful] = self._trades_between(listed[doubtful], listed[doubtful] + length_of(timeframe))
        return listed[keep]

    def _reject_unknown(self, times: Times) -> None:
        if times.size and times.max() >= self.last_known:
            raise self._ended(times.max())

    def _ended(self, time: np.datetime64) -> CalendarEnds:
        return CalendarEnds(
            f"the nse calendar is known up to {LAST_DAY}, and was asked about {time.astype('datetime64[s]')} UTC: take "
            "a newer version of the project, or add the exchange's holidays to market/calendars/nse_sessions.py"
        )


@lru_cache(maxsize=1)
def _sessions() -> tuple[Times, Times]:
    """When every session opens and closes, in UTC, in order."""
    days = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_DAY) + 1)
    holidays = np.array(
        [f"{year}-{day}" for year, listed in HOLIDAYS.items() for day in listed.split()], "datetime64[D]"
    )
    hours = dict.fromkeys(days[np.is_busday(days, holidays=holidays)].astype(str).tolist(), "")
    hours |= SPECIAL_SESSIONS | CORRECTIONS
    sessions = [
        tuple(np.datetime64(f"{day}T{time}", "us") - INDIA for time in session.split("-"))
        for day, listed in sorted(hours.items())
        for session in (listed or _regular_hours(day)).split()
    ]
    starts, stops = (np.array(times, dtype=TIME_UNIT) for times in zip(*sessions, strict=True))
    return starts, stops


@lru_cache(maxsize=1)
def _session_days() -> Times:
    """Midnight of every day with a session, in India's time."""
    starts, _ = _sessions()
    return np.unique((starts + INDIA).astype("datetime64[D]")).astype(TIME_UNIT)


def _regular_hours(day: str) -> str:
    return next(hours for since, hours in reversed(HOURS.items()) if since <= day)


def _first_openings(days: Times) -> NDArray[np.timedelta64]:
    """How long after midnight in India each day's first session opens; on a day without one, when it would."""
    starts, _ = _sessions()
    regular_since = np.array(list(HOURS), dtype=TIME_UNIT)
    regular = np.array([_since_midnight(hours) for hours in HOURS.values()])
    usual = regular[np.maximum(np.searchsorted(regular_since, days, side="right") - 1, 0)]
    first = np.minimum(np.searchsorted(starts, days - INDIA), len(starts) - 1)
    after_midnight = starts[first] + INDIA - days
    return np.where((after_midnight >= np.timedelta64(0, "us")) & (after_midnight < DAY), after_midnight, usual)


def _last_stops(days: Times) -> Times:
    """When each day's last session closes, in UTC, for days that have one."""
    starts, stops = _sessions()
    return stops[np.searchsorted(starts, days + DAY - INDIA) - 1]


def _has_several_parts(days: Times) -> NDArray[np.bool_]:
    starts, _ = _sessions()
    return np.searchsorted(starts, days + DAY - INDIA) - np.searchsorted(starts, days - INDIA) > 1


def _since_midnight(hours: str) -> np.timedelta64:
    return np.datetime64(f"1970-01-01T{hours.partition('-')[0]}", "us") - np.datetime64(0, "us")
