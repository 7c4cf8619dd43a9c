"""Gaps: ranges of expected candles that are missing, and the time at which a source is asked for them again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# A source that has nothing may just have had a bad moment: only the second answer, this much later, is believed.
FIRST_WAIT = timedelta(hours=1)
LONGEST_WAIT = timedelta(days=7)


class Place(StrEnum):
    """Where in its series a gap lies."""

    beginning = "beginning"
    middle = "middle"
    end = "end"
    # There is no candle at all.
    whole = "whole"


@dataclass(frozen=True, slots=True)
class Gap:
    """Expected candles that are missing one after another: the first and the last one's opening, and how many.

    `first_asked_at` and `asked_at` say when (UTC) the source was asked for just these and had none.
    """

    series: Series
    first: np.datetime64
    last: np.datetime64
    candles: int
    place: Place
    first_asked_at: datetime | None = None
    asked_at: datetime | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether the source has said more than once, hours apart, that it does not have them."""
        if self.asked_at is None or self.first_asked_at is None:
            return False
        return self.asked_at - self.first_asked_at >= FIRST_WAIT

    @property
    def due_at(self) -> datetime | None:
        """When to ask for it again; None where it was never asked for.

        >>> asked = datetime(2026, 1, 1, 12)
        >>> gap = Gap(Series("A", "m1"), None, None, 1, Place.middle, asked, asked + timedelta(hours=3))
        >>> gap.due_at
        datetime.datetime(2026, 1, 1, 21, 0)
        """
        if self.asked_at is None or self.first_asked_at is None:
            return None
        return self.asked_at + min(max((self.asked_at - self.first_asked_at) * 2, FIRST_WAIT), LONGEST_WAIT)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many candles are expected of a series up to an instant, and how many of those are there."""

    series: Series
    expected: int
    stored: int

    @property
    def completeness(self) -> float:
        """The share that is there.

        >>> Coverage(Series("A", "m1"), 4, 3).completeness
        0.75
        """
        return self.stored / self.expected if self.expected else 1.0


# How many candles one tick of the repair asks for, and how far one request may reach to take in several gaps.
CANDLES_A_TICK = 50_000
CANDLES_A_REQUEST = 5_000


def planned(market: Market, gaps: Iterable[Gap]) -> dict[Series, tuple[np.datetime64, np.datetime64]]:
    """What to ask for, within the budget of one tick: a stretch a series, from its oldest gap on, priorities first.

    A gap is asked for as a whole or not at all, so that a single one that is larger than the budget has a tick alone.
    """
    by_series: dict[Series, list[Gap]] = {}
    for gap in gaps:
        by_series.setdefault(gap.series, []).append(gap)
    plan: dict[Series, tuple[np.datetime64, np.datetime64]] = {}
    left = CANDLES_A_TICK
    for series in market.series:
        if series not in by_series:
            continue
        stretch, candles = _stretch(market.calendar_of(series.instrument), by_series[series])
        if plan and candles > left:
            break
        plan[series] = stretch
        left -= candles
    return plan


def _stretch(calendar: Calendar, gaps: Sequence[Gap]) -> tuple[tuple[np.datetime64, np.datetime64], int]:
    timeframe, first = gaps[0].series.timeframe, gaps[0].first
    reach = {gap.last: int(calendar.count(timeframe, np.array([first]), gap.last)[0]) for gap in gaps}
    last = max([gaps[0].last, *(end for end, candles in reach.items() if candles <= CANDLES_A_REQUEST)])
    return (first, last + np.timedelta64(1, "us")), reach[last]


def due(gaps: Iterable[Gap], now: datetime) -> list[Gap]:
    """The gaps to ask for now. What is missing at the end is no repair: each refresh goes on from what is stored."""
    return [gap for gap in gaps if gap.place is not Place.end and (gap.due_at is None or gap.due_at <= now)]


# An instrument that hardly trades has holes everywhere: beyond so many stretches the nearest ones are asked for as one.
MOST_STRETCHES = 100


@dataclass(frozen=True, slots=True)
class Stretch:
    """Candles that open at or after `since` and before `until`; `expected` of them by the calendar."""

    since: np.datetime64
    until: np.datetime64
    expected: int


def stretches(calendar: Calendar, timeframe: Timeframe, since: Times, until: Times) -> list[Stretch]:
    """Of the stretches from `since[i]` to `until[i]` (excluded), in order, those in which the calendar expects candles.

    >>> from refresh_pipeline.market.calendars.fx import FxCalendar
    >>> since = np.array(["2024-06-07T21", "2024-06-10T09"], dtype=TIME_UNIT)
    >>> until = np.array(["2024-06-09T21", "2024-06-10T12"], dtype=TIME_UNIT)
    >>> [(str(each.since), each.expected) for each in stretches(FxCalendar(), Timeframe.H1, since, until)]
    [('2024-06-10T09:00:00.000000', 3)]
    """
    if not len(since):
        return []
    # Counting from both ends to one instant beyond, as a calendar counts from many instants to a single one.
    beyond = until.max()
    expected = calendar.count(timeframe, since, beyond) - calendar.count(timeframe, until, beyond)
    kept = np.flatnonzero(expected > 0)
    return [Stretch(since[number], until[number], int(expected[number])) for number in kept]


def at_most(ranges: Sequence[Stretch], most: int = MOST_STRETCHES) -> list[Stretch]:
    """The same stretches, in order, those that lie nearest to one another joined where there are too many."""
    if len(ranges) <= most:
        return list(ranges)
    between = np.array([later.since - earlier.until for earlier, later in pairwise(ranges)])
    cuts = np.sort(np.argsort(between)[len(between) - (most - 1) :]) + 1
    return [_joined(group) for group in _split(ranges, cuts)]


def closed_end(calendar: Calendar, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
    """Where the newest bar ends that has closed at `now`."""
    newest = calendar.last_closed(timeframe, now)
    return calendar.closes(timeframe, np.array([newest], dtype=TIME_UNIT))[0]


def _split(ranges: Sequence[Stretch], cuts: NDArray[np.int64]) -> list[Sequence[Stretch]]:
    edges = [0, *cuts.tolist(), len(ranges)]
    return [ranges[first:last] for first, last in pairwise(edges)]


def _joined(ranges: Sequence[Stretch]) -> Stretch:
    return Stretch(ranges[0].since, ranges[-1].until, sum(each.expected for each in ranges))
