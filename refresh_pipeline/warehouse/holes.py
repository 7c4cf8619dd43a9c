"""Where series have no candles, one question for all of them. Whether any are to be expected is not asked here."""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.calendar import length_of
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.staging import arrays_of, numbered, registered

# The last row of a series stands for what comes after it, the first one for what comes before.
_EMPTY = """
with held as (
  select w.series_no, w.length, r.open_time,
    lag(r.open_time) over (partition by w.series_no order by r.open_time) as previous
  from wanted w join {raw_candles} r using (instrument, timeframe)
  where r.open_time >= w.since and r.open_time < $until and r.open_time >= $first
)
select series_no, previous as after, open_time as before from held
where previous is null or epoch_us(open_time) - epoch_us(previous) > length
union all
select series_no, max(open_time), null from held group by series_no
order by series_no, after nulls first
"""


def empty_between(
    connection: duckdb.DuckDBPyConnection, market: str, since: dict[Series, np.datetime64], until: np.datetime64
) -> dict[Series, tuple[Times, Times]]:
    """For each series, the candles after which and before which nothing is stored for longer than a bar lasts.

    Args:
        connection: to the warehouse.
        market: whose tables are meant.
        since: per series, from when on.
        until: up to when, excluded.

    Returns:
        Opening times of the candles on either side of each empty stretch, in order; NaT where the stretch begins at
        `since` or ends at `until`. A series without any candle has a single stretch with NaT on both sides.
    """
    batch = list(since)
    rows = _rows(connection, market, batch, np.array(list(since.values()), dtype=TIME_UNIT), until)
    found: dict[Series, tuple[Times, Times]] = {}
    nothing = np.array(["NaT"], dtype=TIME_UNIT)
    for number, series in enumerate(batch):
        own = rows["series_no"] == number
        found[series] = (rows["after"][own], rows["before"][own]) if own.any() else (nothing, nothing)
    return found


def _rows(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], since: Times, until: np.datetime64
) -> dict[str, np.ndarray]:
    lengths = np.array([length_of(each.timeframe).astype(np.int64) for each in batch], dtype=np.int64)
    # The bound that is a value lets DuckDB skip row groups; the one of each series would not.
    values: dict[str, datetime] = {"first": since.min().astype(datetime), "until": until.astype(datetime)}
    with registered(connection, "wanted", numbered(batch, since=since, length=lengths)):
        rows = arrays_of(connection, _EMPTY.format(raw_candles=qualified(market, Table.raw_candles)), values)
    return rows | {name: rows[name].astype(TIME_UNIT) for name in ("after", "before")}
