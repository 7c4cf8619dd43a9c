"""The calendar of crypto markets: always open, in UTC."""

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY, FIRST_MONDAY, Calendar, length_of, months_begun, steps_begun
from refresh_pipeline.market.calendars.overlay import Runs, SpecialDays
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe


class CryptoCalendar(Calendar):
    """Always open; days begin at midnight UTC, weeks on Monday, months on the 1st.

    >>> CryptoCalendar().last_closed(Timeframe.H4, np.datetime64("2024-06-14T20:45"))
    np.datetime64('2024-06-14T16:00:00.000000')
    """

    name = "crypto"
    zone = "UTC"
    open_share = 1.0

    def floor(self, timeframe: Timeframe, times: Times) -> Times:
        """See Calendar."""
        times = np.asarray(times, dtype=TIME_UNIT)
        if timeframe is Timeframe.MN1:
            return times.astype("datetime64[M]").astype(TIME_UNIT)
        since = FIRST_MONDAY if timeframe is Timeframe.W1 else np.datetime64(0, "us")
        return times - (times - since) % length_of(timeframe)

    def is_open(self, times: Times) -> NDArray[np.bool_]:
        """See Calendar; a market's YAML may close days or parts of them."""
        times = np.asarray(times, dtype=TIME_UNIT)
        trading = self._special.trades_between(times, times + np.timedelta64(1, "us"))
        return ~self._special.among(times) | trading

    def is_off_peak(self, times: Times) -> NDArray[np.bool_]:
        """Saturday and Sunday, in UTC."""
        return (np.asarray(times, dtype=TIME_UNIT) - FIRST_MONDAY) % (7 * DAY) >= 5 * DAY

    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """See Calendar."""
        if timeframe is Timeframe.MN1:
            return months_begun(times)
        times, length = np.asarray(times, dtype=TIME_UNIT), length_of(timeframe)
        regular = steps_begun(times - FIRST_MONDAY, length)
        if timeframe is Timeframe.W1 or not len(self._special.days):
            return regular
        return regular - self._whole_days(length).begun_before(times) + self._runs(length).begun_before(times)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        if timeframe > Timeframe.D1:
            return super()._has_session(timeframe, grid)
        return ~self._special.among(grid) | self._special.trades_between(grid, grid + length_of(timeframe))

    def _is_uneven(self, hours: Times) -> NDArray[np.bool_]:
        return self._special.among(hours)

    @cached_property
    def _special(self) -> SpecialDays:
        days = {day: ((0, minute),) for day, minute in self.overlay.early_closes}
        return SpecialDays.of(days | dict(self.overlay.sessions) | dict.fromkeys(self.overlay.closed, ()))

    @lru_cache(maxsize=len(Timeframe))  # noqa: B019 - calendars live as long as the process
    def _runs(self, length: np.timedelta64) -> Runs:
        return self._special.runs(length)

    def _whole_days(self, length: np.timedelta64) -> Runs:
        days = self._special.days
        return Runs.of(days, days, days + DAY, length)
