"""The calendar of crypto markets: always open, in UTC."""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY, FIRST_MONDAY, Calendar, length_of, months_begun, steps_begun
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
        """See Calendar."""
        return np.ones(np.shape(times), dtype=bool)

    def is_off_peak(self, times: Times) -> NDArray[np.bool_]:
        """Saturday and Sunday, in UTC."""
        return (np.asarray(times, dtype=TIME_UNIT) - FIRST_MONDAY) % (7 * DAY) >= 5 * DAY

    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """See Calendar."""
        if timeframe is Timeframe.MN1:
            return months_begun(times)
        return steps_begun(times - FIRST_MONDAY, length_of(timeframe))
