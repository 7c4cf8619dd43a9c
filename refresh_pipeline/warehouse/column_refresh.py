"""Computes queued columns of stored rows anew and updates them in place; every other column stays as it is.

A series is queued until all of its rows are updated, and resumes where the last transaction ended. A change of its
candles in the meantime stays in `recompute_queue`: rows are recomputed from there on after their columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered
from refresh_pipeline.warehouse.checkpoints import update_checkpoints
from refresh_pipeline.warehouse.computed_batch import ComputedBatch, PendingRecompute
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.incremental import Recomputed, TailRefresh, as_stored, same_version
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import Table, columns_of, qualified
from refresh_pipeline.warehouse.versions import record_changes

# Rows that one statement updates at most, and columns: beyond these DuckDB's memory grows faster than the cells.
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 250_000, 16
# What of another asset is made from the rows of each table's columns.
FEEDS = (Table.exports,)


@dataclass(frozen=True, slots=True)
class QueuedColumns:
    """Series with the same columns to compute anew."""

    columns: frozenset[str]
    pending: PendingRecompute


def queued_columns(
    connection: duckdb.DuckDBPyConnection, market: str, asset: Table, batch: Sequence[Series]
) -> list[QueuedColumns]:
    """The series of the batch with columns to compute anew, by these columns."""
    queue = qualified(market, Table.column_queue)
    if not connection.execute(f"select 1 from {queue} where asset = ? limit 1", [asset.value]).fetchall():
        return []
    _drop_superseded(connection, market, asset)
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, q.columns, q.since, q.version, s.candle_count, s.first_open_time, s.last_open_time "
            f"from wanted w join {queue} q using (instrument, timeframe) "
            f"join {qualified(market, Table.series)} s using (instrument, timeframe) "
            "where q.asset = ? order by w.series_no",
            [asset.value],
        )
    numbers, columns = rows.pop("series_no"), rows.pop("columns")
    pending = PendingRecompute([batch[number] for number in numbers], *rows.values())
    names = [frozenset(listed) for listed in columns]
    return [
        QueuedColumns(chosen, pending.take(np.array([listed == chosen for listed in names])))
        for chosen in dict.fromkeys(names)
    ]


def _drop_superseded(connection: duckdb.DuckDBPyConnection, market: str, asset: Table) -> None:
    """Take those series off the queue of columns whose rows are queued to be computed from the first one on."""
    connection.execute(
        f"delete from {qualified(market, Table.column_queue)} q using {qualified(market, Table.recompute_queue)} r, "
        f"{qualified(market, Table.series)} s where q.asset = $asset and r.asset = $asset "
        "and q.instrument = r.instrument and q.timeframe = r.timeframe and r.since <= s.first_open_time "
        "and s.instrument = r.instrument and s.timeframe = r.timeframe",
        {"asset": asset.value},
    )


@dataclass(frozen=True, slots=True)
class ColumnRefresh(TailRefresh):
    """Computes some columns of one table anew, in all rows that are stored."""

    # The columns and states to update; `computation` is the narrowed one that computes them.
    columns: frozenset[str] = frozenset()

    def _write(self, waiting: list[ComputedBatch]) -> dict[Series, Recomputed]:
        """Update the computed columns in one transaction, and empty the list."""
        if not waiting:
            return {}
        batch = ComputedBatch.concat(waiting)
        waiting.clear()
        wanted = numbered(
            batch.pending.series,
            since=batch.pending.since,
            version=batch.pending.versions,
            until=batch.until,
            begun=batch.begun,
        )
        queue = qualified(self.market, Table.column_queue)
        with self.connect() as connection, transaction(connection), registered(connection, "wanted", wanted):
            # A series whose columns another process updated meanwhile may have newer rows.
            connection.execute(
                f"create temp table touched as select w.* from wanted w "
                f"join {queue} q on q.asset = ? and {same_version('q', 'w')}",
                [self.table.value],
            )
            self._update_rows(connection, batch)
            if batch.checkpoints:
                update_checkpoints(connection, self.market, self.computation, batch.checkpoints, of="touched")
            updated = self._update_column_queue(connection, batch)
            connection.execute("drop table touched")
        return updated

    def _update_rows(self, connection: duckdb.DuckDBPyConnection, batch: ComputedBatch) -> None:
        kinds = columns_of(self.computation, self.two_sided)
        names = [name for name in kinds if name in self.columns]
        table = qualified(self.market, self.table)
        for first in range(0, len(names), COLUMNS_AT_ONCE):
            chosen = names[first : first + COLUMNS_AT_ONCE]
            rows = {name: batch.rows[name] for name in ("series_no", "open_time", *chosen)}
            values = ", ".join(f'"{name}" = {as_stored(name, kinds[name])}' for name in chosen)
            with registered(connection, "staged", rows):
                connection.execute(
                    f"update {table} t set {values} from staged s, touched w where s.series_no = w.series_no "
                    "and t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time = s.open_time "
                    "and t.open_time >= $earliest",
                    {"earliest": batch.since.min().astype(datetime)},
                )

    def _update_column_queue(
        self, connection: duckdb.DuckDBPyConnection, batch: ComputedBatch
    ) -> dict[Series, Recomputed]:
        """Take the series in `touched` off the queue, or note where they go on; queue what is made from their rows."""
        queue = qualified(self.market, Table.column_queue)
        connection.execute(
            f"update {queue} q set since = d.until from touched d "
            f"where q.asset = ? and d.until is not null and {same_version('q', 'd')}",
            [self.table.value],
        )
        connection.execute(
            f"delete from {queue} q using touched d where q.asset = ? and d.until is null and {same_version('q', 'd')}",
            [self.table.value],
        )
        record_changes(connection, self.market, [self.table])
        queue_recompute(connection, self.market, FEEDS)
        touched = arrays_of(connection, "select series_no from touched")["series_no"].tolist()
        rows = np.bincount(batch.rows["series_no"], minlength=len(batch.pending.series)).tolist()
        return {batch.pending.series[number]: Recomputed(0, rows[number]) for number in touched}


def refresh_columns(work: TailRefresh, queued: Sequence[QueuedColumns]) -> dict[Series, Recomputed]:
    """Compute the queued columns of these series anew; gives the number of rows updated, by series."""
    updated: dict[Series, Recomputed] = {}
    for group in queued:
        updated |= _narrowed(work, group.columns).run(group.pending)
    return updated


def _narrowed(work: TailRefresh, columns: frozenset[str]) -> ColumnRefresh:
    computation = work.computation.narrowed(columns)
    cells_a_row = len(computation.columns) + len(computation.states) + 6
    return ColumnRefresh(
        work.connect,
        work.market,
        computation,
        work.calendar,
        work.two_sided,
        keep=work.keep,
        classes=work.classes,
        cells_at_once=min(work.cells_at_once, ROWS_AT_ONCE * cells_a_row),
        session=work.session,
        progress=work.progress,
        columns=columns,
    )
