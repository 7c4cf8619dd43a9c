"""Compares inner tables with what the stored candles give: the deep check of a warehouse that was damaged.

Every block is read. `series` is counted anew, and computed tables are computed anew from the first candle, without
checkpoints. Rows that wait to be computed are no fault.
"""

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table, qualified

# Cells (rows times columns) that are computed at once: a tenth of a gigabyte.
CELLS_AT_ONCE = 12_000_000
# Relative; a table is brought up to date to this precision.
PRECISION = 1e-9


def deep_faults(
    connection: duckdb.DuckDBPyConnection, market: Market, batch: Sequence[Series]
) -> Iterator[tuple[Table, Fault]]:
    """Each table and series of the batch that differs from what the candles give, with the first open time."""
    waiting = _waiting(connection, market)
    for series in batch:
        raw = _rows(connection, market, Table.raw_candles, series, CANDLE_COLUMNS)
        yield from ((Table.series, fault) for fault in _series_faults(connection, market, series, raw))
        for table, computation in computations(market).items():
            if (series, table.value) in waiting or not len(raw["open_time"]):
                continue
            yield from ((table, fault) for fault in _table_faults(connection, market, computation, series, raw))


def _waiting(connection: duckdb.DuckDBPyConnection, market: Market) -> set[tuple[Series, str]]:
    queues = (qualified(market.name, table) for table in (Table.recompute_queue, Table.column_queue))
    text = " union ".join(f"select instrument, timeframe, asset from {queue}" for queue in queues)
    stored = {(series.instrument, series.timeframe.value): series for series in market.series}
    rows = connection.execute(text).fetchall()
    return {(stored[name, timeframe], asset) for name, timeframe, asset in rows if (name, timeframe) in stored}


def _series_faults(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, raw: Arrays
) -> Iterator[Fault]:
    stored = connection.execute(
        f"select candle_count, first_open_time, last_open_time from {qualified(market.name, Table.series)} "
        "where instrument = ? and timeframe = ?",
        [series.instrument, series.timeframe.value],
    ).fetchall()
    times = raw["open_time"].astype(TIME_UNIT)
    counted = [(len(times), times[0].item(), times[-1].item())] if len(times) else []
    if [row for row in stored if row[0]] != counted:
        found = stored[0][0] if stored else "no"
        yield Fault(series, times[0] if len(times) else None, f"{found} candles noted, {len(times)} are stored")


def _table_faults(
    connection: duckdb.DuckDBPyConnection, market: Market, computation: Computation, series: Series, raw: Arrays
) -> Iterator[Fault]:
    """The first fault of a computed table's series: open times first, then values, column by column."""
    table = Table(computation.name)
    times = raw["open_time"].astype(TIME_UNIT)
    stored = _rows(connection, market, table, series, ())["open_time"].astype(TIME_UNIT)
    # Older rows may not be kept.
    kept = times >= (stored[0] if len(stored) else times[-1])
    if not np.array_equal(stored, times[kept]):
        odd = np.setxor1d(stored, times[kept])
        first = odd[0] if len(odd) else stored[:-1][stored[1:] == stored[:-1]][0]
        yield Fault(series, first, f"{len(stored)} rows, {kept.sum()} are expected")
        return
    columns, starts = {name: raw[name] for name in CANDLE_COLUMNS}, np.array([0, len(times)])
    bars = Bars(raw["open_time"], columns, starts, classes=market.classes_of([series]))
    names = [column.name for column in computation.columns]
    width = max(CELLS_AT_ONCE // len(times), 1)
    for first in range(0, len(names), width):
        part = names[first : first + width]
        wanted = computation.narrowed(frozenset(part)).compute(bars)
        rows = _rows(connection, market, table, series, part)
        for name in part:
            rows_that_differ = differing(rows[name], wanted[name][kept])
            if len(rows_that_differ):
                yield Fault(series, stored[int(rows_that_differ[0])], f"{name}: {len(rows_that_differ)} values differ")
                return


def differing(stored: NDArray, wanted: NDArray) -> NDArray[np.int64]:
    """The rows whose values differ by more than rounding, null and NaN being one.

    >>> differing(np.array([1.0, np.nan, 3.0]), np.array([1.0, np.inf, 3.1])).tolist()
    [2]
    """
    if wanted.dtype == object:
        return np.flatnonzero(stored.astype(object) != wanted)
    ours, theirs = stored.astype(np.float64), wanted.astype(np.float64)
    theirs = np.where(np.isfinite(theirs), theirs, np.nan)
    close = np.abs(ours - theirs) <= PRECISION * np.maximum(np.abs(ours), np.abs(theirs))
    return np.flatnonzero(~(close | (np.isnan(ours) & np.isnan(theirs))))


def _rows(
    connection: duckdb.DuckDBPyConnection, market: Market, table: Table, series: Series, columns: Sequence[str]
) -> Arrays:
    listed = ", ".join(["open_time", *(f'"{name}"' for name in columns)])
    return arrays_of(
        connection,
        f"select {listed} from {qualified(market.name, table)} where instrument = ? and timeframe = ? "
        "order by open_time",
        [series.instrument, series.timeframe.value],
    )
