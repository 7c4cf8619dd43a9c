"""The warehouse as the assets call it: each call opens the file, runs one short transaction and closes the file.

No SQL stands here; every method calls a function of the module that knows its tables.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.adjustments import Adjustment, Factors
from refresh_pipeline.market.candles import BulkFile, Candles, Times
from refresh_pipeline.market.export_spec import Window
from refresh_pipeline.market.gaps import Coverage, Gap, Stretch
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import (
    acknowledgements,
    adjustments,
    archives,
    column_refresh,
    column_versions,
    deep_check,
    forgetting,
    gaps,
    incremental,
    ingest,
    lake,
    manifests,
    queries,
    renaming,
    repair,
    resampled,
    schema,
    series_files,
    series_origins,
    stored_ranges,
    withdrawals,
)
from refresh_pipeline.warehouse.acknowledgements import Acknowledged
from refresh_pipeline.warehouse.adjusted_rows import RowAdjuster, raw_columns
from refresh_pipeline.warehouse.arrays import BEGINNING, END, Arrays, timestamp
from refresh_pipeline.warehouse.check_results import CheckResult, record_checks
from refresh_pipeline.warehouse.column_refresh import refresh_columns
from refresh_pipeline.warehouse.compaction import COMPACTION_MEMORY, Compaction, CompactionResult
from refresh_pipeline.warehouse.compaction import TABLES as COMPACTED_TABLES
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.compute_on_read import computed_columns, computed_rows, expired_stretch
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import (
    MEMORY,
    PATIENCE,
    FilePlace,
    WarehouseMissing,
    connect,
    place_of,
    transaction,
)
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline.warehouse.gaps import Stretches
from refresh_pipeline.warehouse.incremental import Recomputed, TailRefresh
from refresh_pipeline.warehouse.ingest import Staged, Stored
from refresh_pipeline.warehouse.lake import LakePlace
from refresh_pipeline.warehouse.manifests import (
    EXPORTED_AT_ONCE,
    Exported,
    Published,
    Rows,
    Selection,
    pieces_to_export,
    rows_to_export,
    write_exports,
    write_uploads,
)
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats, write_outcomes
from refresh_pipeline.warehouse.point_in_time import candles_as_of, ensure_known_view
from refresh_pipeline.warehouse.queries import Activity, FailedSeries, Fault, SeriesReport, activity
from refresh_pipeline.warehouse.resampled import Derived
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.series_origins import Origins
from refresh_pipeline.warehouse.signals import ensure_signals_view
from refresh_pipeline.warehouse.withdrawals import Answered

# Before every turn that was taken.
NEVER = datetime.min.replace(tzinfo=UTC)


class Warehouse:
    """Candles and everything computed from them, in one DuckDB file.

    Every method closes the file and frees its lock; `get_connection` and `reader` do so when their block ends.
    """

    def __init__(
        self, database: str | Path, patience: float = PATIENCE, why_missing: Callable[[], str] = lambda: ""
    ) -> None:
        """`patience` is the time in seconds to wait for another process's lock on the file.

        `why_missing` is asked before a file is created: a sentence where there was one already, empty otherwise.
        """
        self.database, self.patience, self._why_missing = str(database), patience, why_missing
        self.place = place_of(database)
        # The connection of each thread's session.
        self._of_thread = threading.local()
        # Markets whose tables this object has prepared, with the identity of the warehouse that holds them.
        self._prepared: dict[str, tuple[object, Market]] = {}

    @property
    def _held(self) -> duckdb.DuckDBPyConnection | None:
        """The connection of this thread's session."""
        return getattr(self._of_thread, "held", None)

    @contextmanager
    def get_connection(
        self, market: str | None = None, *, memory_limit: str = MEMORY, threads: int | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write. It waits for the writers' lock and is always closed.

        In a lake, writers of one market wait for each other alone; without a market for all.

        Within a session it is the session's, with that one's limits.

        Raises:
            WarehouseMissing: the file was there before; others as `connect` raises.
        """
        if (held := self._held) is not None:
            yield held
            return
        if not self.exists and (reason := self._why_missing()):
            raise WarehouseMissing(reason)
        with connect(
            self.database, patience=self.patience, memory_limit=memory_limit, market=market, threads=threads
        ) as connection:
            yield connection

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection, which other readers may share."""
        if (held := self._held) is not None:
            yield held
            return
        with connect(self.database, read_only=True, patience=self.patience) as connection:
            yield connection

    @contextmanager
    def market_reader(self, market: Market) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """A read-only connection; None before the market's first refresh."""
        if not self.exists:
            yield None
            return
        with self.reader() as connection:
            yield connection if queries.has_tables(connection, market.name) else None

    @contextmanager
    def session(self, market: str | None = None, *, threads: int | None = None) -> Iterator[None]:
        """One connection for every call in the block, because opening the file takes longer than most calls.

        Other processes wait until the block ends: it must neither fetch nor compute. Other threads have their own.
        """
        with self.get_connection(market, threads=threads) as connection:
            before, self._of_thread.held = self._held, connection
            try:
                yield
            finally:
                self._of_thread.held = before

    @property
    def exists(self) -> bool:
        """Whether there is a warehouse."""
        return self.place.exists

    def prepare(self, market: Market) -> None:
        """Create the market's tables and views or bring them forward, once per object and file."""
        if self.exists and self._prepared.get(market.name) == (self.place.identity, market):
            return
        renamed = {spec.former_asset: spec.asset for spec in market.destinations.values()}
        with self.get_connection(market.name) as connection, transaction(connection):
            schema.rename_assets(connection, market.name, renamed)
            tables = tuple(computations(market).values())
            column_versions.ensure(connection, market.name, tables, market.two_sided)
            for computed in tables:
                column_versions.follow_keep(connection, market.name, Table(computed.name), market.indicators.keep)
            ensure_known_view(connection, market.name, ENHANCED_CANDLES, market.two_sided)
            changed = stored_ranges.of_another_calendar(connection, market)
            # The fingerprints of columns cover the calendar and all its classes, not which class an instrument has.
            repair.queue_indicators(connection, market, stored_ranges.of_another_class(connection, market))
            ensure_signals_view(connection, market.name)
            adjustments.ensure_views(connection, market.name, schema.candle_columns(market.two_sided))
            stored_ranges.bring_forward(connection, market)
            for series, base in series_origins.bases(connection, market.name, changed).items():
                again, gone = resampled.regrid(connection, market, series, base)
                _replace_made(connection, market, again, gone, datetime.now(UTC))
        if isinstance(self.place, LakePlace):
            with self.get_connection(market.name) as connection:
                lake.keep_small_tables_in_catalogue(connection, market.name)
        self._prepared[market.name] = (self.place.identity, market)

    def write_gaps(self, market: Market, now: datetime) -> None:
        """Write down what is missing at `now` for whoever asks in SQL."""
        with self.get_connection(market.name) as connection, transaction(connection):
            gaps.write_gaps(connection, market, now)

    def record_empty_ranges(self, market: Market, asked: Stretches, now: datetime) -> None:
        """Record what the source was asked for and does not have."""
        if asked:
            with self.get_connection(market.name) as connection, transaction(connection):
                gaps.record_empty_ranges(connection, market, asked, now)

    def gaps(self, market: Market, now: datetime) -> list[Gap]:
        """The missing candles; none before the market's first refresh."""
        with self.market_reader(market) as connection:
            return gaps.gaps(connection, market, now) if connection else []

    def series_stats(self, market: Market, batch: Sequence[Series]) -> dict[Series, SeriesStats]:
        """The stored candles of each series of the batch."""
        with self.get_connection(market.name) as connection:
            return queries.series_stats(connection, market.name, batch)

    def coverage(self, market: Market, batch: Sequence[Series], now: datetime) -> dict[Series, Coverage]:
        """How many candles are expected and stored of each series; nothing of a series of which none is due yet."""
        if not batch:
            return {}
        with self.get_connection(market.name) as connection:
            return gaps.coverage(connection, market, now, batch)

    def missing_between(
        self, market: Market, since: Mapping[Series, np.datetime64], until: np.datetime64, now: datetime
    ) -> dict[Series, list[Stretch]]:
        """The gaps of each series among the closed bars that open from its `since` to `until` (excluded)."""
        if not since:
            return {}
        with self.get_connection(market.name) as connection:
            return gaps.missing_between(connection, market, since, until, now)

    def store_candles(
        self,
        market: Market,
        arrivals: Mapping[Series, Candles],
        source: str,
        now: datetime,
        *,
        preferred: Sequence[str] = (),
        files: Sequence[tuple[Series, BulkFile]] = (),
        derived: Derived | None = None,
        answered: Answered | None = None,
    ) -> dict[Series, Stored]:
        """Store the candles that a source sent, in one transaction; gives what became of every series that changed.

        A late correction replaces the stored candle, whose values move to `raw_candle_revisions`. Candles whose numbers
        contradict themselves go to `rejected_candles`. Candles stored from a `preferred` source stay, and this source's
        candles of the same bars go to `cross_checks`. A candle that closes later than `now` and than the clock is
        rejected. `files` are the archive files that the candles were read from.
        Stored candles of longer timeframes that `derived` makes from changed ones are made again.
        Of the series in `answered`, stored candles that the source has lacked twice are withdrawn.
        """
        if not arrivals and not files:
            return {}
        # A run may look at the past; a candle that has closed by the clock is none from the future.
        future = ingest.closing_later(market, arrivals, max(now, datetime.now(UTC)))
        staged = Staged.of(arrivals, schema.candle_columns(market.two_sided), future)
        with self.get_connection(market.name) as connection, transaction(connection):
            archives.record_files(connection, market.name, files, now)
            store = partial(ingest.store, connection, market.name, source=source, now=now, preferred=preferred)
            stored = _with_ranges(connection, market, staged, store(staged))
            gone = withdrawals.missed_twice(connection, market.name, staged, answered or {}, source=source, now=now)
            withdrawn = forgetting.remove(connection, market, gone, now) if gone else {}
            again, lost = resampled.follow(connection, market, stored, withdrawn, derived or {})
            if again:
                staged = Staged.of(again, schema.candle_columns(market.two_sided))
                for series, each in _with_ranges(connection, market, staged, store(staged)).items():
                    stored[series] = stored.get(series, Stored()) + Stored(each.added, each.revised)
            if len(lost["open_time"]):
                withdrawn |= forgetting.remove(connection, market, lost, now)
            for series, times in withdrawn.items():
                stored[series] = stored.get(series, Stored()) + Stored(withdrawn=len(times))
            return stored

    def oldest_from(
        self, market: Market, batch: Sequence[Series], sources: Sequence[str], since: datetime
    ) -> dict[Series, np.datetime64]:
        """The open time of the oldest candle from one of these sources since an instant, of each series with any."""
        with self.get_connection(market.name) as connection:
            return queries.oldest_from(connection, market.name, batch, sources, since)

    def store_adjustments(self, market: Market, found: Sequence[Adjustment], source: str, now: datetime) -> int:
        """Store splits and dividends that a source told; gives how many are new or have another value."""
        with self.get_connection(market.name) as connection, transaction(connection):
            return adjustments.store(connection, market, found, source, now)

    def adjustment_factors(self, market: Market, batch: Sequence[Series]) -> Mapping[Series, Factors]:
        """What adjusts the candles of each series that has splits or dividends which its prices do not follow."""
        with self.get_connection(market.name) as connection:
            return adjustments.factors_of_each(connection, market.name, batch)

    def chosen_candles(self, market: Market, choice: Choice) -> dict[Series, int]:
        """How many stored candles of each series `forget` would remove."""
        with self.reader() as connection:
            rows = forgetting.choose(connection, market, choice)
        return {series: len(times) for series, times in forgetting.by_series(rows).items()}

    def forget(self, market: Market, choice: Choice, now: datetime) -> dict[Series, int]:
        """Remove stored candles, let what is computed from them follow, and give how many of each series went.

        The candles move to `raw_candle_revisions`. Longer candles that are made from them are made again.
        """
        with self.get_connection(market.name) as connection, transaction(connection):
            removed = forgetting.remove(connection, market, forgetting.choose(connection, market, choice), now)
            _make_again(connection, market, removed, now)
        return {series: len(times) for series, times in removed.items()}

    def withdraw_unfinished(
        self, market: Market, doubted: Mapping[Series, np.datetime64], derived: Derived, now: datetime
    ) -> dict[Series, int]:
        """Withdraw those of the bars that were resampled before they closed; gives how many of each series went.

        Their values move to `raw_candle_revisions`. They come again once they close.
        """
        with self.get_connection(market.name) as connection, transaction(connection):
            gone = resampled.unfinished(connection, market, doubted, derived)
            removed = forgetting.remove(connection, market, gone, now) if len(gone["open_time"]) else {}
            _make_again(connection, market, removed, now)
        return {series: len(times) for series, times in removed.items()}

    def queue_recompute(self, market: Market, tables: Sequence[Table], batch: Sequence[Series]) -> None:
        """Queue computed tables of series to be computed anew from their first candle."""
        with self.get_connection(market.name) as connection, transaction(connection):
            repair.queue_recompute_from_raw(connection, market, tables, batch)

    def deep_faults(self, market: Market, batch: Sequence[Series]) -> list[tuple[Table, Fault]]:
        """Where inner tables differ from what the stored candles give; see `deep_check`."""
        with self.reader() as connection:
            return list(deep_check.deep_faults(connection, market, batch))

    def acknowledged(self, market: Market) -> list[Acknowledged]:
        """The faults of checks that a person has accepted."""
        with self.reader() as connection:
            return acknowledgements.acknowledged(connection, market.name)

    def acknowledge(self, market: Market, check: str, faults: Sequence[Fault], note: str, now: datetime) -> None:
        """Store faults of a check as accepted."""
        with self.get_connection(market.name) as connection, transaction(connection):
            acknowledgements.acknowledge(connection, market.name, check, faults, note=note, now=now)

    def withdraw_acknowledgements(self, market: Market, check: str, faults: Sequence[Fault]) -> None:
        """Let accepted faults fail their check again."""
        with self.get_connection(market.name) as connection, transaction(connection):
            acknowledgements.withdraw(connection, market.name, check, faults)

    def drop_files(self, market: Market) -> series_files.DroppedFiles:
        """Take the files of series without candles off the manifests, and give their paths."""
        with self.get_connection(market.name) as connection, transaction(connection):
            return series_files.drop(connection, market.name)

    def drop_records(self, market: Market, choice: Choice) -> None:
        """Delete what is known of the chosen series that have no candles and that the market's YAML does not name."""
        with self.get_connection(market.name) as connection, transaction(connection):
            forgetting.drop_records(connection, market, choice)

    def rename(self, market: Market, before: str, after: str) -> dict[Series, int]:
        """Give everything stored of an instrument another name; gives the number of candles by its former series.

        Raises:
            ValueError: nothing is stored under the former name, or candles are stored under the other one.
        """
        with self.get_connection(market.name) as connection, transaction(connection):
            return renaming.rename(connection, market, before, after)

    def drop_market(self, name: str) -> list[str]:
        """Remove every table of a market that has no YAML; gives the paths of its export files."""
        with self.get_connection(name) as connection, transaction(connection):
            return forgetting.drop_market(connection, name)

    def missed_candles_to_ask_for(self, market: Market, batch: Sequence[Series], now: datetime) -> Stretches:
        """From when to when to ask again for candles that a source lacked an hour ago; given once an hour."""
        with self.get_connection(market.name) as connection, transaction(connection):
            return withdrawals.to_ask_again(connection, market.name, batch, now)

    def archive_files(
        self, market: Market, batch: Sequence[Series], since: np.datetime64, until: np.datetime64
    ) -> dict[Series, list[BulkFile]]:
        """The archive files that were read for each series and lie between two instants."""
        with self.get_connection(market.name) as connection:
            return archives.files_between(connection, market.name, batch, since, until)

    def candles_as_of(self, market: Market, series: Series, moment: datetime) -> Candles:
        """A series' raw candles as they were stored at an instant: later candles left out, later corrections undone."""
        with self.reader() as connection:
            return candles_as_of(connection, market.name, series, moment, market.two_sided)

    def refresh_tail(
        self,
        market: Market,
        table: Table,
        batch: Sequence[Series],
        progress: Callable[[int, int], None] = lambda written, total: None,
    ) -> dict[Series, Recomputed]:
        """Bring a computed table up to date for the series of the batch whose candles or columns changed.

        `progress` is called after each transaction with the number of series written so far, and of all.
        """
        with self.get_connection(market.name) as connection:
            queued = column_refresh.queued_columns(connection, market.name, table, batch)
            pending = incremental.pending_recompute(connection, market.name, table, batch)
        computation = computations(market)[table]
        work = TailRefresh(
            partial(self.get_connection, market.name),
            market.name,
            computation,
            market.calendar,
            market.two_sided,
            market.indicators.keep,
            classes=market.classes_of,
            session=partial(self.session, market.name),
            progress=progress,
            overlaps=isinstance(self.place, FilePlace),
        )
        updated = refresh_columns(work, queued)
        if self._held is None and work.computes_ahead(pending):
            # DuckDB's second thread would take the processor from the thread that computes, and rows that two threads
            # of DuckDB append are copied once more.
            one = partial(self.get_connection, market.name, threads=1)
            work = replace(work, connect=one, session=partial(self.session, market.name, threads=1))
        recomputed = work.run(pending)
        return recomputed | {
            series: recomputed[series] + rows if series in recomputed else rows for series, rows in updated.items()
        }

    def pending_recompute(self, market: Market, asset: Table, batch: Sequence[Series]) -> PendingRecompute:
        """The series of the batch that changed since this asset was last computed or exported."""
        with self.get_connection(market.name) as connection:
            return incremental.pending_recompute(connection, market.name, asset, batch)

    def computed_rows(
        self,
        market: Market,
        table: Table,
        series: Series,
        *,
        columns: Collection[str] | None = None,
        since: np.datetime64 = BEGINNING,
        until: np.datetime64 | None = None,
    ) -> Iterator[dict[str, NDArray]]:
        """Rows of a computed table in `[since, until)`, computed now, whether they are stored or not; in pieces."""
        with self.market_reader(market) as connection:
            if connection is None:
                return
        yield from computed_rows(self.reader, market, table, series, columns=columns, since=since, until=until)

    def newest_rows(
        self, market: Market, table: Table, series: Series, columns: Sequence[str], count: int
    ) -> dict[str, NDArray]:
        """Columns of the newest rows of one series as arrays, oldest row first; rows that expired are computed."""
        with self.get_connection(market.name) as connection:
            rows = queries.newest_rows(connection, market.name, table, series, columns=columns, count=count)
            if table not in computations(market) or len(rows[columns[0]]) >= count:
                return rows
            bounds = expired_stretch(connection, market.name, table, series, (BEGINNING, END), newest=count)
        if bounds is None:
            return rows
        older = computed_columns(partial(self.get_connection, market.name), market, {table: columns}, series, bounds)
        return {name: np.concatenate([older[table, name], rows[name]])[-count:] for name in columns}

    def rows_to_export(
        self, market: Market, batch: Sequence[Series], columns: Sequence[str], window: Window
    ) -> Iterator[tuple[Series, Rows]]:
        """The newest rows of each series with these columns of all tables, as arrays, oldest row first."""
        selection = Selection(computations(market).values(), columns, window)
        yield from rows_to_export(partial(self.get_connection, market.name), market, selection, batch)

    def pieces_to_export(
        self,
        market: Market,
        batch: Sequence[Series],
        columns: Sequence[str],
        window: Window,
        cells_at_once: int = EXPORTED_AT_ONCE,
    ) -> Iterator[tuple[Series, Iterator[Rows]]]:
        """The same rows in pieces that fit in memory; what fails for one series is raised where its pieces are read."""
        selection = Selection(computations(market).values(), raw_columns(columns), window)
        adjuster = self._adjuster(market, batch, columns)
        connect = partial(self.get_connection, market.name)
        for series, pieces in pieces_to_export(connect, market, selection, batch, cells_at_once):
            yield series, (adjuster.of_one(series, piece) for piece in pieces)

    def rows_between(
        self,
        market: Market,
        batch: Sequence[Series],
        columns: Sequence[str],
        first: np.datetime64,
        until: np.datetime64,
    ) -> Rows:
        """The rows of all series with these columns that open in `[first, until)`, with `series_no`."""
        selection = Selection(computations(market).values(), raw_columns(columns), Window.model_validate("full"))
        rows = manifests.rows_between(self.get_connection, market, selection, batch, first=first, until=until)
        return self._adjuster(market, batch, columns).of_each(batch, rows)

    def _adjuster(self, market: Market, batch: Sequence[Series], columns: Sequence[str]) -> RowAdjuster:
        asked = raw_columns(columns) != [*columns]
        return RowAdjuster(columns, self.adjustment_factors(market, batch) if asked else {})

    def rows_since(
        self, market: Market, batch: Sequence[Series], columns: Sequence[str], since: NDArray
    ) -> Iterator[tuple[Series, Rows]]:
        """The rows of each series with these columns of all tables, from an instant of its own on."""
        selection = Selection(computations(market).values(), columns, Window.model_validate("full"))
        yield from manifests.rows_since(partial(self.get_connection, market.name), market, selection, batch, since)

    def newest_candles(
        self, market: Market, batch: Sequence[Series], back: timedelta
    ) -> Iterator[tuple[Series, dict[str, NDArray]]]:
        """The candles of each series that opened within `back` of its newest one, as arrays, oldest row first."""
        yield from manifests.newest_candles(partial(self.get_connection, market.name), market, batch, back)

    def record_exports(
        self, market: Market, exported: Sequence[Exported], series_exported: PendingRecompute, now: datetime
    ) -> None:
        """Record the files that were written, in place of their earlier rows, and take the series off the queue."""
        with self.get_connection(market.name) as connection, transaction(connection):
            write_exports(connection, market.name, exported, series_exported, timestamp(now))

    def drop_exports(self, market: Market, paths: Sequence[str]) -> None:
        """Take files that are gone off the manifest of exports."""
        with self.get_connection() as connection, transaction(connection):
            manifests.drop_exports(connection, market.name, paths)

    def exported(self, market: Market, batch: Sequence[Series]) -> list[Exported]:
        """The manifest of export files of the series of the batch."""
        with self.get_connection(market.name) as connection:
            return manifests.exported(connection, market.name, batch)

    def uploaded(self, market: Market, destination: str, batch: Sequence[Series]) -> list[Published]:
        """The manifest of files of the series of the batch at one destination."""
        with self.get_connection(market.name) as connection:
            return manifests.uploaded(connection, market.name, destination, batch)

    def record_uploads(self, market: Market, published: Sequence[Published], now: datetime) -> None:
        """Record the files that arrived, in place of their earlier rows."""
        with self.get_connection(market.name) as connection, transaction(connection):
            write_uploads(connection, market.name, published, timestamp(now))

    def settle_origins(self, market: Market, named: Origins, now: datetime) -> dict[Series, str]:
        """Record where the YAML fetches each series from; gives the series whose candles come from elsewhere."""
        if not named:
            return {}
        with self.get_connection(market.name) as connection, transaction(connection):
            return series_origins.settle(connection, market.name, named, now)

    def record(
        self, market: Market, asset: str, attempts: Mapping[Series, Attempt], run_id: str, now: datetime
    ) -> None:
        """Replace the last result of each series."""
        with self.get_connection(market.name) as connection, transaction(connection):
            write_outcomes(connection, market.name, str(asset), attempts, run_id=run_id, now=timestamp(now))

    def record_checks(self, market: Market, results: Sequence[CheckResult]) -> None:
        """Replace the newest results of these checks."""
        self.prepare(market)
        with self.get_connection(market.name) as connection, transaction(connection):
            record_checks(connection, market.name, results)

    def take_cross_check_turn(self, market: Market, batch: Sequence[Series], now: datetime) -> Series:
        """The series of the batch that has been without a second source's candles for longest; its turn is recorded."""
        with self.get_connection(market.name) as connection, transaction(connection):
            turns = queries.cross_check_turns(connection, market.name, now)
            series = min(batch, key=lambda member: turns.get(member, NEVER))
            attempts, asset = {series: Attempt(Outcome.unchanged)}, Table.cross_checks.value
            write_outcomes(connection, market.name, asset, attempts, run_id="", now=timestamp(now))
        return series

    def failed_series_of_run(self, market: Market, asset: Table, run_id: str) -> set[Series]:
        """The series that failed for an asset in one run."""
        with self.get_connection(market.name) as connection:
            return queries.failed_series_of_run(connection, market.name, asset, run_id)

    def failed_series(self, market: Market, asset: str) -> set[Series]:
        """The series whose last attempt at an asset failed."""
        with self.get_connection(market.name) as connection:
            return {failure.series for failure in queries.failed_series(connection, market.name, asset)}

    def failed(self, market: Market) -> list[FailedSeries]:
        """The series whose last fetch failed."""
        with self.market_reader(market) as connection:
            if connection is None:
                return []
            failed = queries.failed_series(connection, market.name, Table.raw_candles.value)
        # A series that left the market's YAML cannot be fetched again.
        known = set(market.series)
        return [failure for failure in failed if failure.series in known]

    def compact(self, market: Market, now: datetime, seconds: float) -> CompactionResult:
        """Compact older rows, for about `seconds` at most, and delete old rejected candles."""
        with self.get_connection(market.name) as connection, transaction(connection):
            ingest.delete_old_rejections(connection, market.name, now)
        until, result = time.monotonic() + seconds, CompactionResult()
        if isinstance(self.place, LakePlace):
            self.place.merge_files(market.name)
            return CompactionResult()
        small = partial(self.get_connection, market.name, memory_limit=COMPACTION_MEMORY)
        for table in COMPACTED_TABLES:
            result += Compaction(small, market.name, table).rewrite(now, until - time.monotonic())
        return result

    def pending_compaction(self, market: Market, now: datetime) -> int:
        """How many rows `compact` would rewrite."""
        if isinstance(self.place, LakePlace):
            return 0
        return sum(
            Compaction(partial(self.get_connection, market.name), market.name, table).pending_rows(now)
            for table in COMPACTED_TABLES
        )

    def activity(self, market: Market, since: datetime, until: datetime) -> Activity:
        """The activity of a period; the market must have been refreshed before."""
        with self.reader() as connection:
            return activity(connection, market.name, timestamp(since), timestamp(until))

    def series_status(self, market: Market) -> list[SeriesReport]:
        """The stored candles and the last results of each series; none before the first refresh."""
        with self.market_reader(market) as connection:
            return queries.series_report(connection, market.name, market.series) if connection else []


def _make_again(
    connection: duckdb.DuckDBPyConnection, market: Market, removed: Mapping[Series, Times], now: datetime
) -> None:
    """Make the stored longer candles of removed ones again, and remove those of which no base is left."""
    derived = series_origins.derived_timeframes(connection, market.name)
    _replace_made(connection, market, *resampled.follow(connection, market, {}, removed, derived), now)


def _replace_made(
    connection: duckdb.DuckDBPyConnection, market: Market, again: Mapping[Series, Candles], gone: Arrays, now: datetime
) -> None:
    """Store longer candles that were made again, and remove others."""
    for source, arrivals in series_origins.by_source(connection, market.name, again).items():
        staged = Staged.of(arrivals, schema.candle_columns(market.two_sided))
        stored = ingest.store(connection, market.name, staged, source=source, now=now)
        _with_ranges(connection, market, staged, stored)
    if len(gone["open_time"]):
        forgetting.remove(connection, market, gone, now)


def _with_ranges(
    connection: duckdb.DuckDBPyConnection, market: Market, staged: Staged, stored: dict[Series, Stored]
) -> dict[Series, Stored]:
    """What was stored, after the stored ranges have taken it in."""
    added = np.array([each.added for each in stored.values()], dtype=np.int64)
    if added.any():
        arrived = staged.good["series_no"], staged.good["open_time"]
        stored_ranges.extend(connection, market, staged.series, arrived, added)
    return stored
