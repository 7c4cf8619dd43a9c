"""What the warehouse holds and no YAML names any more: markets, instruments and timeframes. Nothing is removed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import duckdb

from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS
from refresh_pipeline.market.model import Market
from refresh_pipeline.market_files import market_files
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import queries
from refresh_pipeline.warehouse.connection import connect, place_of
from refresh_pipeline.warehouse.forgetting import RECORDS
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.stored_ranges import present_tables

ROWS = (Table.raw_candles, Table.enhanced_candles, Table.indicators, *RECORDS)
FILES = (Table.exports, Table.uploads)


def orphan_rows(settings: Settings, markets: Sequence[Market]) -> list[dict[str, Any]]:
    """A row for each series that its market's YAML does not name, and for each market without a YAML.

    Each has the market, the instrument and the timeframe (None for a market without a YAML). Its numbers count stored
    candles, rows in all tables that a refresh writes, export files and uploaded files.
    """
    if not place_of(settings.warehouse).exists:
        return []
    with connect(settings.warehouse, read_only=True) as connection:
        stored = [market for market in markets if queries.has_tables(connection, market.name)]
        orphans = [row for market in stored for row in _of_market(connection, market)]
        return [*orphans, *_markets(connection, set(market_files(settings)))]


def _of_market(connection: duckdb.DuckDBPyConnection, market: Market) -> Iterator[dict[str, Any]]:
    named = {(series.instrument, series.timeframe.value) for series in market.series}
    counts = _counts(connection, market.name)
    for instrument, timeframe in sorted({key for rows in counts.values() for key in rows} - named):
        yield _row(
            market.name, instrument, timeframe, {t: rows.get((instrument, timeframe), 0) for t, rows in counts.items()}
        )


def _markets(connection: duckdb.DuckDBPyConnection, named: Collection[str]) -> Iterator[dict[str, Any]]:
    query = (
        "select distinct schema_name from duckdb_tables() where table_name = ? "
        "and database_name = current_database() order by all"
    )
    for (market,) in connection.execute(query, [Table.raw_candles.value]).fetchall():
        if market not in named:
            counts = {table: sum(rows.values()) for table, rows in _counts(connection, market).items()}
            yield _row(market, None, None, counts)


def _counts(connection: duckdb.DuckDBPyConnection, market: str) -> dict[Table, dict[tuple[str, str], int]]:
    """How many rows each table has of each series."""
    tables = present_tables(connection, market)
    return {
        table: {
            (instrument, timeframe): count
            for instrument, timeframe, count in connection.execute(
                f"select instrument, timeframe, count(*) from {qualified(market, table)} "
                f"where instrument <> '{ALL_INSTRUMENTS}' group by all"
            ).fetchall()
        }
        for table in (*ROWS, *FILES)
        if table.value in tables
    }


def _row(market: str, instrument: str | None, timeframe: str | None, counts: Mapping[Table, int]) -> dict[str, Any]:
    return {
        "market": market,
        "instrument": instrument,
        "timeframe": timeframe,
        "candles": counts.get(Table.raw_candles, 0),
        "rows": sum(counts.get(table, 0) for table in ROWS),
        "export_files": counts.get(Table.exports, 0),
        "uploaded_files": counts.get(Table.uploads, 0),
    }
