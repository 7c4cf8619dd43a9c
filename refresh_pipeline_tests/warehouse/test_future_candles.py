"""No candle that closes later than now is stored; one that is, from a clock that was ahead, is found and removed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.time_bounds import CLOCK_SKEW
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, market_of, prepared, query


def test_a_candle_that_has_not_closed_is_rejected_with_the_reason(tmp_path: Path) -> None:
    market, now = market_of(), datetime.now(UTC).replace(hour=0, minute=7, second=0, microsecond=0) + timedelta(days=40)
    warehouse = prepared(tmp_path, market)
    opens = instant(now.replace(minute=0)) + np.timedelta64(5, "m") * np.array([0, 1, 2, 9_000])
    candles = Candles(opens, {name: np.full(4, 7.0) for name in CANDLE_COLUMNS})
    stored = warehouse.store_candles(market, {BTC: candles}, "test", now)
    assert (stored[BTC].added, stored[BTC].rejected) == (1, 3)
    assert query(warehouse, "select distinct reason from fair.rejected_candles") == [("closes later than now",)]


def test_candles_of_a_clock_that_was_ahead_are_found_and_removed_and_no_others(tmp_path: Path) -> None:
    market, clock = market_of(), datetime.now(UTC).replace(minute=7, second=0, microsecond=0) + timedelta(days=40)
    warehouse = prepared(tmp_path, market)
    opens = instant(clock.replace(minute=0)) + np.timedelta64(5, "m") * np.arange(30)
    candles = Candles(opens, {name: np.full(30, 7.0) for name in CANDLE_COLUMNS})
    ahead = clock + timedelta(hours=2)
    assert warehouse.store_candles(market, {BTC: candles}, "test", ahead)[BTC].added == 25
    name = "no_candle_is_from_the_future"
    assert candle_verdicts(warehouse, market, ahead, [name], clock=clock)[name].faults == []
    [fault] = candle_verdicts(warehouse, market, clock, [name], clock=clock)[name].faults
    assert fault.open_time == opens[1]
    assert fault.what == "24 close later than now: remove them with refresh forget --future"
    assert warehouse.forget(market, Choice(closing_after=clock), clock) == {BTC: 24}
    assert candle_verdicts(warehouse, market, clock, [name], clock=clock)[name].faults == []
    assert query(warehouse, "select count(*), max(open_time) from fair.raw_candles") == [(1, opens[0].astype(datetime))]


def test_candles_of_every_timeframe_are_found_in_one_question(tmp_path: Path) -> None:
    timeframes = [Timeframe.m5, Timeframe.H4, Timeframe.D1, Timeframe.W1, Timeframe.MN1]
    market, clock = market_of(timeframes=f"[{', '.join(timeframes)}]"), datetime(2024, 5, 16, 10, 2, tzinfo=UTC)
    warehouse, late, arrivals = prepared(tmp_path, market), {}, {}
    for timeframe in timeframes:
        around = np.arange(-3, 4) * np.timedelta64(timeframe.minutes, "m")
        opens = np.unique(market.calendar.floor(timeframe, instant(clock) + around))
        series = Series("BTC/USD", timeframe)
        arrivals[series] = Candles(opens, {name: np.full(len(opens), 7.0) for name in CANDLE_COLUMNS})
        late[series] = int((market.calendar.closes(timeframe, opens) > instant(clock + CLOCK_SKEW)).sum())
    warehouse.store_candles(market, arrivals, "test", clock + timedelta(days=200))
    assert set(late.values()) == {4}
    assert warehouse.forget(market, Choice(closing_after=clock), clock) == late
