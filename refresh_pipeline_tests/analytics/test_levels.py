"""Support and resistance, supply and demand: as of each bar, and never changed by what comes after it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.levels import LEVEL_BARS, SWING, ZONE_BARS
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.analytics.sample_bars import (
    History,
    Market,
    computed_alone,
    differing,
    flat,
    history,
    rows_of,
    stacked,
)

LEVELS = indicators(["support_resistance", "zones"], CALENDARS["crypto"])


def prices(lows, highs=None, volume=None) -> History:
    """A market with these lows, and highs one above where nothing is said."""
    lows = np.asarray(lows, dtype=np.float64)
    highs = lows + 1 if highs is None else np.asarray(highs, dtype=np.float64)
    volume = np.ones(len(lows)) if volume is None else np.asarray(volume, dtype=np.float64)
    return {"open": lows, "high": highs, "low": lows, "close": highs, "volume": volume}


def valley(depth, bars=SWING):
    """A fall to a depth below 100 and back, symmetric, `bars` on each side."""
    return [100.0 - depth * (1 - abs(step) / (bars + 1)) for step in range(-bars, bars + 1)]


def test_a_low_is_a_support_five_bars_later_and_not_before():
    computed = computed_alone(LEVELS, prices([*valley(10.0), *[100.0 + n for n in range(10)]]))
    assert np.isnan(computed["support_level_1"][: 2 * SWING]).all()
    assert set(computed["support_level_1"][2 * SWING :]) == {90.0}
    assert set(computed["support_strength_1"][2 * SWING :]) == {1.0}


def test_of_a_flat_bottom_the_first_bar_is_the_one_swing():
    computed = computed_alone(LEVELS, prices([*valley(10.0)[: SWING + 1], 90.0, *valley(10.0)[SWING + 1 :], 101.0]))
    assert computed["support_strength_1"][-1] == 1.0


def test_lows_within_one_percent_are_touches_of_one_level_at_their_mean():
    computed = computed_alone(LEVELS, prices([*valley(10.0), *valley(9.5), *valley(30.0), *valley(50.0)]))
    assert computed["support_level_1"][-1] == pytest.approx((90.0 + 90.5) / 2)
    assert [computed[f"support_strength_{n}"][-1] for n in (1, 2, 3)] == [2.0, 1.0, 1.0]
    # Of equally strong levels the one touched last comes first.
    assert [computed[f"support_level_{n}"][-1] for n in (2, 3)] == [50.0, 70.0]


def test_highs_make_resistance_as_lows_make_support():
    lows = np.array([*valley(10.0), *valley(20.0)])
    computed = computed_alone(LEVELS, prices(200 - lows - 1, 200 - lows))
    assert [computed[f"resistance_level_{n}"][-1] for n in (1, 2)] == [120.0, 110.0]


def test_a_swing_counts_for_so_many_bars_and_no_longer():
    rising = [100.0 + n for n in range(LEVEL_BARS + 20)]
    computed = computed_alone(LEVELS, prices([*valley(10.0), *rising]))
    last = SWING + LEVEL_BARS - 1
    assert computed["support_level_1"][last] == 90.0
    assert np.isnan(computed["support_level_1"][last + 1 :]).all()


def test_a_market_that_stands_still_has_no_levels_and_no_zones():
    computed = computed_alone(LEVELS, flat(5.0, 300))
    assert all(np.isnan(values).all() for values in computed.values())


@settings(max_examples=30, deadline=None)
@given(
    bars=st.integers(1, 700),
    known=st.integers(1, 700),
    seed=st.integers(0, 2**32 - 1),
    tick=st.sampled_from([0.0, 0.5]),
)
def test_levels_of_the_past_never_change_when_bars_are_added(bars, known, seed, tick):
    market = history(Market(bars=bars, volatility=0.02, tick=tick, seed=seed))
    then, now = computed_alone(LEVELS, rows_of(market, slice(0, known))), computed_alone(LEVELS, market)
    for name, values in then.items():
        assert len(differing(values, now[name][:known], relative=0)) == 0, name


@settings(max_examples=20, deadline=None)
@given(bars=st.integers(20, 500), row=st.integers(0, 499), seed=st.integers(0, 2**32 - 1))
def test_levels_at_a_bar_are_those_counted_by_hand(bars, row, seed):
    market, row = history(Market(bars=bars, volatility=0.02, tick=0.5, seed=seed)), min(row, bars - 1)
    computed = computed_alone(LEVELS, market)
    expected = strongest_by_hand(market["low"], row)
    found = [(computed[f"support_level_{n}"][row], computed[f"support_strength_{n}"][row]) for n in (1, 2, 3)]
    known = [pair for pair in found if not np.isnan(pair[0])]
    assert known == [(pytest.approx(level), strength) for level, strength in expected]


def strongest_by_hand(low, row):
    swings = [
        (low[at], at)
        for at in range(max(SWING, row - LEVEL_BARS + 1), row - SWING + 1)
        if low[at] < min(low[at - SWING : at]) and low[at] <= min(low[at + 1 : at + SWING + 1])
    ]
    groups: list[list[tuple[float, int]]] = []
    for price, at in sorted(swings):
        if groups and price <= groups[-1][0][0] * 1.01:
            groups[-1].append((price, at))
        else:
            groups.append([(price, at)])
    ranked = sorted(groups, key=lambda group: (-len(group), -max(at for _, at in group)))
    return [(np.mean([price for price, _ in group]), len(group)) for group in ranked[:3]]


# ---- zones


def busy(moves, volumes) -> History:
    """A market that moves by so many percent on such volumes, after 60 quiet bars."""
    close = 100 * np.cumprod([*[1.0] * 60, *(1 + move / 100 for move in moves)]).astype(np.float64)
    volume = [*([1.0] * 60), *volumes]
    return {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": np.array(volume)}


def test_a_fall_on_much_volume_begins_a_supply_zone_and_a_rise_a_demand_zone_each_until_the_next():
    market = busy([-3, 0, 4, 0, -2.5, 0], [9, 1, 8, 1, 7, 1])
    computed = computed_alone(LEVELS, market)
    assert np.isnan(computed["supply_zone_high"][:60]).all()
    strengths = computed["supply_zone_strength"][60:]
    np.testing.assert_allclose(strengths, [3, 3, 3, 3, 2.5, 2.5])
    np.testing.assert_allclose(computed["demand_zone_strength"][62:], 4)
    assert [computed[f"demand_zone_{each}"][-1] for each in ("high", "low", "volume")] == [
        market["high"][62], market["low"][62], 8.0,
    ]  # fmt: skip


@pytest.mark.parametrize(("move", "volume"), [(-1.9, 9), (-3, 1), (3, np.nan)])
def test_a_small_move_or_little_volume_begins_none(move, volume):
    computed = computed_alone(LEVELS, busy([move], [volume]))
    assert np.isnan(computed["supply_zone_high"][-1])
    assert np.isnan(computed["demand_zone_high"][-1])


def test_without_a_whole_window_of_volumes_there_is_no_zone():
    market = rows_of(busy([-3], [9]), slice(61 - ZONE_BARS + 1, None))
    assert np.isnan(computed_alone(LEVELS, market)["supply_zone_high"]).all()


def test_each_series_has_levels_of_its_own():
    one, other = prices([*valley(10.0), 101.0]), prices([*valley(60.0), 101.0])
    together = LEVELS.compute(stacked([one, other]))
    assert together["support_level_1"][[len(one["low"]) - 1, -1]].tolist() == [90.0, 40.0]
