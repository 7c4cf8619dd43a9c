"""The tables of a market, and how an older file becomes a current one.

Every table of a market lies in the schema of the market's name. Keys everywhere: instrument, timeframe, open_time. No
table has a primary key, which would cost six times the space and outliers of seconds: the writing statements keep rows
unique, and a check verifies it. The columns of computed tables are defined in `analytics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import duckdb

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS

SCHEMA_VERSION = 7


class Table(StrEnum):
    """Every table of a market. SQL takes names from here alone."""

    raw_candles = "raw_candles"
    raw_candle_revisions = "raw_candle_revisions"
    rejected_candles = "rejected_candles"
    # Stored candles that the source's last answer lacked; the second answer without them withdraws them.
    missed_candles = "missed_candles"
    # What other sources sent for candles that are stored from a preferred source.
    cross_checks = "cross_checks"
    enhanced_candles = "enhanced_candles"
    indicators = "indicators"
    exports = "exports"
    uploads = "uploads"
    # Files of a venue's archive that were read, with their checksums.
    archive_files = "archive_files"
    # One row a series: how many candles, from when to when; written by the transactions that write candles.
    series = "series"
    # Which venue, under which symbol, the candles of each series come from: one row for each source of the YAML.
    series_sources = "series_sources"
    # Splits and dividends, as the sources tell them.
    adjustments = "adjustments"
    # One row an asset and series: the result of its last attempt.
    outcomes = "outcomes"
    # One row an asset and series to compute again: the first candle that changed since it was last computed.
    recompute_queue = "recompute_queue"
    # What each computed column is stored with, and one row an asset and series whose columns are to be computed anew.
    column_versions = "column_versions"
    column_queue = "column_queue"
    # States of recursive averages, every so many bars of an asset's series.
    checkpoints = "checkpoints"
    # One row an asset and series: its last change; the change feed reads it.
    versions = "versions"
    # Stretches in which every expected bar is stored; kept in step by the transactions that write candles.
    stored_ranges = "stored_ranges"
    # Which candles are missing and how complete each series is, as of the last refresh.
    gaps = "gaps"
    completeness = "completeness"
    # Stretches that the source was asked for and has nothing for.
    confirmed_gaps = "confirmed_gaps"
    # Faults of checks that a person has accepted.
    acknowledged_faults = "acknowledged_faults"
    # One row a check of an asset: its newest result.
    check_results = "check_results"
    # One row a table: the instant before which its rows are in the order that reads fastest.
    compaction_state = "compaction_state"
    schema_info = "schema_info"


# Names of tables in schema version 1. A view under each name, with the columns of version 1, keeps people's queries
# working; and an older program reads in `about` that the file is newer than itself.
FORMER_NAMES = {
    "second_opinions": Table.cross_checks,
    "bulk_files": Table.archive_files,
    "stale": Table.recompute_queue,
    "layout": Table.compaction_state,
    "about": Table.schema_info,
}
# Columns by their name in schema version 1, with their name now.
FORMER_COLUMNS: Mapping[Table, Mapping[str, str]] = {Table.recompute_queue: {"mark": "version"}}
# Columns that the tables of version 1 did not have.
LATER_COLUMNS: Mapping[Table, frozenset[str]] = {Table.schema_info: frozenset({"epoch", "first_version"})}


KEY = {"instrument": "varchar", "timeframe": "varchar", "open_time": "timestamp"}
SERIES_KEY = {"instrument": "varchar", "timeframe": "varchar"}
CANDLE = dict.fromkeys(CANDLE_COLUMNS, "double")
# A corrected candle is stored anew with the time it was fetched; the value it replaced moves to raw_candle_revisions.
PROVENANCE = {"source": "varchar", "fetched_at": "timestamp"}
# Of a candle that was made from shorter ones; null for the source's native ones, which costs next to nothing.
RESAMPLED = {"base_bars": "integer", "complete": "boolean"}

# A table's columns beyond the candle columns that a market with two-sided quotes adds.
FIXED_TABLES: dict[Table, dict[str, str]] = {
    Table.raw_candles: KEY | CANDLE | PROVENANCE | RESAMPLED,
    Table.raw_candle_revisions: KEY | CANDLE | PROVENANCE | {"replaced_at": "timestamp"},
    Table.cross_checks: KEY | CANDLE | PROVENANCE,
    Table.rejected_candles: KEY
    | CANDLE
    | {"reason": "varchar", "received": "varchar", "source": "varchar", "rejected_at": "timestamp"},
    Table.missed_candles: KEY | {"first_missed_at": "timestamp", "asked_at": "timestamp"},
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
        "block_hashes": "varchar",
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
    Table.archive_files: SERIES_KEY
    | {"path": "varchar", "sha256": "varchar", "since": "timestamp", "until": "timestamp", "read_at": "timestamp"},
    Table.series: SERIES_KEY
    | {"candle_count": "bigint", "first_open_time": "timestamp", "last_open_time": "timestamp"},
    # `rank` is 0 for the preferred source; `made_from` is null where the source serves the timeframe itself.
    Table.series_sources: SERIES_KEY
    | {
        "rank": "integer",
        "venue": "varchar",
        "symbol": "varchar",
        "made_from": "varchar",
        "recorded_at": "timestamp",
    },
    # `value` is new shares for an old one, or the dividend for a share; `in_prices` that raw prices follow it already.
    Table.adjustments: {
        "instrument": "varchar",
        "ex_time": "timestamp",
        "kind": "varchar",
        "value": "double",
        "in_prices": "boolean",
        "source": "varchar",
        "fetched_at": "timestamp",
    },
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
    # A new `version` is drawn at each change: rows computed from older candles leave the queue as it is.
    Table.recompute_queue: SERIES_KEY | {"asset": "varchar", "since": "timestamp", "version": "varchar"},
    # `timeframe` is null but for rows on how long rows are kept; `checkpoint_position` is null but for states.
    Table.column_versions: {
        "asset": "varchar",
        "column_name": "varchar",
        "timeframe": "varchar",
        "fingerprint": "varchar",
        "code_version": "integer",
        "checkpoint_position": "integer",
    },
    Table.column_queue: SERIES_KEY
    | {"asset": "varchar", "columns": "varchar[]", "since": "timestamp", "version": "varchar"},
    Table.checkpoints: KEY | {"asset": "varchar", "candles": "bigint", "state": "double[]"},
    Table.versions: SERIES_KEY
    | {
        "asset": "varchar",
        "version": "bigint",
        "since": "timestamp",
        "changed_at": "timestamp",
        "earlier": 'struct("version" bigint, since timestamp)[]',
    },
    Table.stored_ranges: SERIES_KEY
    | {"calendar": "bigint", "first_open_time": "timestamp", "last_open_time": "timestamp"},
    Table.gaps: SERIES_KEY
    | {
        "first_open_time": "timestamp",
        "last_open_time": "timestamp",
        "candles": "bigint",
        "place": "varchar",
        "first_asked_at": "timestamp",
        "asked_at": "timestamp",
    },
    Table.completeness: SERIES_KEY
    | {
        "expected": "bigint",
        "stored": "bigint",
        "completeness": "double",
        "expected_since": "timestamp",
        "as_of": "timestamp",
    },
    Table.confirmed_gaps: SERIES_KEY
    | {
        "first_open_time": "timestamp",
        "last_open_time": "timestamp",
        "candles": "bigint",
        "asks": "integer",
        "first_asked_at": "timestamp",
        "asked_at": "timestamp",
    },
    Table.acknowledged_faults: KEY
    | {"check_name": "varchar", "fault": "varchar", "note": "varchar", "acknowledged_at": "timestamp"},
    Table.check_results: {
        "asset": "varchar",
        "check_name": "varchar",
        "description": "varchar",
        "passed": "boolean",
        "severity": "varchar",
        "detail": "varchar",
        "examined": "bigint",
        "faults": "bigint",
        "run_id": "varchar",
        "checked_at": "timestamp",
    },
    Table.compaction_state: {"asset": "varchar", "before": "timestamp"},
    # `epoch` and `first_version` are the same in all markets of a file.
    Table.schema_info: {"schema_version": "integer", "epoch": "varchar", "first_version": "bigint"},
}
WITH_CANDLES = (Table.raw_candles, Table.raw_candle_revisions)


@dataclass(frozen=True, slots=True)
class TableChange:
    """How a computed table differs from the stored one: whether it is new, and its columns that came and left."""

    created: bool = False
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.created or bool(self.added or self.removed)


def candle_columns(two_sided: bool) -> tuple[str, ...]:
    """The columns of one market's candles."""
    return CANDLE_COLUMNS + (QUOTE_COLUMNS if two_sided else ())


def qualified(market: str, table: Table) -> str:
    """A table's name in SQL; the market's name was checked when its YAML was read."""
    return f'"{market}".{table.value}'


def columns_of(computation: Computation, two_sided: bool) -> dict[str, str]:
    """A computed table's columns and their SQL types."""
    calculated = {column.name: column.sql_type for column in computation.columns}
    carried = dict.fromkeys(candle_columns(two_sided), "double") if computation.carries_candles else {}
    return KEY | carried | calculated


def ensure(
    connection: duckdb.DuckDBPyConnection, market: str, computations: Sequence[Computation], two_sided: bool
) -> dict[Table, TableChange]:
    """Create the market's tables or bring them forward to this version; does nothing where they are current.

    Returns the changes of the computed tables: `column_versions` queues what they leave to compute. Stored rows are
    never dropped: the other tables keep columns that this version does not know.

    Raises:
        RuntimeError: a newer version of the project wrote this file.
        ValueError: DuckDB cannot tell the market's schema from a database of the same name.
    """
    computed = {Table(table.name): columns_of(table, two_sided) for table in computations}
    wanted = _stored_tables(two_sided) | computed
    present = _present(connection, market)
    version = _version(connection, market, present)
    if 0 < version < 3:
        _drop_expected_candles(connection, market)
        present = _present(connection, market)
    if version == SCHEMA_VERSION and not _outdated(present, wanted, computed):
        return {}
    _reject_database_names(connection, market)
    connection.execute(f'create schema if not exists "{market}"')
    if version < 2:
        _rename_tables(connection, market, present)
        present = _present(connection, market)
    outdated = _outdated(present, wanted, computed)
    for table in outdated:
        _bring_forward(connection, qualified(market, table), present.get(table), wanted[table], table in computed)
    if version < 2:
        _create_former_names(connection, market)
    _write_version(connection, qualified(market, Table.schema_info))
    return {table: _change(present.get(table), wanted[table]) for table in computed.keys() & set(outdated)}


def _write_version(connection: duckdb.DuckDBPyConnection, schema_info: str) -> None:
    [feed] = connection.execute(f"select max(epoch), max(first_version) from {schema_info}").fetchall()
    connection.execute(f"delete from {schema_info}")
    connection.execute(
        f"insert into {schema_info} (schema_version, epoch, first_version) values (?, ?, ?)", [SCHEMA_VERSION, *feed]
    )


def _change(present: Mapping[str, str] | None, wanted: Mapping[str, str]) -> TableChange:
    if present is None:
        return TableChange(created=True)
    return TableChange(
        # A column of another type is converted, which may not give what the column's formula gives.
        added=frozenset(name for name, kind in wanted.items() if present.get(name) != kind),
        removed=frozenset(present.keys() - wanted.keys()),
    )


def rename_assets(connection: duckdb.DuckDBPyConnection, market: str, names: Mapping[str, str]) -> None:
    """Bring the outcomes of renamed assets under their names now, given by former name; call it before `ensure`.

    Assets of destinations were named `<name>_copies` before version 5.
    """
    present = _present(connection, market)
    if Table.outcomes.value not in present or _version(connection, market, present) >= 5:
        return
    for former, name in names.items():
        connection.execute(f"update {qualified(market, Table.outcomes)} set asset = ? where asset = ?", [name, former])


def queue_full_recompute(connection: duckdb.DuckDBPyConnection, market: str, asset: Table) -> None:
    """Queue every series of an asset to be computed again from its first candle."""
    queue = qualified(market, Table.recompute_queue)
    # Rows that are written anew come in the order in which they are computed.
    connection.execute(f"delete from {qualified(market, Table.compaction_state)} where asset = ?", [asset.value])
    connection.execute(f"delete from {queue} where asset = ?", [asset.value])
    connection.execute(
        f"insert into {queue} (instrument, timeframe, asset, since, version) "
        f"select instrument, timeframe, ?, first_open_time, uuid()::varchar from {qualified(market, Table.series)}",
        [asset.value],
    )


def _stored_tables(two_sided: bool) -> dict[Table, dict[str, str]]:
    quotes = dict.fromkeys(candle_columns(two_sided), "double")
    return {table: columns | (quotes if table in WITH_CANDLES else {}) for table, columns in FIXED_TABLES.items()}


def _present(connection: duckdb.DuckDBPyConnection, market: str) -> dict[str, dict[str, str]]:
    """The columns and SQL types of the market's tables, by name; views are left out."""
    rows = connection.execute(
        "select c.table_name, c.column_name, lower(c.data_type) from duckdb_columns() c "
        "join duckdb_tables() t on t.table_oid = c.table_oid and t.schema_name = c.schema_name "
        "and t.database_name = c.database_name "
        "where c.schema_name = ? and c.database_name = current_database()",
        [market],
    ).fetchall()
    present: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        present.setdefault(table, {})[column] = kind
    return present


def _version(connection: duckdb.DuckDBPyConnection, market: str, present: Mapping[str, Mapping[str, str]]) -> int:
    """The schema version of a market's tables; 0 where none is stored.

    Raises:
        RuntimeError: the version is newer than this program.
    """
    # Version 1 kept it in `about`.
    for name in (Table.schema_info.value, "about"):
        if "schema_version" in present.get(name, {}):
            [(version,)] = connection.execute(f'select max(schema_version) from "{market}".{name}').fetchall()
            if (version or 0) > SCHEMA_VERSION:
                raise RuntimeError(
                    f"the tables of market {market!r} have schema version {version}, this program knows "
                    f"{SCHEMA_VERSION}: use the newer version of the project that wrote them"
                )
            return version or 0
    return 0


def _rename_tables(
    connection: duckdb.DuckDBPyConnection, market: str, present: Mapping[str, Mapping[str, str]]
) -> None:
    """Give the tables of schema version 1 their current names."""
    for former, table in FORMER_NAMES.items():
        if former not in present or table in present:
            continue
        for former_column, column in FORMER_COLUMNS.get(table, {}).items():
            connection.execute(f'alter table "{market}".{former} rename column "{former_column}" to "{column}"')
        connection.execute(f'alter table "{market}".{former} rename to {table.value}')


def _create_former_names(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    for former, table in FORMER_NAMES.items():
        names = {column: former_column for former_column, column in FORMER_COLUMNS.get(table, {}).items()}
        columns = [column for column in FIXED_TABLES[table] if column not in LATER_COLUMNS.get(table, ())]
        listed = ", ".join(f'"{column}" as "{names.get(column, column)}"' for column in columns)
        connection.execute(
            f'create or replace view "{market}".{former} as select {listed} from {qualified(market, table)}'
        )


def _outdated(
    present: Mapping[str, dict[str, str]], wanted: Mapping[Table, dict[str, str]], computed: Mapping[Table, object]
) -> list[Table]:
    return [table for table in wanted if not _is_current(present.get(table, {}), wanted[table], table in computed)]


def _drop_expected_candles(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    """Versions before 3 wrote expected bars down as rows; `gaps` and `completeness` were views of them."""
    views = "select view_name from duckdb_views() where schema_name = ? and view_name in ('gaps', 'completeness')"
    for (view,) in connection.execute(views, [market]).fetchall():
        connection.execute(f'drop view "{market}".{view}')
    for table in ("expected_candles", "expectations"):
        connection.execute(f'drop table if exists "{market}".{table}')


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
