"""What is missing and which stretches have candles to expect, held against listing the bars one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.gaps import (
    MissingRanges,
    StoredRanges,
    Stretch,
    at_most,
    merged,
    missing_ranges,
    on_grid,
)
from refresh_pipeline.market.timeframe import Timeframe


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_too_many_stretches_are_joined_where_they_lie_nearest(most: int) -> None:
    days = [1, 2, 3, 10, 11, 20, 40, 41]
    some = [Stretch(np.datetime64(f"2024-01-{d:02}") if d < 32 else np.datetime64(f"2024-02-{d - 31:02}"),
                    np.datetime64(f"2024-01-{d:02}T06") if d < 32 else np.datetime64(f"2024-02-{d - 31:02}T06"), 6)
            for d in days]  # fmt: skip
    joined = at_most(some, most)
    assert len(joined) == min(most, len(some))
    assert sum(each.expected for each in joined) == 48
    assert (joined[0].since, joined[-1].until) == (some[0].since, some[-1].until)
    gaps = [(b.since - a.until) for a, b in itertools.pairwise(joined)]
    everything = sorted(b.since - a.until for a, b in itertools.pairwise(some))
    assert sorted(gaps) == everything[len(everything) - len(gaps) :]


# ---- the engine: stored ranges and the calendar

EVERY_CALENDAR = {**CALENDARS, "fx/metal": CALENDARS["fx"].classes["metal"]}
START = np.datetime64("2024-02-20", "us")
QUARTER = np.timedelta64(15, "m").astype("timedelta64[us]")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(EVERY_CALENDAR)),
    st.sampled_from([Timeframe.m15, Timeframe.m30, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1]),
    st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32)), min_size=1, max_size=4),
    st.integers(41, 45),
)
def test_the_engine_equals_a_plain_enumeration_of_the_expected_bars(
    name: str, timeframe: Timeframe, histories: list[tuple[int, float, int]], days: int
) -> None:
    calendar = EVERY_CALENDAR[name]
    due = calendar.last_closed(timeframe, START + np.timedelta64(days, "D"))
    since = np.array([START + np.timedelta64(day, "D") for day, _, _ in histories], dtype=TIME_UNIT)
    stored = [_history(calendar, timeframe, at, share, seed) for at, (_, share, seed) in zip(since, histories)]  # noqa: B905
    found = missing_ranges(
        calendar, timeframe, _derived(calendar, timeframe, stored), since, due + np.timedelta64(1, "us")
    )
    assert _listed(found) == [
        _enumerated(calendar, timeframe, times, at, due) for times, at in zip(stored, since, strict=True)
    ]


def _history(calendar: Calendar, timeframe: Timeframe, since: np.datetime64, share: float, seed: int) -> np.ndarray:
    """A random share of the bars from an instant on, in random order, one of them twice, and one off the grid."""
    random = np.random.default_rng(seed)
    bars = calendar.open_times(timeframe, since, START + np.timedelta64(44, "D"))
    blocks = np.repeat(random.random(len(bars) // 7 + 1) < share, 7)[: len(bars)]
    times = bars[blocks & (random.random(len(bars)) < 0.5 + share / 2)]
    return random.permutation(np.concatenate([times, times[:1], [since + 7 * QUARTER // 15]])).astype(TIME_UNIT)


def _derived(calendar: Calendar, timeframe: Timeframe, stored: list[np.ndarray]) -> StoredRanges:
    """The ranges of what arrives in two portions."""
    portions = []
    for number, times in enumerate(stored):
        good = times[on_grid(calendar, timeframe, times)]
        portions += [(number, good[: len(good) // 2]), (number, good[len(good) // 2 :])]
    ranges = StoredRanges.none()
    for number, times in portions:
        arrived = StoredRanges(np.full(len(times), number, dtype=np.int32), times, times)
        ranges = merged(calendar, timeframe, StoredRanges.concatenated([ranges, arrived]))
    return ranges


def _listed(found: MissingRanges) -> list[tuple[list[tuple[str, str, int]], int, int]]:
    rows = zip(found.series_no.tolist(), found.first, found.last, found.candles.tolist(), strict=True)
    gaps = [(number, (str(first), str(last), candles)) for number, first, last, candles in rows]
    counts = zip(found.expected.tolist(), found.stored.tolist(), strict=True)
    return [([gap for no, gap in gaps if no == number], *both) for number, both in enumerate(counts)]


def _enumerated(
    calendar: Calendar, timeframe: Timeframe, stored: np.ndarray, since: np.datetime64, due: np.datetime64
) -> tuple[list[tuple[str, str, int]], int, int]:
    expected = calendar.open_times(timeframe, since, due + np.timedelta64(1, "us"))
    is_stored = np.isin(expected, stored)
    gaps, run = [], []
    for bar, there in [*zip(expected, is_stored.tolist(), strict=True), (None, True)]:
        if not there:
            run.append(bar)
        elif run:
            gaps.append((str(run[0]), str(run[-1]), len(run)))
            run = []
    return gaps, len(expected), int(is_stored.sum())
