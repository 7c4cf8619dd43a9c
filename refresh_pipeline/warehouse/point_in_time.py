"""Raw candles as they stood at an instant: what a backtest may be run on. Only reads; later corrections are undone."""

from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified

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
    """The candles of a series that the table held at that instant, with the values that it held then."""
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
            "moment": instant(moment).astype(datetime),
        },
    )
    return Candles(rows["open_time"], {name: rows[name].astype(np.float64) for name in columns})
