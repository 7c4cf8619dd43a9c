"""The newest candles of every series in memory, brought forward by the change feed.

What is asked most is answered without opening the warehouse. Columns are packed: 1,000 rows of a series whose prices
have few digits take some 12 kB, others 50 kB.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.api.frames import OPEN_TIME, Window
from refresh_pipeline.api.packing import Packed, packed, unpacked
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of, numbered, registered
from refresh_pipeline.warehouse.schema import PROVENANCE, RESAMPLED, Table, candle_columns, qualified

REPEATING = (*PROVENANCE, *RESAMPLED)
# Weekends and holidays that a tail must bridge.
QUIET = np.timedelta64(5, "D")
Arrays = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest candles of a series; `is_whole` where it has no older ones."""

    arrays: Mapping[str, Packed]
    is_whole: bool

    @property
    def open_times(self) -> NDArray:
        """Oldest first."""
        return unpacked(self.arrays[OPEN_TIME])

    def rows(self, first: int, end: int, columns: Sequence[str]) -> Arrays:
        """Some rows of some columns."""
        return {name: unpacked(self.arrays[name])[first:end] for name in columns}

    def window(self, window: Window) -> tuple[int, int] | None:
        """The rows of a window, with one more where it begins at `since`; None where older ones are needed."""
        times = self.open_times
        end = len(times) if window.until is None else int(np.searchsorted(times, window.until))
        if window.since is None:
            first = end - window.limit
            return (max(first, 0), end) if first >= 0 or self.is_whole else None
        if not self.is_whole and (not len(times) or window.since < times[0]):
            return None
        first = int(np.searchsorted(times, window.since))
        return first, max(min(end, first + window.limit + 1), first)


@dataclass(frozen=True, slots=True)
class _PushedRows:
    """Candles that are in a live run's memory and not in the tail yet, and the tail that they follow."""

    tail: Tail
    rows: Sequence[Mapping[str, object]]
    # The tail with these rows, once somebody asked.
    joined: list[Tail] = field(default_factory=list)

    @property
    def newest(self) -> np.datetime64:
        """The open time of the last of them."""
        return self.rows[-1][OPEN_TIME]  # pyright: ignore[reportReturnType]


class Tails:
    """The tails of the loaded markets, by market and series."""

    def __init__(self, markets: Sequence[Market], rows: int) -> None:
        self._markets, self._rows = {market.name: market for market in markets}, rows
        self._tails: dict[str, dict[Series, Tail]] = {market.name: {} for market in markets}
        self._pushed: dict[tuple[str, Series], _PushedRows] = {}
        self._counter = itertools.count(1)
        # Another number after each change of any tail. Two threads change them, so it may also fall.
        self.state = 0

    def get(self, market: str, series: Series) -> Tail | None:
        """The tail of a series, with what was pushed since it was read; None where it is not loaded."""
        tail, pushed = self._tails.get(market, {}).get(series), self._pushed.get((market, series))
        if tail is None or pushed is None or pushed.tail is not tail:
            return tail
        if not pushed.joined:
            pushed.joined.append(_followed_by(tail, pushed.rows, self._rows))
        return pushed.joined[0]

    def most(self, rows: int) -> int:
        """The number of whole tails that hold so many rows, at least one."""
        return max(rows // self._rows, 1)

    def pushed_until(self, market: str, series: Series) -> np.datetime64 | None:
        """The open time of the newest candle that was pushed and is not read from the file yet."""
        pushed = self._pushed.get((market, series))
        return None if pushed is None or pushed.tail is not self._tails[market].get(series) else pushed.newest

    def push(self, market: str, series: Series, before: np.datetime64, row: Mapping[str, object]) -> bool:
        """Let a candle of a live run follow the tail; False where it is not the one after the newest.

        It stays until the file's rows of the series are read again, which hold it.
        """
        tail = self._tails.get(market, {}).get(series)
        if tail is None or not len(tail.open_times):
            return False
        pushed = self._pushed.get((market, series))
        rows = pushed.rows if pushed is not None and pushed.tail is tail else ()
        if before != (rows[-1][OPEN_TIME] if rows else tail.open_times[-1]):
            return False
        self._pushed[market, series] = _PushedRows(tail, [*rows, row])
        self.state = next(self._counter)
        return True

    def forget(self) -> None:
        """Drop everything: the file is another one."""
        self._pushed.clear()
        for tails in self._tails.values():
            tails.clear()
        self.state = next(self._counter)

    def read(
        self, connection: duckdb.DuckDBPyConnection, changed: Mapping[tuple[str, Series], datetime | None]
    ) -> Callable[[], None]:
        """Read what changed of each series from an open time on, one question a market.

        Gives what brings the tails forward, to be called once the connection is closed: packing takes longer than
        reading.
        """
        by_market: dict[str, dict[Series, np.datetime64]] = defaultdict(dict)
        for (market, series), since in changed.items():
            if market in self._markets:
                by_market[market][series] = BEGINNING if since is None else np.datetime64(since, "us")
        parts = [self._read(connection, self._markets[market], batch) for market, batch in by_market.items()]
        return partial(self._bring_forward, parts)

    def _bring_forward(self, parts: Sequence[Callable[[], None]]) -> None:
        for part in parts:
            part()
        if parts:
            self.state = next(self._counter)

    def _read(
        self, connection: duckdb.DuckDBPyConnection, market: Market, batch: Mapping[Series, np.datetime64]
    ) -> Callable[[], None]:
        listed = list(batch)
        stored = _extents(connection, market.name, listed)
        since = np.array([self._since(market.name, s, batch[s], stored[s][1]) for s in listed], dtype=TIME_UNIT)
        columns = [OPEN_TIME, *candle_columns(market.two_sided), *REPEATING]
        rows = _rows_since(connection, market.name, listed, since, columns)

        def bring_forward() -> None:
            starts = np.searchsorted(rows["series_no"], np.arange(len(listed) + 1))
            for number, series in enumerate(listed):
                part = {name: rows[name][starts[number] : starts[number + 1]] for name in columns}
                self._put(market.name, series, part, since[number], stored[series][0])

        return bring_forward

    def _since(self, market: str, series: Series, since: np.datetime64, last: np.datetime64 | None) -> np.datetime64:
        """From where to read: from the change on where an older part is here, else a tail's length back."""
        if last is None:
            return BEGINNING
        bound = last - np.timedelta64(series.timeframe.minutes, "m") * self._rows - QUIET
        tail = self._tails[market].get(series)
        if tail is not None and len(tail.open_times) and since > tail.open_times[0]:
            return since
        return bound

    def _put(self, market: str, series: Series, rows: Arrays, since: np.datetime64, count: int) -> None:
        tail = self._tails[market].get(series)
        if tail is not None:
            kept = int(np.searchsorted(tail.open_times, since))
            older = tail.rows(0, kept, list(rows))
            rows = {name: np.concatenate([older[name], array]) for name, array in rows.items()} if kept else rows
        rows = {name: array[-self._rows :] for name, array in rows.items()}
        columns = {name: packed(array, repeats=name in REPEATING) for name, array in rows.items()}
        self._tails[market][series] = Tail(columns, len(rows[OPEN_TIME]) == count)
        self._carry_over(market, series)

    def _carry_over(self, market: str, series: Series) -> None:
        """Keep pushed candles that the file's newest rows lack: it was read between a push and its commit."""
        pushed, tail = self._pushed.get((market, series)), self._tails[market][series]
        if pushed is None:
            return
        newest = tail.open_times[-1:]
        later = [row for row in pushed.rows if len(newest) and row[OPEN_TIME] > newest[0]]  # pyright: ignore[reportOperatorIssue]
        if later and newest[0] >= pushed.tail.open_times[-1]:
            self._pushed[market, series] = _PushedRows(tail, later)
        else:
            self._pushed.pop((market, series), None)


def _followed_by(tail: Tail, rows: Sequence[Mapping[str, object]], most: int) -> Tail:
    """A tail with rows after its newest; columns that the rows lack are null there."""
    arrays: dict[str, Packed] = {}
    for name, each in tail.arrays.items():
        known = unpacked(each)
        if known.dtype.kind == "b":
            known = known.astype(np.float64)
        nothing = {"M": np.datetime64("NaT"), "O": None}.get(known.dtype.kind, np.nan)
        values = [row.get(name, nothing) for row in rows]
        kind = known.dtype if known.dtype.kind in "MO" else np.float64
        joined = np.concatenate([known.astype(kind), np.array(values, dtype=kind)])[-most:]
        arrays[name] = packed(joined, repeats=name in REPEATING)
    return Tail(arrays, tail.is_whole and len(tail.open_times) + len(rows) <= most)


def _extents(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]
) -> dict[Series, tuple[int, np.datetime64 | None]]:
    rows = connection.execute(
        f"select instrument, timeframe, candle_count, last_open_time from {qualified(market, Table.series)}"
    ).fetchall()
    found = {(name, timeframe): (count, last) for name, timeframe, count, last in rows}
    stored = {series: found.get((series.instrument, series.timeframe.value), (0, None)) for series in batch}
    return {series: (n, None if last is None else np.datetime64(last, "us")) for series, (n, last) in stored.items()}


def _rows_since(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], since: NDArray, columns: Sequence[str]
) -> Arrays:
    listed = ", ".join(f'c."{name}"' for name in columns)
    with registered(connection, "wanted", numbered(batch, since=since)):
        return arrays_of(
            connection,
            f"select w.series_no, {listed} from {qualified(market, Table.raw_candles)} c join wanted w "
            "on c.instrument = w.instrument and c.timeframe = w.timeframe and c.open_time >= w.since "
            "where c.open_time >= ? order by w.series_no, c.open_time",
            [since.min().astype(datetime)],
        )
