"""The manifest rows of files of series that have no candles any more. The files themselves are the pipeline's part."""

from dataclasses import dataclass

import duckdb

from refresh_pipeline.warehouse.schema import Table, qualified


@dataclass(frozen=True, slots=True)
class DroppedFiles:
    """Files that left the manifests: paths below the folder of exports, and places of uploaded ones."""

    exported: tuple[str, ...] = ()
    uploaded: tuple[str, ...] = ()


def drop(connection: duckdb.DuckDBPyConnection, market: str) -> DroppedFiles:
    """Delete the manifest rows of every series without candles."""
    return DroppedFiles(
        _dropped(connection, market, Table.exports, "path"), _dropped(connection, market, Table.uploads, "url")
    )


def _dropped(connection: duckdb.DuckDBPyConnection, market: str, table: Table, column: str) -> tuple[str, ...]:
    without = (
        f"not exists (select 1 from {qualified(market, Table.series)} s "
        "where s.instrument = t.instrument and s.timeframe = t.timeframe)"
    )
    # A lake's delete returns no rows.
    rows = connection.execute(f"select t.{column} from {qualified(market, table)} t where {without}").fetchall()
    connection.execute(f"delete from {qualified(market, table)} t where {without}")
    return tuple(sorted(str(value) for (value,) in rows))
