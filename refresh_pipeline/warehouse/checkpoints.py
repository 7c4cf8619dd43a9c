"""Checkpoints: the states of a computed table's recursive averages every CHECKPOINT_BARS bars, to resume from.

A checkpoint lies after a number of bars of its series that is a multiple of CHECKPOINT_BARS, whatever their times. Rows
and checkpoints are written in one transaction, so that both belong to the same candles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.recursive import CHECKPOINT_BARS
from refresh_pipeline.market.candles import Floats, Times
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, registered
from refresh_pipeline.warehouse.schema import Table, qualified

NO_TIME = np.datetime64("NaT", "us")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoint each series of a batch resumes from: its bar, the number of bars up to it, its states.

    A series without checkpoint has the open time NaT.
    """

    open_time: Times
    candles: NDArray[np.int64]
    states: Mapping[str, Floats]
    # The newest checkpoint before which no bar is looked back at; NaT where that is the series' beginning.
    looks_back_to: Times

    def without(self, chosen: NDArray[np.bool_]) -> "Checkpoints":
        """The same, but none for the chosen series."""
        times, ahead = (np.where(chosen, NO_TIME, each) for each in (self.open_time, self.looks_back_to))
        return Checkpoints(times, np.where(chosen, 0, self.candles), self.states, ahead)

    def go_on(self, bars: Bars, lookback: int) -> Bars:
        """The bars after the checkpoints, marked as the rest of longer series, with so many volumes before them."""
        checkpoints = np.repeat(self.open_time, bars.lengths)
        # A comparison with NaT is false: a series without checkpoint has no bar before it.
        is_before = bars.open_time <= checkpoints
        if not is_before.any():
            return replace(bars, before=self.candles, states=self.states)
        counts = np.add.reduceat(np.append(is_before, False).astype(np.int64), bars.starts[:-1]) * (bars.lengths > 0)
        volumes = _last_of_each(bars["volume"], bars.starts[:-1], counts, lookback)
        return Bars(
            bars.open_time[~is_before],
            {name: values[~is_before] for name, values in bars.columns.items()},
            bars.starts - np.append(0, np.cumsum(counts)),
            before=self.candles,
            states=self.states,
            earlier_volumes=volumes,
            classes=bars.classes,
        )


def _last_of_each(values: Floats, starts: NDArray[np.int64], counts: NDArray[np.int64], number: int) -> Floats:
    """The last values of the first so many of each series, one row a series; NaN where there are fewer.

    >>> _last_of_each(np.arange(5.0), np.array([0, 3]), np.array([3, 1]), 2)
    array([[ 1.,  2.],
           [nan,  3.]])
    """
    place = counts[:, None] - number + np.arange(number)
    rows = np.clip(starts[:, None] + place, 0, max(len(values) - 1, 0))
    return np.where(place >= 0, values[rows], np.nan)


def checkpoints_before(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, wanted: Arrays
) -> Checkpoints:
    """The newest checkpoint of each series with as many bars between it and `since` as the computation needs.

    `wanted` has the columns series_no, instrument, timeframe, since. Distances are counted in bars, not in time; a
    row's block begins at a multiple of the computation's block.
    """
    count, states = len(wanted["series_no"]), computation.states
    stored = list(computation.stored_states)
    listed = "".join(f", c.state[{stored.index(name) + 1}] as state_{number}" for number, name in enumerate(states, 1))
    table, block = qualified(market, Table.checkpoints), max(computation.block, CHECKPOINT_BARS)
    # The choice comes before the states: a window over rows with states would carry all of them along.
    with registered(connection, "wanted", wanted):
        rows = arrays_of(
            connection,
            "with earlier as ("
            f"select w.series_no, c.instrument, c.timeframe, c.open_time, c.candles from {table} c "
            "join wanted w on c.instrument = w.instrument and c.timeframe = w.timeframe "
            "where c.asset = $asset and c.open_time < w.since and len(c.state) = $states), "
            "newest as ("
            "select series_no, max(candles) // $block * $block - $before as candles from earlier group by all), "
            "chosen as (select e.instrument, e.timeframe, e.series_no, max(e.candles) as candles "
            "from earlier e join newest n on e.series_no = n.series_no and e.candles <= n.candles group by all), "
            "ahead as (select f.series_no, max(e.open_time) as looks_back_to from chosen f join earlier e "
            "on e.series_no = f.series_no and e.candles <= f.candles - $lookback group by all) "
            f"select f.series_no, c.open_time, c.candles, a.looks_back_to{listed} from {table} c join chosen f "
            "on c.asset = $asset and c.instrument = f.instrument and c.timeframe = f.timeframe "
            "and c.candles = f.candles left join ahead a on a.series_no = f.series_no",
            {
                "asset": computation.name,
                "states": len(stored),
                "block": block,
                "before": computation.warm_up + computation.repaint,
                "lookback": computation.lookback,
            },
        )
    times, candles = np.full(count, NO_TIME), np.zeros(count, dtype=np.int64)
    looks_back_to = times.copy()
    series_no = rows["series_no"]
    times[series_no], candles[series_no] = rows["open_time"], rows["candles"]
    looks_back_to[series_no] = rows["looks_back_to"]
    values = {name: np.full(count, np.nan) for name in states}
    for number, name in enumerate(states, start=1):
        values[name][series_no] = rows[f"state_{number}"]
    return Checkpoints(times, candles, values, looks_back_to)


def newest_checkpoints(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, wanted: Arrays, is_first: NDArray
) -> Checkpoints:
    """The newest checkpoint of each series before `since`, for recursions, which read no bar before it.

    `is_first` says which series are read from their first candle. Of them, those that have enough bars for a checkpoint
    before their block's longest stretch have lost it: they get none, so that all their checkpoints are written again.
    """
    recursions = replace(computation, columns=(), block=1)
    newest = checkpoints_before(connection, market, recursions, wanted)
    before = newest.candles // computation.block * computation.block - computation.warm_up - computation.repaint
    return newest.without(is_first & (before >= computation.block))


def checkpoints_in(
    computation: Computation, bars: Bars, states: Mapping[str, Values], *, since: Times
) -> dict[str, NDArray]:
    """The states at every checkpoint from each series' first change on, by column, with the number of the series.

    A series that was read from its beginning gets all its checkpoints: earlier ones may be lost. Bars at which a
    required state has no value yet have none.
    """
    rows = _checkpoint_rows(computation, bars, states, since)
    series_no = np.searchsorted(bars.starts, rows, side="right") - 1
    columns = {"series_no": series_no.astype(np.int32), "open_time": bars.open_time[rows]}
    columns |= {"candles": bars.number[rows] + 1}
    return columns | {f"state_{number}": states[name][rows] for number, name in enumerate(computation.states)}


def keep_checkpoints(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, checkpoints: Arrays, *, of: str
) -> None:
    """Write checkpoints in place of the stored ones of the same series.

    `of` is a table of the series to write, with series_no, instrument, timeframe and `begun`: checkpoints are replaced
    from there on.
    """
    table = qualified(market, Table.checkpoints)
    listed = ", ".join(f"state_{number}" for number in range(len(computation.states)))
    connection.execute(
        f"delete from {table} c using {of} w where c.asset = ? "
        "and c.instrument = w.instrument and c.timeframe = w.timeframe and c.open_time >= w.begun",
        [computation.name],
    )
    if not len(checkpoints["series_no"]):
        return
    with registered(connection, "new_checkpoints", checkpoints):
        connection.execute(
            f"insert into {table} (instrument, timeframe, asset, open_time, candles, state) "
            f"select w.instrument, w.timeframe, ?, n.open_time, n.candles, [{listed}]::double[] "
            f"from new_checkpoints n join {of} w using (series_no) order by n.open_time, n.series_no",
            [computation.name],
        )


def update_checkpoints(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, checkpoints: Arrays, *, of: str
) -> None:
    """Write the states of a narrowed computation into stored checkpoints; their other states stay.

    `of` is as in `keep_checkpoints`, with `until`. A checkpoint from `begun` to `until` that lies elsewhere than the
    given ones lacks one of the states, and is deleted.
    """
    table, place = qualified(market, Table.checkpoints), {name: no for no, name in enumerate(computation.states)}
    values = ", ".join(
        f"n.state_{place[name]}" if name in place else f"c.state[{number}]"
        for number, name in enumerate(computation.stored_states, start=1)
    )
    of_series = "c.asset = $asset and c.instrument = w.instrument and c.timeframe = w.timeframe"
    same = "n.series_no = w.series_no and n.open_time = c.open_time and n.candles = c.candles"
    asset = {"asset": computation.name}
    with registered(connection, "new_checkpoints", checkpoints):
        connection.execute(
            f"create temp table misplaced as select c.instrument, c.timeframe, c.open_time from {table} c "
            f"join {of} w on {of_series} left join new_checkpoints n on {same} where n.series_no is null "
            "and c.open_time >= w.begun and (w.until is null or c.open_time < w.until)",
            asset,
        )
        connection.execute(
            f"delete from {table} c using misplaced w where {of_series} and c.open_time = w.open_time", asset
        )
        connection.execute(
            f"update {table} c set state = [{values}]::double[] from new_checkpoints n, {of} w "
            f"where {of_series} and {same}",
            asset,
        )
        connection.execute("drop table misplaced")


def _checkpoint_rows(
    computation: Computation, bars: Bars, states: Mapping[str, Values], since: Times
) -> NDArray[np.int64]:
    rows = np.flatnonzero((bars.number + 1) % CHECKPOINT_BARS == 0)
    series_no = np.searchsorted(bars.starts, rows, side="right") - 1
    rows = rows[(bars.open_time[rows] >= since[series_no]) | (bars.earlier[series_no] == 0)]
    required_states = computation.states if computation.required_states is None else computation.required_states
    known = [np.isfinite(states[name][rows].astype(np.float64)) for name in required_states]
    return rows[np.all(known, axis=0)] if known else rows
