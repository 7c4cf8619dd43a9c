"""Candles of several sources: which are stored, which replace others, and which are kept as cross-checks."""

from datetime import timedelta

import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import queries
from refresh_pipeline.warehouse.ingest import Stored
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, at, flat, market_of, query

MARKET = market_of()
SINCE = (NOW - timedelta(days=7)).replace(tzinfo=None)


def stored(warehouse: Warehouse) -> list[tuple]:
    return query(warehouse, "select source, close, count(*) from fair.raw_candles group by all order by all")


def cross_checks(warehouse: Warehouse) -> list[tuple]:
    return query(warehouse, "select source, close, count(*) from fair.cross_checks group by all order by all")


def test_another_source_fills_holes_and_is_a_cross_check_of_the_rest(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: flat(10.0, 0, 1, 2)}, "first", NOW)
    counts = warehouse.store_candles(MARKET, {BTC: flat(10.5, 1, 2, 3, 4)}, "second", at(60), preferred=["first"])
    assert counts == {BTC: Stored(added=2)}
    assert stored(warehouse) == [("first", 10.0, 3), ("second", 10.5, 2)]
    assert cross_checks(warehouse) == [("second", 10.5, 2)]
    assert query(warehouse, "select count(*) from fair.raw_candle_revisions") == [(0,)]


def test_a_preferred_source_takes_anothers_place_which_stays_on_record(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: flat(10.5, 0, 1)}, "second", NOW, preferred=["first"])
    counts = warehouse.store_candles(MARKET, {BTC: flat(10.0, 1, 2)}, "first", at(60))
    assert counts == {BTC: Stored(added=1, revised=1)}
    assert stored(warehouse) == [("first", 10.0, 2), ("second", 10.5, 1)]
    assert query(warehouse, "select source, close from fair.raw_candle_revisions") == [("second", 10.5)]


def test_a_source_corrects_its_own_candles_wherever_it_stands(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: flat(10.0, 0)}, "second", NOW, preferred=["first"])
    warehouse.store_candles(MARKET, {BTC: flat(11.0, 0)}, "second", at(60), preferred=["first"])
    assert stored(warehouse) == [("second", 11.0, 1)]
    assert cross_checks(warehouse) == []


def test_the_latest_cross_check_counts_and_old_ones_are_deleted(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: flat(10.0, *range(4))}, "first", NOW)
    for seconds, price in ((60, 10.5), (120, 10.6)):
        warehouse.store_candles(MARKET, {BTC: flat(price, 0, 1)}, "second", at(seconds), preferred=["first"])
    assert cross_checks(warehouse) == [("second", 10.6, 2)]
    warehouse.store_candles(MARKET, {BTC: flat(10.7, 3)}, "second", at(8 * 86400), preferred=["first"])
    assert cross_checks(warehouse) == [("second", 10.7, 1)]


@pytest.mark.parametrize(("allowed", "apart"), [(0.05, 1), (0.2, 0), (0.001, 3)])
def test_deviations_are_counted_among_cross_checks_and_among_replaced_candles(
    warehouse: Warehouse, allowed: float, apart: int
):
    warehouse.store_candles(MARKET, {BTC: flat(11.0, 5)}, "second", NOW, preferred=["first"])
    warehouse.store_candles(MARKET, {BTC: flat(10.0, 0, 1, 5)}, "first", NOW)
    warehouse.store_candles(MARKET, {BTC: flat(10.2, 0, 1)}, "second", NOW, preferred=["first"])
    # A source's own correction is no comparison.
    warehouse.store_candles(MARKET, {BTC: flat(20.0, 7)}, "first", NOW)
    warehouse.store_candles(MARKET, {BTC: flat(10.0, 7)}, "first", at(1))
    with warehouse.reader() as connection:
        faults, examined = queries.deviations(connection, "fair", allowed, SINCE)
    assert (len(faults), examined) == (apart, 3)
    if apart:
        assert faults[0].what == "10.0% apart: close 10 by first, 11 by second"


@pytest.mark.parametrize(("shortest", "longest", "instruments"), [(15, 60, 1), (60, 60, 12), (5, 5, 20)])
def test_second_opinions_rotate_over_all_series_whatever_the_cadence(
    warehouse: Warehouse, shortest: int, longest: int, instruments: int
):
    timeframes = {Timeframe.parse(f"{minutes}m") for minutes in (shortest, longest)}
    series = [Series(f"I{number}", timeframe) for number in range(instruments) for timeframe in sorted(timeframes)]
    turns: list[Series] = []
    for tick in range(4 * len(series)):
        now = NOW + timedelta(minutes=tick * shortest)
        due = [each for each in series if tick * shortest % each.timeframe.minutes == 0]
        turns.append(warehouse.take_cross_check_turn(MARKET, due, now))
    assert set(turns) == set(series)
    if len(timeframes) == 1:
        assert {turns.count(each) for each in series} == {4}


def test_a_turn_that_a_clock_which_was_ahead_took_does_not_count(warehouse: Warehouse):
    other = Series("ETH/USD", BTC.timeframe)
    assert warehouse.take_cross_check_turn(MARKET, [BTC, other], NOW + timedelta(hours=26)) == BTC
    assert warehouse.take_cross_check_turn(MARKET, [BTC, other], NOW) == BTC
    assert warehouse.take_cross_check_turn(MARKET, [BTC, other], NOW + timedelta(minutes=1)) == other
