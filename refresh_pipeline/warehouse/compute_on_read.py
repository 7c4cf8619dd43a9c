"""Computed rows of any stretch of a series, whether they are stored or not; nothing is written.

Checkpoints make a stretch cheap to compute: the computation resumes from the last one before it. The values equal the
stored ones to the last bit.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from itertools import pairwise

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import Times
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.suggestions import did_you_mean
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import Connect
from refresh_pipeline.warehouse.incremental import TailRefresh
from refresh_pipeline.warehouse.schema import Table, qualified

# Cells (rows times columns) that are computed at once: a tenth of a gigabyte.
CELLS_AT_ONCE = 12_000_000
NOT_A_TIME = np.datetime64("NaT", "us")
# The numpy types of SQL's whole numbers.
WHOLE = {"tinyint": np.int8, "smallint": np.int16, "integer": np.int32, "bigint": np.int64}


def computed_rows(
    connect: Connect,
    market: Market,
    table: Table,
    series: Series,
    *,
    columns: Collection[str] | None = None,
    since: np.datetime64 = BEGINNING,
    until: np.datetime64 | None = None,
    cells_at_once: int = CELLS_AT_ONCE,
) -> Iterator[dict[str, NDArray]]:
    """The rows of `[since, until)` by column, with `open_time`, oldest first, in pieces that fit in memory.

    `columns` are names of the computed table; without them all of its columns are given, and the candle's where the
    table carries it. A read-only connection is enough.

    Raises:
        ValueError: the table has no column of one of the names.
    """
    computation = _chosen(computations(market)[table], columns)
    work = TailRefresh(connect, market.name, computation, market.calendar, market.two_sided, classes=market.classes_of)
    kinds = {column.name: column.sql_type for column in computation.columns}
    width = len(computation.columns) + len(computation.states) + 6
    known = _known(connect, market, series)
    times, after = _times(connect, market, series, since=since, until=until, later=computation.repaint)
    if known is None or not len(times):
        return
    starts = np.arange(0, len(times), max(cells_at_once // width, 1))
    followed = np.append(times, after)
    for first, end in pairwise([*starts.tolist(), len(times)]):
        last = end + computation.repaint
        piece = PendingRecompute(
            [series],
            times[first : first + 1],
            np.array([None], dtype=object),
            np.array([known[0]], dtype=np.int64),
            np.array([known[1]], dtype="datetime64[us]"),
            np.array([known[2]], dtype="datetime64[us]"),
        )
        rows = work.compute(piece, np.array([followed[last] if last < len(followed) else NOT_A_TIME])).rows
        wanted = (rows["open_time"] >= times[first]) & (rows["open_time"] <= times[end - 1])
        kept = {name: values[wanted] for name, values in rows.items() if name != "series_no"}
        yield {name: _as_read(values, kinds.get(name, "double")) for name, values in kept.items()}


def first_stored(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    tables: Collection[Table],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> np.datetime64:
    """The instant from which all of these tables hold rows, between two instants; the second where none does.

    Rows before it have expired, or were never stored: `computed_rows` gives them.
    """
    since, until = (bound.astype("datetime64[us]").astype(datetime) for bound in bounds)
    firsts = [
        connection.execute(
            f"select coalesce(min(open_time), $until) from {qualified(market, table)} where instrument = $instrument "
            "and timeframe = $timeframe and open_time >= $since and open_time < $until",
            {"instrument": series.instrument, "timeframe": series.timeframe.value, "since": since, "until": until},
        ).fetchall()[0][0]
        for table in tables
    ]
    return max([np.datetime64(first, "us") for first in firsts], default=bounds[0])


def expired_stretch(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    table: Table,
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
    *,
    newest: int | None = None,
) -> tuple[np.datetime64, np.datetime64] | None:
    """The part of a stretch, or of its newest rows, that a computed table does not store; None where it has all.

    Rows after the stored ones are left out: they wait to be computed.
    """
    since, until = (bound.astype("datetime64[us]").astype(datetime) for bound in bounds)
    times = arrays_of(
        connection,
        f"select min(open_time) as first, max(open_time) as last from (select open_time "
        f"from {qualified(market, Table.raw_candles)} where instrument = $instrument and timeframe = $timeframe "
        "and open_time >= $since and open_time < $until order by open_time desc limit $newest)",
        {
            "instrument": series.instrument,
            "timeframe": series.timeframe.value,
            "since": since,
            "until": until,
            "newest": newest,
        },
    )
    first, after = times["first"][0], times["last"][0] + np.timedelta64(1, "us")
    if np.isnat(first):
        return None
    stored = first_stored(connection, market, [table], series, (first, after))
    return (first, stored) if stored > first else None


def computed_columns(
    connect: Connect,
    market: Market,
    columns: Mapping[Table, Collection[str]],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> dict[tuple[Table, str], NDArray]:
    """Columns of several computed tables between two instants, the second excluded, side by side; with open_time."""
    found: dict[tuple[Table, str], NDArray] = {}
    for table, names in columns.items():
        own = {column.name for column in computations(market)[table].columns}
        candles = ["open_time", *(name for name in names if name not in own and name != "open_time")]
        found |= {(table, name): values for name, values in _candles(connect, market, candles, series, bounds).items()}
        if computed := [name for name in names if name in own]:
            since, until = bounds
            rows = computed_rows(connect, market, table, series, columns=computed, since=since, until=until)
            pieces = list(rows)
            found |= {(table, name): np.concatenate([piece[name] for piece in pieces]) for name in computed if pieces}
    return found


def _candles(
    connect: Connect,
    market: Market,
    columns: Collection[str],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> dict[str, NDArray]:
    """Columns of the candles between two instants, as a table that carries them has them."""
    listed = ", ".join(f'"{name}"' for name in columns)
    since, until = (bound.astype("datetime64[us]").astype(datetime) for bound in bounds)
    with connect() as connection:
        return arrays_of(
            connection,
            f"select {listed} from {qualified(market.name, Table.raw_candles)} where instrument = ? and timeframe = ? "
            "and open_time >= ? and open_time < ? order by open_time",
            [series.instrument, series.timeframe.value, since, until],
        )


def _as_read(values: NDArray, kind: str) -> NDArray:
    """Computed values in the type that reading the stored ones gives: whole numbers without a null are integers."""
    if kind in WHOLE and not np.isnan(values).any():
        return values.astype(WHOLE[kind])
    return values


def _chosen(computation: Computation, columns: Collection[str] | None) -> Computation:
    if columns is None:
        return computation
    unknown = sorted(set(columns) - {column.name for column in computation.columns})
    if unknown:
        hint = did_you_mean(unknown[0], [column.name for column in computation.columns])
        raise ValueError(f"the table {computation.name} has no column {', '.join(unknown)}{hint}")
    return computation.narrowed(frozenset(columns))


def _known(connect: Connect, market: Market, series: Series) -> tuple[int, np.datetime64, np.datetime64] | None:
    """The number of stored candles of a series, its first and its last open time; None without any."""
    with connect() as connection:
        rows = arrays_of(
            connection,
            f"select candle_count, first_open_time, last_open_time from {qualified(market.name, Table.series)} "
            "where instrument = ? and timeframe = ? and candle_count > 0",
            [series.instrument, series.timeframe.value],
        )
    if not len(rows["candle_count"]):
        return None
    return int(rows["candle_count"][0]), rows["first_open_time"][0], rows["last_open_time"][0]


def _times(
    connect: Connect,
    market: Market,
    series: Series,
    *,
    since: np.datetime64,
    until: np.datetime64 | None,
    later: int,
) -> tuple[Times, Times]:
    """The open times of the stretch, and those of so many candles after it and one more, which later bars repaint."""
    of_series = (
        f"from {qualified(market.name, Table.raw_candles)} where instrument = $instrument and timeframe = $timeframe"
    )
    names = {"instrument": series.instrument, "timeframe": series.timeframe.value}
    end = {} if until is None else {"until": until.astype("datetime64[us]").astype(datetime)}
    before = "" if until is None else " and open_time < $until"
    with connect() as connection:
        times = arrays_of(
            connection,
            f"select open_time {of_series} and open_time >= $since{before} order by open_time",
            names | end | {"since": since.astype("datetime64[us]").astype(datetime)},
        )["open_time"]
        if until is None:
            return times, np.array([], dtype="datetime64[us]")
        after = arrays_of(
            connection,
            f"select open_time {of_series} and open_time >= $until order by open_time limit $count",
            names | end | {"count": later + 1},
        )["open_time"]
    return times, after
