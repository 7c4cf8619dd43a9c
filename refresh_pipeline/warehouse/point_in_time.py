"""The past as it stood: raw candles as of an instant, and the bar at which each computed flag became known.

Backtests read both, to use nothing that was unknown at the time. How a flag's delay follows from its computation is
`analytics.availability`.
"""

from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.analytics.availability import SUFFIX, later_known
from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of, timestamp
from refresh_pipeline.warehouse.schema import Table, candle_columns, columns_of, qualified

# A candle's value holds from the refresh that stored it to the one that replaced it.
AS_OF = """
select open_time, {columns} from {raw_candles}
where instrument = $instrument and timeframe = $timeframe and fetched_at <= $moment
union all
select open_time, {columns} from {raw_candle_revisions}
where instrument = $instrument and timeframe = $timeframe and fetched_at <= $moment and replaced_at > $moment
order by open_time
"""


def candles_as_of(
    connection: duckdb.DuckDBPyConnection, market: str, series: Series, moment: datetime, two_sided: bool
) -> Candles:
    """The candles of a series that the table held at an instant, with the values it held then."""
    columns = candle_columns(two_sided)
    rows = arrays_of(
        connection,
        AS_OF.format(
            columns=", ".join(columns),
            raw_candles=qualified(market, Table.raw_candles),
            raw_candle_revisions=qualified(market, Table.raw_candle_revisions),
        ),
        {
            "instrument": series.instrument,
            "timeframe": series.timeframe.value,
            "moment": timestamp(moment),
        },
    )
    return Candles(rows["open_time"], {name: rows[name].astype(np.float64) for name in columns})


def ensure_known_view(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, two_sided: bool
) -> None:
    """Create the view `<table>_known` or bring it forward; does nothing where its columns are current.

    The view has every column of the computed table and, for each flag that waits for later bars, `<flag>_known_at`: the
    open time of the bar whose close made the flag known. A view costs no space and cannot disagree with its table.
    """
    name, columns, delays = f"{computation.name}_known", columns_of(computation, two_sided), later_known(computation)
    if _columns_present(connection, market, name) == [*columns, *(f"{column}{SUFFIX}" for column in delays)]:
        return
    listed = [f'"{column}"' for column in columns]
    # Rows, not time: bars have to close, however long the market is shut in between.
    listed += [f'lead(open_time, {bars}) over series as "{column}{SUFFIX}"' for column, bars in delays.items()]
    connection.execute(
        f'create or replace view "{market}".{name} as select {", ".join(listed)} '
        f"from {qualified(market, Table(computation.name))} "
        "window series as (partition by instrument, timeframe order by open_time)"
    )


def _columns_present(connection: duckdb.DuckDBPyConnection, market: str, name: str) -> list[str]:
    rows = connection.execute(
        "select column_name from duckdb_columns() where schema_name = ? and table_name = ? "
        "and database_name = current_database() order by column_index",
        [market, name],
    ).fetchall()
    return [row[0] for row in rows]
