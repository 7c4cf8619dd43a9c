"""Computed tables kept in step with their candles: only from the first candle that changed, with what it takes before.

Three moments: read (one query for all series), compute (no connection open), write (one transaction). What changed in
between is not lost: a series stays stale unless what was read is still the latest.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.market.calendar import Calendar, length_of
from refresh_pipeline.market.candles import Times, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.raw import mark_stale
from refresh_pipeline.warehouse.schema import Table, candle_columns, columns_of, qualified
from refresh_pipeline.warehouse.staging import arrays_of, numbered, registered, text_or_null

Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

# How many cells (rows times columns) are computed and held at once: about a quarter of a gigabyte.
CELLS_AT_ONCE = 30_000_000
# The last thing that each table's rows are made from, and what is made from them.
READS = {Table.enhanced_candles: Table.raw_candles, Table.indicators: Table.enhanced_candles}
FEEDS = {Table.enhanced_candles: (Table.indicators, Table.exports), Table.indicators: (Table.exports,)}


@dataclass(frozen=True, slots=True)
class Stale:
    """Series that have work left: the first candle that changed, and how often it was marked."""

    series: Sequence[Series]
    since: Times
    changes: NDArray[np.int64]
    candle_count: NDArray[np.int64]
    first_open_time: Times
    last_open_time: Times

    def take(self, chosen: NDArray) -> "Stale":
        """Some of them."""
        return Stale(
            [self.series[number] for number in np.arange(len(self.series))[chosen]],
            self.since[chosen],
            self.changes[chosen],
            self.candle_count[chosen],
            self.first_open_time[chosen],
            self.last_open_time[chosen],
        )


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What became of one series: rows that were not there before, rows written again, and from when on."""

    added: int
    revised: int
    since: np.datetime64


def stale_series(connection: duckdb.DuckDBPyConnection, market: str, asset: Table, batch: Sequence[Series]) -> Stale:
    """The series of the batch that this asset must make again, in the batch's order."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, t.since, t.changes, s.candle_count, s.first_open_time, s.last_open_time "
            f"from wanted w join {qualified(market, Table.stale)} t using (instrument, timeframe) "
            f"join {qualified(market, Table.series)} s using (instrument, timeframe) "
            "where t.asset = ? order by w.series_no",
            [asset.value],
        )
    return Stale(
        [batch[number] for number in rows["series_no"]],
        rows["since"],
        rows["changes"],
        rows["candle_count"],
        rows["first_open_time"],
        rows["last_open_time"],
    )


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

    @property
    def table(self) -> Table:
        """The table this writes."""
        return Table(self.computation.name)

    def run(self, stale: Stale) -> dict[Series, Recomputed]:
        """Read, compute and write, in chunks that fit in memory."""
        done: dict[Series, Recomputed] = {}
        for chunk in _chunks(stale, self.computation):
            bars = self._read(chunk)
            done |= self._write(chunk, bars, self.computation.compute(bars))
        return done

    def _read(self, stale: Stale) -> Bars:
        """Candles from `warm_up` bars before the first change on: bounded by time, wider where holes ate the bound."""
        needed = self.computation.warm_up + self.computation.repaint
        read_from = _time_of(stale, needed / self.calendar.open_share + 1)
        while True:
            bars = self._candles(stale, read_from)
            short = (_rows_before(bars, stale.since) < needed) & (read_from > stale.first_open_time)
            if not short.any():
                return bars
            # A series full of holes: read it from its beginning rather than guess again.
            read_from = np.where(short, stale.first_open_time, read_from)

    def _candles(self, stale: Stale, read_from: Times) -> Bars:
        columns = candle_columns(self.two_sided)
        listed = ", ".join(f'c."{name}"' for name in columns)
        wanted = numbered(stale.series, read_from=read_from)
        with self.connect() as connection, registered(connection, "wanted", wanted):
            rows = arrays_of(
                connection,
                f"select w.series_no, c.open_time, {listed} from {qualified(self.market, READS[self.table])} c "
                "join wanted w on c.instrument = w.instrument and c.timeframe = w.timeframe "
                "where c.open_time >= $earliest and c.open_time >= w.read_from order by w.series_no, c.open_time",
                {"earliest": read_from.min().astype(datetime)},
            )
        starts = np.searchsorted(rows["series_no"], np.arange(len(stale.series) + 1))
        return Bars(rows["open_time"], {name: rows[name] for name in columns}, starts)

    def _write(self, stale: Stale, bars: Bars, computed: Mapping[str, Values]) -> dict[Series, Recomputed]:
        first_row = np.maximum(_rows_before(bars, stale.since) - self.computation.repaint, 0)
        lengths = np.diff(bars.starts)
        series_no = np.repeat(np.arange(len(stale.series), dtype=np.int32), lengths)
        keep = bars.position >= first_row[series_no]
        carried = bars.columns if self.computation.carries_candles else {}
        rows = {"series_no": series_no[keep], "open_time": bars.open_time[keep]}
        rows |= {name: np.asarray(values)[keep] for name, values in {**carried, **computed}.items()}
        write_from = np.where(lengths > first_row, _at(bars, bars.starts[:-1] + first_row), stale.since)
        wanted = numbered(stale.series, write_from=write_from, since=stale.since, changes=stale.changes)
        with (
            self.connect() as connection,
            transaction(connection),
            registered(connection, "staged", rows),
            registered(connection, "wanted", wanted),
        ):
            before, after = self._replace(connection, write_from.min().astype(datetime))
            _settle(connection, self.market, self.table)
        return {
            series: Recomputed(after[number] - before[number], before[number], write_from[number])
            for number, series in enumerate(stale.series)
        }

    def _replace(self, connection: duckdb.DuckDBPyConnection, earliest: datetime) -> tuple[list[int], list[int]]:
        table = qualified(self.market, self.table)
        theirs = "t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time >= w.write_from"
        count = (
            f"select w.series_no, count(t.open_time) as n from wanted w left join "
            f"(select * from {table} where open_time >= $earliest) t on {theirs} "
            "group by w.series_no order by w.series_no"
        )
        at = {"earliest": earliest}
        before = arrays_of(connection, count, at)["n"].tolist()
        connection.execute(f"delete from {table} t using wanted w where {theirs} and t.open_time >= $earliest", at)
        connection.execute(_insert(table, columns_of(self.computation, self.two_sided)))
        return before, arrays_of(connection, count, at)["n"].tolist()


def _chunks(stale: Stale, computation: Computation) -> list[Stale]:
    lengths = np.array([length_of(series.timeframe) for series in stale.series], dtype="timedelta64[us]")
    if len(lengths) == 0:
        return []
    tail = (stale.last_open_time - stale.since) // lengths + 1 + computation.warm_up
    cells = np.minimum(tail, stale.candle_count) * (len(computation.columns) + 6)
    chunk_no = np.cumsum(cells) // CELLS_AT_ONCE
    return [stale.take(chunk_no == number) for number in np.unique(chunk_no)]


def _time_of(stale: Stale, bars_before: float) -> Times:
    lengths = np.array([length_of(series.timeframe) for series in stale.series], dtype="timedelta64[us]")
    # Two days more: a long weekend in front of a handful of bars is no reason to read everything.
    margin = np.timedelta64(2 * 24 * 3600, "s").astype("timedelta64[us]")
    return stale.since - lengths * int(np.ceil(bars_before)) - margin


def _rows_before(bars: Bars, since: Times) -> NDArray[np.int64]:
    earlier = bars.open_time < np.repeat(since, np.diff(bars.starts))
    return np.add.reduceat(np.append(earlier, False).astype(np.int64), bars.starts[:-1]) * (np.diff(bars.starts) > 0)


def _at(bars: Bars, rows: NDArray[np.int64]) -> Times:
    return np.append(bars.open_time, instant("1970-01-01"))[np.minimum(rows, len(bars))]


def _insert(table: str, columns: dict[str, str]) -> str:
    own = {name: kind for name, kind in columns.items() if name not in ("instrument", "timeframe")}
    listed = ", ".join(f'"{name}"' for name in own)
    values = ", ".join(_as_stored(name, kind) for name, kind in own.items())
    return (
        f"insert into {table} (instrument, timeframe, {listed}) "
        f"select w.instrument, w.timeframe, {values} from staged s join wanted w using (series_no) "
        "order by s.open_time, s.series_no"
    )


def _as_stored(name: str, kind: str) -> str:
    if kind in ("varchar", "timestamp"):
        return f's."{name}"'
    return f"({text_or_null(name)})::{kind}"


def _settle(connection: duckdb.DuckDBPyConnection, market: str, asset: Table) -> None:
    stale = qualified(market, Table.stale)
    connection.execute(
        f"delete from {stale} s using wanted w where s.asset = ? and s.instrument = w.instrument "
        "and s.timeframe = w.timeframe and s.changes = w.changes",
        [asset.value],
    )
    connection.execute("create temp table touched as select instrument, timeframe, since from wanted")
    for fed in FEEDS.get(asset, ()):
        mark_stale(connection, market, fed)
    connection.execute("drop table touched")
