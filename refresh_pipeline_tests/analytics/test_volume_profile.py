"""The volume profile of sessions: published values, nothing from later bars, and the same bits however it is read."""

from dataclasses import replace

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.indicators import UnknownIndicator, indicators
from refresh_pipeline.market.calendars.registry import CALENDARS, calendar_named
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.analytics.live_steps import begun, different, fed
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, Market, history, stacked
from refresh_pipeline_tests.analytics.test_charting import numbers, table

CRYPTO = CALENDARS["crypto"]
SHIPPED = indicators(["volume_profile"], CRYPTO)
NAMES = [f"profile_{before}{each}" for before in ("", "previous_") for each in ("poc", "vah", "val")]
# Of sessions of 96 quarters of an hour; some volumes are unknown, and the market stands still now and then.
WILD = history(Market(3000, volatility=0.004, seed=5, halted=40))


def test_a_session_has_the_published_profile_and_the_next_one_remembers_it() -> None:
    rows = table("volume-profile")
    count = len(rows["date"])
    times = np.datetime64("2020-01-02", "us") + np.arange(count + 1) * np.timedelta64(24 * 60 // count, "m")
    columns = {name: np.append(numbers(rows[name]), 100.0) for name in CANDLE_COLUMNS}
    times[-1] = np.datetime64("2020-01-03", "us")
    found = SHIPPED.compute(Bars(times, columns, np.array([0, count + 1])))
    for name in ("poc", "vah", "val"):
        np.testing.assert_array_equal(found[f"profile_{name}"][:-1], numbers(rows[name]))
        assert np.isnan(found[f"profile_previous_{name}"][:-1]).all()
        assert found[f"profile_previous_{name}"][-1] == float(rows[name][-1])
    assert found["profile_poc"][-1] == 100.0


def test_a_tail_and_a_bar_at_a_time_have_the_bits_of_the_whole() -> None:
    whole, bars = SHIPPED.compute(stacked([WILD])), stacked([WILD])
    for first in (2990, 2881, 2900):
        begin = first - SHIPPED.warm_up
        tail = Bars(
            bars.open_time[begin:],
            {name: values[begin:] for name, values in bars.columns.items()},
            np.array([0, 3000 - begin]),
            before=np.array([begin]),
            first=np.array([first - begin]),
        )
        for name, values in SHIPPED.compute(tail).items():
            np.testing.assert_array_equal(values, whole[name][first:])
    # Beside columns of every kind, and from where a series is long enough to go on by itself.
    chosen = indicators(["volume_profile", "price_steps", "support_resistance", "sma_20", "vwap"], CRYPTO)
    several = [
        {name: np.tile(values, 2) for name, values in history(Market(1800, seed=seed)).items()} for seed in (1, 2)
    ]
    live = begun(chosen, several, [3590, 2400])
    for each, (_, rows), cut in zip(several, fed(live, several, [3590, 2400], 5), [3590, 2400], strict=True):
        assert different(rows, chosen.compute(stacked([each])), cut, 5) == {}


def test_later_bars_change_nothing_and_the_session_before_is_finished() -> None:
    bars, whole = stacked([WILD]), SHIPPED.compute(stacked([WILD]))
    cut = SHIPPED.compute(replace(stacked([{name: values[:500] for name, values in WILD.items()}])))
    for name in NAMES:
        np.testing.assert_array_equal(cut[name], whole[name][:500])
    traded = ~np.isnan(bars["volume"])
    for name in ("poc", "vah", "val"):
        last = np.flatnonzero(traded[:96])[-1]
        so_far, before = whole[f"profile_{name}"], whole[f"profile_previous_{name}"]
        assert np.isnan(before[:96]).all()
        assert (before[96:192] == so_far[last]).all()
        assert np.isnan(so_far[~traded]).all()
    known = ~np.isnan(whole["profile_poc"])
    low, poc, high = (whole[f"profile_{name}"][known] for name in ("val", "poc", "vah"))
    assert ((low <= poc) & (poc <= high)).all()


def test_sessions_are_those_of_the_calendar_and_a_day_is_one() -> None:
    stocks = calendar_named("XNYS")
    times = stocks.open_times(Timeframe.m30, np.datetime64("2026-11-02", "us"), np.datetime64("2026-11-20", "us"))
    columns = {name: history(Market(len(times), unknown_volumes=0))[name] for name in CANDLE_COLUMNS}
    found = indicators(["volume_profile"], stocks).compute(Bars(times, columns, np.array([0, len(times)])))
    begins = np.flatnonzero(np.diff(times) > np.timedelta64(12, "h")) + 1
    changes = np.flatnonzero(np.diff(np.nan_to_num(found["profile_previous_vah"])) != 0) + 1
    np.testing.assert_array_equal(changes, begins)
    days = np.datetime64("2026-01-01", "us") + np.arange(50) * np.timedelta64(1, "D")
    daily = {name: values[:50] for name, values in columns.items()}
    found = SHIPPED.compute(Bars(days, daily, np.array([0, 50])))
    for name in ("vah", "val"):
        np.testing.assert_array_equal(found[f"profile_{name}"], found["profile_poc"])
    assert (np.abs(found["profile_poc"] / daily["close"] - 1) < 0.0006).all()


def test_it_is_computed_where_it_is_named_alone() -> None:
    assert [column.name for column in SHIPPED.columns] == NAMES
    assert not {column.name for column in INDICATORS.columns} & {*NAMES}
    own = indicators([{"volume_profile": [0.2]}], CRYPTO)
    assert [column.name for column in own.columns][:2] == ["volume_profile_poc_0_2", "volume_profile_vah_0_2"]
    with pytest.raises(UnknownIndicator, match="cannot be computed"):
        indicators([{"volume_profile": [0]}], CRYPTO)
