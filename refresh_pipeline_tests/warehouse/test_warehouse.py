"""The warehouse as assets call it: what it says of series, what it notes of attempts, and that its file is let go."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.manifests import Published
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats
from refresh_pipeline.warehouse.queries import FailedSeries
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import address_in, of_a_file
from refresh_pipeline_tests.warehouse.children import asked, child, says
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FULL,
    NOW,
    at,
    candles,
    change,
    market_of,
    opens,
    prepared,
    query,
)

MARKET = market_of()


FAILED = Attempt(Outcome.failed, "timed out", transient=True)


def test_what_is_stored_of_a_series_is_its_count_its_first_and_its_last(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(7, first=3)}, "test", NOW)
    times = opens(10)
    assert warehouse.series_stats(MARKET, [ETH, BTC]) == {ETH: SeriesStats(), BTC: SeriesStats(7, times[3], times[9])}
    assert warehouse.series_stats(MARKET, []) == {}


def test_a_new_attempt_takes_the_place_of_the_last_one_at_the_same_asset(warehouse: Warehouse):
    updated = Attempt(Outcome.updated, rows_added=3, rows_revised=1)
    warehouse.record(MARKET, Table.raw_candles, {BTC: FAILED, ETH: FAILED}, "first", NOW)
    warehouse.record(MARKET, Table.indicators, {BTC: FAILED}, "first", NOW)
    warehouse.record(MARKET, Table.raw_candles, {BTC: updated}, "second", at(60))
    rows = query(
        warehouse,
        "select asset, instrument, outcome, reason, transient, rows_added, rows_revised, run_id, attempted_at "
        "from fair.outcomes order by all",
    )
    first, second = (at(seconds).replace(tzinfo=None) for seconds in (0, 60))
    assert rows == [
        ("indicators", "BTC/USD", "failed", "timed out", True, 0, 0, "first", first),
        ("raw_candles", "BTC/USD", "updated", None, False, 3, 1, "second", second),
        ("raw_candles", "ETH/USD", "failed", "timed out", True, 0, 0, "first", first),
    ]


def test_failures_in_a_row_are_counted_until_one_attempt_succeeds(warehouse: Warehouse):
    counts = []
    for outcome in (Outcome.failed, Outcome.failed, Outcome.unchanged, Outcome.failed):
        warehouse.record(MARKET, Table.raw_candles, {BTC: Attempt(outcome, "why")}, "run", NOW)
        counts += query(warehouse, "select failures from fair.outcomes")
    assert counts == [(1,), (2,), (0,), (1,)]


def test_a_run_knows_which_series_it_failed_at(warehouse: Warehouse):
    warehouse.record(MARKET, Table.raw_candles, {BTC: FAILED, ETH: Attempt(Outcome.no_data)}, "first", NOW)
    assert warehouse.failed_series_of_run(MARKET, Table.raw_candles, "first") == {BTC}
    assert warehouse.failed_series_of_run(MARKET, Table.raw_candles, "second") == set()
    assert warehouse.failed_series_of_run(MARKET, Table.indicators, "first") == set()


def test_the_series_that_failed_last_time_are_told_with_why_and_when(warehouse: Warehouse):
    warehouse.record(MARKET, Table.raw_candles, {ETH: FAILED, BTC: Attempt(Outcome.updated)}, "run", NOW)
    warehouse.record(MARKET, Table.indicators, {BTC: FAILED}, "run", NOW)
    assert warehouse.failed(MARKET) == [FailedSeries(ETH, "timed out", True, 1, NOW)]


def test_a_series_that_the_market_no_longer_has_is_not_asked_for_again(warehouse: Warehouse):
    gone = [Series("GONE/USD", Timeframe.m5), Series("BTC/USD", Timeframe.D1)]
    warehouse.record(MARKET, Table.raw_candles, dict.fromkeys([*gone, ETH], FAILED), "run", NOW)
    assert [each.series for each in warehouse.failed(MARKET)] == [ETH]


def test_nothing_has_failed_where_nothing_was_ever_stored(tmp_path: Path):
    warehouse = Warehouse(database=address_in(tmp_path))
    assert not warehouse.exists
    assert warehouse.failed(MARKET) == []
    assert not warehouse.exists
    warehouse.prepare(market_of(name="bazaar"))
    assert warehouse.failed(MARKET) == []


def test_thousands_of_attempts_of_which_one_failed_are_noted(tmp_path: Path):
    market = market_of([f"A{number}/USD" for number in range(2500)])
    warehouse = prepared(tmp_path, market)
    attempts = dict.fromkeys(market.series, Attempt(Outcome.unchanged)) | {market.series[1234]: FAILED}
    warehouse.record(market, Table.raw_candles, attempts, "run", NOW)
    assert [each.series for each in warehouse.failed(market)] == [market.series[1234]]


def test_a_reason_that_is_no_unicode_is_noted_all_the_same(warehouse: Warehouse):
    warehouse.record(MARKET, Table.raw_candles, {BTC: Attempt(Outcome.failed, "half \ud83d")}, "run", NOW)
    assert [each.reason for each in warehouse.failed(MARKET)] == ["half "]


def test_times_are_kept_in_utc_whatever_zone_they_came_in(warehouse: Warehouse):
    local = datetime.fromisoformat("2026-01-01T05:30+05:30")
    warehouse.record(MARKET, Table.raw_candles, {BTC: FAILED}, "run", local)
    warehouse.store_candles(MARKET, {BTC: candles(1)}, "test", local)
    assert [each.at for each in warehouse.failed(MARKET)] == [datetime(2026, 1, 1, tzinfo=UTC)]
    assert query(warehouse, "select fetched_at from fair.raw_candles") == [(datetime(2026, 1, 1),)]  # noqa: DTZ001


UPLOADED = Published(BTC, "uploads", "csv", "a.csv", "file:///there/a.csv", 1, "a1", "c1", "sha256")
CALLS: dict[str, Callable[[Warehouse], object]] = {
    "prepare": lambda warehouse: warehouse.prepare(MARKET),
    "series_stats": lambda warehouse: warehouse.series_stats(MARKET, [BTC]),
    "store_candles": lambda warehouse: warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW),
    "refresh_tail": lambda warehouse: warehouse.refresh_tail(MARKET, Table.enhanced_candles, [BTC]),
    "pending_recompute": lambda warehouse: warehouse.pending_recompute(MARKET, Table.exports, [BTC]),
    "record": lambda warehouse: warehouse.record(MARKET, Table.raw_candles, {BTC: FAILED}, "run", NOW),
    "failed": lambda warehouse: warehouse.failed(MARKET),
    "failed_series_of_run": lambda warehouse: warehouse.failed_series_of_run(MARKET, Table.raw_candles, "run"),
    "rows_to_export": lambda warehouse: next(iter(warehouse.rows_to_export(MARKET, [BTC], ["open_time"], FULL))),
    "exported": lambda warehouse: warehouse.exported(MARKET, [BTC]),
    "uploaded": lambda warehouse: warehouse.uploaded(MARKET, "uploads", [BTC]),
    "record_uploads": lambda warehouse: warehouse.record_uploads(MARKET, [UPLOADED], NOW),
}


@of_a_file("its lock")
def test_every_call_lets_go_of_the_file_whether_it_succeeds_or_not(warehouse: Warehouse):
    with child("knock", warehouse.database) as other:
        for name, call in CALLS.items():
            call(warehouse)
            assert asked(other) == "open", name
        change(warehouse, "drop schema fair cascade")
        # Without the tables none of them succeeds, but those two.
        for name in CALLS.keys() - {"prepare", "failed"}:
            with pytest.raises(Exception, match="does not exist"):
                CALLS[name](warehouse)
            assert asked(other) == "open", name


@of_a_file("its lock")
def test_patience_is_the_warehouses_own(warehouse: Warehouse):
    impatient = Warehouse(database=warehouse.database, patience=0.01)
    with child("hold", warehouse.database, "write") as other:
        says(other)
        for call in (impatient.prepare, impatient.failed):
            with pytest.raises(WarehouseBusy, match=r"waited 0\.01 s"):
                call(MARKET)
