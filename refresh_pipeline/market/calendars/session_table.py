"""Calendars whose sessions come from a table: every session of every day, with a first and a last day.

Intraday bars are aligned to the day's first opening and end with the session, so that the last one may be short; a
break between two sessions of a day has no bars. Weeks begin on Monday, months on the 1st. After the table's last day
the grid goes on with regular hours, and nothing is expected.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY, FIRST_MONDAY, Calendar, length_of, zone_offsets
from refresh_pipeline.market.calendars.overlay import Runs
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

MICROSECOND = np.timedelta64(1, "us")
# The grid's last day: far beyond every known session.
LAST_GRID_DAY = "2099-12-31"


@dataclass(frozen=True, slots=True)
class Sessions:
    """When every session opens and closes, in UTC, in order, with the trading day (a local midnight) that it is of."""

    days: Times
    starts: Times
    stops: Times

    def trades_between(self, since: Times, until: Times) -> NDArray[np.bool_]:
        """Whether a session has a part from `since` to `until` (excluded)."""
        last = np.searchsorted(self.starts, until, side="left") - 1
        return (last >= 0) & (self.stops[np.maximum(last, 0)] > since)


class TableCalendar(Calendar):
    """A calendar with a table of sessions; subclasses give it, and the usual opening of days without a session."""

    # How long after midnight, in `zone`, a trading day begins; below zero on the day before its date.
    day_begins: np.timedelta64 = np.timedelta64(0, "us")

    @abstractmethod
    def sessions(self) -> Sessions:
        """The table's sessions with the overlay's days; asked for once."""

    @abstractmethod
    def usual_openings(self, days: Times) -> NDArray[np.timedelta64]:
        """How long after midnight the first session of each day would open, were it a regular day."""

    def floor(self, timeframe: Timeframe, times: Times) -> Times:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        trading = times + zone_offsets(self.zone, times) - self.day_begins
        if timeframe is Timeframe.MN1:
            return self._began(trading.astype("datetime64[M]").astype(TIME_UNIT))
        if timeframe is Timeframe.W1:
            return self._began(trading - (trading - FIRST_MONDAY) % length_of(timeframe))
        days = trading.astype("datetime64[D]").astype(TIME_UNIT)
        began = self._began(days)
        if timeframe is Timeframe.D1:
            return began
        opens = self._first_openings(days)
        floored = opens + (times - opens) // length_of(timeframe) * length_of(timeframe)
        # What comes before the session must not begin on the day before.
        return np.maximum(floored, began)

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
    def _sessions(self) -> Sessions:
        return self.sessions()

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _long_bars(self, timeframe: Timeframe) -> Times:
        """Every day, week or month with a session in it."""
        return np.unique(self.floor(timeframe, self._sessions.starts))

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _runs(self, timeframe: Timeframe) -> Runs:
        """The bars of every session; bars are counted from the day's first opening."""
        sessions = self._sessions
        origins = self._first_openings(sessions.days)
        return Runs.of(origins, sessions.starts, sessions.stops, length_of(timeframe))

    def _first_openings(self, days: Times) -> Times:
        """When each day's first session opens, in UTC; on a day without one, when it would."""
        sessions = self._sessions
        first = np.minimum(np.searchsorted(sessions.days, days), len(sessions.days) - 1)
        usual = local_to_utc(self.zone, days + self.usual_openings(days))
        return np.where(sessions.days[first] == days, sessions.starts[first], usual)

    def _began(self, days: Times) -> Times:
        """When each trading day begins, in UTC."""
        return local_to_utc(self.zone, days + self.day_begins)


def local_to_utc(zone: str, local: Times) -> Times:
    """Instants of a zone's wall clock in UTC; of a local hour that occurs twice, the second."""
    guess = local - zone_offsets(zone, local)
    return local - zone_offsets(zone, guess)
