"""Longer candles from shorter ones, held against a plain loop."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import QUOTE_COLUMNS, Candles, Malformed
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.timeframe import Timeframe


def random_minutes(seed: int, start: str, count: int, step: int = 1) -> Candles:
    """Candles every few minutes, a tenth of them missing, a fifth without volume."""
    rng = np.random.default_rng(seed)
    times = np.datetime64(start, "us") + np.arange(0, count * step, step) * np.timedelta64(1, "m")
    times = times[rng.random(count) > 0.1]
    open_, close = rng.uniform(5, 6, (2, len(times)))
    high, low = np.maximum(open_, close) + rng.random(len(times)), np.minimum(open_, close) - rng.random(len(times))
    volume = np.where(rng.random(len(times)) < 0.2, np.nan, rng.integers(1, 100, len(times)))
    return Candles.of(times, open=open_, high=high, low=low, close=close, volume=volume)


def by_hand(candles: Candles, timeframe: Timeframe, calendar: Calendar) -> list[tuple]:
    """The same, bar by bar: (open time, open, high, low, close, volume)."""
    bars: dict[np.datetime64, list[int]] = {}
    for number, opened in enumerate(calendar.floor(timeframe, candles.open_time)):
        bars.setdefault(opened, []).append(number)
    rows = []
    for opened, inside in bars.items():
        volumes = [candles["volume"][number] for number in inside if not np.isnan(candles["volume"][number])]
        rows.append(
            (
                opened,
                candles["open"][inside[0]],
                max(candles["high"][inside]),
                min(candles["low"][inside]),
                candles["close"][inside[-1]],
                sum(volumes) if volumes else np.nan,
            )
        )
    return rows


@pytest.mark.parametrize("calendar", CALENDARS.values(), ids=CALENDARS.keys())
@pytest.mark.parametrize("timeframe", [t for t in Timeframe if t > Timeframe.m1])
def test_a_longer_bar_is_what_a_plain_loop_makes_of_it(calendar: Calendar, timeframe: Timeframe):
    # Across a change of New York's clocks, a month's end and, in the leap year, 29 February.
    candles = random_minutes(timeframe.minutes, "2024-02-20T07:00", 2_000, step=max(1, timeframe.minutes // 60))
    bars = resample(candles, timeframe, calendar)
    expected = by_hand(candles, timeframe, calendar)
    np.testing.assert_array_equal(bars.open_time, [row[0] for row in expected])
    for place, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
        np.testing.assert_array_equal(bars[name], [row[place] for row in expected])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), timeframe=st.sampled_from([t for t in Timeframe if t.divides(Timeframe.D1)]))
def test_days_come_out_the_same_by_whatever_way_they_are_reached(seed: int, timeframe: Timeframe):
    for calendar in CALENDARS.values():
        candles = random_minutes(seed, "2024-03-07T15:00", 600, step=15)
        direct = resample(candles, Timeframe.D1, calendar)
        by_way = resample(resample(candles, timeframe, calendar), Timeframe.D1, calendar)
        np.testing.assert_array_equal(direct.open_time, by_way.open_time)
        for name, values in direct.columns.items():
            np.testing.assert_array_equal(values, by_way[name])


def test_neither_order_nor_repetition_of_the_input_matters():
    crypto = CALENDARS["crypto"]
    candles = random_minutes(3, "2024-01-01T00:00", 100)
    shuffled = candles.where(np.random.default_rng(1).permutation(len(candles)).astype(np.intp))  # pyright: ignore
    twice = Candles.concatenated([shuffled, candles])
    once = resample(candles, Timeframe.m15, crypto)
    again = resample(twice, Timeframe.m15, crypto)
    np.testing.assert_array_equal(once.open_time, again.open_time)
    np.testing.assert_array_equal(once["volume"], again["volume"])


def test_a_quote_keeps_the_extremes_of_both_its_sides():
    times = ["2024-01-01T00:00", "2024-01-01T00:01"]
    sides: dict[str, Any] = {
        name: [1.0, 3.0] if name.endswith(("low", "open")) else [4.0, 2.0] for name in QUOTE_COLUMNS
    }
    quotes = Candles.of(times, open=[1, 3], high=[4, 4], low=[1, 2], close=[3, 3], **sides)
    bar = resample(quotes, Timeframe.m5, CALENDARS["fx"])
    assert {name: bar[name].tolist() for name in QUOTE_COLUMNS} == {
        **{f"{side}_{price}": [value] for side in ("bid", "ask") for price, value in
           {"open": 1.0, "high": 4.0, "low": 1.0, "close": 2.0}.items()}
    }  # fmt: skip


def test_volume_is_unknown_only_where_no_minute_knows_one():
    times = ["2024-01-01T00:00", "2024-01-01T00:01", "2024-01-01T00:05"]
    candles = Candles.of(times, open=[1] * 3, high=[1] * 3, low=[1] * 3, close=[1] * 3, volume=[np.nan, 7, np.nan])
    np.testing.assert_array_equal(resample(candles, Timeframe.m5, CALENDARS["crypto"])["volume"], [7, np.nan])


def test_a_price_that_is_not_a_number_shows_in_the_longer_bar():
    times = ["2024-01-01T00:00", "2024-01-01T00:01"]
    candles = Candles.of(times, open=[1, 1], high=[2, np.nan], low=[np.nan, 1], close=[1, 1])
    bar = resample(candles, Timeframe.m5, CALENDARS["crypto"])
    assert np.isnan(bar["high"][0])
    assert np.isnan(bar["low"][0])


def test_nothing_becomes_nothing_and_malformed_rows_stay():
    row = Malformed("x", "no time")
    nothing = Candles.of([], [row], open=[], high=[], low=[], close=[])
    assert resample(nothing, Timeframe.D1, CALENDARS["fx"]).malformed == (row,)
    candles = Candles.of(["2024-01-01"], [row], open=[1], high=[1], low=[1], close=[1])
    assert resample(candles, Timeframe.D1, CALENDARS["fx"]).malformed == (row,)
