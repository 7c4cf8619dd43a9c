"""A market whose instruments have different sessions: each is judged by the calendar of its class."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.monitoring.status import status_rows
from refresh_pipeline.pipeline import fetch
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.settings import load_settings
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.warehouse import Warehouse

MIXED = """
name: mixed
source: {kind: demo}
calendar: fx
instruments: {EUR/USD: {}, XAU/USD: {class: metal}, SPX500: {class: index}, USD/JPY: {class: currency}}
timeframes: [m15, H4]
history: 3d
"""
# A Tuesday, half an hour into the rest of metals.
NOW = datetime(2026, 6, 2, 21, 31, tzinfo=UTC)
GOLD = Series("XAU/USD", Timeframe.m15)


@pytest.fixture
def market() -> Market:
    return parse_market(MIXED, "mixed.yaml")


@pytest.fixture
def warehouse(market: Market, tmp_path: Path) -> Warehouse:
    """What a first refresh in the middle of the rest stores."""
    os.environ["REFRESH_DATA_DIR"] = str(tmp_path)
    warehouse = Warehouse(database=str(load_settings().database))
    warehouse.prepare(market)
    requests = fetch.requests_for(market, warehouse.series_stats(market, market.series), NOW)
    fetch.fetch_candles(warehouse, market, open_source(market, tmp_path), requests, NOW)
    return warehouse


def test_an_instruments_class_chooses_its_calendar_and_an_unknown_class_the_markets(market: Market):
    assert market.calendar_of("XAU/USD") is CALENDARS["fx"].classes["metal"]
    assert market.calendar_of("SPX500") is CALENDARS["fx"].classes["index"]
    assert market.calendar_of("EUR/USD") is market.calendar_of("USD/JPY") is CALENDARS["fx"]
    groups = market.by_calendar(market.series)
    assert sum(len(series) for series in groups.values()) == len(market.series)
    assert groups[CALENDARS["fx"], Timeframe.H4] == [Series(name, Timeframe.H4) for name in ("EUR/USD", "USD/JPY")]


def test_in_the_rest_of_metals_everything_is_fresh_and_on_the_grid(market: Market, warehouse: Warehouse):
    assert {name: verdict.faults for name, verdict in candle_verdicts(warehouse, market, NOW).items()} == {
        "every_series_was_fetched": [],
        "nothing_was_rejected": [],
        "prices_are_coherent": [],
        "open_times_are_unique_and_on_the_grid": [],
        "no_candle_is_from_the_future": [],
        "every_series_is_fresh": [],
        "no_candles_are_missing": [],
        "prices_are_plausible": [],
        "timeframes_agree": [],
    }


def test_a_candle_of_gold_in_its_rest_is_flagged_and_one_of_a_currency_is_not(market: Market, warehouse: Warehouse):
    with warehouse.get_connection() as connection:
        for instrument in ("XAU/USD", "EUR/USD"):
            connection.execute(
                "insert into mixed.raw_candles by name select * replace ($name as instrument, "
                "timestamp '2026-06-01 21:15' as open_time) from mixed.raw_candles where timeframe = 'm15' limit 1",
                {"name": instrument},
            )
    faults = candle_verdicts(warehouse, market, NOW)["open_times_are_unique_and_on_the_grid"].faults
    # The currency had that candle already.
    assert [(fault.series, fault.what) for fault in faults] == [
        (Series("EUR/USD", Timeframe.m15), "stored 2 times"),
        (GOLD, "not on the calendar's grid"),
    ]


def test_status_expects_of_each_what_its_calendar_says(market: Market, warehouse: Warehouse):
    assert warehouse.exists
    rows = {row["instrument"]: row for row in status_rows(load_settings(), [market], NOW) if row["timeframe"] == "m15"}
    assert rows["XAU/USD"]["expected_candle"] == "2026-06-02T20:45:00Z"
    assert rows["EUR/USD"]["expected_candle"] == "2026-06-02T21:15:00Z"
    assert {row["completeness"] for row in rows.values()} == {1.0}
    assert {row["bars_behind"] for row in rows.values()} == {0}
