"""The warehouse as the assets call it. Each call opens the file late, does one short transaction, and closes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import BulkFile, Candles, Times, instant
from refresh_pipeline.market.export_spec import Window
from refresh_pipeline.market.gaps import Gap
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import archives, gaps, incremental, ingest, manifests, queries, schema
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, texts
from refresh_pipeline.warehouse.compaction import TABLES as TIDIED
from refresh_pipeline.warehouse.compaction import Layout, Rewritten
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import PATIENCE, connect, transaction
from refresh_pipeline.warehouse.gaps import Stretches, ensure_gap_views
from refresh_pipeline.warehouse.incremental import Recomputed, TailRefresh
from refresh_pipeline.warehouse.ingest import Staged, Stored
from refresh_pipeline.warehouse.manifests import (
    Exported,
    Published,
    Selection,
    rows_to_export,
    write_exports,
    write_uploads,
)
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats
from refresh_pipeline.warehouse.point_in_time import candles_as_of, ensure_known_view
from refresh_pipeline.warehouse.queries import Activity, FailedSeries, SeriesReport, activity
from refresh_pipeline.warehouse.schema import Table, qualified


class Warehouse:
    """Candles and everything computed from them, in one DuckDB file.

    Every method leaves the file closed and its lock free; `get_connection` and `reader` do when their block ends.
    """

    def __init__(self, database: str | Path, patience: float = PATIENCE) -> None:
        """`patience` is how many seconds to wait for another process's lock on the file."""
        self.database, self.patience = str(database), patience
        self._held: duckdb.DuckDBPyConnection | None = None
        # Markets whose tables this object has found in order, and the file (by its number) that they were found in.
        self._prepared: dict[str, tuple[int, Market]] = {}

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write; waits for the lock, always closes."""
        if self._held is not None:
            yield self._held
            return
        with connect(self.database, patience=self.patience) as connection:
            yield connection

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that only reads, for looking at what is there beside the writers."""
        if self._held is not None:
            yield self._held
            return
        with connect(self.database, read_only=True, patience=self.patience) as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[None]:
        """One connection for every call in the block, of one thread: opening the file takes longer than most of them.

        Others wait for as long as the block lasts: nothing that fetches or computes belongs in it.
        """
        with self.get_connection() as connection:
            before, self._held = self._held, connection
            try:
                yield
            finally:
                self._held = before

    @property
    def exists(self) -> bool:
        """Whether anything was ever stored."""
        return Path(self.database).exists()

    def prepare(self, market: Market) -> None:
        """Create the market's tables, or bring older ones forward; nothing where this object has done so before."""
        if self.exists and self._prepared.get(market.name) == (Path(self.database).stat().st_ino, market):
            return
        with self.get_connection() as connection, transaction(connection):
            schema.ensure(connection, market.name, tuple(computations(market).values()), market.two_sided)
            ensure_known_view(connection, market.name, ENHANCED_CANDLES, market.two_sided)
            ensure_gap_views(connection, market)
        self._prepared[market.name] = (Path(self.database).stat().st_ino, market)

    def write_expected_bars(self, market: Market, now: datetime) -> None:
        """Write down which candles the market's calendars expect, so that gaps can be asked for in SQL."""
        with self.get_connection() as connection, transaction(connection):
            gaps.write_expected_bars(connection, market, now)

    def record_empty_ranges(self, market: Market, asked: Stretches, now: datetime) -> None:
        """Write down what of these stretches the source was asked for and does not have."""
        if asked:
            with self.get_connection() as connection, transaction(connection):
                gaps.record_empty_ranges(connection, market, asked, now)

    def gaps(self, market: Market, now: datetime) -> list[Gap]:
        """Which candles are missing; nothing before the market's first refresh."""
        if not self.exists:
            return []
        with self.reader() as connection:
            return gaps.gaps(connection, market, now) if queries.has_tables(connection, market.name) else []

    def series_stats(self, market: Market, batch: Sequence[Series]) -> dict[Series, SeriesStats]:
        """What is stored of each series of the batch."""
        with self.get_connection() as connection, registered(connection, "wanted", numbered(batch)):
            rows = arrays_of(
                connection,
                "select w.series_no, s.candle_count, s.first_open_time, s.last_open_time from wanted w "
                f"join {qualified(market.name, Table.series)} s using (instrument, timeframe)",
            )
        found = {
            batch[number]: SeriesStats(int(count), first, last)
            for number, count, first, last in zip(*rows.values(), strict=True)
        }
        return {series: found.get(series, SeriesStats()) for series in batch}

    def empty_between(
        self, market: Market, since: Mapping[Series, np.datetime64], until: np.datetime64
    ) -> dict[Series, tuple[Times, Times]]:
        """Where nothing is stored of each series from its `since` on: the candles on either side (see `holes`)."""
        if not since:
            return {}
        with self.get_connection() as connection:
            return gaps.empty_between(connection, market.name, dict(since), until)

    def store_candles(
        self,
        market: Market,
        arrivals: Mapping[Series, Candles],
        source: str,
        now: datetime,
        *,
        preferred: Sequence[str] = (),
        files: Sequence[tuple[Series, BulkFile]] = (),
    ) -> dict[Series, Stored]:
        """Keep what a source sent, all of it or nothing of it.

        What is stored from one of the `preferred` sources stays as it is; what this one says of it goes to
        `second_opinions`. `files` are those that the candles were read from.

        Late corrections win, the value they replace goes to `raw_candle_revisions`; candles whose numbers contradict
        themselves go to `rejected_candles`. What was there already with the same numbers is left alone.
        """
        if not arrivals and not files:
            return {}
        staged = Staged.of(arrivals, schema.candle_columns(market.two_sided))
        with self.get_connection() as connection, transaction(connection):
            archives.note(connection, market.name, files, now)
            return ingest.store(connection, market.name, staged, source, now, preferred=preferred)

    def bulk_files(
        self, market: Market, batch: Sequence[Series], since: np.datetime64, until: np.datetime64
    ) -> dict[Series, list[BulkFile]]:
        """The files of a venue's archive that were read for each series, of the stretches that lie in this one."""
        with self.get_connection() as connection:
            return archives.noted(connection, market.name, batch, since, until)

    def candles_as_of(self, market: Market, series: Series, moment: datetime) -> Candles:
        """A series' raw candles exactly as they stood at an instant: without what came later, corrections undone."""
        with self.reader() as connection:
            return candles_as_of(connection, market.name, series, moment, market.two_sided)

    def refresh_tail(self, market: Market, table: Table, batch: Sequence[Series]) -> dict[Series, Recomputed]:
        """Compute again what changed since this table was last computed, for the series of the batch that did."""
        stale = self.pending_recompute(market, table, batch)
        computation = computations(market)[table]
        keep = market.indicators.keep if table is Table.indicators else {}
        work = TailRefresh(
            self.get_connection, market.name, computation, market.calendar, market.two_sided, keep, held=self.session
        )
        return work.run(stale)

    def pending_recompute(self, market: Market, asset: Table, batch: Sequence[Series]) -> PendingRecompute:
        """The series of the batch that changed since this asset was last made."""
        with self.get_connection() as connection:
            return incremental.stale_series(connection, market.name, asset, batch)

    def newest_rows(
        self, market: Market, table: Table, series: Series, columns: Sequence[str], count: int
    ) -> dict[str, NDArray]:
        """Some columns of the newest rows of one series as arrays, oldest row first."""
        listed = ", ".join(f'"{name}"' for name in columns)
        with self.get_connection() as connection:
            return arrays_of(
                connection,
                f"select {listed} from (select * from {qualified(market.name, table)} where instrument = ? "
                "and timeframe = ? order by open_time desc limit ?) order by open_time",
                [series.instrument, series.timeframe.value, count],
            )

    def rows_to_export(
        self, market: Market, batch: Sequence[Series], columns: Sequence[str], window: Window
    ) -> Iterator[tuple[Series, dict[str, NDArray]]]:
        """Each series' newest rows: candle, enhanced and indicator columns as arrays, oldest row first."""
        selection = Selection(computations(market).values(), columns, window)
        yield from rows_to_export(self.get_connection, market, selection, batch)

    def newest_candles(
        self, market: Market, batch: Sequence[Series], back: timedelta
    ) -> Iterator[tuple[Series, dict[str, NDArray]]]:
        """Each series' candles of so long before its newest one, as arrays, oldest row first."""
        yield from manifests.newest_candles(self.get_connection, market, batch, back)

    def record_exports(
        self, market: Market, exported: Sequence[Exported], done: PendingRecompute, now: datetime
    ) -> None:
        """Note the files that were written, in place of what was noted of them before, and the series done."""
        with self.get_connection() as connection, transaction(connection):
            write_exports(connection, market.name, exported, done, _timestamp(now))

    def exported(self, market: Market, batch: Sequence[Series]) -> list[Exported]:
        """The manifest of export files of the series of the batch."""
        with self.get_connection() as connection:
            return manifests.exported(connection, market.name, batch)

    def uploaded(self, market: Market, destination: str, batch: Sequence[Series]) -> list[Published]:
        """The manifest of files of the series of the batch at one destination."""
        with self.get_connection() as connection:
            return manifests.uploaded(connection, market.name, destination, batch)

    def record_uploads(self, market: Market, published: Sequence[Published], now: datetime) -> None:
        """Note the files that arrived, in place of what was noted of them before."""
        with self.get_connection() as connection, transaction(connection):
            write_uploads(connection, market.name, published, _timestamp(now))

    def record(
        self, market: Market, asset: str, attempts: Mapping[Series, Attempt], run_id: str, now: datetime
    ) -> None:
        """Note what an attempt at each series came to, in place of what was noted before."""
        outcomes = qualified(market.name, Table.outcomes)
        noted = numbered(
            list(attempts),
            outcome=texts(each.outcome.value for each in attempts.values()),
            reason=texts(each.reason for each in attempts.values()),
            transient=np.array([each.transient for each in attempts.values()], dtype=bool),
            rows_added=np.array([each.rows_added for each in attempts.values()], dtype=np.int64),
            rows_revised=np.array([each.rows_revised for each in attempts.values()], dtype=np.int64),
        )
        with self.get_connection() as connection, transaction(connection), registered(connection, "noted", noted):
            connection.execute(
                "create temp table attempted as select n.*, "
                "case when n.outcome = $failed then coalesce(o.failures, 0) + 1 else 0 end as failures "
                f"from noted n left join {outcomes} o on o.asset = $asset "
                "and o.instrument = n.instrument and o.timeframe = n.timeframe",
                {"asset": str(asset), "failed": Outcome.failed.value},
            )
            connection.execute(
                f"delete from {outcomes} o using attempted n where o.asset = ? "
                "and o.instrument = n.instrument and o.timeframe = n.timeframe",
                [str(asset)],
            )
            connection.execute(
                f"insert into {outcomes} "
                "(instrument, timeframe, asset, outcome, reason, transient, failures, rows_added, rows_revised, "
                "run_id, attempted_at) "
                "select instrument, timeframe, ?, outcome, reason, transient, failures, rows_added, rows_revised, ?, ? "
                "from attempted order by series_no",
                [str(asset), run_id, _timestamp(now)],
            )
            connection.execute("drop table attempted")

    def failed_series_of_run(self, market: Market, asset: Table, run_id: str) -> set[Series]:
        """The series that an asset failed at in this run."""
        with self.get_connection() as connection:
            rows = connection.execute(
                f"select instrument, timeframe from {qualified(market.name, Table.outcomes)} "
                "where asset = ? and run_id = ? and outcome = ?",
                [asset.value, run_id, Outcome.failed.value],
            ).fetchall()
        return {Series(instrument, market.timeframe(timeframe)) for instrument, timeframe in rows}

    def failed(self, market: Market) -> list[FailedSeries]:
        """The series whose candles could not be fetched at the last attempt."""
        if not self.exists:
            return []
        with self.reader() as connection:
            if not queries.has_tables(connection, market.name):
                return []
            failed = queries.failed_series(connection, market.name, Table.raw_candles)
        # A series that the market's YAML names no longer cannot be asked for again.
        known = set(market.series)
        return [each for each in failed if each.series in known]

    def compact(self, market: Market, now: datetime, seconds: float) -> Rewritten:
        """Bring rows into order that have grown old, in at most about so many seconds, and forget old rejections."""
        with self.get_connection() as connection, transaction(connection):
            ingest.forget_rejected(connection, market.name, now)
        until, done = time.monotonic() + seconds, Rewritten()
        for table in TIDIED:
            done += Layout(self.get_connection, market.name, table).rewrite(now, until - time.monotonic())
        return done

    def pending_compaction(self, market: Market, now: datetime) -> int:
        """How many rows `tidy` would bring into order."""
        return sum(Layout(self.get_connection, market.name, table).waiting(now) for table in TIDIED)

    def activity(self, market: Market, since: datetime, until: datetime) -> Activity:
        """What was added, revised and uploaded in a period; the market must have been refreshed before."""
        with self.reader() as connection:
            return activity(connection, market.name, _timestamp(since), _timestamp(until))

    def series_status(self, market: Market) -> list[SeriesReport]:
        """What is stored of each series, and what the last attempt came to; nothing before the first refresh."""
        if not self.exists:
            return []
        with self.reader() as connection:
            if not queries.has_tables(connection, market.name):
                return []
            return queries.series_report(connection, market.name, market.series)


def _timestamp(now: datetime) -> datetime:
    return instant(now).astype(datetime)
