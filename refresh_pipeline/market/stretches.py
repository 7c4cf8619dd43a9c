"""Which stretches of a series its calendar expects and a store lacks, and how many candles those are. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendar import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

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

    >>> from refresh_pipeline.market.calendar import FxCalendar
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


def at_most(some: Sequence[Stretch], most: int = MOST_STRETCHES) -> list[Stretch]:
    """The same stretches, in order, those that lie nearest to one another joined where there are too many."""
    if len(some) <= most:
        return list(some)
    between = np.array([later.since - earlier.until for earlier, later in pairwise(some)])
    cuts = np.sort(np.argsort(between)[len(between) - (most - 1) :]) + 1
    return [_joined(group) for group in _split(some, cuts)]


def closed_end(calendar: Calendar, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
    """Where the newest bar ends that has closed at `now`."""
    newest = calendar.last_closed(timeframe, now)
    return calendar.closes(timeframe, np.array([newest], dtype=TIME_UNIT))[0]


def _split(some: Sequence[Stretch], cuts: NDArray[np.int64]) -> list[Sequence[Stretch]]:
    edges = [0, *cuts.tolist(), len(some)]
    return [some[first:last] for first, last in pairwise(edges)]


def _joined(some: Sequence[Stretch]) -> Stretch:
    return Stretch(some[0].since, some[-1].until, sum(each.expected for each in some))
