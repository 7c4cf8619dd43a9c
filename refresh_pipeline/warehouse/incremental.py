"""Computed tables kept in step with their candles: only from the first candle that changed, with what it takes before.

Three moments: read (one query for all series), compute (no connection open), write (one transaction). What changed in
between is not lost: a series is written, and counts as made, only where what was read is still the latest.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Floats, Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, numbered, registered
from refresh_pipeline.warehouse.checkpoints import BEGINNING, checkpoints_before, checkpoints_in, keep_checkpoints
from refresh_pipeline.warehouse.computed_batch import ComputedBatch, PendingRecompute
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.ingest import mark_stale
from refresh_pipeline.warehouse.schema import Table, candle_columns, columns_of, qualified

Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

# How many cells (rows times columns) wait to be written at most: a third of a gigabyte, and of indicators just enough
# for one of DuckDB's row groups of 122,880 rows. A whole one is written once, at three times the speed of a quarter.
CELLS_AT_ONCE = 45_000_000
# A ninth of that for what is read and computed at once: a tick takes no longer for it.
SHARES = 9
# A little more than the calendar asks for, so that a few candles that never came do not make a second query.
SLACK = 1.05
# Of four candles that the calendar expects, at least one comes.
SPARSEST = 0.25
FOR_EVER = np.datetime64("0001-01-01", "us")
NOT_A_TIME = np.datetime64("NaT", "us")
# A piece of a series that is too long for memory is never shorter than this: less than that fits anywhere.
SHORTEST_PIECE = 1024
LONG_WEEKEND = np.timedelta64(4 * 24 * 3600 * 1_000_000, "us")
# The last thing that each table's rows are made from, and what is made from them.
READS = {Table.enhanced_candles: Table.raw_candles, Table.indicators: Table.enhanced_candles}
FEEDS = {Table.enhanced_candles: (Table.indicators, Table.exports), Table.indicators: (Table.exports,)}


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What became of one series: rows that were not there before, and rows written again.

    `repainted` says how many of those were written again because of what came after them.
    """

    added: int
    revised: int
    repainted: int = 0

    def __add__(self, later: "Recomputed") -> "Recomputed":
        """Two pieces of a series: what the later one repaints the earlier one has counted."""
        return Recomputed(self.added + later.added, self.revised + later.revised - later.repainted, self.repainted)


def stale_series(
    connection: duckdb.DuckDBPyConnection, market: str, asset: Table, batch: Sequence[Series]
) -> PendingRecompute:
    """The series of the batch that this asset must make again, in the batch's order."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, t.since, t.mark, s.candle_count, s.first_open_time, s.last_open_time "
            f"from wanted w join {qualified(market, Table.stale)} t using (instrument, timeframe) "
            f"join {qualified(market, Table.series)} s using (instrument, timeframe) "
            "where t.asset = ? order by w.series_no",
            [asset.value],
        )
    numbers = rows.pop("series_no")
    return PendingRecompute([batch[number] for number in numbers], *rows.values())


@dataclass(frozen=True, slots=True)
class TailRefresh:
    """One computed table of one market, made again where it is stale.

    The result equals computing every series from its first candle, to 1e-9 relative in every column.
    """

    connect: Connect
    market: str
    computation: Computation
    calendar: Calendar
    two_sided: bool
    # How long rows of a timeframe are kept, counted back from a series' newest candle; for ever where nothing is said.
    keep: Mapping[Timeframe, timedelta] = field(default_factory=dict)
    cells_at_once: int = CELLS_AT_ONCE
    # What makes one connection of those in its block.
    held: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def table(self) -> Table:
        """The table this writes."""
        return Table(self.computation.name)

    def run(self, stale: PendingRecompute) -> dict[Series, Recomputed]:
        """Read, compute and write, in chunks that fit in memory; gives the series that are current now.

        A series that changed in the meantime, or that somebody else made current, is not written and not given.
        """
        done: dict[Series, Recomputed] = {}
        waiting: list[ComputedBatch] = []
        for each in self._chunks(stale):
            chunk = each
            while len(chunk.series):
                made = self._made(chunk)
                waiting.append(made)
                until = made.until
                if made.is_whole and sum(map(len, waiting)) * self._cells_a_row < self.cells_at_once:
                    break
                written = self._write(waiting)
                done |= {series: done[series] + each if series in done else each for series, each in written.items()}
                # Of a series that is too long for memory a piece at a time, each stored before the next.
                goes_on = np.array([series in written for series in chunk.series], dtype=bool) & ~np.isnat(until)
                chunk = replace(chunk, since=until).take(goes_on)
        return done | self._write(waiting)

    def _made(self, chunk: PendingRecompute) -> ComputedBatch:
        """Read and compute, as far as memory allows."""
        with self.held():
            until = self._ends_of_pieces(chunk)
            bars = self._read(chunk, until)
        bars = replace(bars, first=self._first_rows(chunk, bars))
        computed, states = self.computation.compute_with_states(bars)
        at, first = bars.wanted_rows, bars.first_rows
        series_no = np.repeat(np.arange(len(chunk.series), dtype=np.int32), bars.lengths)[at]
        carried = (
            {name: values[at] for name, values in bars.columns.items()} if self.computation.carries_candles else {}
        )
        rows = {"series_no": series_no, "open_time": bars.open_time[at], **carried, **computed}
        # Without any candle from there on, or where older rows are not kept, what is removed begins with the change.
        since = np.where(first < bars.starts[1:], np.fmin(_at(bars, first), chunk.since), chunk.since)
        noted = checkpoints_in(self.computation, bars, states, since=chunk.since) if states else {}
        return ComputedBatch(chunk, since, until, rows, noted, np.where(bars.earlier > 0, chunk.since, BEGINNING))

    def _ends_of_pieces(self, stale: PendingRecompute) -> Times:
        """The first candle of each series that its next piece leaves for later; NaT where all that is left fits."""
        rows = max(self.cells_at_once // self._cells_a_row, SHORTEST_PIECE)
        until = np.full(len(stale.series), NOT_A_TIME)
        too_long = np.minimum(_bars_between(stale.since, stale) + 1, stale.candle_count) > rows
        if not too_long.any():
            return until
        wanted = numbered(stale.series, since=stale.since, too_long=too_long)
        with self.connect() as connection, registered(connection, "wanted", wanted):
            found = arrays_of(
                connection,
                "select series_no, open_time from (select w.series_no, c.open_time, "
                "row_number() over (partition by w.series_no order by c.open_time) as number "
                f"from {qualified(self.market, READS[self.table])} c join wanted w "
                "on c.instrument = w.instrument and c.timeframe = w.timeframe and c.open_time >= w.since "
                "where w.too_long) where number = $rows + 1",
                {"rows": rows},
            )
        until[found["series_no"]] = found["open_time"]
        return until

    @property
    def _share(self) -> int:
        return max(self.cells_at_once // SHARES, 1)

    @property
    def _cells_a_row(self) -> int:
        return len(self.computation.columns) + len(self.computation.states) + 6

    def _first_rows(self, stale: PendingRecompute, bars: Bars) -> NDArray[np.int64]:
        """The first row of each series to write: a little before the change, and not older than what is kept."""
        changed = np.maximum(_rows_before(bars, stale.since) - self.computation.repaint, 0)
        return bars.starts[:-1] + np.maximum(changed, _rows_before(bars, self._kept_since(stale)))

    def _kept_since(self, stale: PendingRecompute) -> Times:
        """From when on rows are kept, to the day: old rows leave once a day, not one with every new one."""
        kept = [
            _days_before(last, self.keep.get(series.timeframe))
            for series, last in zip(stale.series, stale.last_open_time, strict=True)
        ]
        return np.array(kept, dtype=TIME_UNIT)

    def _chunks(self, stale: PendingRecompute) -> list[PendingRecompute]:
        tail = _bars_between(stale.since, stale) + 1 + self._bars_before
        read_rows = np.minimum(tail, stale.candle_count)
        read = read_rows * (len(self.computation.states) + 6)
        kept = np.maximum(stale.since, self._kept_since(stale))
        written = np.minimum(_bars_between(kept, stale) + 1, stale.candle_count)
        cells = read + written * len(self.computation.columns)
        # What is not computed from one block on is computed of every row that is read.
        cells += read_rows * len(self.computation.columns) * (self.computation.block == 1)
        chunk_no = np.cumsum(cells) // self._share
        return [stale.take(chunk_no == number) for number in np.unique(chunk_no)]

    @property
    def _bars_before(self) -> int:
        """How many bars before the first change are read: those written again, and those that they look back on."""
        return self.computation.warm_up + self.computation.repaint + self.computation.block - 1

    def _read(self, stale: PendingRecompute, until: Times) -> Bars:
        read = self._read_from_checkpoints if self.computation.states else self._read_with_warm_up
        return read(stale, until)

    def _read_from_checkpoints(self, stale: PendingRecompute, until: Times) -> Bars:
        """Candles from the checkpoint after which there are `_bars_before` bars, or from the series' beginning on."""
        with self.connect() as connection:
            wanted = numbered(stale.series, since=stale.since)
            found = checkpoints_before(connection, self.market, self.computation, wanted)
        after = found.open_time + np.timedelta64(1, "us")
        read_from = np.where(found.candles > 0, after, stale.first_open_time)
        return found.go_on(self._candles(stale, read_from, until))

    def _read_with_warm_up(self, stale: PendingRecompute, until: Times) -> Bars:
        """Candles from `_bars_before` bars before the first change on: bounded by time, wider where holes ate it."""
        wanted = np.full(len(stale.series), self._bars_before * SLACK + 1)
        while True:
            read_from = _opening_times(self.calendar, stale, wanted)
            bars = self._candles(stale, read_from, until)
            short = (_rows_before(bars, stale.since) < self._bars_before) & (read_from > stale.first_open_time)
            if not short.any():
                return bars
            wanted = np.where(short, wanted * 2, wanted)

    def _candles(self, stale: PendingRecompute, read_from: Times, until: Times) -> Bars:
        columns = candle_columns(self.two_sided)
        listed = ", ".join(f'c."{name}"' for name in columns)
        wanted = numbered(stale.series, read_from=read_from, until=until)
        with self.connect() as connection, registered(connection, "wanted", wanted):
            rows = arrays_of(
                connection,
                f"select w.series_no, c.open_time, {listed} from {qualified(self.market, READS[self.table])} c "
                "join wanted w on c.instrument = w.instrument and c.timeframe = w.timeframe "
                "where c.open_time >= $earliest and c.open_time >= w.read_from "
                "and (w.until is null or c.open_time < w.until) order by w.series_no, c.open_time",
                {"earliest": read_from.min().astype(datetime)},
            )
        starts = np.searchsorted(rows["series_no"], np.arange(len(stale.series) + 1))
        return Bars(rows["open_time"], {name: rows[name] for name in columns}, starts)

    def _write(self, waiting: list[ComputedBatch]) -> dict[Series, Recomputed]:
        """Store what was computed, in one transaction; nothing waits any more."""
        if not waiting:
            return {}
        made = ComputedBatch.joined(waiting)
        # Once is enough of it in memory.
        waiting.clear()
        stale = made.stale
        wanted = numbered(
            stale.series,
            since=made.since,
            changed=stale.since,
            mark=stale.marks,
            until=made.until,
            begun=made.begun,
            kept=self._kept_since(stale),
        )
        with self.connect() as connection, transaction(connection), registered(connection, "wanted", wanted):
            done = self._replace(connection, stale, made.rows, made.since.min().astype(datetime))
            if made.checkpoints:
                keep_checkpoints(connection, self.market, self.computation, made.checkpoints, of="touched")
            self._let_go(connection, wanted["kept"])
            self._settle(connection)
        return done

    def _replace(
        self, connection: duckdb.DuckDBPyConnection, stale: PendingRecompute, rows: Arrays, earliest: datetime
    ) -> dict[Series, Recomputed]:
        """Put the rows in place of what was there, where it was another.

        Leaves behind, as `touched`, the series that were written.
        """
        table, marks = qualified(self.market, self.table), qualified(self.market, Table.stale)
        # Of a series whose mark is another by now, these rows may be older than those that are there.
        connection.execute(
            f"create temp table touched as select w.* from wanted w join {marks} s "
            f"on s.asset = ? and {same_mark('s', 'w')}",
            [self.table.value],
        )
        is_repainted, is_same = self._stored_before_the_change(connection, stale, rows, earliest)
        staged = {name: _finite(values[~is_same] if is_same.any() else values) for name, values in rows.items()}
        since = {"earliest": earliest}
        theirs = "t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time >= $earliest"
        with registered(connection, "staged", staged):
            if is_repainted.any():
                connection.execute(
                    f"delete from {table} t using staged s join touched w using (series_no) "
                    f"where s.open_time < w.changed and {theirs} and t.open_time = s.open_time",
                    since,
                )
            gone = arrays_of(
                connection,
                f"select w.series_no, count(t.open_time) as n from touched w left join {table} t "
                f"on {theirs} and t.open_time >= w.changed group by w.series_no order by w.series_no",
                since,
            )
            connection.execute(
                f"delete from {table} t using touched w where {theirs} and t.open_time >= w.changed", since
            )
            connection.execute(_insert(table, columns_of(self.computation, self.two_sided)))
        count = partial(np.bincount, minlength=len(stale.series))
        written, repainted = count(staged["series_no"]), count(rows["series_no"][is_repainted])
        return {
            stale.series[number]: Recomputed(
                int(max(written[number] - repainted[number] - before, 0)),
                int(before + repainted[number]),
                int(repainted[number]),
            )
            for number, before in zip(gone["series_no"].tolist(), gone["n"].tolist(), strict=True)
        }

    def _stored_before_the_change(
        self, connection: duckdb.DuckDBPyConnection, stale: PendingRecompute, rows: Arrays, earliest: datetime
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows of before their series' change are stored with other values, and which with the same.

        Only what later bars may repaint can differ there; the other columns need not be looked at.
        """
        differ, same = np.zeros((2, len(rows["series_no"])), dtype=bool)
        columns = {column.name: column.sql_type for column in self.computation.columns if column.repaint}
        early = np.flatnonzero(rows["open_time"] < stale.since[rows["series_no"]])
        if not len(early):
            return differ, same
        values = {name: _finite(rows[name][early]) for name in ("series_no", "open_time", *columns)}
        equal = " and ".join(
            f't."{name}" is not distinct from {_as_stored(name, kind)}' for name, kind in columns.items()
        )
        with registered(connection, "staged", {**values, "number": early}):
            found = arrays_of(
                connection,
                f"select s.number, {equal or 'true'} as is_same from staged s join touched w using (series_no) "
                f"join {qualified(self.market, self.table)} t on t.instrument = w.instrument "
                "and t.timeframe = w.timeframe and t.open_time = s.open_time where t.open_time >= $earliest",
                {"earliest": earliest},
            )
        is_same = found["is_same"].astype(bool)
        same[found["number"][is_same]] = True
        differ[found["number"][~is_same]] = True
        return differ, same

    def _let_go(self, connection: duckdb.DuckDBPyConnection, oldest: Times) -> None:
        """Remove the rows of the series in `touched` that are older than what is kept."""
        if (oldest == FOR_EVER).all():
            return
        connection.execute(
            f"delete from {qualified(self.market, self.table)} t using touched w "
            "where t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time < w.kept "
            "and t.open_time < $newest",
            {"newest": oldest.max().astype(datetime)},
        )

    def _settle(self, connection: duckdb.DuckDBPyConnection) -> None:
        stale = qualified(self.market, Table.stale)
        connection.execute(
            f"update {stale} s set since = d.until from touched d "
            f"where s.asset = ? and d.until is not null and {same_mark('s', 'd')}",
            [self.table.value],
        )
        settle(connection, self.market, self.table, made="(from touched where until is null)")
        # What follows from these rows follows from their candles: flags that were written again change none of it.
        connection.execute("update touched set since = changed")
        mark_stale(connection, self.market, FEEDS[self.table])
        connection.execute("drop table touched")


def settle(connection: duckdb.DuckDBPyConnection, market: str, asset: Table, made: str) -> None:
    """Let the series in the table `made` count as made, where nothing changed since they were read."""
    connection.execute(
        f"delete from {qualified(market, Table.stale)} s using {made} d where s.asset = ? and {same_mark('s', 'd')}",
        [asset.value],
    )


def same_mark(left: str, right: str) -> str:
    """SQL for two rows of one series with the same mark."""
    return (
        f"{left}.instrument = {right}.instrument and {left}.timeframe = {right}.timeframe "
        f"and {left}.mark is not distinct from {right}.mark"
    )


def _bars_between(first: Times, stale: PendingRecompute) -> NDArray[np.int64]:
    """How many bars of nominal length lie between instants and each series' last bar."""
    return (stale.last_open_time - first) // stale.lengths


def _days_before(last: np.datetime64, kept: timedelta | None) -> np.datetime64:
    return FOR_EVER if kept is None else (last - np.timedelta64(kept)).astype("datetime64[D]").astype(TIME_UNIT)


def _opening_times(calendar: Calendar, stale: PendingRecompute, bars: Floats) -> Times:
    """When the bar opens that lies so many candles before each series' change, if they come as they have so far."""
    nominal = (stale.last_open_time - stale.first_open_time) // stale.lengths + 1
    # Where hardly any came (or one of long ago) the average says nothing of the newest; then let the query tell.
    density = np.clip(stale.candle_count / (nominal * calendar.open_share), SPARSEST, 1)
    counts = np.ceil(bars / density).astype(np.int64)
    result = stale.first_open_time.copy()
    timeframes = np.array([series.timeframe.value for series in stale.series])
    partly = bars < stale.candle_count
    for name, since in set(zip(timeframes[partly].tolist(), stale.since[partly], strict=True)):
        chosen = partly & (timeframes == name) & (stale.since == since)
        result[chosen] = _counted_back(calendar, Timeframe(name), since, counts[chosen])
    return result


def _counted_back(calendar: Calendar, timeframe: Timeframe, since: np.datetime64, counts: NDArray[np.int64]) -> Times:
    length = length_of(timeframe)
    # Four days more than the share of open hours says: a long weekend.
    start = since - length * int(np.ceil(counts.max() / calendar.open_share)) - LONG_WEEKEND
    grid = np.append(start, calendar.open_times(timeframe, start, since))
    return grid[np.maximum(len(grid) - counts, 0)]


def _rows_before(bars: Bars, since: Times) -> NDArray[np.int64]:
    earlier = bars.open_time < np.repeat(since, np.diff(bars.starts))
    return np.add.reduceat(np.append(earlier, False).astype(np.int64), bars.starts[:-1]) * (np.diff(bars.starts) > 0)


def _at(bars: Bars, rows: NDArray[np.int64]) -> Times:
    return np.append(bars.open_time, np.datetime64("NaT"))[np.minimum(rows, len(bars))]


def _insert(table: str, columns: Mapping[str, str]) -> str:
    own = {name: kind for name, kind in columns.items() if name not in ("instrument", "timeframe")}
    listed = ", ".join(f'"{name}"' for name in own)
    values = ", ".join(_as_stored(name, kind) for name, kind in own.items())
    return (
        f"insert into {table} (instrument, timeframe, {listed}) "
        f"select w.instrument, w.timeframe, {values} from staged s join touched w using (series_no)"
    )


def _as_stored(name: str, kind: str) -> str:
    # An array's NaN is NULL already.
    return f's."{name}"' if kind in ("varchar", "timestamp", "double") else f's."{name}"::{kind}'


def _finite(values: NDArray) -> NDArray:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values
    return np.where(np.isfinite(values), values, np.nan)
