"""Computed rows of any stretch of a series, whether they are stored or not; nothing is written.

Checkpoints make a stretch cheap to compute: the computation resumes from the last one before it. The values equal the
stored ones to the last bit.
"""

from collections.abc import Collection, Iterator
from datetime import datetime
from difflib import get_close_matches
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import Times
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import Connect
from refresh_pipeline.warehouse.incremental import READS, TailRefresh
from refresh_pipeline.warehouse.schema import Table, qualified

# Cells (rows times columns) that are computed at once: a tenth of a gigabyte.
CELLS_AT_ONCE = 12_000_000
NOT_A_TIME = np.datetime64("NaT", "us")


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
    work = TailRefresh(connect, market.name, computation, market.calendar, market.two_sided)
    width = len(computation.columns) + len(computation.states) + 6
    known = _known(connect, market, table, series)
    times, after = _times(connect, market, table, series, since=since, until=until, later=computation.repaint)
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
        yield {name: values[wanted] for name, values in rows.items() if name != "series_no"}


def _chosen(computation: Computation, columns: Collection[str] | None) -> Computation:
    if columns is None:
        return computation
    unknown = sorted(set(columns) - {column.name for column in computation.columns})
    if unknown:
        nearest = get_close_matches(unknown[0], [column.name for column in computation.columns], n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"the table {computation.name} has no column {', '.join(unknown)}{hint}")
    return computation.narrowed(frozenset(columns))


def _known(
    connect: Connect, market: Market, table: Table, series: Series
) -> tuple[int, np.datetime64, np.datetime64] | None:
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
    table: Table,
    series: Series,
    *,
    since: np.datetime64,
    until: np.datetime64 | None,
    later: int,
) -> tuple[Times, Times]:
    """The open times of the stretch, and those of so many candles after it and one more, which later bars repaint."""
    source = qualified(market.name, READS[table])
    of_series = f"from {source} where instrument = $instrument and timeframe = $timeframe"
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
