"""Old rows are brought into order: every row stays what it is, and others read and write meanwhile."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.compaction import Compaction, CompactionResult, record_compacted
from refresh_pipeline.warehouse.connection import Connect
from refresh_pipeline.warehouse.schema import Table, queue_full_recompute
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import copied
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    candles,
    everything,
    flat,
    market_of,
    prepared,
    query,
)

MARKET = market_of()
# The candles of `stored` span four days, the newest closes then.
NOW = datetime(2024, 1, 5, tzinfo=UTC)
A_DAY = 288
THIRD_DAY = datetime(2024, 1, 3)  # noqa: DTZ001 - as DuckDB tells it


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Four days of both series, as ticks would have stored them, were there one in six hours."""
    warehouse = prepared(tmp_path_factory.mktemp("compaction"), MARKET)
    for tick in range(4 * 4):
        warehouse.store_candles(MARKET, {series: candles(72, 72 * tick) for series in (BTC, ETH)}, "test", NOW)
    warehouse.refresh_tail(MARKET, Table.enhanced_candles, MARKET.series)
    return warehouse


@pytest.fixture
def stored(original: Warehouse, tmp_path: Path) -> Warehouse:
    return Warehouse(database=copied(original.database, tmp_path), patience=30)


def compaction(warehouse: Warehouse, table: Table = Table.raw_candles, days: float = 1.5) -> Compaction:
    """A compaction that sorts rows of `days` days together, any number of them at once."""
    [(columns,)] = query(warehouse, f"select count(*) from (describe fair.{table.value})")
    cells = int(days * A_DAY * 2 * columns)
    return Compaction(warehouse.get_connection, MARKET.name, table, cells_together=cells)


def in_the_file(warehouse: Warehouse, table: str = "raw_candles") -> list[tuple]:
    return query(warehouse, f"select instrument, open_time from fair.{table} order by rowid")


def without_notes(tables: dict[str, list[tuple]]) -> dict[str, list[tuple]]:
    return {name: rows for name, rows in tables.items() if name != "fair.compaction_state"}


@pytest.mark.parametrize("table", [Table.raw_candles, Table.enhanced_candles])
def test_old_rows_lie_series_by_series_and_none_is_another(stored: Warehouse, table: Table) -> None:
    before, all_rows = everything(stored), in_the_file(stored, table.value)
    result = compaction(stored, table).rewrite(NOW, 60)
    assert (result.rows, result.pieces) == (2 * A_DAY * 2, 1)
    assert result.longest > 0
    assert without_notes(everything(stored)) == without_notes(before)
    rows = in_the_file(stored, table.value)
    # Two days are there together; the third has to wait, and the newest one stays as it was.
    assert rows[: 4 * A_DAY] == [row for row in all_rows if row[1] >= THIRD_DAY]
    assert rows[4 * A_DAY :] == sorted(row for row in all_rows if row[1] < THIRD_DAY)


def test_what_is_in_order_is_left_alone_and_what_has_grown_old_follows(stored: Warehouse) -> None:
    assert compaction(stored).pending_rows(NOW) == 2 * A_DAY * 2
    compaction(stored).rewrite(NOW, 60)
    assert compaction(stored).pending_rows(NOW) == 0
    assert compaction(stored).rewrite(NOW, 60) == CompactionResult()
    assert compaction(stored).rewrite(NOW + timedelta(days=1), 60).rows == 2 * A_DAY * 2


def test_little_is_left_for_another_night(stored: Warehouse) -> None:
    assert compaction(stored, days=3.5).rewrite(NOW, 60) == CompactionResult()
    assert compaction(stored, days=3.5).rewrite(NOW + timedelta(days=1), 60).rows == 4 * A_DAY * 2


def test_pieces_are_as_large_as_wanted_and_a_night_ends_in_time(stored: Warehouse) -> None:
    before = everything(stored)
    small = replace(compaction(stored), cells_at_once=1)
    assert small.rewrite(NOW, 0.0) == CompactionResult()
    assert small.rewrite(NOW, 60).pieces == 2
    assert without_notes(everything(stored)) == without_notes(before)


def before_each(work: Callable[[int], None], warehouse: Warehouse) -> Connect:
    """Connections, before each of which something else happens."""
    numbers = count()

    def connect() -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        work(next(numbers))
        return warehouse.get_connection()

    return connect


@pytest.mark.parametrize("moment", range(2, 5))
def test_a_night_that_is_cut_short_loses_nothing_and_the_next_one_goes_on(stored: Warehouse, moment: int) -> None:
    before, small = everything(stored), replace(compaction(stored), cells_at_once=1)

    def killed(number: int) -> None:
        if number == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(small, connect=before_each(killed, stored)).rewrite(NOW, 60)
    assert without_notes(everything(stored)) == without_notes(before)
    assert small.rewrite(NOW, 60).rows > 0
    assert without_notes(everything(stored)) == without_notes(before)
    assert small.pending_rows(NOW) == 0


def test_candles_that_are_stored_between_two_pieces_are_there_afterwards(stored: Warehouse) -> None:
    def store(number: int) -> None:
        stored.store_candles(MARKET, {BTC: flat(7.0, number, 4 * A_DAY + number)}, "late", NOW)

    result = replace(compaction(stored), cells_at_once=1, connect=before_each(store, stored)).rewrite(NOW, 60)
    [(late,)] = query(stored, "select count(*) from fair.raw_candle_revisions")
    assert result.pieces == 2 < late
    assert query(stored, "select count(*), count(distinct (instrument, open_time)) from fair.raw_candles") == [
        (4 * A_DAY * 2 + late, 4 * A_DAY * 2 + late)
    ]
    assert query(stored, "select count(*) from fair.raw_candles where source = 'late'") == [(2 * late,)]


def test_a_table_that_is_computed_anew_is_brought_into_order_anew(stored: Warehouse) -> None:
    compaction(stored, Table.enhanced_candles).rewrite(NOW, 60)
    with stored.get_connection() as connection:
        queue_full_recompute(connection, "fair", Table.enhanced_candles)
    assert compaction(stored, Table.enhanced_candles).pending_rows(NOW) == 2 * A_DAY * 2


def test_timeframes_lie_apart(tmp_path: Path) -> None:
    market = market_of(timeframes="[m5, m15]")
    warehouse = prepared(tmp_path, market)
    slow = Series("BTC/USD", Timeframe.m15)
    for tick in range(4):
        warehouse.store_candles(market, {BTC: candles(72, 72 * tick), slow: candles(24, 72 * tick)}, "test", NOW)
    Compaction(warehouse.get_connection, "fair", Table.raw_candles, cells_together=1).rewrite(NOW, 60)
    order = [row[0] for row in query(warehouse, "select timeframe from fair.raw_candles order by rowid")]
    assert order == sorted(order)
    assert set(order) == {"m5", "m15"}


def test_candles_that_were_turned_away_are_forgotten_after_ninety_days(warehouse: Warehouse) -> None:
    warehouse.store_candles(MARKET, {BTC: flat(-1.0, 1, 2)}, "test", NOW)
    warehouse.store_candles(MARKET, {BTC: flat(-1.0, 3)}, "test", NOW + timedelta(days=2))
    warehouse.compact(MARKET, NOW + timedelta(days=90), 60)
    assert query(warehouse, "select count(*) from fair.rejected_candles") == [(3,)]
    warehouse.compact(MARKET, NOW + timedelta(days=91), 60)
    assert query(warehouse, "select count(*) from fair.rejected_candles") == [(1,)]


def test_a_cut_that_a_clock_ahead_has_recorded_is_put_back(stored: Warehouse) -> None:
    with stored.get_connection() as connection:
        record_compacted(connection, "fair", Table.raw_candles, NOW.replace(tzinfo=None) + timedelta(days=400))
    assert compaction(stored).rewrite(NOW, 60).rows == 0
    later = NOW + timedelta(days=3)
    stored.store_candles(MARKET, {BTC: candles(3 * A_DAY, 4 * A_DAY)}, "test", later)
    assert compaction(stored, days=0.5).rewrite(later, 60).rows > 0
