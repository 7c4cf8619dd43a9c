"""Compaction: rewrites older rows in the order of timeframe, instrument and time.

Ticks append rows in order of time, which is the fastest order to read the newest rows of all series: the newest day
stays as it is. Reading a long timeframe, or the history of one series, would read every row group, and mixed timeframes
compress badly. So older rows of the tables that ticks read are written again. For `indicators`, which ticks only write,
the measured gain (6 % of size) does not pay.

Each piece is one transaction of a few seconds. Other processes get the file between two pieces, and a killed piece
leaves everything as it was.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np

from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of, numbered, registered
from refresh_pipeline.warehouse.connection import Connect, transaction
from refresh_pipeline.warehouse.schema import Table, qualified

TABLES = (Table.raw_candles, Table.enhanced_candles)
# Ticks read younger rows, except those of long timeframes.
UNTOUCHED = timedelta(days=1)
# Cells (rows times columns) that are sorted together, once there are so many: two million raw candles or 270,000
# enhanced ones. More cells are sorted better and hold the file longer: 2 to 5 s.
CELLS_TOGETHER = 20_000_000
# A larger day is still one transaction: DuckDB rewrites the rest of every row group that lost rows at the next
# checkpoint, so that several small transactions hold the file for longer than a large one.
CELLS_AT_ONCE = 70_000_000
# The limit of its connections; the rest spills to disk.
COMPACTION_MEMORY = "400MB"


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """How many rows were rewritten, in how many transactions, and how many seconds the longest held the file."""

    rows: int = 0
    pieces: int = 0
    longest: float = 0.0

    def __add__(self, other: "CompactionResult") -> "CompactionResult":
        return CompactionResult(self.rows + other.rows, self.pieces + other.pieces, max(self.longest, other.longest))


@dataclass(frozen=True, slots=True)
class Compaction:
    """Compacts one table of one market."""

    connect: Connect
    market: str
    table: Table
    cells_together: int = CELLS_TOGETHER
    cells_at_once: int = CELLS_AT_ONCE

    def rewrite(self, now: datetime, seconds: float) -> CompactionResult:
        """Compact the rows that grew old since the last time; starts no new piece after so many seconds."""
        result, until = CompactionResult(), time.monotonic() + seconds
        self._forget_the_future(now)
        for since, before, _ in self._windows(now):
            for piece in list(self._pieces(since, before)):
                if time.monotonic() > until:
                    return result
                rows, taken = self._move(piece, since, before)
                result += CompactionResult(rows, 1, taken)
                # Other processes get the file for as long as this one held it.
                time.sleep(taken)
            with self.connect() as connection, transaction(connection):
                record_compacted(connection, self.market, self.table, before)
        return result

    def pending_rows(self, now: datetime) -> int:
        """How many rows `rewrite` would rewrite now."""
        return sum(rows for _, _, rows in self._windows(now))

    @property
    def _name(self) -> str:
        return qualified(self.market, self.table)

    def _columns(self, connection: duckdb.DuckDBPyConnection) -> int:
        return connection.execute(f"select count(*) from (describe {self._name})").fetchall()[0][0]

    def _forget_the_future(self, now: datetime) -> None:
        """Compact from today's cut on where a clock that was ahead has recorded a later one."""
        cut = _cut(now).astype(datetime)
        with self.connect() as connection:
            if compacted_before(connection, self.market, self.table) > cut:
                with transaction(connection):
                    record_compacted(connection, self.market, self.table, cut)

    def _windows(self, now: datetime) -> list[tuple[datetime, datetime, int]]:
        """The ranges whose rows are sorted together, with their number of rows: whole days, oldest first."""
        cut = _cut(now)
        with self.connect() as connection:
            together = self.cells_together // self._columns(connection)
            since = compacted_before(connection, self.market, self.table)
            days = connection.execute(
                f"select open_time::date::timestamp, count(*) from {self._name} "
                "where open_time >= ? and open_time < ? group by 1 order by 1",
                [since, cut.astype(datetime)],
            ).fetchall()
        windows: list[tuple[datetime, datetime, int]] = []
        rows = 0
        for day, count in days:
            rows += count
            if rows >= together:
                windows.append((since, day + timedelta(days=1), rows))
                since, rows = windows[-1][1], 0
        return windows

    def _pieces(self, since: datetime, before: datetime) -> Iterator[list[Series]]:
        """The series of a window in order, in pieces that make for short transactions."""
        with self.connect() as connection:
            columns = self._columns(connection)
            rows = connection.execute(
                f"select timeframe, instrument, count(*) from {self._name} where open_time >= ? and open_time < ? "
                "group by all order by all",
                [since, before],
            ).fetchall()
        piece: list[Series] = []
        cells = 0
        for timeframe, instrument, count in rows:
            if piece and cells + count * columns > self.cells_at_once:
                yield piece
                piece, cells = [], 0
            piece.append(Series(instrument, Timeframe(timeframe)))
            cells += count * columns
        if piece:
            yield piece

    def _move(self, piece: Sequence[Series], since: datetime, before: datetime) -> tuple[int, float]:
        """Rewrite the rows of these series in order; gives how many, and the seconds that the file was held."""
        window = "open_time >= $since and open_time < $before"
        values = {"since": since, "before": before}
        with self.connect() as connection:
            began = time.monotonic()
            with transaction(connection), registered(connection, "chosen", numbered(piece)):
                connection.execute(
                    f"create temp table compacted as select t.* from {self._name} t "
                    f"semi join chosen using (instrument, timeframe) where {window} "
                    "order by timeframe, instrument, open_time",
                    values,
                )
                connection.execute(
                    f"delete from {self._name} t using chosen c "
                    f"where t.instrument = c.instrument and t.timeframe = c.timeframe and t.{window}",
                    values,
                )
                connection.execute(f"insert into {self._name} by name select * from compacted")
                count = arrays_of(connection, "select count(*) as n from compacted")["n"]
                connection.execute("drop table compacted")
        return int(count[0]), time.monotonic() - began


def _cut(now: datetime) -> np.datetime64:
    """The instant before which rows are old: a day's beginning."""
    return (instant(now) - np.timedelta64(UNTOUCHED)).astype("datetime64[D]").astype("datetime64[us]")


def compacted_before(connection: duckdb.DuckDBPyConnection, market: str, table: Table) -> datetime:
    """The instant before which the rows of a table are compacted."""
    rows = connection.execute(
        f"select max(before) from {qualified(market, Table.compaction_state)} where asset = ?", [table.value]
    ).fetchall()
    return rows[0][0] or BEGINNING.astype(datetime)


def record_compacted(connection: duckdb.DuckDBPyConnection, market: str, table: Table, before: datetime) -> None:
    """Record that the rows before an instant are compacted."""
    connection.execute(f"delete from {qualified(market, Table.compaction_state)} where asset = ?", [table.value])
    connection.execute(
        f"insert into {qualified(market, Table.compaction_state)} (asset, before) values (?, ?)", [table.value, before]
    )
