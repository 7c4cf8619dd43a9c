"""The newest candles of every series in memory, brought forward by the change feed.

What is asked most is answered without opening the warehouse. Columns that repeat few values (source, time of the fetch)
are kept as codes: 1,000 rows of a series take some 55 kB.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.api.frames import OPEN_TIME, Window
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of, numbered, registered
from refresh_pipeline.warehouse.schema import PROVENANCE, RESAMPLED, Table, candle_columns, qualified

REPEATING = (*PROVENANCE, *RESAMPLED)
# Weekends and holidays that a tail must bridge.
QUIET = np.timedelta64(5, "D")
Arrays = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class Codes:
    """An array of few distinct values: the values, and the number of each row's."""

    values: NDArray
    codes: NDArray

    @classmethod
    def of(cls, array: NDArray) -> "Codes":
        """The codes of an array."""
        if array.dtype.kind == "O":
            distinct = {value: number for number, value in enumerate(dict.fromkeys(array.tolist()))}
            codes = np.array([distinct[value] for value in array.tolist()], dtype=np.int64)
            values = np.array(list(distinct), dtype=object)
        else:
            values, codes = np.unique(array, return_inverse=True)
        return cls(values, codes.astype(np.min_scalar_type(max(len(values), 1))))

    @property
    def array(self) -> NDArray:
        """The array."""
        return self.values[self.codes] if len(self.values) else self.values


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest candles of a series; `is_whole` where it has no older ones."""

    arrays: Mapping[str, NDArray | Codes]
    is_whole: bool

    @property
    def open_times(self) -> NDArray:
        """Oldest first."""
        times = self.arrays[OPEN_TIME]
        assert not isinstance(times, Codes)
        return times

    def rows(self, first: int, end: int, columns: Sequence[str]) -> Arrays:
        """Some rows of some columns."""
        arrays = {name: self.arrays[name] for name in columns}
        return {name: (each.array if isinstance(each, Codes) else each)[first:end] for name, each in arrays.items()}

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


class Tails:
    """The tails of the loaded markets, by market and series."""

    def __init__(self, markets: Sequence[Market], rows: int) -> None:
        self._markets, self._rows = {market.name: market for market in markets}, rows
        self._tails: dict[str, dict[Series, Tail]] = {market.name: {} for market in markets}

    def get(self, market: str, series: Series) -> Tail | None:
        """The tail of a series; None where it is not loaded."""
        return self._tails[market].get(series)

    def of_market(self, market: str) -> Mapping[Series, Tail]:
        """The tails of a market."""
        return self._tails[market]

    def forget(self) -> None:
        """Drop everything: the file is another one."""
        for tails in self._tails.values():
            tails.clear()

    def follow(
        self, connection: duckdb.DuckDBPyConnection, changed: Mapping[tuple[str, Series], datetime | None]
    ) -> None:
        """Read what changed of each series from an open time on, one question a market."""
        by_market: dict[str, dict[Series, np.datetime64]] = defaultdict(dict)
        for (market, series), since in changed.items():
            if market in self._markets:
                by_market[market][series] = BEGINNING if since is None else np.datetime64(since, "us")
        for market, batch in by_market.items():
            self._read(connection, self._markets[market], batch)

    def _read(
        self, connection: duckdb.DuckDBPyConnection, market: Market, batch: Mapping[Series, np.datetime64]
    ) -> None:
        listed = list(batch)
        stored = _extents(connection, market.name, listed)
        since = np.array([self._since(market.name, s, batch[s], stored[s][1]) for s in listed], dtype=TIME_UNIT)
        columns = [OPEN_TIME, *candle_columns(market.two_sided), *REPEATING]
        rows = _rows_since(connection, market.name, listed, since, columns)
        starts = np.searchsorted(rows.pop("series_no"), np.arange(len(listed) + 1))
        for number, series in enumerate(listed):
            part = {name: array[starts[number] : starts[number + 1]] for name, array in rows.items()}
            self._put(market.name, series, part, since[number], stored[series][0])

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
        packed = {name: Codes.of(array) if name in REPEATING else np.array(array) for name, array in rows.items()}
        self._tails[market][series] = Tail(packed, len(rows[OPEN_TIME]) == count)


def _extents(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]
) -> dict[Series, tuple[int, np.datetime64 | None]]:
    rows = connection.execute(
        f"select instrument, timeframe, candle_count, last_open_time from {qualified(market, Table.series)}"
    ).fetchall()
    found = {
        Series(name, Timeframe(timeframe)): (count, None if last is None else np.datetime64(last, "us"))
        for name, timeframe, count, last in rows
    }
    return {series: found.get(series, (0, None)) for series in batch}


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
