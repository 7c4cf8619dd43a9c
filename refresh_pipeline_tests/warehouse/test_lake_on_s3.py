"""A lake whose files are in a bucket of S3: written, read, merged, deleted, away for a while. The server is real."""

import os

import pytest

from refresh_pipeline.warehouse import lake
from refresh_pipeline.warehouse.connection import WarehouseUnreadable
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import of_a_lake, server
from refresh_pipeline_tests.s3_server import BUCKET, S3Server, s3_server
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, candles, market_of, query

MARKET = market_of()
CANDLES = "lake/fair/raw_candles/"
COUNT = "select count(*), count(distinct open_time), sum(close) > 0 from fair.raw_candles"


def stored(warehouse: Warehouse, tick: int) -> None:
    warehouse.store_candles(MARKET, {BTC: candles(30, 30 * tick)}, "test", NOW)


@of_a_lake
def test_a_bucket_holds_the_files_of_a_lake_and_may_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        server().query("create database on_s3")
        warehouse = Warehouse(database=f"ducklake:{server().url_of('on_s3')}?data=s3://{BUCKET}/lake", patience=30)
        try:
            warehouse.prepare(MARKET)
            files_are_written_merged_and_deleted(warehouse, s3, monkeypatch)
            an_outage_stores_nothing_and_ends(warehouse, s3)
        finally:
            assert isinstance(warehouse.place, lake.LakePlace)
            warehouse.place.detach()


def files_are_written_merged_and_deleted(warehouse: Warehouse, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for tick in range(4):
        stored(warehouse, tick)
    small = set(s3.keys(CANDLES))
    assert len(small) == 4
    warehouse.compact(MARKET, NOW, 60)
    # What readers of the last minutes may still read stays.
    assert small < set(s3.keys(CANDLES))
    monkeypatch.setattr(lake, "SNAPSHOTS_KEPT", "interval 0 seconds")
    warehouse.compact(MARKET, NOW, 60)
    warehouse.compact(MARKET, NOW, 60)
    assert len(s3.keys(CANDLES)) == 1
    assert not small & set(s3.keys(CANDLES))
    assert query(warehouse, COUNT) == [(120, 120, True)]


def an_outage_stores_nothing_and_ends(warehouse: Warehouse, s3: S3Server) -> None:
    with warehouse.reader() as connection:
        warehouse.place.ask_store(connection)  # type: ignore[union-attr]
    s3.stop()
    with pytest.raises(WarehouseUnreadable, match="the store of objects says"), warehouse.reader() as connection:
        warehouse.place.ask_store(connection)  # type: ignore[union-attr]
    # A reader may still be answered from memory.
    with pytest.raises(WarehouseUnreadable, match="the store of objects says") as told:
        stored(warehouse, 5)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(told.value)
    s3.start()
    assert query(warehouse, COUNT) == [(120, 120, True)]
    stored(warehouse, 4)
    assert query(warehouse, COUNT) == [(150, 150, True)]
