"""A market's tables: made once, brought forward, never taken away."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars, Column, Computation
from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS
from refresh_pipeline.market.destination_spec import FolderSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.warehouse import column_versions
from refresh_pipeline.warehouse.column_refresh import queued_columns, refresh_columns
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.incremental import TailRefresh, pending_recompute
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import FORMER_NAMES, SCHEMA_VERSION, Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import OLDER_FILES, ON_A_LAKE, address_in, of_a_file
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FIRST,
    NOW,
    SHIPPED_TABLES,
    candles,
    change,
    everything,
    market_of,
    prepared,
    query,
)

MARKET = market_of()


def columns(warehouse: Warehouse, table: str, market: str = "fair") -> dict[str, str]:
    rows = query(
        warehouse,
        "select column_name, lower(data_type) from duckdb_columns() where schema_name = ? and table_name = ? "
        "and database_name = current_database()",
        market,
        table,
    )
    return dict(rows)


def test_every_table_is_there_and_empty_but_the_versions(warehouse: Warehouse):
    tables = everything(warehouse)
    assert set(tables) == {f"fair.{table.value}" for table in Table}
    assert {name for name, rows in tables.items() if rows} == {"fair.schema_info", "fair.column_versions"}
    assert [version for version, *_ in tables["fair.schema_info"]] == [SCHEMA_VERSION]
    for computation in SHIPPED_TABLES.values():
        assert {each.name for each in computation.columns} <= set(columns(warehouse, computation.name))


def test_preparing_again_changes_nothing(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(50)}, "test", NOW)
    before = everything(warehouse)
    signature = warehouse.place.signature()
    content = [] if ON_A_LAKE else Path(warehouse.database).read_bytes()
    warehouse.prepare(MARKET)
    assert everything(warehouse) == before
    assert warehouse.place.signature() == signature
    assert content == ([] if ON_A_LAKE else Path(warehouse.database).read_bytes())


def test_two_markets_lie_side_by_side(tmp_path: Path):
    other = market_of(name="bazaar")
    warehouse = prepared(tmp_path, MARKET, other)
    warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW)
    warehouse.store_candles(other, {BTC: candles(5)}, "test", NOW)
    assert warehouse.series_stats(MARKET, [BTC])[BTC].candle_count == 3
    assert warehouse.series_stats(other, [BTC])[BTC].candle_count == 5


def test_a_market_of_quotes_has_both_sides_wherever_candles_are(tmp_path: Path):
    warehouse = prepared(tmp_path, market_of(name="quoted", two_sided=True), MARKET)
    for table in ("raw_candles", "raw_candle_revisions", "enhanced_candles"):
        assert set(QUOTE_COLUMNS) <= set(columns(warehouse, table, "quoted"))
        assert not set(QUOTE_COLUMNS) & set(columns(warehouse, table))


def test_a_newer_version_of_the_project_is_not_meddled_with(warehouse: Warehouse):
    change(warehouse, "update fair.schema_info set schema_version = ?", SCHEMA_VERSION + 1)
    change(warehouse, "alter table fair.raw_candles rename column close to closing")
    before = everything(warehouse)
    with pytest.raises(RuntimeError, match=f"schema version {SCHEMA_VERSION + 1}, this program knows"):
        warehouse.prepare(MARKET)
    assert everything(warehouse) == before


def test_an_older_version_is_noted_as_current_once_it_is(warehouse: Warehouse):
    change(warehouse, "update fair.schema_info set schema_version = 0")
    warehouse.prepare(MARKET)
    assert query(warehouse, "select schema_version from fair.schema_info") == [(SCHEMA_VERSION,)]


def test_what_others_keep_in_the_file_stays(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW)
    change(warehouse, "create table fair.notes as select 'mine' as note")
    change(warehouse, "create table main.raw_candles as select 1 as a")
    change(warehouse, "alter table fair.raw_candles add column note varchar default 'mine too'")
    change(warehouse, "drop table fair.uploads")
    warehouse.prepare(MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(5)}, "test", NOW)
    assert query(warehouse, "select * from fair.notes") == [("mine",)]
    assert query(warehouse, "select * from main.raw_candles") == [(1,)]
    notes = query(warehouse, "select note from fair.raw_candles order by open_time")
    assert notes == [("mine too",)] * 5
    assert "content_hash" in columns(warehouse, "uploads")


def test_quotes_stay_when_the_market_is_said_to_have_none(tmp_path: Path):
    quoted = market_of(two_sided=True)
    warehouse = prepared(tmp_path, quoted)
    bid = replace(candles(3), columns={**candles(3).columns, "bid_close": np.full(3, 7.0)})
    warehouse.store_candles(quoted, {BTC: bid}, "test", NOW)
    warehouse.prepare(MARKET)
    assert query(warehouse, "select distinct bid_close from fair.raw_candles") == [(7.0,)]
    assert not set(QUOTE_COLUMNS) & set(columns(warehouse, "enhanced_candles"))


def test_a_market_that_gets_quotes_keeps_its_candles(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW)
    warehouse.refresh_tail(MARKET, Table.enhanced_candles, [BTC])
    quoted = market_of(two_sided=True)
    warehouse.prepare(quoted)
    assert query(warehouse, "select count(close), count(bid_close) from fair.raw_candles") == [(3, 0)]
    warehouse.refresh_tail(quoted, Table.enhanced_candles, [BTC])
    assert query(warehouse, "select count(close), count(bid_close) from fair.enhanced_candles") == [(3, 0)]


@of_a_file("its name is a name in SQL")
@pytest.mark.parametrize("name", ["warehouse", "temp", "system"])
def test_a_market_that_duckdb_takes_for_a_database_is_refused_in_words(tmp_path: Path, name: str):
    words = r"call the database file, or the market, something else|a name that DuckDB uses itself"
    with pytest.raises(ValueError, match=words):
        prepared(tmp_path, market_of(name=name))


def test_half_a_change_is_no_change(warehouse: Warehouse):
    change(warehouse, "drop table fair.uploads")
    before = everything(warehouse)

    def fail() -> None:
        with connect(warehouse.database) as connection, transaction(connection):
            column_versions.ensure(connection, "fair", tuple(SHIPPED_TABLES.values()), two_sided=False)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert everything(warehouse) == before


# ---- schema version 1

# The tables that had other names then, as that version created them.
VERSION_1 = {
    "second_opinions": "instrument varchar, timeframe varchar, open_time timestamp, open double, high double, "
    "low double, close double, volume double, source varchar, fetched_at timestamp",
    "bulk_files": "instrument varchar, timeframe varchar, path varchar, sha256 varchar, since timestamp, "
    "until timestamp, read_at timestamp",
    "stale": "instrument varchar, timeframe varchar, asset varchar, since timestamp, mark varchar",
    "layout": "asset varchar, before timestamp",
    "about": "schema_version integer",
}
BEFORE = datetime(2025, 1, 1)  # noqa: DTZ001 - in UTC without a zone, as DuckDB stores it


@pytest.fixture
def of_version_1(warehouse: Warehouse) -> Warehouse:
    """A file of version 1: candles, one row in each table that had another name."""
    warehouse.store_candles(MARKET, {BTC: candles(40)}, "test", NOW)
    for former, table in FORMER_NAMES.items():
        change(warehouse, f"drop view fair.{former}")
        change(warehouse, f"drop table fair.{table.value}")
        change(warehouse, f"create table fair.{former} ({VERSION_1[former]})")
    key, opinion = (BTC.instrument, BTC.timeframe.value), (BEFORE, 1, 1, 1, 1, 1, "other", BEFORE)
    change(warehouse, "insert into fair.second_opinions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *key, *opinion)
    change(warehouse, "insert into fair.bulk_files values (?, ?, 'a.zip', 'abc', ?, ?, ?)", *key, *[BEFORE] * 3)
    change(
        warehouse, "insert into fair.stale values (?, ?, 'enhanced_candles', ?, 'drawn')", *key, FIRST.astype(datetime)
    )
    change(warehouse, "insert into fair.layout values ('raw_candles', ?)", BEFORE)
    change(warehouse, "insert into fair.about values (1)")
    # As the next program does.
    return Warehouse(database=warehouse.database, patience=30)


@of_a_file(OLDER_FILES)
def test_a_file_of_version_1_keeps_its_rows_under_the_new_names(of_version_1: Warehouse):
    before = everything(of_version_1)
    of_version_1.prepare(MARKET)
    after = everything(of_version_1)
    assert set(after) == {f"fair.{table.value}" for table in Table}
    assert [version for version, *_ in after.pop("fair.schema_info")] == [SCHEMA_VERSION]
    renamed = {f"fair.{former}": f"fair.{table.value}" for former, table in FORMER_NAMES.items()}
    replaced = ("fair.about", "fair.versions")
    assert {name: rows for name, rows in before.items() if name not in replaced} == {
        former: after[renamed.get(former, former)] for former in before if former not in replaced
    }


@of_a_file(OLDER_FILES)
def test_what_was_stale_is_computed_after_the_file_is_brought_forward(of_version_1: Warehouse):
    of_version_1.prepare(MARKET)
    assert of_version_1.refresh_tail(MARKET, Table.enhanced_candles, [BTC])[BTC].added == 40
    assert query(of_version_1, "select asset from fair.stale order by all") == [("exports",), ("indicators",)]


@of_a_file(OLDER_FILES)
@pytest.mark.parametrize("former", FORMER_NAMES)
def test_queries_under_a_former_name_go_on(of_version_1: Warehouse, former: str):
    before = query(of_version_1, f"describe fair.{former}"), query(of_version_1, f"select * from fair.{former}")
    change(of_version_1, f"create view fair.mine as select * from fair.{former}")
    of_version_1.prepare(MARKET)
    rows = [(SCHEMA_VERSION,)] if former == "about" else before[1]
    assert (query(of_version_1, f"describe fair.{former}"), query(of_version_1, f"select * from fair.{former}")) == (
        before[0],
        rows,
    )
    assert query(of_version_1, "select * from fair.mine") == rows


@pytest.mark.parametrize("former", FORMER_NAMES)
def test_a_new_file_answers_under_the_former_names_too(warehouse: Warehouse, former: str):
    names = [column.split()[0] for column in VERSION_1[former].split(", ")]
    assert list(columns(warehouse, former)) == names


@of_a_file(OLDER_FILES)
def test_a_program_of_version_1_reads_that_the_file_is_newer(of_version_1: Warehouse):
    of_version_1.prepare(MARKET)
    # It looks for the columns of `about`, then for the version; a view has columns like a table.
    assert columns(of_version_1, "about") == {"schema_version": "integer"}
    assert query(of_version_1, "select max(schema_version) from fair.about") == [(SCHEMA_VERSION,)]


# ---- schema version 5


@pytest.fixture
def copied() -> Market:
    """A market with a destination for files and one for candles."""
    folder, cache = FolderSpec(name="share", kind="folder", directory="share"), RedisSpec(name="cache", kind="redis")
    return MARKET.model_copy(update={"destinations": {"share": folder, "cache": cache}})


def outcomes_under_former_names(warehouse: Warehouse, version: int) -> None:
    for asset in ("share_copies", "cache_copies", "raw_candles"):
        warehouse.record(MARKET, asset, {BTC: Attempt(Outcome.updated)}, run_id="run", now=NOW)
    change(warehouse, "update fair.schema_info set schema_version = ?", version)


def test_outcomes_of_renamed_assets_move_to_the_new_names_once(warehouse: Warehouse, copied: Market):
    outcomes_under_former_names(warehouse, version=3)
    Warehouse(database=warehouse.database).prepare(copied)
    assert query(warehouse, "select asset from fair.outcomes order by all") == [
        ("cache_redis",),
        ("raw_candles",),
        ("share_upload",),
    ]
    assert query(warehouse, "select schema_version from fair.schema_info") == [(SCHEMA_VERSION,)]


def test_a_current_file_is_not_searched_for_former_names(warehouse: Warehouse, copied: Market):
    outcomes_under_former_names(warehouse, version=SCHEMA_VERSION)
    Warehouse(database=warehouse.database).prepare(copied)
    assert ("share_copies",) in query(warehouse, "select asset from fair.outcomes")


# ---- computed tables


def doubled(bars: Bars) -> dict[str, np.ndarray]:
    return {"doubled": 2 * bars["close"], "halved": bars["close"] / 2, "word": np.full(len(bars), "up", dtype=object)}


def computation(*names: str) -> Computation:
    """Enhanced candles of some of three simple columns."""
    kinds = {"doubled": "double", "halved": "double", "word": "varchar"}
    made = [Column(name, "", "", sql_type=kinds[name]) for name in names]
    return Computation(
        "enhanced_candles", made, lambda bars: {name: doubled(bars)[name] for name in names}, carries_candles=True
    )


def refreshed(warehouse: Warehouse, market: Market, enhanced: Computation) -> None:
    """What a program with these enhanced candles does at its first refresh."""
    with warehouse.get_connection() as connection, transaction(connection):
        column_versions.ensure(connection, market.name, (enhanced, SHIPPED_TABLES[Table.indicators]), market.two_sided)
    with warehouse.get_connection() as connection:
        pending = pending_recompute(connection, market.name, Table.enhanced_candles, market.series)
        queued = queued_columns(connection, market.name, Table.enhanced_candles, market.series)
    work = TailRefresh(warehouse.get_connection, market.name, enhanced, market.calendar, market.two_sided)
    refresh_columns(work, queued)
    work.run(pending)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["doubled"], ["doubled", "halved"]),
        (["doubled", "word"], ["doubled"]),
        (["doubled"], ["halved", "word"]),
        (["doubled", "halved"], ["doubled", "halved"]),
    ],
)
def test_a_computed_table_with_other_columns_is_computed_anew_from_its_beginning(
    tmp_path: Path, before: list[str], after: list[str]
):
    warehouse = Warehouse(database=address_in(tmp_path))
    with warehouse.get_connection() as connection:
        column_versions.ensure(
            connection, "fair", (computation(*before), SHIPPED_TABLES[Table.indicators]), two_sided=False
        )
    warehouse.store_candles(MARKET, {BTC: candles(40), ETH: candles(30, seed=1)}, "test", NOW)
    refreshed(warehouse, MARKET, computation(*before))
    refreshed(warehouse, MARKET, computation(*after))
    assert set(columns(warehouse, "enhanced_candles")) == {"instrument", "timeframe", "open_time", *CANDLE_COLUMNS} | {
        *after
    }
    rows = query(warehouse, f"select close, {', '.join(after)} from fair.enhanced_candles order by close")
    raw = query(warehouse, "select close from fair.raw_candles order by close")
    expected = {"doubled": lambda close: 2 * close, "halved": lambda close: close / 2, "word": lambda _: "up"}
    assert rows == [(close, *(expected[name](close) for name in after)) for (close,) in raw]


def test_a_computed_table_that_somebody_dropped_is_computed_anew(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(40)}, "test", NOW)
    for table in SHIPPED_TABLES:
        warehouse.refresh_tail(MARKET, table, MARKET.series)
    whole = query(warehouse, "select * from fair.indicators order by open_time")
    change(warehouse, "drop table fair.indicators")
    warehouse.prepare(MARKET)
    warehouse.refresh_tail(MARKET, Table.indicators, MARKET.series)
    assert query(warehouse, "select * from fair.indicators order by open_time") == whole


@of_a_file("a lake only widens types")
def test_a_column_of_another_type_is_converted(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(3)}, "test", NOW)
    change(warehouse, "alter table fair.raw_candles alter column volume type bigint")
    warehouse.prepare(MARKET)
    assert columns(warehouse, "raw_candles")["volume"] == "double"
    assert query(warehouse, "select count(volume) from fair.raw_candles") == [(3,)]


@of_a_file("its header")
def test_a_file_of_a_newer_duckdb_says_so(tmp_path: Path):
    # The number of the storage format lies behind the first header's magic bytes.
    path = tmp_path / "warehouse.duckdb"
    duckdb.connect(str(path)).close()
    content = bytearray(path.read_bytes())
    content[12] = 250
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="newer DuckDB"), connect(str(path)):
        pass
