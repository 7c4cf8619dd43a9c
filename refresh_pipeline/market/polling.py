"""How often a market is polled: its base interval, scaled by failures and by the hour, within bounds.

Always worked out anew from the base, so that nothing builds up, and a venue that recovers is at its old pace at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, instant
from refresh_pipeline.market.model import Market

# Above which share of series that failed at their last attempt the interval grows, and how much.
SLOWER = ((0.5, 4.0), (0.2, 2.0), (0.05, 1.5))
SLOWEST = 4.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The least time between two refreshes that a schedule asks for, and why it is not the base interval."""

    base: timedelta
    factor: float
    reasons: tuple[str, ...] = ()

    @property
    def interval(self) -> timedelta:
        """The base interval times the factor."""
        return self.base * self.factor

    def wait(self, last: datetime | None, now: datetime) -> str | None:
        """Why not to ask yet, given when it was last asked; None where it is time.

        >>> noon = datetime(2026, 1, 1, 12)
        >>> Pace(timedelta(minutes=1), 2.0, ("quiet hours",)).wait(noon, noon + timedelta(minutes=1))
        'every 120 s instead of every 60 s (quiet hours); the next refresh is due at 12:02:00 UTC'
        """
        if last is None or self.factor == 1.0 or now - last >= self.interval:
            return None
        every, base = (int(each.total_seconds()) for each in (self.interval, self.base))
        next_at = f"the next refresh is due at {last + self.interval:%H:%M:%S} UTC"
        return f"every {every} s instead of every {base} s ({', '.join(self.reasons)}); {next_at}"


def base_interval(market: Market) -> timedelta:
    """How often a market's schedule ticks: with its shortest timeframe, at least every hour."""
    return timedelta(minutes=min(*(timeframe.minutes for timeframe in market.timeframes), 60))


def pace(market: Market, failed: int, asked: int, now: datetime) -> Pace:
    """The pace at an instant, given how many series failed at their last attempt, of how many."""
    share = failed / asked if asked else 0.0
    factor = next((factor for above, factor in SLOWER if share > above), 1.0)
    reasons = (f"{share:.0%} of the series failed at their last attempt",) if factor > 1 else ()
    quiet = bool(market.calendar.is_off_peak(np.array([instant(now)], dtype=TIME_UNIT))[0])
    if quiet and market.off_peak > 1:
        factor, reasons = factor * market.off_peak, (*reasons, "quiet hours")
    return Pace(base_interval(market), min(factor, SLOWEST), reasons)
