"""Which tables a market has, and how an older file becomes a current one.

Every table of a market lies in the schema of its name. Keys everywhere: instrument, timeframe, open_time; no primary
keys (they cost six times the space and seconds of outliers): uniqueness is the writing statements' job, and a check's.
"""

from collections.abc import Sequence
from enum import StrEnum

import duckdb

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS

SCHEMA_VERSION = 1


class Table(StrEnum):
    """Every table of a market. SQL takes names from here alone."""

    raw_candles = "raw_candles"
    raw_candle_revisions = "raw_candle_revisions"
    rejected_candles = "rejected_candles"
    enhanced_candles = "enhanced_candles"
    indicators = "indicators"
    exports = "exports"
    uploads = "uploads"
    # One row a series: how many candles, from when to when; kept in step by the transactions that write candles.
    series = "series"
    # One row an asset and series: what its last attempt came to.
    outcomes = "outcomes"
    # One row an asset and series that has work left: the first candle that changed since it was last computed.
    stale = "stale"
    about = "about"


KEY = {"instrument": "varchar", "timeframe": "varchar", "open_time": "timestamp"}
SERIES_KEY = {"instrument": "varchar", "timeframe": "varchar"}
CANDLE = dict.fromkeys(CANDLE_COLUMNS, "double")
# A corrected candle is stored anew with the time it was fetched; the value it replaced moves to raw_candle_revisions.
PROVENANCE = {"source": "varchar", "fetched_at": "timestamp"}

# A table's columns beyond the candle columns that a market with two-sided quotes adds.
FIXED_TABLES: dict[Table, dict[str, str]] = {
    Table.raw_candles: KEY | CANDLE | PROVENANCE,
    Table.raw_candle_revisions: KEY | CANDLE | PROVENANCE | {"replaced_at": "timestamp"},
    Table.rejected_candles: KEY
    | CANDLE
    | {"reason": "varchar", "received": "varchar", "source": "varchar", "rejected_at": "timestamp"},
    Table.exports: SERIES_KEY
    | {
        "format": "varchar",
        "path": "varchar",
        "rows": "bigint",
        "bytes": "bigint",
        "sha256": "varchar",
        "first_open_time": "timestamp",
        "last_open_time": "timestamp",
        "exported_at": "timestamp",
    },
    Table.uploads: SERIES_KEY
    | {
        "format": "varchar",
        "path": "varchar",
        "url": "varchar",
        "bytes": "bigint",
        "sha256": "varchar",
        "content_hash": "varchar",
        "hash_name": "varchar",
        "uploaded_at": "timestamp",
    },
    Table.series: SERIES_KEY
    | {"candle_count": "bigint", "first_open_time": "timestamp", "last_open_time": "timestamp"},
    Table.outcomes: SERIES_KEY
    | {
        "asset": "varchar",
        "outcome": "varchar",
        "reason": "varchar",
        "transient": "boolean",
        "failures": "integer",
        "rows_added": "bigint",
        "rows_revised": "bigint",
        "run_id": "varchar",
        "attempted_at": "timestamp",
    },
    Table.stale: SERIES_KEY | {"asset": "varchar", "since": "timestamp", "changes": "bigint"},
    Table.about: {"schema_version": "integer"},
}
WITH_CANDLES = (Table.raw_candles, Table.raw_candle_revisions)


def candle_columns(two_sided: bool) -> tuple[str, ...]:
    """The columns of one market's candles."""
    return CANDLE_COLUMNS + (QUOTE_COLUMNS if two_sided else ())


def qualified(market: str, table: Table) -> str:
    """A table's name in SQL; the market's name was checked when its YAML was read."""
    return f'"{market}".{table.value}'


def columns_of(computation: Computation, two_sided: bool) -> dict[str, str]:
    """A computed table's columns and their SQL types."""
    own = {column.name: column.sql_type for column in computation.columns}
    carried = dict.fromkeys(candle_columns(two_sided), "double") if computation.carries_candles else {}
    return KEY | carried | own


def ensure(
    connection: duckdb.DuckDBPyConnection, market: str, computations: Sequence[Computation], two_sided: bool
) -> None:
    """The market's tables as this version wants them, created or brought forward; a glance where nothing is to do.

    A computed table that gains or loses a column is computed anew from its beginning at its next refresh.

    Raises:
        RuntimeError: a newer version of the project wrote this file.
    """
    wanted = _wanted(computations, two_sided)
    present = _present(connection, market)
    if present and (version := _version(connection, market)) > SCHEMA_VERSION:
        raise RuntimeError(
            f"the tables of market {market!r} have schema version {version}, this program knows {SCHEMA_VERSION}: "
            "use the newer version of the project that wrote them"
        )
    if present == wanted:
        return
    connection.execute(f'create schema if not exists "{market}"')
    for table, columns in wanted.items():
        _bring_forward(connection, market, table, present.get(table), columns)
    if not present:
        connection.execute(f"insert into {qualified(market, Table.about)} values (?)", [SCHEMA_VERSION])
    for computation in computations:
        if present.get(Table(computation.name)) not in (None, wanted[Table(computation.name)]):
            mark_all_stale(connection, market, computation.name)


def mark_all_stale(connection: duckdb.DuckDBPyConnection, market: str, asset: str) -> None:
    """Let every series of an asset be computed anew from its first candle."""
    stale = qualified(market, Table.stale)
    connection.execute(f"delete from {stale} where asset = ?", [asset])
    connection.execute(
        f"insert into {stale} (instrument, timeframe, asset, since, changes) "
        f"select instrument, timeframe, ?, first_open_time, 1 from {qualified(market, Table.series)}",
        [asset],
    )


def _wanted(computations: Sequence[Computation], two_sided: bool) -> dict[Table, dict[str, str]]:
    quotes = dict.fromkeys(candle_columns(two_sided), "double")
    fixed = {table: columns | (quotes if table in WITH_CANDLES else {}) for table, columns in FIXED_TABLES.items()}
    computed = {Table(each.name): columns_of(each, two_sided) for each in computations}
    return fixed | computed


def _present(connection: duckdb.DuckDBPyConnection, market: str) -> dict[Table, dict[str, str]]:
    rows = connection.execute(
        "select table_name, column_name, lower(data_type) from duckdb_columns() "
        "where schema_name = ? and database_name = current_database()",
        [market],
    ).fetchall()
    present: dict[Table, dict[str, str]] = {}
    for table, column, kind in rows:
        if table in Table.__members__.values():
            present.setdefault(Table(table), {})[column] = kind
    return present


def _version(connection: duckdb.DuckDBPyConnection, market: str) -> int:
    return connection.execute(f"select schema_version from {qualified(market, Table.about)}").fetchall()[0][0]


def _bring_forward(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    table: Table,
    present: dict[str, str] | None,
    wanted: dict[str, str],
) -> None:
    name = qualified(market, table)
    if present is None:
        body = ", ".join(f'"{column}" {kind}' for column, kind in wanted.items())
        connection.execute(f"create table {name} ({body})")
        return
    for column in present.keys() - wanted.keys():
        connection.execute(f'alter table {name} drop column "{column}"')
    for column, kind in wanted.items():
        if present.get(column) not in (None, kind):
            connection.execute(f'alter table {name} alter column "{column}" type {kind}')
        elif column not in present:
            connection.execute(f'alter table {name} add column "{column}" {kind}')
