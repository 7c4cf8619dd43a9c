"""What a market's YAML chooses of the indicators, as its tables have it, and what becomes of a change of mind."""

from pathlib import Path

import pytest

from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, candles, prepared, query


def market_with(indicators: str) -> Market:
    text = "{name: fair, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD], timeframes: [m5], history: 30d"
    return parse_market(f"{text}, indicators: {indicators}}}", file="fair.yaml")


def refreshed(warehouse: Warehouse, market: Market) -> None:
    warehouse.prepare(market)
    for table in computations(market):
        warehouse.refresh_tail(market, table, market.series)


@pytest.fixture
def stored(tmp_path: Path) -> Warehouse:
    market = market_with("{compute: [sma_10]}")
    warehouse = prepared(tmp_path, market)
    warehouse.store_candles(market, {BTC: candles(300)}, "test", NOW)
    refreshed(warehouse, market)
    return warehouse


def test_the_table_has_the_columns_that_the_market_chose_and_no_others(stored: Warehouse) -> None:
    columns = [row[0] for row in query(stored, "describe fair.indicators")]
    assert columns == ["instrument", "timeframe", "open_time", "sma_10"]


def test_an_indicator_that_is_added_is_there_for_all_of_history_after_the_next_refresh(stored: Warehouse) -> None:
    market = market_with("{compute: [sma_10, {ema: [8]}, obv, trend_direction]}")
    refreshed(stored, market)
    [(rows, sma, ema, obv, trend)] = query(
        stored, "select count(*), count(sma_10), count(ema_8), count(obv), count(trend_direction) from fair.indicators"
    )
    assert (rows, sma, ema, obv, trend) == (300, 291, 293, 300, 251)
    # One candle more goes on from there, as if it had always been so.
    stored.store_candles(market, {BTC: candles(301)}, "test", NOW)
    refreshed(stored, market)
    tail = query(stored, "select ema_8, obv from fair.indicators order by open_time desc limit 1")
    fresh = prepared(Path(stored.database).parent / "fresh", market)
    fresh.store_candles(market, {BTC: candles(301)}, "test", NOW)
    refreshed(fresh, market)
    assert tail == query(fresh, "select ema_8, obv from fair.indicators order by open_time desc limit 1")


def test_an_indicator_that_is_no_longer_wished_for_leaves(stored: Warehouse) -> None:
    refreshed(stored, market_with("{compute: [rsi_14]}"))
    assert [row[0] for row in query(stored, "describe fair.indicators")][3:] == ["rsi_14"]
    assert query(stored, "select count(*), count(rsi_14) from fair.indicators") == [(300, 286)]


def test_minutes_are_kept_for_days_and_the_rest_for_ever_unless_the_market_says_otherwise() -> None:
    kept = market_with("{keep: {H1: 30d}}").indicators.keep
    assert {timeframe.value: span.days for timeframe, span in kept.items()} == {"m1": 2, "m5": 10, "H1": 30}
    assert market_with("{keep: for ever}").indicators.keep == {}
    assert {span.days for span in market_with("{keep: 7d}").indicators.keep.values()} == {7}


@pytest.mark.parametrize(
    ("indicators", "says"),
    [
        ("{compute: [emma]}", "market 'fair': indicators.compute: found 'emma'; did you mean"),
        ("{compute: [{ema: [{periods: 8}]}]}", r"found periods; ema takes timeperiod \(30\)"),
    ],
)
def test_an_indicator_that_there_is_not_is_refused_with_market_and_key(indicators: str, says: str) -> None:
    with pytest.raises(MarketError, match=says):
        computations(market_with(indicators))


@pytest.mark.parametrize(
    ("indicators", "says"),
    [
        ("{compute: ema}", r"indicators\.compute: found 'ema'; allowed: a list"),
        ("{keep: {M7: 30d}}", r"indicators\.keep: .*unknown timeframe 'M7'"),
        ("{keep: {m1: soon}}", r"indicators\.keep: .*allowed: a whole number"),
        ("{kept: 30d}", r"indicators\.kept: found '30d'; unknown key; did you mean 'keep'"),
    ],
)
def test_a_section_that_cannot_be_read_is_refused_with_file_and_key(indicators: str, says: str) -> None:
    with pytest.raises(MarketError, match=says):
        market_with(indicators)
