"""Gaps: expected candles that are not stored. How they are derived, and when a source is asked for them again.

Of each series the stored ranges are known: stretches in which every bar that the calendar expects is stored. A gap is
what lies between two of them. Bars are counted by the calendar and not listed, so the cost goes by the number of
ranges and not by the number of candles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum, auto
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import CLOSED_AT_MOST, Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# A source that has nothing may just have had a bad moment: only the second answer, this much later, is believed.
FIRST_WAIT = timedelta(hours=1)
LONGEST_WAIT = timedelta(days=7)
MICROSECOND = np.timedelta64(1, "us")


class Place(StrEnum):
    """Where in its series a gap lies."""

    beginning = auto()
    middle = auto()
    end = auto()
    # There is no candle at all.
    whole = auto()


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


@dataclass(frozen=True, slots=True)
class StoredRanges:
    """Stretches of many series in which every expected candle is stored; series by series, in order of time.

    `first` and `last` are opening times of bars on the calendar's grid; `series_no` counts series in a batch.
    """

    series_no: NDArray[np.int32]
    first: Times
    last: Times

    @classmethod
    def none(cls) -> "StoredRanges":
        """No ranges."""
        nothing = np.array([], dtype=TIME_UNIT)
        return cls(np.array([], dtype=np.int32), nothing, nothing)

    @classmethod
    def concatenated(cls, parts: Iterable["StoredRanges"]) -> "StoredRanges":
        """The ranges of all parts behind one another."""
        every = [cls.none(), *parts]
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in cls.__slots__))

    def where(self, chosen: NDArray[np.bool_]) -> "StoredRanges":
        """The chosen ranges."""
        return StoredRanges(self.series_no[chosen], self.first[chosen], self.last[chosen])

    def renumbered(self, numbers: NDArray[np.integer]) -> "StoredRanges":
        """The same ranges with the numbers that their series have in another batch."""
        return replace(self, series_no=numbers[self.series_no].astype(np.int32))

    def __len__(self) -> int:
        return len(self.series_no)


@dataclass(frozen=True, slots=True)
class MissingRanges:
    """The gaps of many series as arrays; with them, per series, how many candles are expected and stored."""

    series_no: NDArray[np.int32]
    first: Times
    last: Times
    candles: NDArray[np.int64]
    expected: NDArray[np.int64]
    stored: NDArray[np.int64]

    def without_end(self, lasts: Times) -> "MissingRanges":
        """Without the gaps behind each series' newest candle, which are not expected any more."""
        behind = self.first > lasts[self.series_no]
        counts = np.bincount(self.series_no[behind], weights=self.candles[behind], minlength=len(self.expected))
        kept = {name: getattr(self, name)[~behind] for name in ("series_no", "first", "last", "candles")}
        return MissingRanges(**kept, expected=self.expected - counts.astype(np.int64), stored=self.stored)

    def renumbered(self, numbers: NDArray[np.int32]) -> "MissingRanges":
        """The same gaps with the numbers that their series have in another batch."""
        return replace(self, series_no=numbers[self.series_no])


def on_grid(calendar: Calendar, timeframe: Timeframe, open_times: Times) -> NDArray[np.bool_]:
    """Whether the calendar expects a bar at each time; False past the day up to which it is known."""
    return calendar.is_known(open_times) & calendar.has_bar(timeframe, open_times)


def merged(calendar: Calendar, timeframe: Timeframe, ranges: StoredRanges) -> StoredRanges:
    """The same ranges in order, joined where they overlap or no bar is expected between them.

    >>> from refresh_pipeline.market.calendars.fx import FxCalendar
    >>> friday, sunday = np.datetime64("2024-06-07T20", "us"), np.datetime64("2024-06-09T21", "us")
    >>> times = np.array([sunday, friday])
    >>> found = merged(FxCalendar(), Timeframe.H1, StoredRanges(np.array([0, 0], dtype=np.int32), times, times))
    >>> [(str(a)[5:13], str(b)[5:13]) for a, b in zip(found.first, found.last)]
    [('06-07T20', '06-09T21')]
    """
    if not len(ranges):
        return ranges
    order = np.lexsort((ranges.first, ranges.series_no))
    series_no, first, last = ranges.series_no[order], ranges.first[order], ranges.last[order]
    begin, end = calendar.bar_index(timeframe, first), calendar.bar_index(timeframe, last)
    # Each series gets numbers of its own, so that one running maximum serves all of them.
    shift = series_no.astype(np.int64) * (end.max() - begin.min() + 3)
    reach = np.maximum.accumulate(end + shift)
    starts = np.flatnonzero(np.append(True, (begin + shift)[1:] > reach[:-1] + 1))
    return StoredRanges(series_no[starts], first[starts], np.maximum.reduceat(last, starts))


def missing_ranges(
    calendar: Calendar, timeframe: Timeframe, ranges: StoredRanges, since: Times, end: np.datetime64
) -> MissingRanges:
    """What is missing of many series of one timeframe among the bars from each one's `since` to `end` (excluded).

    Args:
        calendar: of all the series.
        timeframe: of all the series.
        ranges: what is stored, merged.
        since: per series, from when on candles are expected.
        end: before which instant they open.
    """
    low, high = calendar.bar_index(timeframe, since), int(calendar.bar_index(timeframe, np.array([end]))[0]) - 1
    begins = np.maximum(calendar.bar_index(timeframe, ranges.first), low[ranges.series_no])
    ends = np.minimum(calendar.bar_index(timeframe, ranges.last), high)
    within = begins <= ends
    kept, begins, ends = ranges.where(within), begins[within], ends[within]
    # Two edges beyond the ranges of each series: what is expected opens after the one and before the other.
    outer, never = np.arange(len(since), dtype=np.int32), np.full(len(since), np.datetime64("NaT"), dtype=TIME_UNIT)
    numbers = np.concatenate([kept.series_no, outer])
    after, before = np.concatenate([ends, low - 1]), np.concatenate([begins, np.full(len(since), high + 1)])
    left, right = np.lexsort((after, numbers)), np.lexsort((before, numbers))
    opens, closes = after[left] + 1, before[right] - 1
    lacking = opens <= closes
    left, right, opens, closes = left[lacking], right[lacking], opens[lacking], closes[lacking]
    bars = _Bars(calendar, timeframe, since[numbers[left]], end)
    return MissingRanges(
        numbers[left],
        bars.after(np.concatenate([kept.last, never])[left], opens),
        bars.before(np.concatenate([kept.first, never])[right], closes),
        closes - opens + 1,
        np.maximum(high - low + 1, 0),
        np.bincount(kept.series_no, weights=ends - begins + 1, minlength=len(since)).astype(np.int64),
    )


def stored_counts(
    calendar: Calendar, timeframe: Timeframe, ranges: StoredRanges, since: Times, end: np.datetime64
) -> NDArray[np.int64]:
    """How many bars of each series are stored that open from its `since` to `end` (excluded); `ranges` are merged."""
    low, high = calendar.bar_index(timeframe, since), int(calendar.bar_index(timeframe, np.array([end]))[0]) - 1
    begins = np.maximum(calendar.bar_index(timeframe, ranges.first), low[ranges.series_no])
    counts = np.minimum(calendar.bar_index(timeframe, ranges.last), high) - begins + 1
    return np.bincount(ranges.series_no, weights=np.maximum(counts, 0), minlength=len(since)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Bars:
    """Opening times of bars whose indices are known, within a span for each."""

    calendar: Calendar
    timeframe: Timeframe
    since: Times
    end: np.datetime64

    def after(self, stored: Times, index: NDArray[np.int64]) -> Times:
        """The bars that follow the stored ones; where there is none (NaT) the first ones of the span."""
        first = np.isnat(stored)
        guess = np.where(first, self.since, self.calendar.closes(self.timeframe, np.where(first, self.since, stored)))
        for row in self._misses(guess, index):
            reach = self._reach()
            while not len(bars := self._between(guess[row], min(guess[row] + reach, self.end))):
                reach *= 4
            guess[row] = bars[0]
        return guess

    def before(self, stored: Times, index: NDArray[np.int64]) -> Times:
        """The bars that precede the stored ones; where there is none (NaT) the last ones of the span."""
        end = np.where(np.isnat(stored), self.end, stored)
        guess = self.calendar.floor(self.timeframe, (end - MICROSECOND).astype(TIME_UNIT))
        for row in self._misses(guess, index):
            reach = self._reach()
            while not len(bars := self._between(max(end[row] - reach, self.since[row]), end[row])):
                reach *= 4
            guess[row] = bars[-1]
        return guess

    def _misses(self, guess: Times, index: NDArray[np.int64]) -> list[int]:
        """The guesses that are not the bar with that index: those next to hours in which the market is closed."""
        hits = self.calendar.has_bar(self.timeframe, guess)
        hits &= self.calendar.bar_index(self.timeframe, guess) == index
        return np.flatnonzero(~hits).tolist()

    def _between(self, since: np.datetime64, end: np.datetime64) -> Times:
        return self.calendar.open_times(self.timeframe, since, end)

    def _reach(self) -> np.timedelta64:
        return length_of(self.timeframe) * 3 + CLOSED_AT_MOST


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
    due_gaps = [gap for gap in gaps if gap.due_at is None or gap.due_at <= now or _is_of_the_future(gap, now)]
    return [gap for gap in due_gaps if gap.place is not Place.end]


def _is_of_the_future(gap: Gap, now: datetime) -> bool:
    """Whether it was asked for by a clock that was ahead."""
    return gap.asked_at is not None and gap.asked_at > now


# An instrument that hardly trades has holes everywhere: beyond so many stretches the nearest ones are asked for as one.
MOST_STRETCHES = 100


@dataclass(frozen=True, slots=True)
class Stretch:
    """Candles that open at or after `since` and before `until`; `expected` of them by the calendar."""

    since: np.datetime64
    until: np.datetime64
    expected: int


def at_most(ranges: Sequence[Stretch], most: int = MOST_STRETCHES) -> list[Stretch]:
    """The same stretches, in order, those that lie nearest to one another joined where there are too many."""
    if len(ranges) <= most:
        return list(ranges)
    between = np.array([later.since - earlier.until for earlier, later in pairwise(ranges)])
    cuts = np.sort(np.argsort(between)[len(between) - (most - 1) :]) + 1
    return [_joined(group) for group in _split(ranges, cuts)]


def closed_end(calendar: Calendar, timeframe: Timeframe, now: np.datetime64) -> np.datetime64:
    """Where the newest expected bar ends that has closed at `now`."""
    newest = calendar.last_closed(timeframe, calendar.known_end(now))
    return calendar.closes(timeframe, np.array([newest], dtype=TIME_UNIT))[0]


def _split(ranges: Sequence[Stretch], cuts: NDArray[np.int64]) -> list[Sequence[Stretch]]:
    edges = [0, *cuts.tolist(), len(ranges)]
    return [ranges[first:last] for first, last in pairwise(edges)]


def _joined(ranges: Sequence[Stretch]) -> Stretch:
    return Stretch(ranges[0].since, ranges[-1].until, sum(each.expected for each in ranges))
