"""Which candle is expected now: computed once for each close of a calendar's bars, not for each request."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import instant, iso_utc
from refresh_pipeline.market.timeframe import Timeframe


@dataclass(slots=True)
class Expected:
    """The newest closed candle of calendars and timeframes, as long as it is the newest."""

    # From when, until when, and the open time: as many as there are calendars and timeframes.
    _kept: dict[tuple[Calendar, Timeframe], tuple[datetime, datetime, str]] = field(default_factory=dict)

    def open_time(self, calendar: Calendar, timeframe: Timeframe, now: datetime) -> str | None:
        """The open time of the newest candle that has closed; None past the end of the calendar."""
        kept = self._kept.get((calendar, timeframe))
        if kept is not None and kept[0] <= now < kept[1]:
            return kept[2]
        moment = instant(now)
        if not calendar.knows(moment):
            return None
        shown = iso_utc(calendar.last_closed(timeframe, moment))
        if (until := _until(calendar, timeframe, moment)) is not None:
            self._kept[calendar, timeframe] = (now, until, shown)
        return shown


def _until(calendar: Calendar, timeframe: Timeframe, moment: np.datetime64) -> datetime | None:
    """When another candle is the newest, or the calendar ends; None where nobody knows."""
    try:
        close = calendar.known_end(calendar.next_close(timeframe, moment))
    except LookupError:
        return None
    return close.astype(datetime).replace(tzinfo=UTC)
