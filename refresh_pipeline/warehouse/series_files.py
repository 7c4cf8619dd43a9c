"""The manifest rows of files of series that have no candles any more. The files themselves are the pipeline's part."""

from dataclasses import dataclass

import duckdb

from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS
from refresh_pipeline.warehouse.schema import Table, qualified


@dataclass(frozen=True, slots=True)
class DroppedFiles:
    """Files that left the manifests: paths below the folder of exports, and places of uploaded ones."""

    exported: tuple[str, ...] = ()
    uploaded: tuple[str, ...] = ()


def drop(connection: duckdb.DuckDBPyConnection, market: str) -> DroppedFiles:
    """Delete the manifest rows of every series without candles, and of files of all instruments that may hold one.

    The next publishing writes the latter anew.
    """
    datasets = (
        f"t.instrument = '{ALL_INSTRUMENTS}' and exists (select 1 from {qualified(market, Table.versions)} v "
        f"where v.timeframe = t.timeframe and not exists (select 1 from {qualified(market, Table.series)} s "
        "where s.instrument = v.instrument and s.timeframe = v.timeframe))"
    )
    series = (
        f"t.instrument <> '{ALL_INSTRUMENTS}' and not exists (select 1 from {qualified(market, Table.series)} s "
        "where s.instrument = t.instrument and s.timeframe = t.timeframe)"
    )
    without = f"({datasets}) or ({series})"
    return DroppedFiles(
        _dropped(connection, market, without, Table.exports, "path"),
        _dropped(connection, market, series, Table.uploads, "url"),
    )


def _dropped(
    connection: duckdb.DuckDBPyConnection, market: str, without: str, table: Table, column: str
) -> tuple[str, ...]:
    # A lake's delete returns no rows.
    rows = connection.execute(f"select t.{column} from {qualified(market, table)} t where {without}").fetchall()
    connection.execute(f"delete from {qualified(market, table)} t where {without}")
    return tuple(sorted(str(value) for (value,) in rows))
