"""Brings computed tables up to date: each series from its first changed candle on, after the warm-up that it needs.

Three phases: read (one query for all series), compute (no connection open), write (one transaction). A change between
read and write is not lost: only series whose queued version is still the one that was read are written.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Floats, Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import BEGINNING, Arrays, arrays_of, days_before, numbered, registered
from refresh_pipeline.warehouse.checkpoints import (
    checkpoints_before,
    checkpoints_in,
    keep_checkpoints,
    newest_checkpoints,
)
from refresh_pipeline.warehouse.computed_batch import ComputedBatch, PendingRecompute
from refresh_pipeline.warehouse.connection import Connect, transaction
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import Table, candle_columns, columns_of, qualified
from refresh_pipeline.warehouse.stored_values import stored_values
from refresh_pipeline.warehouse.versions import record_changes

# How many cells (rows times columns) wait to be written at most: a third of a gigabyte, enough of indicators for one of
# DuckDB's row groups of 122,880 rows. A whole row group is written once, at three times the speed of a quarter.
CELLS_AT_ONCE = 45_000_000
# A ninth of that for what is read and computed at once: a tick takes no longer for it.
SHARES = 9
# So many chunks of a share are computed, or queued for it, while a transaction writes the ones before: as many as it
# writes and a third more, so that neither thread waits for the other's last chunk.
CHUNKS_AHEAD = 12
# So many candles of a few chunks are read by one query: 30 MB with what DuckDB holds. A query looks at all new rows.
CANDLES_AT_ONCE = 250_000
# Read slightly more than the calendar asks for: a few candles that never came then need no second query.
SLACK = 1.05
# At least one of four candles that the calendar expects is assumed to be stored.
SPARSEST = 0.25
NOT_A_TIME = np.datetime64("NaT", "us")
# The shortest piece of a series that is too long for memory, in rows: so few fit anywhere.
SHORTEST_PIECE = 1024
LONG_WEEKEND = np.timedelta64(4 * 24 * 3600 * 1_000_000, "us")
# The assets that are made from each table's rows. Rows are computed from raw candles: those of other tables expire.
FEEDS = {Table.enhanced_candles: (Table.indicators, Table.exports), Table.indicators: (Table.exports,)}
# SQL for a stored row of a series in `touched`. The bound that is a value lets DuckDB skip row groups.
_STORED = "t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time >= $earliest"


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The rows of one series that were added, and those that were written again.

    `repainted` of the latter lie before the change: later bars altered their flags.
    """

    added: int
    revised: int
    repainted: int = 0

    def __add__(self, later: "Recomputed") -> "Recomputed":
        """Two pieces of one series; the rows that the later piece repaints are counted by the earlier one."""
        return Recomputed(self.added + later.added, self.revised + later.revised - later.repainted, self.repainted)


def pending_recompute(
    connection: duckdb.DuckDBPyConnection, market: str, asset: Table, batch: Sequence[Series]
) -> PendingRecompute:
    """The series of the batch that are queued for this asset, in the batch's order."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, t.since, t.version, s.candle_count, s.first_open_time, s.last_open_time "
            f"from wanted w join {qualified(market, Table.recompute_queue)} t using (instrument, timeframe) "
            f"join {qualified(market, Table.series)} s using (instrument, timeframe) "
            "where t.asset = ? order by w.series_no",
            [asset.value],
        )
    numbers = rows.pop("series_no")
    return PendingRecompute([batch[number] for number in numbers], *rows.values())


@dataclass(frozen=True, slots=True)
class TailRefresh:
    """Computes one table of one market again where its candles changed.

    The result equals computing every series from its first candle, to 1e-9 relative in every column.
    """

    connect: Connect
    market: str
    computation: Computation
    calendar: Calendar
    two_sided: bool
    # How long rows of a timeframe are kept, counted back from a series' newest candle; without an entry for ever.
    keep: Mapping[Timeframe, timedelta] = field(default_factory=dict)
    cells_at_once: int = CELLS_AT_ONCE
    # The asset classes of instruments, as `Market.classes_of` gives them.
    classes: Callable[[Sequence[Series]], NDArray[np.object_] | None] = lambda series: None
    # One connection for every `connect` in its block.
    session: Callable[[], AbstractContextManager[None]] = nullcontext
    # Called after each transaction with the number of series written so far, and of all.
    progress: Callable[[int, int], None] = lambda written, total: None
    # Whether `connect` may be called by a second thread, which computes while this one writes.
    overlaps: bool = False

    @property
    def table(self) -> Table:
        """The table this writes."""
        return Table(self.computation.name)

    def run(self, pending: PendingRecompute) -> dict[Series, Recomputed]:
        """Read, compute and write, in chunks that fit in memory; gives the series that are current now.

        A series that changed in the meantime, or that another process made current, is neither written nor given.
        """
        recomputed: dict[Series, Recomputed] = {}
        waiting: list[ComputedBatch] = []
        with closing(self._computed(self._chunks(pending))) as computed:
            for whole_chunk, first_batch in computed:
                chunk, batch = whole_chunk, first_batch
                while True:
                    waiting.append(batch)
                    until = batch.until
                    if batch.is_whole and sum(map(len, waiting)) * self._cells_a_row < self.cells_at_once:
                        break
                    written = self._write(waiting)
                    recomputed |= _added(recomputed, written)
                    self.progress(len(recomputed), len(pending.series))
                    # A series that is too long for memory is stored a piece at a time.
                    goes_on = np.array([series in written for series in chunk.series], dtype=bool) & ~np.isnat(until)
                    chunk = replace(chunk, since=until).take(goes_on)
                    if not len(chunk.series):
                        break
                    batch = self._next_piece(chunk)
        return recomputed | _added(recomputed, self._write(waiting))

    def computes_ahead(self, pending: PendingRecompute) -> bool:
        """Whether `run` computes rows in a second thread while it writes others: of many chunks alone."""
        return self.overlaps and len(self._chunks(pending)) > SHARES

    def _computed(
        self, chunks: Sequence[PendingRecompute]
    ) -> Generator[tuple[PendingRecompute, ComputedBatch], None, None]:
        """Each chunk with its first piece; of many chunks, the next are computed while earlier ones are written."""
        if len(chunks) <= SHARES:
            for few in self._read_at_once(chunks):
                yield from self._read_together(few)
            return
        if not self.overlaps:
            yield from ((chunk, self._next_piece(chunk)) for chunk in chunks)
            return
        ahead: deque[Future[ComputedBatch]] = deque()
        # A chunk is one long series at least: of those that are larger than a share, fewer wait.
        largest = max(int(self._cells(chunk).sum()) for chunk in chunks)
        most = min(max(CHUNKS_AHEAD * self._share // largest, 2), CHUNKS_AHEAD)
        # One thread: DuckDB writes without Python's lock, and computing holds it.
        with ThreadPoolExecutor(1, thread_name_prefix="compute") as worker:
            try:
                for number, chunk in enumerate(chunks):
                    upcoming = chunks[number + len(ahead) : number + most]
                    ahead.extend(worker.submit(self._next_piece, each) for each in upcoming)
                    yield chunk, ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read_at_once(self, chunks: Sequence[PendingRecompute]) -> Iterator[list[PendingRecompute]]:
        """The chunks by what is read at once."""
        rows = np.cumsum([self._read_rows(chunk).sum() for chunk in chunks])
        for _, few in groupby(zip(rows // CANDLES_AT_ONCE, chunks, strict=True), key=itemgetter(0)):
            yield [chunk for _, chunk in few]

    def _read_together(
        self, chunks: Sequence[PendingRecompute]
    ) -> Generator[tuple[PendingRecompute, ComputedBatch], None, None]:
        """Each of a few chunks with its first piece; their candles are read by one query."""
        together = PendingRecompute.concat(chunks)
        until = self._ends_of_pieces(together)
        with self.session():
            bars = self._read(together, until)
        first = 0
        for chunk in chunks:
            last = first + len(chunk.series)
            yield chunk, self._compute_bars(chunk, until[first:last], bars.of_series(first, last))
            first = last

    def _next_piece(self, chunk: PendingRecompute) -> ComputedBatch:
        return self.compute(chunk, self._ends_of_pieces(chunk))

    def compute(self, chunk: PendingRecompute, until: Times) -> ComputedBatch:
        """Read and compute each series of the chunk before its instant of `until`; all of it where that is NaT.

        Values are as the table stores them.
        """
        with self.session():
            bars = self._read(chunk, until)
        return self._compute_bars(chunk, until, bars)

    def _compute_bars(self, chunk: PendingRecompute, until: Times, bars: Bars) -> ComputedBatch:
        bars = bars.from_rows(self._first_rows(chunk, bars))
        computed, states = self.computation.compute_with_states(bars)
        at, first = bars.wanted_rows, bars.first_rows
        series_no = np.repeat(np.arange(len(chunk.series), dtype=np.int32), bars.lengths)[at]
        carried = (
            {name: values[at] for name, values in bars.columns.items()} if self.computation.carries_candles else {}
        )
        rows = {"series_no": series_no, "open_time": bars.open_time[at], **carried, **computed}
        # Here, where rows are few enough for the processor's cache, and beside the thread that writes.
        rows = stored_values(self.table, rows)
        # Without any candle from there on, or where older rows are not kept, rows are replaced from the change on.
        since = np.where(first < bars.starts[1:], np.fmin(_at(bars, first), chunk.since), chunk.since)
        recent = bars if bars.recent is None else bars.recent
        checkpoints = checkpoints_in(self.computation, recent, states, since=chunk.since) if states else {}
        begun = np.where(recent.earlier > 0, chunk.since, BEGINNING)
        return ComputedBatch(chunk, since, until, rows, checkpoints, begun)

    def _ends_of_pieces(self, pending: PendingRecompute) -> Times:
        """The first candle of each series that is left for its next piece; NaT where the rest of the series fits."""
        rows = max(self.cells_at_once // self._cells_a_row, SHORTEST_PIECE)
        until = np.full(len(pending.series), NOT_A_TIME)
        too_long = np.minimum(_bars_between(pending.since, pending) + 1, pending.candle_count) > rows
        if not too_long.any():
            return until
        wanted = numbered(pending.series, since=pending.since, too_long=too_long)
        with self.connect() as connection, registered(connection, "wanted", wanted):
            ends = arrays_of(
                connection,
                "select series_no, open_time from (select w.series_no, c.open_time, "
                "row_number() over (partition by w.series_no order by c.open_time) as number "
                f"from {qualified(self.market, Table.raw_candles)} c join wanted w "
                "on c.instrument = w.instrument and c.timeframe = w.timeframe and c.open_time >= w.since "
                "where w.too_long) where number = $rows + 1",
                {"rows": rows},
            )
        until[ends["series_no"]] = ends["open_time"]
        return until

    @property
    def _share(self) -> int:
        return max(self.cells_at_once // SHARES, 1)

    @property
    def _cells_a_row(self) -> int:
        return len(self.computation.columns) + len(self.computation.states) + 6

    def _first_rows(self, pending: PendingRecompute, bars: Bars) -> NDArray[np.int64]:
        """The first row of each series to write: where later bars may repaint, but not older than the rows kept."""
        changed = np.maximum(_rows_before(bars, pending.since) - self.computation.repaint, 0)
        return bars.starts[:-1] + np.maximum(changed, _rows_before(bars, self._kept_since(pending)))

    def _kept_since(self, pending: PendingRecompute) -> Times:
        """The instant from which on each series' rows are kept; whole days, so that rows expire once a day."""
        kept = [
            days_before(last, self.keep.get(series.timeframe))
            for series, last in zip(pending.series, pending.last_open_time, strict=True)
        ]
        return np.array(kept, dtype=TIME_UNIT)

    def _chunks(self, pending: PendingRecompute) -> list[PendingRecompute]:
        chunk_no = np.cumsum(self._cells(pending)) // self._share
        return [pending.take(chunk_no == number) for number in np.unique(chunk_no)]

    def _cells(self, pending: PendingRecompute) -> NDArray[np.int64]:
        """How many cells of each series are read and computed at once."""
        read_rows = self._read_rows(pending)
        read = read_rows * (len(self.computation.states) + 6)
        kept = np.maximum(pending.since, self._kept_since(pending))
        written = np.minimum(_bars_between(kept, pending) + 1, pending.candle_count)
        cells = read + written * len(self.computation.columns)
        # Without blocks, every row that is read is computed.
        return cells + read_rows * len(self.computation.columns) * (self.computation.block == 1)

    def _read_rows(self, pending: PendingRecompute) -> NDArray[np.int64]:
        """How many candles of each series are read."""
        tail = _bars_between(pending.since, pending) + 1 + self._bars_before
        return np.minimum(tail, pending.candle_count)

    @property
    def _bars_before(self) -> int:
        """How many bars before the first change are read: the repainted ones and the warm-up."""
        return self.computation.warm_up + self.computation.repaint + self.computation.block - 1

    def _read(self, pending: PendingRecompute, until: Times) -> Bars:
        if not self.computation.stored_states:
            return self._read_with_warm_up(pending, until)
        bars = self.read_from_checkpoints(pending, until)
        # Without blocks, bars are read from the checkpoint that recursions go on from.
        if self.computation.block == 1 or not self.computation.continues_anywhere or self.computation.repaint:
            return bars
        wanted = numbered(pending.series, since=pending.since)
        with self.connect() as connection:
            newest = newest_checkpoints(connection, self.market, self.computation, wanted, bars.earlier == 0)
        return replace(bars, recent=newest.go_on(bars, self.computation.lookback))

    def read_from_checkpoints(self, pending: PendingRecompute, until: Times | None = None) -> Bars:
        """Candles from the newest checkpoint that `_bars_before` bars follow, or from the series' beginning.

        Without `until`, up to each series' newest one.
        """
        until = np.full(len(pending.series), NOT_A_TIME) if until is None else until
        with self.connect() as connection:
            wanted = numbered(pending.series, since=pending.since)
            checkpoints = checkpoints_before(connection, self.market, self.computation, wanted)
        looks_back_to = checkpoints.looks_back_to
        after = looks_back_to + np.timedelta64(1, "us")
        read_from = np.where(np.isnat(looks_back_to), pending.first_open_time, after)
        return checkpoints.go_on(self._candles(pending, read_from, until), self.computation.lookback)

    def _read_with_warm_up(self, pending: PendingRecompute, until: Times) -> Bars:
        """Candles from `_bars_before` bars before the first change; reads further back where gaps leave too few."""
        wanted = np.full(len(pending.series), self._bars_before * SLACK + 1)
        while True:
            read_from = _opening_times(self.calendar, pending, wanted)
            bars = self._candles(pending, read_from, until)
            short = (_rows_before(bars, pending.since) < self._bars_before) & (read_from > pending.first_open_time)
            if not short.any():
                return bars
            wanted = np.where(short, wanted * 2, wanted)

    def _candles(self, pending: PendingRecompute, read_from: Times, until: Times) -> Bars:
        columns = candle_columns(self.two_sided)
        listed = ", ".join(f'c."{name}"' for name in columns)
        wanted = numbered(pending.series, read_from=read_from, until=until)
        with self.connect() as connection, registered(connection, "wanted", wanted):
            rows = arrays_of(
                connection,
                f"select w.series_no, c.open_time, {listed} from {qualified(self.market, Table.raw_candles)} c "
                "join wanted w on c.instrument = w.instrument and c.timeframe = w.timeframe "
                "where c.open_time >= $earliest and c.open_time >= w.read_from "
                "and (w.until is null or c.open_time < w.until) order by w.series_no, c.open_time",
                {"earliest": read_from.min().astype(datetime)},
            )
        starts = np.searchsorted(rows["series_no"], np.arange(len(pending.series) + 1))
        classes = self.classes(pending.series)
        return Bars(rows["open_time"], {name: rows[name] for name in columns}, starts, classes=classes)

    def _write(self, waiting: list[ComputedBatch]) -> dict[Series, Recomputed]:
        """Store the computed batches in one transaction, and empty the list."""
        if not waiting:
            return {}
        # Ticks read the newest rows of a table whose flags later bars repaint: fastest in order of time.
        batch = ComputedBatch.concat(waiting, by_series=not self.computation.repaint)
        # Their rows must not be in memory twice.
        waiting.clear()
        wanted = numbered(
            batch.pending.series,
            since=batch.since,
            changed=batch.pending.since,
            version=batch.pending.versions,
            until=batch.until,
            begun=batch.begun,
            kept=self._kept_since(batch.pending),
        )
        with self.connect() as connection, transaction(connection), registered(connection, "wanted", wanted):
            self._choose_unchanged(connection)
            recomputed = self._replace_rows(connection, batch)
            if batch.checkpoints:
                keep_checkpoints(connection, self.market, self.computation, batch.checkpoints, of="touched")
            self._delete_expired(connection, wanted["kept"])
            self._update_queue(connection)
            connection.execute("drop table touched")
        return recomputed

    def _choose_unchanged(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create `touched`: the series of `wanted` that are queued in the version that was read.

        Where the version differs, the stored rows may be newer than the computed ones. While columns of a series are
        queued, its checkpoints lack their states.
        """
        connection.execute(
            f"create temp table touched as select w.* from wanted w "
            f"join {qualified(self.market, Table.recompute_queue)} q on q.asset = $asset and {same_version('q', 'w')} "
            f"where not exists (select 1 from {qualified(self.market, Table.column_queue)} c where c.asset = $asset "
            "and c.instrument = w.instrument and c.timeframe = w.timeframe)",
            {"asset": self.table.value},
        )

    def _replace_rows(self, connection: duckdb.DuckDBPyConnection, batch: ComputedBatch) -> dict[Series, Recomputed]:
        """Put the computed rows of the series in `touched` in place of the stored ones that differ or have changed."""
        earliest = batch.since.min().astype(datetime)
        is_repainted, is_same = self._stored_before_the_change(connection, batch.pending, batch.rows, earliest)
        if is_repainted.any():
            repainted = {name: batch.rows[name][is_repainted] for name in ("series_no", "open_time")}
            with registered(connection, "staged", repainted):
                self._delete_repainted(connection, earliest)
        replaced = self._delete_changed(connection, earliest)
        is_chosen = ~is_same & np.isin(batch.rows["series_no"], list(replaced))
        rows = batch.rows if is_chosen.all() else {name: values[is_chosen] for name, values in batch.rows.items()}
        with registered(connection, "staged", rows):
            connection.execute(
                _insert(qualified(self.market, self.table), columns_of(self.computation, self.two_sided))
            )
        count = partial(np.bincount, minlength=len(batch.pending.series))
        written = count(rows["series_no"]).tolist()
        revised = count(batch.rows["series_no"][is_repainted]).tolist()
        return {
            batch.pending.series[number]: Recomputed(
                max(written[number] - revised[number] - deleted, 0), deleted + revised[number], revised[number]
            )
            for number, deleted in replaced.items()
        }

    def _delete_repainted(self, connection: duckdb.DuckDBPyConnection, earliest: datetime) -> None:
        """Delete the stored rows of before the change that a staged row replaces."""
        connection.execute(
            f"delete from {qualified(self.market, self.table)} t using staged s join touched w using (series_no) "
            f"where {_STORED} and t.open_time = s.open_time",
            {"earliest": earliest},
        )

    def _delete_changed(self, connection: duckdb.DuckDBPyConnection, earliest: datetime) -> dict[int, int]:
        """Delete the stored rows from the change on; gives how many, by the number of each series in `touched`."""
        table, values = qualified(self.market, self.table), {"earliest": earliest}
        deleted = arrays_of(
            connection,
            f"select w.series_no, count(t.open_time) as n from touched w left join {table} t "
            f"on {_STORED} and t.open_time >= w.changed group by w.series_no order by w.series_no",
            values,
        )
        connection.execute(
            f"delete from {table} t using touched w where {_STORED} and t.open_time >= w.changed", values
        )
        return dict(zip(deleted["series_no"].tolist(), deleted["n"].tolist(), strict=True))

    def _stored_before_the_change(
        self, connection: duckdb.DuckDBPyConnection, pending: PendingRecompute, rows: Arrays, earliest: datetime
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows before their series' change are stored with other values, and which with the same values.

        Only columns that later bars repaint can differ before the change; the other columns are not compared.
        """
        differ, same = np.zeros((2, len(rows["series_no"])), dtype=bool)
        columns = {column.name: column.sql_type for column in self.computation.columns if column.repaint}
        early = np.flatnonzero(rows["open_time"] < pending.since[rows["series_no"]])
        if not len(early):
            return differ, same
        values = {name: rows[name][early] for name in ("series_no", "open_time", *columns)}
        equal = " and ".join(
            f't."{name}" is not distinct from {as_stored(name, kind)}' for name, kind in columns.items()
        )
        with registered(connection, "staged", {**values, "number": early}):
            compared = arrays_of(
                connection,
                f"select s.number, {equal or 'true'} as is_same from staged s join touched w using (series_no) "
                f"join {qualified(self.market, self.table)} t on t.instrument = w.instrument "
                "and t.timeframe = w.timeframe and t.open_time = s.open_time where t.open_time >= $earliest",
                {"earliest": earliest},
            )
        is_same = compared["is_same"].astype(bool)
        same[compared["number"][is_same]] = True
        differ[compared["number"][~is_same]] = True
        return differ, same

    def _delete_expired(self, connection: duckdb.DuckDBPyConnection, oldest: Times) -> None:
        """Delete the rows of the series in `touched` that are older than the rows kept.

        Readers see no change: these rows are computed on read from now on.
        """
        if (oldest == BEGINNING).all():
            return
        connection.execute(
            f"delete from {qualified(self.market, self.table)} t using touched w where t.instrument = w.instrument "
            "and t.timeframe = w.timeframe and t.open_time < w.kept and t.open_time < $newest",
            {"newest": oldest.max().astype(datetime)},
        )

    def _update_queue(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Take the series in `touched` off the queue, but for what is left for later, and queue what they feed."""
        connection.execute(
            f"update {qualified(self.market, Table.recompute_queue)} q set since = d.until from touched d "
            f"where q.asset = ? and d.until is not null and {same_version('q', 'd')}",
            [self.table.value],
        )
        clear(connection, self.market, self.table, computed="(from touched where until is null)")
        record_changes(connection, self.market, [self.table])
        # Later assets depend on the candles: flags that were repainted before the change alter none of them.
        connection.execute("update touched set since = changed")
        queue_recompute(connection, self.market, FEEDS[self.table])


def clear(connection: duckdb.DuckDBPyConnection, market: str, asset: Table, computed: str) -> None:
    """Take the series in the table `computed` off the queue, where nothing changed since they were read."""
    connection.execute(
        f"delete from {qualified(market, Table.recompute_queue)} q using {computed} d "
        f"where q.asset = ? and {same_version('q', 'd')}",
        [asset.value],
    )


def same_version(left: str, right: str) -> str:
    """SQL for two rows of one series with the same version."""
    return (
        f"{left}.instrument = {right}.instrument and {left}.timeframe = {right}.timeframe "
        f"and {left}.version is not distinct from {right}.version"
    )


def _bars_between(first: Times, pending: PendingRecompute) -> NDArray[np.int64]:
    """How many bars of nominal length lie between instants and each series' last bar."""
    return (pending.last_open_time - first) // pending.lengths


def _opening_times(calendar: Calendar, pending: PendingRecompute, bars: Floats) -> Times:
    """The open time of the bar that lies `bars` candles before each series' change, estimated from its density."""
    nominal = (pending.last_open_time - pending.first_open_time) // pending.lengths + 1
    # Where hardly any candles are stored, or a single old one, the average says nothing about the newest.
    density = np.clip(pending.candle_count / (nominal * calendar.open_share), SPARSEST, 1)
    counts = np.ceil(bars / density).astype(np.int64)
    result = pending.first_open_time.copy()
    timeframes = np.array([series.timeframe.value for series in pending.series])
    partly = bars < pending.candle_count
    for name, since in set(zip(timeframes[partly].tolist(), pending.since[partly], strict=True)):
        chosen = partly & (timeframes == name) & (pending.since == since)
        result[chosen] = _counted_back(calendar, Timeframe(name), since, counts[chosen])
    return result


def _counted_back(calendar: Calendar, timeframe: Timeframe, since: np.datetime64, counts: NDArray[np.int64]) -> Times:
    length = length_of(timeframe)
    # A long weekend more than the share of open hours says.
    start = since - length * int(np.ceil(counts.max() / calendar.open_share)) - LONG_WEEKEND
    grid = np.append(start, calendar.open_times(timeframe, start, since))
    return grid[np.maximum(len(grid) - counts, 0)]


def _rows_before(bars: Bars, since: Times) -> NDArray[np.int64]:
    earlier = bars.open_time < np.repeat(since, np.diff(bars.starts))
    return np.add.reduceat(np.append(earlier, False).astype(np.int64), bars.starts[:-1]) * (np.diff(bars.starts) > 0)


def _at(bars: Bars, rows: NDArray[np.int64]) -> Times:
    return np.append(bars.open_time, np.datetime64("NaT"))[np.minimum(rows, len(bars))]


def _added(earlier: Mapping[Series, Recomputed], later: Mapping[Series, Recomputed]) -> dict[Series, Recomputed]:
    """The later pieces of series, with what their earlier pieces came to."""
    return {series: earlier[series] + rows if series in earlier else rows for series, rows in later.items()}


def _insert(table: str, columns: Mapping[str, str]) -> str:
    """SQL that adds the rows of `staged`, which are of series in `wanted`; a join would copy hundreds of columns."""
    stored = {name: kind for name, kind in columns.items() if name not in ("instrument", "timeframe")}
    listed = ", ".join(f'"{name}"' for name in stored)
    values = ", ".join(as_stored(name, kind) for name, kind in stored.items())
    return (
        f"insert into {table} (instrument, timeframe, {listed}) "
        f"select w.instruments[s.series_no + 1], w.timeframes[s.series_no + 1], {values} from staged s cross join ("
        "select list(instrument order by series_no) as instruments, list(timeframe order by series_no) as timeframes "
        "from wanted) w"
    )


def as_stored(name: str, kind: str) -> str:
    """SQL for a value of the table `staged` in the type of its column."""
    # An array's NaN is NULL already.
    return f's."{name}"' if kind in ("varchar", "timestamp", "double") else f's."{name}"::{kind}'
