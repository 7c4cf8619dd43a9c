"""What is remembered of the files that a venue's candles were read from."""

import pytest

from refresh_pipeline.market.candles import BulkFile
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FIRST,
    NOW,
    at,
    candles,
    market_of,
    opens,
    query,
)

MARKET = market_of()
JANUARY = BulkFile("/2024-01.zip", "a" * 64, FIRST, opens(10)[-1])
FEBRUARY = BulkFile("/2024-02.zip", "b" * 64, opens(10)[-1], opens(20)[-1])
END = opens(30)[-1]


def test_files_are_remembered_per_series_oldest_first(warehouse: Warehouse):
    files = [(BTC, FEBRUARY), (BTC, JANUARY), (ETH, JANUARY)]
    warehouse.store_candles(MARKET, {BTC: candles(20)}, "test", NOW, files=files)
    assert warehouse.archive_files(MARKET, [BTC, ETH], FIRST, END) == {BTC: [JANUARY, FEBRUARY], ETH: [JANUARY]}
    assert warehouse.archive_files(MARKET, [BTC], opens(5)[-1], END) == {BTC: [FEBRUARY]}
    assert warehouse.archive_files(MARKET, [ETH], opens(5)[-1], END) == {}


def test_a_file_that_was_read_again_takes_the_place_of_what_was_known_of_it(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(9)}, "test", NOW, files=[(BTC, JANUARY), (ETH, JANUARY)])
    again = BulkFile(JANUARY.path, "c" * 64, JANUARY.since, JANUARY.until)
    warehouse.store_candles(MARKET, {}, "test", at(60), files=[(BTC, again)])
    assert warehouse.archive_files(MARKET, [BTC, ETH], FIRST, END) == {BTC: [again], ETH: [JANUARY]}
    assert query(warehouse, "select count(*) from fair.archive_files") == [(2,)]


def test_where_candles_cannot_be_stored_nothing_is_remembered_of_their_file(warehouse: Warehouse):
    broken = candles(3)
    short = type(broken)(broken.open_time, {**broken.columns, "close": broken["close"][:1]})
    with pytest.raises(ValueError):
        warehouse.store_candles(MARKET, {BTC: short}, "test", NOW, files=[(BTC, JANUARY)])
    assert warehouse.archive_files(MARKET, [BTC], FIRST, END) == {}
