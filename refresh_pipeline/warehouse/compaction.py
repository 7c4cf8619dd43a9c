"""The order of older rows in the file: by timeframe, instrument and time, where ticks append whatever has closed.

Appended rows are read fastest by those who want the newest of all series, so the newest day stays as it is. Whoever
wants a long timeframe, or the history of one series, would read every row group for it; and timeframes in turn take
much room. So rows of the tables that are read by ticks are written anew once they are old. Of `indicators`, which ticks
only write, the measured gain (6 % of size) is not worth the writing.

A piece at a time: each is one transaction of a few seconds, between two of them others get the file, and one that was
killed left everything as it was.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np

from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.schema import Table, qualified

Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

TABLES = (Table.raw_candles, Table.enhanced_candles)
# What ticks read is younger, but for the rows of long timeframes.
LEFT_ALONE = timedelta(days=1)
# Cells (rows times columns) that are brought into order among themselves, once there are so many: two million raw
# candles or 270,000 enhanced ones. The more, the better they lie, and the longer the file is held: 2 to 5 s.
CELLS_TOGETHER = 20_000_000
# What a day exceeds that by is still one transaction: of row groups from which one took rows, DuckDB writes the rest
# anew at the next checkpoint, so that several small ones hold the file for longer than a large one.
CELLS_AT_ONCE = 70_000_000
# More than that is written aside.
MEMORY = "400MB"
BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001 - in UTC without a zone, as everything in the file


@dataclass(frozen=True, slots=True)
class Rewritten:
    """How many rows were written anew, in how many transactions, and for how many seconds the longest held the file."""

    rows: int = 0
    pieces: int = 0
    longest: float = 0.0

    def __add__(self, other: "Rewritten") -> "Rewritten":
        return Rewritten(self.rows + other.rows, self.pieces + other.pieces, max(self.longest, other.longest))


@dataclass(frozen=True, slots=True)
class Layout:
    """One table of one market, and how it is brought into order."""

    connect: Connect
    market: str
    table: Table
    cells_together: int = CELLS_TOGETHER
    cells_at_once: int = CELLS_AT_ONCE

    def rewrite(self, now: datetime, seconds: float) -> Rewritten:
        """Bring rows into order that have grown old since the last time; begins nothing new after so many seconds."""
        done, until = Rewritten(), time.monotonic() + seconds
        for since, before, _ in self._windows(now):
            for piece in list(self._pieces(since, before)):
                if time.monotonic() > until:
                    return done
                rows, taken = self._move(piece, since, before)
                done += Rewritten(rows, 1, taken)
                # As long as the file was ours, it is others'.
                time.sleep(taken)
            with self.connect() as connection, transaction(connection):
                note(connection, self.market, self.table, before)
        return done

    def waiting(self, now: datetime) -> int:
        """How many rows would be brought into order now."""
        return sum(rows for _, _, rows in self._windows(now))

    @property
    def _name(self) -> str:
        return qualified(self.market, self.table)

    def _columns(self, connection: duckdb.DuckDBPyConnection) -> int:
        return connection.execute(f"select count(*) from (describe {self._name})").fetchall()[0][0]

    def _windows(self, now: datetime) -> list[tuple[datetime, datetime, int]]:
        """From when to when rows are brought into order among themselves, and how many: whole days, oldest first."""
        cut = (instant(now) - np.timedelta64(LEFT_ALONE)).astype("datetime64[D]").astype("datetime64[us]")
        with self.connect() as connection:
            together = self.cells_together // self._columns(connection)
            since = noted(connection, self.market, self.table)
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
        """The series of a window in order, as many at once as make for a short transaction."""
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
        """Write the rows of some series anew, in order; gives how many, and the seconds that it held the file."""
        window = "open_time >= $since and open_time < $before"
        values = {"since": since, "before": before}
        with self.connect() as connection:
            began = time.monotonic()
            connection.execute(f"set memory_limit = '{MEMORY}'")
            with transaction(connection), registered(connection, "chosen", numbered(piece)):
                connection.execute(
                    f"create temp table moved as select t.* from {self._name} t "
                    f"semi join chosen using (instrument, timeframe) where {window} "
                    "order by timeframe, instrument, open_time",
                    values,
                )
                connection.execute(
                    f"delete from {self._name} t using chosen c "
                    f"where t.instrument = c.instrument and t.timeframe = c.timeframe and t.{window}",
                    values,
                )
                connection.execute(f"insert into {self._name} by name select * from moved")
                count = arrays_of(connection, "select count(*) as n from moved")["n"]
                connection.execute("drop table moved")
        return int(count[0]), time.monotonic() - began


def noted(connection: duckdb.DuckDBPyConnection, market: str, table: Table) -> datetime:
    """Before which instant the rows of a table are in order."""
    rows = connection.execute(
        f"select max(before) from {qualified(market, Table.layout)} where asset = ?", [table.value]
    ).fetchall()
    return rows[0][0] or BEGINNING


def note(connection: duckdb.DuckDBPyConnection, market: str, table: Table, before: datetime) -> None:
    """Note that rows before an instant are in order."""
    connection.execute(f"delete from {qualified(market, Table.layout)} where asset = ?", [table.value])
    connection.execute(
        f"insert into {qualified(market, Table.layout)} (asset, before) values (?, ?)", [table.value, before]
    )
