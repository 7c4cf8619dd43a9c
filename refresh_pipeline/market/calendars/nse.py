"""The calendar of the National Stock Exchange of India: every session from a table with a first and a last day.

Intraday bars are aligned to the first session's opening and end with the session, so that the last one may be short.
Days begin at midnight in India, weeks on Monday, months on the 1st, as Dhan stamps them. The grid has no bars before
the table's first day. After its last day the grid goes on with regular hours on weekdays, and nothing is expected.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY
from refresh_pipeline.market.calendars.nse_sessions import (
    CORRECTIONS,
    FIRST_DAY,
    HOLIDAYS,
    HOURS,
    LAST_DAY,
    SPECIAL_SESSIONS,
)
from refresh_pipeline.market.calendars.overlay import Hours, Overlay
from refresh_pipeline.market.calendars.session_table import LAST_GRID_DAY, Sessions, TableCalendar
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

# India has had no summer time since 1945.
INDIA = np.timedelta64(330, "m").astype("timedelta64[us]")


class NseCalendar(TableCalendar):
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

    def sessions(self) -> Sessions:
        """See TableCalendar; after the table's last day, regular hours on weekdays."""
        special = _special_days(self.overlay)
        days = np.arange(np.datetime64(FIRST_DAY), np.datetime64(LAST_GRID_DAY) + 1)
        holidays = [f"{year}-{day}" for year, listed in HOLIDAYS.items() for day in listed.split()]
        regular = days[np.is_busday(days, holidays=np.array([*holidays, *special], dtype="datetime64[D]"))]
        regular = regular.astype(TIME_UNIT)
        opens, closes = _regular_hours(regular)
        listed = [(np.datetime64(day, "us"), pair) for day, hours in special.items() for pair in hours]
        origins = np.array([day for day, _ in listed], dtype=TIME_UNIT)
        minutes = np.array([pair for _, pair in listed], dtype=np.int64).reshape(-1, 2).astype("timedelta64[m]")
        starts = np.concatenate([regular + opens, origins + minutes[:, 0]]) - INDIA
        stops = np.concatenate([regular + closes, origins + minutes[:, 1]]) - INDIA
        order = np.argsort(starts)
        return Sessions(np.concatenate([regular, origins])[order], starts[order], stops[order])

    def usual_openings(self, days: Times) -> NDArray[np.timedelta64]:
        """See TableCalendar."""
        return _regular_hours(days)[0]


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
