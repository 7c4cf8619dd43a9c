"""The change feed: every writer moves the version of what it wrote, in the transaction that writes it."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import registered, texts
from refresh_pipeline.warehouse.compaction import Compaction
from refresh_pipeline.warehouse.connection import connect, place_of, transaction
from refresh_pipeline.warehouse.follower import FileWatch, Follower
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline.warehouse.manifests import Exported, Published
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.renaming import rename
from refresh_pipeline.warehouse.schema import SCHEMA_VERSION, Table
from refresh_pipeline.warehouse.versions import MANY, Changes, begin_epoch, changes, epoch_of, record_changes
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import OLDER_FILES, ON_A_LAKE, copied, of_a_file
from refresh_pipeline_tests.warehouse.children import child, finished
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    NOW,
    candles,
    change,
    flat,
    market_of,
    opens,
    prepared,
    query,
)

MARKET = market_of()
OTHER = market_of(name="bazaar")
COMPUTED = (Table.enhanced_candles, Table.indicators)
BARS = candles(12)
TEN = BARS.where(np.arange(12) < 10)


def feed(warehouse: Warehouse, after: int = 0, limit: int | None = None, epoch: str | None = None) -> Changes:
    """What the feed says, asked without the warehouse."""
    with connect(warehouse.database, read_only=True, patience=30) as connection:
        return changes(connection, after, limit, epoch=epoch)


def told(read: Changes) -> dict[tuple[str, str], np.datetime64 | None]:
    """From when on each asset of each instrument changed."""
    return {(row.asset, row.instrument): row.since and instant(row.since) for row in read.changes}


def refreshed(warehouse: Warehouse, market: Market = MARKET) -> None:
    """The computed tables brought forward."""
    for table in COMPUTED:
        warehouse.refresh_tail(market, table, [BTC, ETH])


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a warehouse with ten bars of two series, computed."""
    warehouse = prepared(tmp_path_factory.mktemp("computed"), MARKET)
    warehouse.store_candles(MARKET, {BTC: TEN, ETH: TEN}, "test", NOW)
    refreshed(warehouse)
    return warehouse.database


@pytest.fixture
def known(computed: str, tmp_path: Path) -> tuple[Warehouse, int]:
    """A copy of that warehouse, and the newest version."""
    warehouse = Warehouse(database=copied(computed, tmp_path))
    return warehouse, feed(warehouse).version


def test_new_candles_move_the_versions_of_their_series_from_the_first_new_one_on(known: tuple[Warehouse, int]):
    warehouse, version = known
    warehouse.store_candles(MARKET, {BTC: BARS, ETH: TEN}, "test", NOW)
    assert told(feed(warehouse, version)) == {("raw_candles", "BTC/USD"): opens(11)[10]}
    refreshed(warehouse)
    read = feed(warehouse, version)
    assert [row.asset for row in read.changes] == ["raw_candles", "enhanced_candles", "indicators"]
    assert {row.instrument for row in read.changes} == {"BTC/USD"}
    assert all(instant(row.since) <= opens(11)[10] for row in read.changes if row.since)
    assert read.version == read.changes[-1].version > version


def test_what_is_stored_already_and_what_fails_moves_no_version(known: tuple[Warehouse, int]):
    warehouse, version = known
    warehouse.store_candles(MARKET, {BTC: TEN}, "test", NOW)
    refreshed(warehouse)
    warehouse.record(MARKET, Table.raw_candles, {BTC: Attempt(Outcome.failed, "why")}, "run", NOW)
    Compaction(warehouse.get_connection, "fair", Table.raw_candles, cells_together=1).rewrite(NOW, 10)
    assert feed(warehouse, version) == Changes(feed(warehouse).epoch, version, [])


def test_a_correction_moves_the_version_from_the_corrected_candle_on(known: tuple[Warehouse, int]):
    warehouse, version = known
    warehouse.store_candles(MARKET, {BTC: flat(7.0, 3)}, "test", NOW)
    assert told(feed(warehouse, version)) == {("raw_candles", "BTC/USD"): opens(4)[3]}


def test_whoever_missed_several_changes_is_told_from_when_on_and_hardly_too_much(known: tuple[Warehouse, int]):
    warehouse, _ = known
    minutes = np.random.default_rng(7).integers(0, 100, (MANY + 8, 20))
    minutes[2:, :10] = np.arange(100, 106 + MANY)[:, None]
    begun = instant("2024-01-01")
    with connect(warehouse.database) as connection:
        drawn: dict[str, list[tuple[int, int]]] = {}
        newest = [changes(connection).version]
        for moments in begun + minutes * np.timedelta64(1, "m"):
            touched = {"instrument": texts(map(str, range(20))), "timeframe": texts(["m5"] * 20), "since": moments}
            with registered(connection, "touched", touched):
                record_changes(connection, "fair", ["raw_candles"])
            for row in changes(connection, newest[-1]).changes:
                drawn.setdefault(row.instrument, []).append(
                    (row.version, int(moments[int(row.instrument)].view("int64")))
                )
            newest.append(changes(connection).version)
        for after in newest[:-1]:
            for row in changes(connection, after).changes:
                since = int(instant(row.since or NOW).view("int64"))
                versions, asked = drawn[row.instrument], row.version - after
                assert since <= min(moment for version, moment in versions if version > after)
                assert since >= min(moment for version, moment in versions if version > row.version - 2 * asked)
        [(kept,)] = connection.execute("select max(len(earlier)) from fair.versions").fetchall()
    # They were thinned once.
    assert 2 < kept < MANY


def test_candles_that_are_forgotten_move_the_versions_and_so_does_what_follows(known: tuple[Warehouse, int]):
    warehouse, version = known
    warehouse.forget(MARKET, Choice("BTC/USD", since=datetime(2024, 1, 1, 0, 20, tzinfo=UTC)), NOW)
    assert told(feed(warehouse, version)) == {("raw_candles", "BTC/USD"): opens(5)[4]}
    refreshed(warehouse)
    assert {row.asset for row in feed(warehouse, version).changes} == {"raw_candles", *COMPUTED}
    warehouse.forget(MARKET, Choice("ETH/USD"), NOW)
    gone = [row for row in feed(warehouse, version).changes if row.instrument == "ETH/USD"]
    assert [row.asset for row in gone] == ["raw_candles", "enhanced_candles", "indicators"]


def test_withdrawn_candles_and_those_made_from_them_move_the_versions(tmp_path: Path):
    market = market_of(timeframes="[m5, H1]")
    warehouse = prepared(tmp_path, market)
    hour, derived = Series("BTC/USD", Timeframe.H1), {Timeframe.m5: [Timeframe.H1]}
    base = candles(24)
    warehouse.store_candles(market, {BTC: base}, "test", NOW)
    warehouse.store_candles(market, {hour: Candles(opens(2, timeframe=Timeframe.H1), _first_two(base))}, "test", NOW)
    version = feed(warehouse).version
    answer = base.where(np.arange(24) != 14)
    for hours in (0, 2):
        warehouse.store_candles(
            market,
            {BTC: answer},
            "test",
            NOW + timedelta(hours=hours),
            derived=derived,
            answered={BTC: instant("2020-01-01")},
        )
    changed = {(row.timeframe, row.since and instant(row.since)) for row in feed(warehouse, version).changes}
    assert changed == {("m5", opens(15)[14]), ("H1", opens(2, timeframe=Timeframe.H1)[1])}


def _first_two(base: Candles) -> dict[str, np.ndarray]:
    return {name: values[:2] for name, values in base.columns.items()}


def test_a_renamed_instrument_moves_the_versions_of_both_names(known: tuple[Warehouse, int]):
    warehouse, version = known
    market = market_of(["XBT/USD", "ETH/USD"])
    with connect(warehouse.database) as connection, transaction(connection):
        rename(connection, market, "BTC/USD", "XBT/USD")
    assets = ("raw_candles", *COMPUTED)
    assert set(told(feed(warehouse, version))) == {(asset, name) for asset in assets for name in ("BTC/USD", "XBT/USD")}


EXPORTED = Exported(BTC, "all", "raw", "csv", "a.csv", "wide", 1, 1, "a", datetime(2024, 1, 1), datetime(2024, 1, 1))  # noqa: DTZ001


def test_files_that_were_exported_and_uploaded_move_versions_of_their_series(known: tuple[Warehouse, int]):
    warehouse, version = known
    pending = warehouse.pending_recompute(MARKET, Table.exports, [BTC, ETH])
    warehouse.record_exports(MARKET, [EXPORTED], pending, NOW)
    published = Published(BTC, "uploads", "csv", "a.csv", "file:///there/a.csv", 1, "a1", "c1", "sha256")
    warehouse.record_uploads(MARKET, [published], NOW)
    assert told(feed(warehouse, version)) == {("exports", "BTC/USD"): opens(1)[0], ("uploads", "BTC/USD"): None}
    warehouse.record_uploads(MARKET, [], NOW)
    assert feed(warehouse).version == feed(warehouse, version).changes[-1].version


def test_rows_that_expire_are_no_change_before_the_newest_row(tmp_path: Path):
    market = market_of()
    kept = market.model_copy(
        update={"indicators": market.indicators.model_copy(update={"keep": {Timeframe.m5: timedelta(days=1)}})}
    )
    warehouse = prepared(tmp_path, market)
    warehouse.store_candles(market, {BTC: candles(1000)}, "test", NOW)
    refreshed(warehouse, market)
    version = feed(warehouse).version
    warehouse.prepare(kept)
    refreshed(warehouse, kept)
    changed = told(feed(warehouse, version))
    assert changed["indicators", "BTC/USD"] == opens(1, 999)[0]
    # Flags of the newest rows are computed anew with the last one.
    assert changed["enhanced_candles", "BTC/USD"] > opens(1, 900)[0]


def test_a_column_that_is_computed_anew_moves_the_version_of_every_series(known: tuple[Warehouse, int]):
    warehouse, version = known
    change(
        warehouse,
        "update fair.column_versions set fingerprint = 'old' where column_name = 'ao' and asset = 'enhanced_candles'",
    )
    again = Warehouse(database=warehouse.database)
    again.prepare(MARKET)
    refreshed(again)
    changed = told(feed(again, version))
    assert {name for name, _ in changed} == {"enhanced_candles"}
    assert set(changed.values()) == {opens(1)[0]}


def test_a_transaction_that_ends_badly_leaves_no_version(known: tuple[Warehouse, int]):
    warehouse, version = known
    with connect(warehouse.database) as connection:
        connection.execute("begin transaction")
        connection.execute(
            "create temp table touched as select 'BTC/USD' as instrument, 'm5' as timeframe, null as since"
        )
        record_changes(connection, "fair", ["raw_candles"])
        assert changes(connection, version).changes
        connection.execute("rollback")
    assert feed(warehouse, version).changes == []


def test_versions_of_all_markets_and_processes_come_from_one_sequence(tmp_path: Path):
    warehouse = prepared(tmp_path, MARKET, OTHER)
    with child("fill", warehouse.database, "BTC/USD", 2) as process:
        warehouse.store_candles(OTHER, {BTC: TEN}, "test", NOW)
        finished(process)
    warehouse.store_candles(OTHER, {ETH: TEN}, "test", NOW)
    read = feed(warehouse)
    versions = [row.version for row in read.changes]
    assert versions == sorted(set(versions))
    assert {row.market for row in read.changes} == {"fair", "bazaar"}
    assert read.version == versions[-1]


def test_the_feed_is_read_a_few_changes_at_a_time(known: tuple[Warehouse, int]):
    warehouse, _ = known
    everything, pages, after = feed(warehouse), [], 0
    while (page := feed(warehouse, after, 4)).changes:
        pages += page.changes
        after = page.version
    assert [(row.asset, row.instrument) for row in pages] == [(row.asset, row.instrument) for row in everything.changes]
    assert after == everything.version


@of_a_file("a restore begins its epoch anew")
def test_a_restored_file_has_another_epoch_and_forgets_what_came_before(known: tuple[Warehouse, int]):
    warehouse, version = known
    before = feed(warehouse)
    with connect(warehouse.database) as connection:
        epoch = begin_epoch(connection)
        assert epoch_of(connection) == epoch != before.epoch
    warehouse.store_candles(MARKET, {BTC: BARS}, "test", NOW)
    read = feed(warehouse, version)
    assert read.reset
    assert len(read.changes) == len(before.changes)
    assert read.version > version + len(before.changes)
    assert feed(warehouse, read.version, epoch=before.epoch).reset
    assert not feed(warehouse, read.version, epoch=epoch).reset
    assert feed(warehouse, read.version + 1).reset


def test_a_market_that_comes_later_is_of_the_same_epoch(known: tuple[Warehouse, int]):
    warehouse, version = known
    epoch = feed(warehouse).epoch
    warehouse.prepare(OTHER)
    assert feed(warehouse, version, epoch=epoch) == Changes(epoch, version, [])
    assert query(warehouse, "select distinct epoch from fair.schema_info natural join bazaar.schema_info") == [(epoch,)]


@of_a_file(OLDER_FILES)
def test_an_older_file_gets_a_version_for_every_series(known: tuple[Warehouse, int]):
    warehouse, _ = known
    for statement in (
        "drop table fair.versions",
        "alter table fair.schema_info drop column epoch",
        "alter table fair.schema_info drop column first_version",
        "update fair.schema_info set schema_version = 6",
        "drop sequence change_version",
    ):
        change(warehouse, statement)
    Warehouse(database=warehouse.database).prepare(MARKET)
    read = feed(warehouse)
    assert set(told(read)) == {(asset, name) for asset in ("raw_candles", *COMPUTED) for name in ("BTC/USD", "ETH/USD")}
    assert query(warehouse, "select schema_version from fair.schema_info") == [(SCHEMA_VERSION,)]


@of_a_file("a lake's catalogue draws the versions")
def test_a_wide_write_moves_all_versions_with_as_many_statements_as_one_series(tmp_path: Path):
    market = market_of([f"A{number}/USD" for number in range(300)])
    warehouse = prepared(tmp_path, market)
    counts = []
    for batch in (market.series[:1], market.series):
        with connect(warehouse.database) as connection, transaction(connection):
            counting = Counting(connection)
            names = ", ".join(f"('{series.instrument}', 'm5', null)" for series in batch)
            connection.execute(f"create temp table touched as from (values {names}) t(instrument, timeframe, since)")
            record_changes(counting, "fair", ["raw_candles"])  # pyright: ignore[reportArgumentType]
            counts.append(counting.statements)
    assert counts[0] == counts[1] <= 4
    assert len(feed(warehouse).changes) == 300


class Counting:
    """A connection that counts its statements."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection, self.statements = connection, 0

    def execute(self, *arguments: object) -> duckdb.DuckDBPyConnection:
        """Execute and count."""
        self.statements += 1
        return self._connection.execute(*arguments)  # pyright: ignore[reportArgumentType]


# ---- following


def test_a_file_is_read_once_it_is_still_or_two_seconds_after_its_first_change():
    watch = FileWatch()
    one = ((1,),)
    assert [watch.is_due(one, now) for now in (0.0, 0.1, 0.25)] == [False, False, True]
    watch.was_read(one)
    assert not watch.is_due(one, 9.0)
    times = [10 + 0.2 * number for number in range(11)]
    assert [watch.is_due(((number,),), now) for number, now in enumerate(times, start=3)] == [*[False] * 10, True]


def test_a_follower_passes_every_change_on_once_and_all_of_another_file(known: tuple[Warehouse, int]):
    warehouse, version = known
    heard: list[Changes] = []
    follower = Follower(warehouse.database, lambda connection, read: heard.append(read), after=version)
    assert follower.look(0.0) is follower.look(1.0) is None
    warehouse.store_candles(MARKET, {BTC: BARS}, "test", NOW)
    follower.look(2.0)
    assert follower.look(2.3) is heard[-1]
    assert told(heard[-1]) == {("raw_candles", "BTC/USD"): opens(11)[10]}
    assert follower.look(3.0) is None
    if ON_A_LAKE:
        # Nothing replaces a lake.
        return
    with connect(warehouse.database) as connection:
        begin_epoch(connection)
    follower.look(4.0)
    assert follower.look(4.3) is heard[-1]
    assert [read.reset for read in heard] == [False, True]
    assert len(heard[-1].changes) == 6


def test_a_follower_waits_for_a_file_until_it_is_told_to_stop(tmp_path: Path):
    heard: list[Changes] = []
    follower = Follower(tmp_path / "warehouse.duckdb", lambda connection, read: heard.append(read))
    assert follower.look() is None
    warehouse, stop = prepared(tmp_path, MARKET), threading.Event()
    warehouse.store_candles(MARKET, {BTC: TEN}, "test", NOW)

    def hear(connection: duckdb.DuckDBPyConnection, read: Changes) -> None:
        heard.append(read)
        stop.set()

    Follower(warehouse.database, hear).run(stop)
    assert told(heard[-1]) == {("raw_candles", "BTC/USD"): opens(1)[0]}
    assert warehouse.place.signature() != place_of(tmp_path / "other.duckdb").signature()
