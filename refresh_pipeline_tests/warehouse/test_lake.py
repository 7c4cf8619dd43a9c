"""What only a lake has: several writers, each market's lock, files that are merged, a server that goes away.

The other files run on a lake too where REFRESH_TEST_PLACE=lake.
"""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import lake, versions
from refresh_pipeline.warehouse.connection import (
    MEMORY,
    WarehouseBusy,
    WarehouseUnreadable,
    connect,
    place_of,
    transaction,
)
from refresh_pipeline.warehouse.lake import LakePlace
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.sql_query import QueryError, write_file
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import of_a_lake, server
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, candles, flat, market_of, query

MARKET, OTHER = market_of(), market_of(name="other")
# Before a test takes the environment away.
ROUNDS = examples(5)
PASSWORD = "not-to-be-shown"
ADDRESS = f"ducklake:postgresql://ann:{PASSWORD}@db.example:5433/lake?data=s3://bucket/prefix&sslmode=require"


def lake_of(warehouse: Warehouse) -> LakePlace:
    assert isinstance(warehouse.place, LakePlace)
    return warehouse.place


def test_a_lake_is_known_without_its_password() -> None:
    place = place_of(ADDRESS)
    assert isinstance(place, LakePlace)
    assert place.name == "ducklake:postgresql://ann@db.example:5433/lake?data=s3://bucket/prefix"
    assert place.catalogue == f"postgresql://ann:{PASSWORD}@db.example:5433/lake?sslmode=require"
    assert (place.file, place.folder, place.data) == (None, None, "s3://bucket/prefix")


@pytest.mark.parametrize("address", ["ducklake:sqlite:x", f"ducklake:postgresql://ann:{PASSWORD}@host/lake"])
def test_an_address_that_is_no_lakes_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValueError, match="allowed: ducklake:postgresql://") as refused:
        place_of(address)
    assert PASSWORD not in str(refused.value)


@of_a_lake
def test_ducklake_alone_stores_a_new_series_twice_and_the_warehouse_does_not(warehouse: Warehouse) -> None:
    """Two writers find no such series, and both insert it."""
    alias, first = lake_of(warehouse)._attached()
    second = first.cursor()
    for connection in (first, second):
        connection.execute(f"use {alias}")
        connection.execute("begin")
        connection.execute("delete from fair.series where instrument = 'NEW/USD'")
        connection.execute("insert into fair.series (instrument, timeframe, candle_count) values ('NEW/USD', 'm5', 1)")
    first.execute("commit")
    second.execute("commit")
    assert query(warehouse, "select count(*) from fair.series where instrument = 'NEW/USD'") == [(2,)]

    for number in range(ROUNDS):
        new = Series(f"NEW{number}/USD", Timeframe.m5)
        arrivals = {new: flat(100.0, 0, 1)}
        writers = [Warehouse(database=warehouse.database, patience=30) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            added = list(pool.map(lambda each: each.store_candles(MARKET, arrivals, "test", NOW), writers))  # noqa: B023
        assert sorted(stored[new].added for stored in added if new in stored) in ([2], [0, 2])
    for table in ("raw_candles", "series", "recompute_queue"):
        keys = "instrument, timeframe" + {"raw_candles": ", open_time", "recompute_queue": ", asset"}.get(table, "")
        [(rows, distinct)] = query(
            warehouse, f"select count(*), count(distinct ({keys})) from fair.{table} where instrument <> 'NEW/USD'"
        )
        assert rows == distinct > 0, table


@of_a_lake
def test_writers_of_one_market_wait_for_each_other_and_nobody_else_does(warehouse: Warehouse) -> None:
    warehouse.prepare(OTHER)
    impatient = Warehouse(database=warehouse.database, patience=0.2)
    with warehouse.get_connection("fair") as connection, transaction(connection):
        connection.execute("insert into fair.acknowledged_faults (note) values ('uncommitted')")
        with pytest.raises(WarehouseBusy, match=r"wanted to write market fair .* PID \d+"):
            impatient.store_candles(MARKET, {BTC: candles(2)}, "test", NOW)
        with pytest.raises(WarehouseBusy, match="all markets"), impatient.get_connection():
            pass
        impatient.store_candles(OTHER, {BTC: candles(2)}, "test", NOW)
        assert query(impatient, "select count(*) from fair.acknowledged_faults") == [(0,)]
    assert query(impatient, "select count(*) from fair.acknowledged_faults") == [(1,)]
    with impatient.get_connection():
        pass


@of_a_lake
def test_the_server_misses_a_writer_that_vanishes_without_a_word(warehouse: Warehouse) -> None:
    # A host whose network is cut closes nothing: without these, PostgreSQL keeps its lock for two hours.
    with warehouse.get_connection(MARKET.name) as connection, lake._writers[id(connection)].cursor() as cursor:
        cursor.execute("select name, setting::integer from pg_settings where name like 'tcp_%'")
        kept = dict(cursor.fetchall())
    assert kept["tcp_keepalives_idle"] + kept["tcp_keepalives_interval"] * kept["tcp_keepalives_count"] == 25
    assert kept["tcp_user_timeout"] == 25_000


@of_a_lake
def test_a_reader_sees_one_state_and_cannot_write(warehouse: Warehouse) -> None:
    with warehouse.reader() as reader:
        assert reader.execute("select count(*) from fair.raw_candles").fetchall() == [(0,)]
        warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW)
        assert reader.execute("select count(*) from fair.raw_candles").fetchall() == [(0,)]
        with pytest.raises(duckdb.Error, match="read-only"):
            reader.execute("delete from fair.raw_candles")
    assert query(warehouse, "select count(*) from fair.raw_candles") == [(3,)]


@of_a_lake
def test_versions_become_visible_in_the_order_in_which_they_were_drawn(warehouse: Warehouse) -> None:
    """A writer of another market draws none until the transaction that drew the last one has ended."""
    warehouse.prepare(OTHER)
    impatient = Warehouse(database=warehouse.database, patience=0.2)
    with warehouse.get_connection("fair") as connection:
        with transaction(connection):
            connection.execute(
                "create temp table touched as "
                "select 'BTC/USD' as instrument, 'm5' as timeframe, now()::timestamp as since"
            )
            versions.record_changes(connection, "fair", [Table.raw_candles])
            with pytest.raises(WarehouseBusy, match="another market"):
                impatient.store_candles(OTHER, {BTC: candles(2)}, "test", NOW)
        impatient.store_candles(OTHER, {BTC: candles(2)}, "test", NOW)
    with warehouse.reader() as connection:
        read = versions.changes(connection)
    raw = [change for change in read.changes if change.asset == Table.raw_candles]
    assert [change.market for change in raw] == ["fair", "other"]
    assert [query(warehouse, f"select distinct epoch from {name}.schema_info") for name in ("fair", "other")] == [
        [(read.epoch,)]
    ] * 2


@of_a_lake
def test_a_tick_writes_a_file_for_each_large_table_and_upkeep_merges_them(warehouse: Warehouse) -> None:
    place = lake_of(warehouse)
    counts = [stored_files(warehouse, number) for number in range(4)]
    # The first rows of a table are a file; later ones of small tables stay in the catalogue.
    assert [each.pop("raw_candles") for each in counts] == [1, 2, 3, 4]
    assert counts == [counts[0]] * 4
    before = files_below(Path(place.data))
    rows = query(warehouse, "select * from fair.raw_candles order by all")
    assert warehouse.pending_compaction(MARKET, NOW) == 0
    warehouse.compact(MARKET, NOW, 60)
    assert files_of(warehouse)["raw_candles"] == 1
    assert query(warehouse, "select * from fair.raw_candles order by all") == rows
    # Readers of the last minutes still have the files that were merged.
    assert before <= files_below(Path(place.data))
    assert place.bytes > sum(path.stat().st_size for path in files_below(Path(place.data)))


def stored_files(warehouse: Warehouse, tick: int) -> dict[str, int]:
    """The number of files of each table after one more tick."""
    warehouse.store_candles(MARKET, {BTC: candles(30, 30 * tick)}, "test", NOW)
    return files_of(warehouse)


def files_of(warehouse: Warehouse) -> dict[str, int]:
    return dict(query(warehouse, "select table_name, file_count from ducklake_table_info(current_database())"))


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*.parquet"))


@of_a_lake
def test_a_connection_loads_nothing_more_and_a_query_reaches_the_lake_alone(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.store_candles(MARKET, {BTC: candles(20)}, "test", NOW)
    with connect(warehouse.database, market="fair") as connection:
        settings = "select name, value from duckdb_settings() where name in ('memory_limit', 'lock_configuration')"
        assert dict(connection.execute(settings).fetchall())["lock_configuration"] == "true"
        for statement in ("set threads = 1", "set autoload_known_extensions = true", f"set memory_limit = '{MEMORY}'"):
            with pytest.raises(duckdb.Error, match="locked"):
                connection.execute(statement)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    out = tmp_path / "rows.parquet"
    write_file(warehouse.database, "select open_time from fair.raw_candles", out, kind="parquet", seconds=60)
    assert duckdb.execute(f"select count(*) from '{out}'").fetchall() == [(20,)]
    for sql in (f"from read_csv('{secret}')", "from postgres_query('refresh_lake', 'select 1')"):
        with pytest.raises(QueryError):
            write_file(warehouse.database, sql, out, kind="parquet", seconds=60)


@of_a_lake
def test_a_lake_whose_server_was_away_works_again(warehouse: Warehouse) -> None:
    warehouse.store_candles(MARKET, {BTC: candles(20)}, "test", NOW)
    server().stop()
    try:
        with pytest.raises(WarehouseUnreadable, match="the catalogue says"):
            warehouse.store_candles(MARKET, {BTC: candles(20, 20)}, "test", NOW)
        with pytest.raises(WarehouseUnreadable), warehouse.reader() as reader:
            reader.execute("select count(*) from fair.raw_candles").fetchall()
    finally:
        server().start()
    warehouse.store_candles(MARKET, {BTC: candles(20, 20)}, "test", NOW)
    assert query(warehouse, "select count(*) from fair.raw_candles") == [(40,)]


@of_a_lake
def test_a_reader_in_a_loop_stops_no_writer(warehouse: Warehouse) -> None:
    ended, counts = threading.Event(), [0]

    def read() -> None:
        while not ended.is_set():
            [(count,)] = query(warehouse, "select count(*) from fair.raw_candles")
            assert count >= counts[-1]
            counts.append(count)

    with ThreadPoolExecutor(1) as pool, ending(ended):
        reading = pool.submit(read)
        for number in range(4):
            warehouse.store_candles(MARKET, {BTC: candles(10, 10 * number)}, "test", NOW)
        ended.set()
        reading.result(60)
    assert query(warehouse, "select count(*) from fair.raw_candles") == [(40,)]


@of_a_lake
def test_a_dump_and_the_files_are_a_backup_of_a_lake(warehouse: Warehouse, tmp_path: Path) -> None:
    """The commands of docs/lake.md, with the folder copied after the dump."""
    place, programs = lake_of(warehouse), server().programs
    warehouse.store_candles(MARKET, {BTC: candles(30)}, "test", NOW)
    rows = query(warehouse, "select * from fair.raw_candles order by all")
    dump, database = tmp_path / "lake.dump", place.catalogue

    def run(*command: object) -> None:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, cwd="/")

    run(programs / "pg_dump", "--format=custom", f"--file={dump}", database)
    shutil.copytree(place.data, tmp_path / "copy")
    warehouse.store_candles(MARKET, {BTC: candles(30, 30)}, "test", NOW)
    warehouse.compact(MARKET, NOW, 60)
    place.detach()
    shutil.rmtree(place.data)
    shutil.copytree(tmp_path / "copy", place.data)
    run(programs / "pg_restore", "--clean", "--if-exists", f"--dbname={database}", dump)
    assert query(warehouse, "select * from fair.raw_candles order by all") == rows
    warehouse.store_candles(MARKET, {BTC: candles(30, 30)}, "test", NOW)
    assert query(warehouse, "select count(*) from fair.raw_candles") == [(60,)]


@contextmanager
def ending(event: threading.Event) -> Iterator[None]:
    """Set the event, however the block ends."""
    try:
        yield
    finally:
        event.set()
