"""VWAP, opening ranges and pivots by the market's own days, wherever its clocks stand."""

from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline_tests.analytics.sample_bars import Market, history

HOUR = np.timedelta64(3600 * 1_000_000, "us")
PIVOTS = ["pivot_point", *(f"pivot_{each}" for each in ("r1", "r2", "r3", "s1", "s2", "s3"))]


def sessions(open_times, market, calendar="crypto"):
    """The session columns of one series."""
    bars = Bars(np.asarray(open_times, dtype="datetime64[us]"), market, np.array([0, len(open_times)]))
    return indicators(["sessions"], CALENDARS[calendar]).compute(bars)


def hours(first, count, calendar="crypto"):
    """The opening times of so many hourly bars that the calendar expects."""
    every = np.datetime64(first, "us") + HOUR * np.arange(count * 2)
    return every[CALENDARS[calendar].is_open(every)][:count]


def by_hand(days, market):
    """VWAP and the pivots of the session before, bar by bar."""
    vwap, points, previous = [], [], None
    for row, day in enumerate(days):
        own = [at for at in range(row + 1) if days[at] == day]
        typical = [(market["high"][at] + market["low"][at] + market["close"][at]) / 3 for at in own]
        volume = [market["volume"][at] for at in own]
        vwap.append(sum(p * v for p, v in zip(typical, volume, strict=True)) / sum(volume))
        before = [at for at in range(row) if days[at] != day]
        last = [at for at in before if days[at] == days[before[-1]]] if before else []
        previous = (max(market["high"][last]), min(market["low"][last]), market["close"][last[-1]]) if last else None
        points.append(np.nan if previous is None else sum(previous) / 3)
    return vwap, points


@pytest.mark.parametrize(
    ("calendar", "first"),
    [("crypto", "2024-03-08T05:00"), ("fx", "2024-03-07T05:00"), ("fx", "2024-10-31T12:00")],
    ids=["crypto", "fx into summer time and over a weekend", "fx out of summer time"],
)
def test_vwap_and_pivots_follow_the_calendar_s_days(calendar, first):
    opens = hours(first, 80, calendar)
    market = dict(history(Market(bars=80))) | {"volume": np.arange(1.0, 81.0)}
    computed = sessions(opens, market, calendar)
    days = [each.date() for each in opens.tolist()] if calendar == "crypto" else new_york_days(opens)
    vwap, points = by_hand(days, market)
    np.testing.assert_allclose(computed["vwap"], vwap, rtol=1e-12)
    np.testing.assert_allclose(computed["pivot_point"], points, rtol=1e-12)


def new_york_days(opens):
    """Days that begin at 17:00 in New York, reckoned by the standard library."""
    local = [each.replace(tzinfo=UTC).astimezone(ZoneInfo("America/New_York")) for each in opens.tolist()]
    return [(each + timedelta(hours=7)).date() for each in local]


def test_pivots_are_the_floor_traders():
    market = dict(zip(CANDLE_COLUMNS, (np.full(3, each) for each in (10.0, 12.0, 9.0, 12.0, 1.0)), strict=True))
    computed = sessions(["2024-01-01", "2024-01-02", "2024-01-03"], market)
    assert [computed[name][1] for name in PIVOTS] == [11.0, 13.0, 14.0, 16.0, 10.0, 8.0, 7.0]
    assert all(np.isnan(computed[name][0]) for name in PIVOTS)


def test_the_opening_range_is_that_of_the_first_half_hour_as_far_as_it_has_come():
    opens = np.datetime64("2024-01-01T23:50", "us") + np.timedelta64(10 * 60 * 1_000_000, "us") * np.arange(7)
    high = np.array([99.0, 11.0, 15.0, 13.0, 90.0, 91.0, 92.0])
    market = {"open": high - 1, "high": high, "low": high - 2, "close": high - 1, "volume": np.ones(7)}
    computed = sessions(opens, market)
    assert computed["opening_range_high"].tolist() == [99.0, 11.0, 15.0, 15.0, 15.0, 15.0, 15.0]
    assert computed["opening_range_low"].tolist() == [97.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]


def test_a_bar_of_a_day_or_longer_is_a_session_of_its_own():
    market = dict(history(Market(bars=4))) | {"volume": np.ones(4)}
    for opens in (
        ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"],
        ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"],
    ):
        computed = sessions(opens, market)
        np.testing.assert_allclose(computed["vwap"], (market["high"] + market["low"] + market["close"]) / 3)
        np.testing.assert_array_equal(computed["opening_range_high"], market["high"])
        np.testing.assert_allclose(
            computed["pivot_r2"][1:], computed["pivot_point"][1:] + market["high"][:-1] - market["low"][:-1]
        )


def test_a_bar_of_unknown_volume_has_no_vwap_and_takes_no_part_in_it():
    market = dict(history(Market(bars=3))) | {"volume": np.array([1.0, np.nan, 1.0])}
    typical = (market["high"] + market["low"] + market["close"]) / 3
    computed = sessions(hours("2024-01-01", 3), market)
    np.testing.assert_allclose(computed["vwap"], [typical[0], np.nan, (typical[0] + typical[2]) / 2])


def test_a_hole_over_midnight_begins_the_next_session_at_its_first_bar():
    opens = [*hours("2024-01-01", 3), *hours("2024-01-04T07:00", 3)]
    market = dict(history(Market(bars=6))) | {"volume": np.ones(6)}
    computed = sessions(opens, market)
    assert computed["opening_range_high"][3] == market["high"][3]
    np.testing.assert_allclose(
        computed["pivot_point"][3:], (market["high"][:3].max() + market["low"][:3].min() + market["close"][2]) / 3
    )


@pytest.mark.parametrize("after_a_checkpoint", [False, True])
def test_the_opening_range_of_a_class_begins_with_its_own_trading_hours(after_a_checkpoint):
    # The day after Christmas: pairs open at 19:00 New York, metals and indices at 18:00.
    first = np.datetime64("2025-12-25T22:30", "us")
    opens = np.tile(first + HOUR / 2 * np.arange(8), 2)
    high = np.tile(np.array([9.0, 11.0, 12.0, 15.0, 16.0, 17.0, 18.0, 19.0]), 2)
    market = {"open": high - 1, "high": high, "low": high - 2, "close": high - 1, "volume": np.ones(16)}
    table = indicators(["sessions"], CALENDARS["fx"])
    bars = Bars(opens, market, np.array([0, 8, 16]), classes=np.array(["metal", None], dtype=object), with_states=True)
    if after_a_checkpoint:
        _, known = table.compute_with_states(bars)
        rest = np.r_[3:8, 11:16]
        bars = Bars(
            opens[rest],
            {name: values[rest] for name, values in market.items()},
            np.array([0, 5, 10]),
            before=np.array([3, 3]),
            states={name: values[[2, 10]].astype(np.float64) for name, values in known.items()},
            classes=bars.classes,
        )
    gold, pair = np.split(table.compute(bars)["opening_range_high"], 2)
    assert set(gold[-4:]) == {11.0}
    assert set(pair[-4:]) == {15.0}
