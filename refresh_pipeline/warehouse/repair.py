"""Lets series be computed again from their first candle, without anything that was computed before."""

from collections.abc import Sequence

import duckdb

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import stored_ranges
from refresh_pipeline.warehouse.arrays import numbered, registered
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import Table, qualified

_SAME = "t.instrument = w.instrument and t.timeframe = w.timeframe"


def queue_indicators(connection: duckdb.DuckDBPyConnection, market: Market, batch: Sequence[Series]) -> None:
    """Queue the indicators of series to be computed from their first candle; in the open transaction."""
    if not batch:
        return
    with registered(connection, "wanted", numbered(batch)):
        connection.execute(
            "create temp table changed_series as select s.instrument, s.timeframe, s.first_open_time as since "
            f"from {qualified(market.name, Table.series)} s semi join wanted using (instrument, timeframe) "
            "where s.first_open_time is not null"
        )
    queue_recompute(connection, market.name, [Table.indicators], changed="changed_series")
    connection.execute("drop table changed_series")


def queue_recompute_from_raw(
    connection: duckdb.DuckDBPyConnection, market: Market, tables: Sequence[Table], batch: Sequence[Series]
) -> None:
    """Count the series anew, delete their computed rows and checkpoints, and queue them; in the open transaction."""
    name = {table: qualified(market.name, table) for table in Table}
    with registered(connection, "wanted", numbered(batch)):
        for table in (Table.series, Table.stored_ranges):
            connection.execute(f"delete from {name[table]} t using wanted w where {_SAME}")
        connection.execute(
            f"insert into {name[Table.series]} (instrument, timeframe, candle_count, first_open_time, last_open_time) "
            f"select instrument, timeframe, count(*), min(open_time), max(open_time) from {name[Table.raw_candles]} "
            "semi join wanted using (instrument, timeframe) group by all"
        )
        for table in tables:
            connection.execute(f"delete from {name[table]} t using wanted w where {_SAME}")
            for queue in (Table.recompute_queue, Table.checkpoints):
                connection.execute(
                    f"delete from {name[queue]} t using wanted w where {_SAME} and t.asset = ?", [table.value]
                )
            connection.execute(
                f"insert into {name[Table.recompute_queue]} (instrument, timeframe, asset, since, version) "
                f"select instrument, timeframe, ?, first_open_time, uuid()::varchar from {name[Table.series]} "
                "semi join wanted using (instrument, timeframe)",
                [table.value],
            )
    stored_ranges.bring_forward(connection, market)
