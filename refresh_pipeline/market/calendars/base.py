"""When a market is open and when its bars begin. Pure: the instant is always an argument, arrays in and arrays out.

All instants are numpy datetime64[us] in UTC. A calendar answers for any timeframe. `floor` is the bar that an instant
lies in, and `closes` says when a bar ends. `open_times` are the bars to expect between two instants. `is_open` says
whether the market is open, and `last_closed` is the newest candle that has closed.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.overlay import NO_OVERLAY, Overlay
from refresh_pipeline.market.candles import TIME_UNIT, Times, instant
from refresh_pipeline.market.timeframe import Timeframe

# Longer than any market of ours is closed at a stretch.
CLOSED_AT_MOST = np.timedelta64(10 * 24 * 3600 * 1_000_000, "us")
# How long before a calendar ends somebody should hear of it.
NOTICE = np.timedelta64(60 * 24 * 3600 * 1_000_000, "us")
DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
# On a calendar's wall clock: inside the day's bar, and where a week that opens on Sunday evening has begun.
NOON, EVENING = (np.timedelta64(hours, "h") for hours in (12, 18))
# 1970-01-05 was a Monday, 1970-01-04 a Sunday.
FIRST_MONDAY = np.datetime64("1970-01-05", "us")
FIRST_SUNDAY = np.datetime64("1970-01-04", "us")


def length_of(timeframe: Timeframe) -> np.timedelta64:
    """A bar's nominal length as a numpy timedelta in microseconds."""
    return np.timedelta64(timeframe.minutes * 60_000_000, "us")


class Calendar(ABC):
    """One market's sessions and grid of bars."""

    name: str
    zone: str
    # Raised with every change of its days, sessions or grid: what was computed with it is computed anew.
    version: int = 1
    # From here on no bar is expected, though the grid goes on by the regular rules; None where rules go on for ever.
    last_known: np.datetime64 | None = None
    # Calendars of instruments whose class has other sessions on the same grid; by the class's name.
    classes: Mapping[str, "Calendar"] = MappingProxyType({})
    # The share of all minutes in which the market is open: to turn a number of bars into a stretch of time.
    open_share: float
    # Deadlines of a refresh as cron lines in `zone`: the hours for candles of at most an hour (empty: the daily ones
    # apply to them too), and the end of each trading day.
    # How long after midnight in `zone` a trading day ends.
    day_ends: np.timedelta64 = DAY
    hourly_deadlines: str = ""
    daily_deadlines: str = "0 23 * * 1-5"

    def __init__(self, overlay: Overlay = NO_OVERLAY) -> None:
        self.overlay = overlay
        if overlay.known_until is not None:
            ends = np.datetime64(overlay.known_until).astype(TIME_UNIT) + self.day_ends
            self.last_known = ends - zone_offsets(self.zone, np.array([ends]))[0]
        if overlay != NO_OVERLAY:
            self.classes = MappingProxyType({name: each.with_overlay(overlay) for name, each in self.classes.items()})

    @property
    def fingerprint(self) -> str:
        """A text that differs from that of every calendar with other days, sessions or grid, also of a class."""
        days = replace(self.overlay, known_until=None)
        added = "" if days == NO_OVERLAY else f" {days}"
        classes = "".join(f"; {name}: {each.fingerprint}" for name, each in sorted(self.classes.items()))
        return f"{type(self).__name__} {self.name} {self.version}{added}{classes}"

    def with_overlay(self, overlay: Overlay) -> Self:
        """The same calendar with the days that a market's YAML adds to it."""
        return type(self)(overlay)

    def is_known(self, times: Times) -> NDArray[np.bool_]:
        """Whether the calendar's sessions are known at each instant; where they are not, nothing is expected."""
        times = np.asarray(times, dtype=TIME_UNIT)
        return np.ones(times.shape, dtype=bool) if self.last_known is None else times < self.last_known

    def knows(self, moment: np.datetime64) -> bool:
        """Whether the calendar's sessions are known at an instant."""
        return self.last_known is None or bool(moment < self.last_known)

    def known_end(self, until: np.datetime64) -> np.datetime64:
        """The end of a stretch up to `until` in which bars are expected."""
        return until if self.last_known is None else min(until, self.last_known)

    def allows(self, timeframe: Timeframe, times: Times) -> NDArray[np.bool_]:
        """Whether a bar may open at each instant: an expected one, and any past the day up to which all is known."""
        return self.has_bar(timeframe, times) | ~self.is_known(times)

    def bars_of_days(self, timeframe: Timeframe, days: Times) -> Times:
        """The opening times of the bars that trading days, given as dates, lie in."""
        into = EVENING if timeframe is Timeframe.W1 else NOON
        walls = (days.astype("datetime64[D]").astype(TIME_UNIT) + into).astype(TIME_UNIT)
        return self.floor(timeframe, (walls - zone_offsets(self.zone, walls)).astype(TIME_UNIT))

    def close_minutes(self, timeframe: Timeframe) -> str:
        """The minutes of an hour at which bars of a timeframe may close, as a field of a cron line."""
        if timeframe.minutes >= 60:
            return "0"
        return f"*/{timeframe.minutes}" if timeframe.minutes > 1 else "*"

    @abstractmethod
    def floor(self, timeframe: Timeframe, times: Times) -> Times:
        """The opening time of the bar that each instant lies in."""

    @abstractmethod
    def is_open(self, times: Times) -> NDArray[np.bool_]:
        """Whether the market trades at each instant."""

    @abstractmethod
    def bar_index(self, timeframe: Timeframe, times: Times) -> NDArray[np.int64]:
        """How many bars open before each instant, counted from wherever it suits: differences are what is used.

        Counting beats listing: a series of minutes over years has millions of them.
        """

    def is_off_peak(self, times: Times) -> NDArray[np.bool_]:
        """Whether little is traded at each instant, compared with the market's busy hours; never, unless it says so."""
        return np.zeros(np.shape(times), dtype=bool)

    def closes(self, timeframe: Timeframe, open_times: Times) -> Times:
        """The instant at which each bar ends: where the next one on the grid begins.

        A bar that is off the grid (another broker's days, a late first bar) ends its nominal length after it began.
        """
        opens = np.asarray(open_times, dtype=TIME_UNIT)
        # From the middle of the next bar back to its beginning: right for months and for days of 23 and 25 hours.
        inside_next = np.add(opens, length_of(timeframe) * 3 // 2)
        on_grid = self.floor(timeframe, opens) == opens
        return np.where(on_grid, self.floor(timeframe, inside_next), np.add(opens, length_of(timeframe)))

    def open_times(self, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Times:
        """The opening times to expect from `start` (included) to `end` (excluded), in order."""
        if not start < end:
            return np.array([], dtype=TIME_UNIT)
        if timeframe <= Timeframe.H1:
            return self._within_hours(timeframe, start, end)
        # Half a bar's steps hit every bar of the grid at least once, also where one is an hour shorter or longer.
        step = length_of(timeframe) // 2
        first = self.floor(timeframe, np.array([start], dtype=TIME_UNIT))[0]
        # One step past the end: after a change of the clocks the last bar may begin between the last two steps.
        grid = np.unique(self.floor(timeframe, np.arange(first, end + step, step, dtype=TIME_UNIT)))
        grid = grid[(grid >= start) & (grid < end)]
        return grid[self._has_session(timeframe, grid)]

    def _within_hours(self, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Times:
        # Asking by the hour takes a tenth of the time of asking by the minute.
        hour = length_of(Timeframe.H1)
        first = self.floor(Timeframe.H1, np.array([start], dtype=TIME_UNIT))[0]
        hours = np.arange(first, end, hour, dtype=TIME_UNIT)
        steps = np.arange(0, hour, length_of(timeframe))
        hours = hours[self._has_session(Timeframe.H1, hours)]
        grid = np.add(hours[:, None], steps).ravel()
        uneven = np.repeat(self._is_uneven(hours), len(steps))
        if uneven.any():
            uneven[uneven] = ~self._has_session(timeframe, grid[uneven])
            grid = grid[~uneven]
        return grid[np.searchsorted(grid, start) : np.searchsorted(grid, end)]

    def _is_uneven(self, hours: Times) -> NDArray[np.bool_]:
        """Whether the market may be open for a part of each hour only."""
        return np.zeros(np.shape(hours), dtype=bool)

    def count(self, timeframe: Timeframe, first: Times, last: np.datetime64) -> NDArray[np.int64]:
        """How many bars to expect that open from each instant of `first` to `last`, both included."""
        end = np.array([last + np.timedelta64(1, "us")], dtype=TIME_UNIT)
        return np.maximum(self.bar_index(timeframe, end) - self.bar_index(timeframe, first), 0)

    def last_closed(self, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
        """The opening time of the newest bar that has ended at `now`.

        Raises:
            LookupError: no bar has ended yet: the calendar begins later.
        """
        for reach in self._reaches(timeframe):
            grid = self.open_times(timeframe, instant(now) - reach, instant(now))
            if len(ended := grid[self.closes(timeframe, grid) <= now]):
                return ended[-1]
        raise LookupError(f"the calendar {self.name} has no {timeframe} bar before {now}")

    def next_close(self, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
        """The next instant after `now` at which a bar ends.

        Raises:
            LookupError: no bar ends in the years after `now`.
        """
        start = self.floor(timeframe, np.array([now], dtype=TIME_UNIT))[0]
        for reach in self._reaches(timeframe):
            ends = self.closes(timeframe, self.open_times(timeframe, start, start + reach))
            if len(later := ends[ends > now]):
                return later[0]
        raise LookupError(f"the calendar {self.name} has no {timeframe} bar after {now}")

    def _reaches(self, timeframe: Timeframe) -> list[np.timedelta64]:
        """How far to look for a bar: over a long weekend, then over a closure that a market's YAML adds."""
        usual = length_of(timeframe) * 3 + CLOSED_AT_MOST
        return [usual, usual * 10, usual * 100]

    def warning(self, now: np.datetime64) -> str | None:
        """What to say of a calendar that ends within 60 days of `now`, or has ended."""
        if self.last_known is None or now < self.last_known - NOTICE:
            return None
        day = (self.last_known - np.timedelta64(1, "us")).astype("datetime64[D]")
        left = int((self.last_known - now) // DAY)
        when = f"ends in {left} days" if now < self.last_known else "has ended"
        return (
            f"the calendar {self.name} {when}: no sessions are known after {day}. Candles are fetched and computed "
            "beyond it, but no gaps and no late candles are reported. Add the holidays and `known_until` to the "
            "market's `calendar`, or install a newer version"
        )

    def has_bar(self, timeframe: Timeframe, times: Times) -> NDArray[np.bool_]:
        """Whether a bar opens at each instant."""
        return (self.floor(timeframe, times) == times) & self._has_session(timeframe, times)

    def _has_session(self, timeframe: Timeframe, grid: Times) -> NDArray[np.bool_]:
        """Which bars of the grid have trading in them."""
        return self.is_open(grid) if timeframe <= Timeframe.D1 else np.ones(len(grid), dtype=bool)


@lru_cache(maxsize=32)
def fingerprint(calendar: Calendar) -> int:
    """A number that differs where a calendar's sessions or the grid of its bars differ on any day up to 2040."""
    days = np.arange("1990-01-01", "2040-01-01", dtype="datetime64[D]").astype(TIME_UNIT)
    if calendar.last_known is not None:
        days = days[days < calendar.last_known]
    answers = [days[-1:].view(np.int64)]
    for timeframe in (Timeframe.m15, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1):
        answers += [calendar.bar_index(timeframe, days), calendar.floor(timeframe, days).view(np.int64)]
    return zlib.crc32(np.concatenate(answers).tobytes())


def steps_begun(since: NDArray[np.timedelta64], length: np.timedelta64) -> NDArray[np.int64]:
    """How many steps of a length have begun before each instant that lies so far from the first one's beginning."""
    return -(-since // length)


def months_begun(times: Times) -> NDArray[np.int64]:
    """How many months have begun before each instant."""
    months = times.astype("datetime64[M]")
    return months.astype(np.int64) + (months.astype(TIME_UNIT) < times)


def zone_offsets(zone: str, utc: Times) -> NDArray[np.timedelta64]:
    """What a zone's wall clock adds to UTC at each instant; before 1970 what it added on 1970-01-01.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: there is no such zone.
    """
    starts, offsets = _transitions(zone)
    return offsets[np.maximum(np.searchsorted(starts, utc, side="right") - 1, 0)]


@lru_cache(maxsize=32)
def _transitions(zone: str) -> tuple[Times, NDArray[np.timedelta64]]:
    """When a zone's offset changes between 1970 and 2100, to the hour, and what it is from then on."""
    tz = ZoneInfo(zone)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    def offset(hours: int) -> timedelta:
        return (epoch + timedelta(hours=hours)).astimezone(tz).utcoffset() or timedelta(0)

    starts, offsets = [0], [offset(0)]
    for week in range(0, 130 * 366 * 24, 7 * 24):
        if offset(week + 7 * 24) == offsets[-1]:
            continue
        low, high = week, week + 7 * 24
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if offset(middle) != offsets[-1] else (middle, high)
        starts.append(high)
        offsets.append(offset(high))
    hours = np.array(starts, dtype="int64") * 3_600_000_000
    return hours.astype(TIME_UNIT), np.array(offsets, dtype="timedelta64[us]")
