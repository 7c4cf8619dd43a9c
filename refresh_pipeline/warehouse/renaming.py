"""Gives everything stored of an instrument another name, in the open transaction.

The files of the former name are `series_files`' part.
"""

import duckdb

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import stored_ranges
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import FIXED_TABLES, Table, qualified
from refresh_pipeline.warehouse.versions import OF_EVERY_SERIES, record_changes

# Where candles that are kept for the record may be of either name.
OF_BOTH = (Table.raw_candle_revisions, Table.rejected_candles, Table.cross_checks)
# What is known of files by their former names, and changes, which both names have.
BY_FORMER_NAME = (Table.exports, Table.uploads, Table.versions)


def rename(connection: duckdb.DuckDBPyConnection, market: Market, before: str, after: str) -> dict[Series, int]:
    """Move every row of an instrument to another name; gives the number of candles by former series.

    The venue and symbol of its candles are forgotten: the next refresh records those of the YAML. With one name twice,
    nothing else changes. Manifest rows of files stay under the former name.

    Raises:
        ValueError: nothing is stored under the former name, or candles are stored under the other one.
    """
    counts = _counts(connection, market.name, before)
    if not counts:
        raise ValueError(f"market {market.name!r} has no candles of {before!r}; `refresh status` lists what is stored")
    if before != after:
        _require_room(connection, market.name, after)
        for table in _tables(connection, market.name):
            _move(connection, qualified(market.name, table), before, after, replace=table not in OF_BOTH)
        _queue_exports(connection, market, after)
        _record_changes(connection, market.name, before, after)
        stored_ranges.bring_forward(connection, market)
    connection.execute(f"delete from {qualified(market.name, Table.series_sources)} where instrument = ?", [after])
    return counts


def _counts(connection: duckdb.DuckDBPyConnection, market: str, instrument: str) -> dict[Series, int]:
    rows = connection.execute(
        f"select timeframe, candle_count from {qualified(market, Table.series)} where instrument = ?", [instrument]
    ).fetchall()
    counts = {Series(instrument, Timeframe(timeframe)): count for timeframe, count in rows}
    return {series: counts[series] for series in sorted(counts, key=lambda series: series.timeframe)}


def _require_room(connection: duckdb.DuckDBPyConnection, market: str, after: str) -> None:
    if there := sum(_counts(connection, market, after).values()):
        raise ValueError(
            f"market {market!r} has {there:,} candles of {after!r}; to replace them, run first "
            f"`refresh forget --market {market} --instrument {after}`"
        )


def _tables(connection: duckdb.DuckDBPyConnection, market: str) -> list[Table]:
    present = stored_ranges.present_tables(connection, market)
    keyed = [
        table for table, columns in FIXED_TABLES.items() if "instrument" in columns and table not in BY_FORMER_NAME
    ]
    return [table for table in (*keyed, Table.enhanced_candles, Table.indicators) if table.value in present]


def _move(connection: duckdb.DuckDBPyConnection, table: str, before: str, after: str, *, replace: bool) -> None:
    if replace:
        connection.execute(f"delete from {table} where instrument = ?", [after])
    connection.execute(
        f"update {table} set instrument = $after where instrument = $before", {"after": after, "before": before}
    )


def _record_changes(connection: duckdb.DuckDBPyConnection, market: str, before: str, after: str) -> None:
    """Move the versions of both names: the rows of one are gone, those of the other are new."""
    connection.execute(
        "create temp table renamed as select unnest([$before, $after]) as instrument, timeframe, "
        f"first_open_time as since from {qualified(market, Table.series)} where instrument = $after",
        {"before": before, "after": after},
    )
    record_changes(connection, market, OF_EVERY_SERIES, "renamed")
    connection.execute("drop table renamed")


def _queue_exports(connection: duckdb.DuckDBPyConnection, market: Market, instrument: str) -> None:
    connection.execute(
        "create temp table touched as select instrument, timeframe, first_open_time as since "
        f"from {qualified(market.name, Table.series)} where instrument = ?",
        [instrument],
    )
    queue_recompute(connection, market.name, [Table.exports])
    connection.execute("drop table touched")
