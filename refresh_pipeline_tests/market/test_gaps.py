"""Which stretches have candles to expect, held against listing them one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.gaps import Stretch, at_most, stretches
from refresh_pipeline.market.timeframe import Timeframe


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(CALENDARS)),
    st.sampled_from([Timeframe.m15, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1]),
    st.lists(st.integers(0, 60 * 96), min_size=2, max_size=20, unique=True),
)
def test_a_stretch_counts_the_candles_that_the_calendar_lists(
    name: str, timeframe: Timeframe, quarters: list[int]
) -> None:
    # Around a change of the clocks in New York; some of it weekend.
    edges = np.datetime64("2024-02-20", "us") + np.sort(quarters) * np.timedelta64(15, "m")
    edges = edges.astype(TIME_UNIT)[: len(edges) // 2 * 2]
    found = stretches(CALENDARS[name], timeframe, edges[::2], edges[1::2])
    listed = [
        Stretch(since, until, len(CALENDARS[name].open_times(timeframe, since, until)))
        for since, until in zip(edges[::2], edges[1::2], strict=True)
    ]
    assert found == [each for each in listed if each.expected]


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
