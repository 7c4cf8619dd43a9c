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
    # What another source says of candles that are stored from a preferred one.
    second_opinions = "second_opinions"
    enhanced_candles = "enhanced_candles"
    indicators = "indicators"
    exports = "exports"
    uploads = "uploads"
    # Files of a venue's archive that were read, with their checksums.
    bulk_files = "bulk_files"
    # One row a series: how many candles, from when to when; kept in step by the transactions that write candles.
    series = "series"
    # One row an asset and series: what its last attempt came to.
    outcomes = "outcomes"
    # One row an asset and series that has work left: the first candle that changed since it was last computed.
    stale = "stale"
    # What recursions had come to, every so many bars of an asset's series.
    checkpoints = "checkpoints"
    # Which bars the market's calendars expect, a while ahead of the clock; and from when on they are expected of whom.
    expected_candles = "expected_candles"
    expectations = "expectations"
    # Stretches that the source was asked for and has nothing for.
    confirmed_gaps = "confirmed_gaps"
    # Before which instant the rows of a table are in the order in which they are read best.
    layout = "layout"
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
    Table.second_opinions: KEY | CANDLE | PROVENANCE,
    Table.rejected_candles: KEY
    | CANDLE
    | {"reason": "varchar", "received": "varchar", "source": "varchar", "rejected_at": "timestamp"},
    Table.exports: SERIES_KEY
    | {
        "export": "varchar",
        "layer": "varchar",
        "format": "varchar",
        "path": "varchar",
        "shape": "varchar",
        "rows": "bigint",
        "bytes": "bigint",
        "sha256": "varchar",
        "first_open_time": "timestamp",
        "last_open_time": "timestamp",
        "exported_at": "timestamp",
    },
    Table.uploads: SERIES_KEY
    | {
        "destination": "varchar",
        "format": "varchar",
        "path": "varchar",
        "url": "varchar",
        "bytes": "bigint",
        "sha256": "varchar",
        "content_hash": "varchar",
        "hash_name": "varchar",
        "uploaded_at": "timestamp",
    },
    Table.bulk_files: SERIES_KEY
    | {"path": "varchar", "sha256": "varchar", "since": "timestamp", "until": "timestamp", "read_at": "timestamp"},
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
    # `mark` is drawn anew at each change: who made the asset from older candles sees that it is not theirs to settle.
    Table.stale: SERIES_KEY | {"asset": "varchar", "since": "timestamp", "mark": "varchar"},
    Table.checkpoints: KEY | {"asset": "varchar", "candles": "bigint", "state": "double[]"},
    Table.expected_candles: {
        "sessions": "varchar",
        "timeframe": "varchar",
        "open_time": "timestamp",
        "closes_at": "timestamp",
        "number": "bigint",
    },
    Table.expectations: SERIES_KEY | {"sessions": "varchar", "since": "timestamp"},
    Table.confirmed_gaps: SERIES_KEY
    | {
        "first_open_time": "timestamp",
        "last_open_time": "timestamp",
        "candles": "bigint",
        "asks": "integer",
        "first_asked_at": "timestamp",
        "asked_at": "timestamp",
    },
    Table.layout: {"asset": "varchar", "before": "timestamp"},
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

    A computed table that gains or loses a column is computed anew from its beginning at its next refresh. What was
    stored is never dropped: the other tables keep columns that this version does not know.

    Raises:
        RuntimeError: a newer version of the project wrote this file.
        ValueError: DuckDB cannot tell the market's schema from a database of the same name.
    """
    computed = {Table(each.name): columns_of(each, two_sided) for each in computations}
    wanted = _stored_tables(two_sided) | computed
    present = _present(connection, market)
    version = _version(connection, market) if Table.about in present else 0
    if version > SCHEMA_VERSION:
        raise RuntimeError(
            f"the tables of market {market!r} have schema version {version}, this program knows {SCHEMA_VERSION}: "
            "use the newer version of the project that wrote them"
        )
    outdated = [table for table in wanted if not _is_current(present.get(table, {}), wanted[table], table in computed)]
    if version == SCHEMA_VERSION and not outdated:
        return
    _reject_database_names(connection, market)
    connection.execute(f'create schema if not exists "{market}"')
    for table in outdated:
        _bring_forward(connection, qualified(market, table), present.get(table), wanted[table], table in computed)
    for table in computed.keys() & set(outdated):
        mark_all_stale(connection, market, table)
    connection.execute(f"delete from {qualified(market, Table.about)}")
    connection.execute(f"insert into {qualified(market, Table.about)} (schema_version) values (?)", [SCHEMA_VERSION])


def mark_all_stale(connection: duckdb.DuckDBPyConnection, market: str, asset: Table) -> None:
    """Let every series of an asset be made anew from its first candle."""
    stale = qualified(market, Table.stale)
    # What is written anew comes in the order in which it is computed.
    connection.execute(f"delete from {qualified(market, Table.layout)} where asset = ?", [asset.value])
    connection.execute(f"delete from {stale} where asset = ?", [asset.value])
    connection.execute(
        f"insert into {stale} (instrument, timeframe, asset, since, mark) "
        f"select instrument, timeframe, ?, first_open_time, uuid()::varchar from {qualified(market, Table.series)}",
        [asset.value],
    )


def _stored_tables(two_sided: bool) -> dict[Table, dict[str, str]]:
    quotes = dict.fromkeys(candle_columns(two_sided), "double")
    return {table: columns | (quotes if table in WITH_CANDLES else {}) for table, columns in FIXED_TABLES.items()}


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
    rows = connection.execute(f"select max(schema_version) from {qualified(market, Table.about)}").fetchall()
    return rows[0][0] or 0


def _is_current(present: dict[str, str], wanted: dict[str, str], is_computed: bool) -> bool:
    return present == wanted if is_computed else wanted.items() <= present.items()


def _reject_database_names(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    names = [row[0].lower() for row in connection.execute("select database_name from duckdb_databases()").fetchall()]
    if market in names:
        raise ValueError(
            f"a market called {market!r} needs a schema of that name, and DuckDB has a database called so (a file is a "
            "database by the name of its stem): call the database file, or the market, something else"
        )


def _bring_forward(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    present: dict[str, str] | None,
    wanted: dict[str, str],
    is_computed: bool,
) -> None:
    if present is None:
        body = ", ".join(f'"{column}" {kind}' for column, kind in wanted.items())
        connection.execute(f"create table {name} ({body})")
        return
    for column in present.keys() - wanted.keys() if is_computed else ():
        connection.execute(f'alter table {name} drop column "{column}"')
    for column, kind in wanted.items():
        if column not in present:
            connection.execute(f'alter table {name} add column "{column}" {kind}')
        elif present[column] != kind:
            connection.execute(f'alter table {name} alter column "{column}" type {kind}')
