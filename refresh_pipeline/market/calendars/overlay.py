"""What a market's YAML adds to a calendar: closed days, sessions, early closes, and the day up to which it is known."""

from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT, Times

# The minutes of a day at which a session opens and closes, on the wall clock of the calendar's zone.
Hours = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Days that differ from a calendar's rules. Each date is the trading day's; it comes after the calendar's entry."""

    closed: tuple[date, ...] = ()
    sessions: tuple[tuple[date, tuple[Hours, ...]], ...] = ()
    early_closes: tuple[tuple[date, int], ...] = ()
    known_until: date | None = None


NO_OVERLAY = Overlay()


@dataclass(frozen=True, slots=True)
class Runs:
    """Bars one after another: when each run begins and how many bars it has, in order of time, without overlap."""

    starts: Times
    counts: NDArray[np.int64]
    length: np.timedelta64
    _before: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_before", np.cumsum(self.counts) - self.counts)

    @classmethod
    def of(cls, origins: Times, starts: Times, stops: Times, length: np.timedelta64) -> "Runs":
        """The bars with a part of a session in them, aligned to each session's origin.

        Args:
            origins: the instant from which the bars of a session's day are counted.
            starts: when each session opens, in order.
            stops: when each session closes.
            length: of a bar.
        """
        first = (origins + (starts - origins) // length * length).astype(TIME_UNIT)
        end = (origins - (origins - stops) // length * length).astype(TIME_UNIT)
        # A bar that reaches from one session into the next is counted with the earlier one.
        shared = np.append(False, (origins[1:] == origins[:-1]) & (first[1:] < end[:-1]))
        first = np.where(shared, np.append(first[:1], end[:-1]), first)
        return cls(first, np.maximum((end - first) // length, 0), length)

    def begun_before(self, times: Times) -> NDArray[np.int64]:
        """How many of the bars begin before each instant."""
        if not len(self.starts):
            return np.zeros(np.shape(times), dtype=np.int64)
        last = np.searchsorted(self.starts, times, side="left") - 1
        run = np.maximum(last, 0)
        into = np.minimum(-((self.starts[run] - times) // self.length), self.counts[run])
        return np.where(last >= 0, self._before[run] + into, 0)

    def listed(self) -> Times:
        """When each bar begins."""
        number = np.arange(self.counts.sum()) - np.repeat(self._before, self.counts)
        return np.repeat(self.starts, self.counts) + number * self.length


@dataclass(frozen=True, slots=True)
class SpecialDays:
    """Days of 24 hours with other sessions than a calendar's rules give them, in the calendar's trading time.

    `days` are their beginnings; `starts` and `stops` are the sessions on them, none on a closed day; all in order.
    """

    days: Times
    starts: Times
    stops: Times

    @classmethod
    def of(cls, sessions: dict[date, tuple[Hours, ...]]) -> "SpecialDays":
        """From the minutes into each day at which its sessions open and close."""
        ordered = sorted(sessions.items())
        days = np.array([day for day, _ in ordered], dtype="datetime64[D]").astype(TIME_UNIT)
        origins = np.repeat(days, np.array([len(hours) for _, hours in ordered], dtype=np.int64))
        minutes = np.array([pair for _, hours in ordered for pair in hours], dtype=np.int64).reshape(-1, 2)
        offsets = minutes.astype("timedelta64[m]")
        return cls(days, origins + offsets[:, 0], origins + offsets[:, 1])

    def among(self, times: Times) -> NDArray[np.bool_]:
        """Whether each instant lies in one of the days."""
        if not len(self.days):
            return np.zeros(np.shape(times), dtype=bool)
        last = np.searchsorted(self.days, times, side="right") - 1
        return (last >= 0) & (times - self.days[np.maximum(last, 0)] < np.timedelta64(1, "D"))

    def trades_between(self, since: Times, until: Times) -> NDArray[np.bool_]:
        """Whether a session on one of the days has a part from `since` to `until` (excluded)."""
        if not len(self.starts):
            return np.zeros(np.shape(since), dtype=bool)
        last = np.searchsorted(self.starts, until, side="left") - 1
        return (last >= 0) & (self.stops[np.maximum(last, 0)] > since)

    def runs(self, length: np.timedelta64) -> Runs:
        """The bars of the sessions on the days; bars are counted from the beginning of a day."""
        origins = self.starts.astype("datetime64[D]").astype(TIME_UNIT)
        return Runs.of(origins, self.starts, self.stops, length)
