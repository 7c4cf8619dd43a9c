"""The view `<table>_known`: a computed table's columns, and beside each flag that looks ahead when it became known.

A view and no columns of the table: it follows from the table alone, so that it costs no space and cannot disagree.
"""

import duckdb

from refresh_pipeline.analytics.availability import SUFFIX, later_known
from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.warehouse.schema import Table, columns_of, qualified


def ensure_known_view(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, two_sided: bool
) -> None:
    """Create the view, or bring it forward; a glance where nothing is to do."""
    name = f"{computation.name}_known"
    columns = list(columns_of(computation, two_sided))
    delays = later_known(computation)
    rows = connection.execute(
        "select column_name from duckdb_columns() where schema_name = ? and table_name = ? "
        "and database_name = current_database() order by column_index",
        [market, name],
    ).fetchall()
    if [row[0] for row in rows] == [*columns, *(f"{column}{SUFFIX}" for column in delays)]:
        return
    listed = [f'"{column}"' for column in columns]
    # Rows, not time: it is bars that have to close, however long the market is shut in between.
    listed += [f'lead(open_time, {bars}) over series as "{column}{SUFFIX}"' for column, bars in delays.items()]
    connection.execute(
        f'create or replace view "{market}".{name} as select {", ".join(listed)} '
        f"from {qualified(market, Table(computation.name))} "
        "window series as (partition by instrument, timeframe order by open_time)"
    )
