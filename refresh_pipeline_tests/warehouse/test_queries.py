"""Each question that people and checks ask: the answer when all is well, and when it is not."""

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.files.writer import TableWriter
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import queries
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.manifests import Exported
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.queries import Fault, SeriesOutcome, SeriesReport
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import copied
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FULL,
    NOW,
    SHIPPED_TABLES,
    at,
    candles,
    change,
    every_column,
    flat,
    market_of,
    opens,
    prepared,
)

MARKET = market_of()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, Path]:
    """Two series with everything computed and exported, and the folder of the exports; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    warehouse = prepared(folder, MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(60), ETH: candles(40, seed=1)}, "test", NOW)
    for table in SHIPPED_TABLES:
        warehouse.refresh_tail(MARKET, table, MARKET.series)
    export(warehouse, MARKET, folder)
    return warehouse, folder


@pytest.fixture
def warehouse(made: tuple[Warehouse, Path], tmp_path: Path) -> Warehouse:
    """A copy of it, its exports beside it."""
    original, folder = made
    address = copied(original.database, tmp_path)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("warehouse.duckdb*"))
    return Warehouse(database=address)


def export(warehouse: Warehouse, market: Market, folder: Path) -> None:
    """Each series as one Parquet file, noted in the manifest."""
    pending = warehouse.pending_recompute(market, Table.exports, market.series)
    files = []
    with TableWriter() as writer:
        for series, rows in warehouse.rows_to_export(market, pending.series, every_column(market), FULL):
            path = f"{series.file_stem}.parquet"
            written = writer.write(rows, folder / path)
            first, last = (rows["open_time"][row].astype(datetime) for row in (0, -1))
            shown = ("default", "joined", "parquet", path, "plain zstd full")
            files.append(Exported(series, *shown, written.rows, written.bytes, written.sha256, first, last))
    warehouse.record_exports(market, files, pending, NOW)


def attempts(**outcomes: Outcome) -> Mapping[Series, Attempt]:
    """What an attempt at series came to, by the beginning of their names."""
    named = {"btc": BTC, "eth": ETH}
    return {
        named[name]: Attempt(outcome, reason="timed out" if outcome is Outcome.failed else None, transient=True)
        for name, outcome in outcomes.items()
    }


# ---- what is there


def test_a_market_has_tables_once_it_was_prepared(warehouse: Warehouse):
    with warehouse.reader() as connection:
        assert queries.has_tables(connection, "fair")
        assert not queries.has_tables(connection, "unheard_of")


def test_every_series_is_reported_stored_or_not_tried_or_not(warehouse: Warehouse):
    doge, sol = Series("DOGE/USD", Timeframe.m5), Series("SOL/USD", Timeframe.m5)
    failed = {ETH: Attempt(Outcome.failed, "timed out", transient=True), sol: Attempt(Outcome.no_data)}
    warehouse.record(MARKET, Table.raw_candles, failed, "run", NOW)
    warehouse.record(MARKET, Table.indicators, {BTC: Attempt(Outcome.updated)}, "run", NOW)
    with warehouse.reader() as connection:
        found = queries.series_report(connection, "fair", [doge, sol, ETH, BTC])
    attempted = np.datetime64("2026-01-01", "us")
    assert found == [
        SeriesReport(doge, 0, None, None, None, None, None),
        SeriesReport(sol, 0, None, None, "no data", None, attempted),
        SeriesReport(ETH, 40, opens(1)[0], opens(40)[-1], "failed", "timed out", attempted),
        SeriesReport(BTC, 60, opens(1)[0], opens(60)[-1], None, None, None),
    ]


def test_a_run_is_told_what_it_did_unless_a_later_one_has_been_there(warehouse: Warehouse):
    warehouse.record(MARKET, Table.raw_candles, attempts(btc=Outcome.updated, eth=Outcome.failed), "first", NOW)
    warehouse.record(MARKET, Table.indicators, {BTC: Attempt(Outcome.updated, rows_added=3)}, "first", NOW)
    warehouse.record(MARKET, Table.raw_candles, attempts(btc=Outcome.unchanged), "second", at(60))
    with warehouse.reader() as connection:
        first, second, neither = (queries.outcomes_of(connection, "fair", runs) for runs in (["first"], ["second"], []))
    assert sorted(first, key=lambda each: each.series.instrument) == [
        SeriesOutcome(Table.indicators, BTC, "updated", None, 3, 0),
        SeriesOutcome(Table.raw_candles, ETH, "failed", "timed out", 0, 0),
    ]
    assert second == [SeriesOutcome(Table.raw_candles, BTC, "unchanged", None, 0, 0)]
    assert neither == []


# ---- prices


def test_candles_that_were_stored_are_coherent(warehouse: Warehouse):
    with warehouse.reader() as connection:
        assert queries.incoherent_prices(connection, "fair") == []


@pytest.mark.parametrize(
    "wrong",
    [
        "high = low - 1",
        "high = open - 1e-9, close = open - 2, low = open - 3",
        "low = close + 1e-9",
        "low = -low",
        "low = 0",
        "high = 'inf'",
        "high = 'nan'",
        "open = 'nan'",
        "low = 'nan'",
        "close = null",
        "high = null",
    ],
)
def test_a_candle_that_somebody_made_contradict_itself_is_named(warehouse: Warehouse, wrong: str):
    change(warehouse, f"update fair.raw_candles set {wrong} where instrument = 'ETH/USD' and open_time = ?", moment(7))
    with warehouse.reader() as connection:
        [fault] = queries.incoherent_prices(connection, "fair")
    assert (fault.series, fault.open_time) == (ETH, opens(8)[7])
    assert fault.what.startswith("open ")


def moment(number: int) -> datetime:
    return opens(number + 1)[number].astype(datetime)


def test_only_some_of_many_faults_are_named(warehouse: Warehouse):
    change(warehouse, "update fair.raw_candles set high = low / 2")
    with warehouse.reader() as connection:
        assert len(queries.incoherent_prices(connection, "fair")) == queries.EXAMPLES


# ---- opening times


def test_candles_that_were_stored_are_there_once(warehouse: Warehouse):
    with warehouse.reader() as connection:
        assert queries.repeated_open_times(connection, "fair") == []


@pytest.mark.parametrize("again", [0, 31, 59])
def test_a_candle_that_is_there_twice_is_named(warehouse: Warehouse, again: int):
    change(
        warehouse,
        "insert into fair.raw_candles select * from fair.raw_candles where instrument = 'BTC/USD' and open_time = ?",
        moment(again),
    )
    with warehouse.reader() as connection:
        assert queries.repeated_open_times(connection, "fair") == [Fault(BTC, opens(60)[again], "stored 2 times")]


def test_a_candle_that_is_there_twice_is_named_also_where_another_is_missing(warehouse: Warehouse):
    change(warehouse, "delete from fair.raw_candles where instrument = 'BTC/USD' and open_time = ?", moment(3))
    test_a_candle_that_is_there_twice_is_named(warehouse, 31)


def test_candles_of_one_bar_at_different_instants_are_not_the_same_candle(warehouse: Warehouse):
    off_grid = candles(10)
    off_grid.open_time[:] += np.timedelta64(7, "s")
    warehouse.store_candles(MARKET, {BTC: off_grid}, "test", NOW)
    with warehouse.reader() as connection:
        assert queries.repeated_open_times(connection, "fair") == []


@pytest.mark.parametrize("year", [1, 1900, 1969, 9998])
def test_repeats_are_found_in_any_year_and_in_a_series_that_nobody_counted(warehouse: Warehouse, year: int):
    for instrument, timeframe in (("BTC/USD", "m5"), ("SOL/USD", "H1"), ("SOL/USD", "MN1")):
        for _ in range(2):
            change(
                warehouse,
                "insert into fair.raw_candles (instrument, timeframe, open_time) "
                "values (?, ?, make_timestamp(?, 5, 1, 0, 0, 0))",
                instrument,
                timeframe,
                year,
            )
    with warehouse.reader() as connection:
        found = queries.repeated_open_times(connection, "fair")
    assert {(fault.series.instrument, fault.series.timeframe) for fault in found} == {
        ("BTC/USD", Timeframe.m5),
        ("SOL/USD", Timeframe.H1),
        ("SOL/USD", Timeframe.MN1),
    }


def test_every_opening_time_is_told_once_by_timeframe(tmp_path: Path):
    market = market_of(timeframes="[m5, H1]")
    warehouse = prepared(tmp_path, market)
    with warehouse.reader() as connection:
        assert queries.distinct_open_times(connection, "fair") == {}
    hourly = Series("BTC/USD", Timeframe.H1)
    warehouse.store_candles(market, {BTC: candles(3), ETH: candles(4), hourly: flat(1.5, 0, 12)}, "test", NOW)
    with warehouse.reader() as connection:
        found = queries.distinct_open_times(connection, "fair")
    assert {timeframe: times.tolist() for timeframe, times in found.items()} == {
        Timeframe.m5: opens(4).tolist(),
        Timeframe.H1: opens(13)[[0, 12]].tolist(),
    }


def test_who_has_candles_at_some_times_is_named(warehouse: Warehouse):
    with warehouse.reader() as connection:
        assert queries.candles_at(connection, "fair", Timeframe.m5, opens(1, first=999)) == []
        assert queries.candles_at(connection, "fair", Timeframe.H1, opens(1)) == []
        found = queries.candles_at(connection, "fair", Timeframe.m5, opens(1, first=50))
        several = queries.candles_at(connection, "fair", Timeframe.m5, opens(60))
    assert found == [Fault(BTC, opens(51)[50], "not on the calendar's grid")]
    assert len(several) == queries.EXAMPLES


# ---- exports


def test_series_that_could_be_exported_are_those_with_candles(warehouse: Warehouse):
    with warehouse.reader() as connection:
        assert queries.series_with_candles(connection, "fair") == {BTC, ETH}


def differing(warehouse: Warehouse, folder: Path, zone: str = "UTC") -> list[Fault]:
    with connect(warehouse.database, read_only=True, time_zone=zone) as connection:
        files = {f"{series.file_stem}.parquet": series for series in (BTC, ETH)}
        return queries.exports_that_differ(connection, "fair", folder, files)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_files_that_were_written_hold_what_the_table_holds_wherever_the_machine_stands(
    warehouse: Warehouse, zone: str, tmp_path: Path
):
    assert differing(warehouse, tmp_path, zone) == []


@pytest.mark.parametrize(
    "unnoticed",
    [
        "update fair.raw_candles set close = close + 1e-12 where instrument = 'BTC/USD' and open_time = ?",
        "update fair.raw_candles set volume = null where instrument = 'BTC/USD' and open_time = ?",
        "delete from fair.raw_candles where instrument = 'BTC/USD' and open_time = ?",
        "insert into fair.raw_candles select * from fair.raw_candles where instrument = 'BTC/USD' and open_time = ?",
        "update fair.raw_candles set open_time = open_time + interval 1 second where instrument = 'BTC/USD' "
        "and open_time = ?",
    ],
)
def test_a_file_whose_table_holds_something_else_is_named(warehouse: Warehouse, unnoticed: str, tmp_path: Path):
    change(warehouse, unnoticed, moment(31))
    assert differing(warehouse, tmp_path) == [Fault(BTC, None, "BTC-USD_m5.parquet: other candles than in the table")]


def test_a_series_that_is_due_for_export_is_not_held_against_its_file(warehouse: Warehouse, tmp_path: Path):
    warehouse.store_candles(MARKET, {BTC: flat(7.0, 3)}, "test", at(1))
    warehouse.refresh_tail(MARKET, Table.enhanced_candles, MARKET.series)
    assert differing(warehouse, tmp_path) == []


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_held_against_the_table(
    warehouse: Warehouse, tmp_path: Path
):
    path = tmp_path / "BTC-USD_m5.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert [fault.series for fault in differing(warehouse, tmp_path)] == [BTC]
    path.unlink()
    assert differing(warehouse, tmp_path) == []
    path.with_name("ETH-USD_m5.parquet").unlink()
    assert differing(warehouse, tmp_path) == []
