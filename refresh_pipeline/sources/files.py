"""Candles from CSV and Parquet files that somebody else writes, one file per series. Nothing is written here.

A file is called like its series, `BTC-USD_H1.parquet` or `BTC-USD_H1.csv`; of both the Parquet file is read. How a text
is written is found out in `file_dialect`. What contradicts itself is passed on as it stands, for validation to reject;
what cannot be read as a candle at all is passed on as text.

DuckDB reads the files, in the session time zone that `timezone:` names: local hours that the clocks skip count as if
the clocks had not been changed yet. Of hours that occur twice a file in order of time has the first pass first; what
stands there once counts as the second. A date without a time names the bar of that day, week or month.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.market.calendars.base import Calendar, zone_offsets
from refresh_pipeline.market.candles import (
    CANDLE_COLUMNS,
    QUOTE_COLUMNS,
    TIME_UNIT,
    Candles,
    Floats,
    Malformed,
    Times,
    instant,
)
from refresh_pipeline.market.model import Market, source_options
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError
from refresh_pipeline.sources.file_options import FilesOptions
from refresh_pipeline.sources.file_table import (
    Table,
    csv_table,
    malformed,
    parquet_table,
    refuse_if_nothing_is_readable,
    select,
)
from refresh_pipeline.sources.file_text import PACKED, open_text

# The endings of files that are read, in the order in which they are preferred.
ENDINGS = tuple(f"{kind}{packed}" for packed in ("", *PACKED) for kind in (".csv", ".txt", ".tsv")) + PACKED
PARQUET = ".parquet"
# In microseconds.
DAY = 86_400_000_000
# How far the beginning of the bar that a date names may lie from it, and more.
MONTH = 32 * DAY
# A file that repeats all of itself is listed so far.
MOST_REPLACED = 1000
# Without the series: those with one reason are reported in one line.
NO_FILE = "found no file SYMBOL_TIMEFRAME.csv or .parquet (BTC-USD_H1.csv for BTC/USD H1)"
TWO_VALUES = "another row of the file has the same time and other values"


class FilesSource:
    """Reads what lies in a directory; a file that is not there means that there is no data."""

    kind = "files"
    # Each timeframe has its own file; one that is missing is not made from another.
    native_timeframes = tuple(Timeframe)

    def __init__(self, market: Market, *_: object) -> None:
        """The source of one market; sources on the network take further arguments, which mean nothing here."""
        self._options = source_options(market, FilesOptions)
        self._market = market
        self._directory = Path(self._options.directory).expanduser().absolute()
        self._columns = (*CANDLE_COLUMNS, *(QUOTE_COLUMNS if market.two_sided else ()))

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Closed candles for each request, one answer each, in the order of the requests.

        A file that cannot be used ends its series with a PermanentError that says what was expected and found.

        Args:
            requests: for any timeframes.
            now: bars that end later are left out.
        """
        with open_duckdb(session={"TimeZone": self._options.zone}) as connection:
            paths: Paths | SourceError = _listed_or_failure(self._directory)
            for request in requests:
                yield self._fetched(connection, paths, request, instant(now))

    def _fetched(
        self, connection: duckdb.DuckDBPyConnection, paths: "Paths | SourceError", request: Request, now: np.datetime64
    ) -> Fetched:
        started = time.perf_counter()
        candles, failure, remark = Candles.none(), None, ""
        try:
            if isinstance(paths, SourceError):
                raise paths
            path = paths.get(
                Series(self._market.symbol(request.series.instrument, default=str), request.series.timeframe).file_stem
            )
            if path is None:
                remark = f"{NO_FILE} in {self._directory}"
            else:
                calendar = self._market.calendar_of(request.series.instrument)
                bars = Bars(calendar, request.series.timeframe, self._options.zone)
                reader = FileReader(connection, self._options, self._columns, bars)
                found = reader.candles(path, since=request.since, until=min(request.until, now))
                candles = found.where(calendar.closes(request.series.timeframe, found.open_time) <= now)
        except SourceError as error:
            failure = error
        seconds = time.perf_counter() - started
        return Fetched(request.series, candles, error=failure, seconds=seconds, remark=remark)


# The preferred file by the name without its ending.
Paths = Mapping[str, Path]


def _listed_or_failure(directory: Path) -> Paths | SourceError:
    try:
        return listed(directory)
    except SourceError as error:
        return error


def listed(directory: Path) -> Paths:
    """The files of a directory by their names without endings; endings in any case, Parquet before text.

    Raises:
        PermanentError: the directory does not exist or cannot be read.
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PermanentError(f"{directory}: expected a directory with candles, found none; see directory:") from error
    except OSError as error:
        raise PermanentError(f"{directory}: expected a readable directory, found: {error.strerror}") from error
    best: dict[str, tuple[int, bool, str]] = {}
    for name in names:
        if ending := ending_of(name):
            place = (-1 if ending == PARQUET else ENDINGS.index(ending), not name.endswith(ending), name)
            stem = name[: -len(ending)]
            best[stem] = min(best.get(stem, place), place)
    return {stem: directory / name for stem, (*_, name) in best.items()}


def ending_of(name: str) -> str:
    """The ending of a file that can be read, in lower case; empty for any other.

    >>> ending_of("BTC-USD_H1.CSV"), ending_of("BTC-USD_H1.csv.gz"), ending_of("BTC-USD_H1.png")
    ('.csv', '.csv.gz', '')
    """
    lower = name.lower()
    return max((each for each in (PARQUET, *ENDINGS) if lower.endswith(each)), key=len, default="")


@dataclass(frozen=True, slots=True)
class Bars:
    """How a file's local times and dates become opening times of bars."""

    calendar: Calendar
    timeframe: Timeframe
    # Of times without an offset.
    zone: str

    @property
    def margin(self) -> int:
        """Within how many microseconds of its written time a row's bar opens."""
        return DAY if self.timeframe.is_intraday else MONTH

    def opened(self, times: Times, walls: Times, is_date: NDArray[np.bool_]) -> Times:
        """The opening times of a file's rows, which are in the order of the file.

        Args:
            times: as DuckDB reads them: of two equal local hours it takes the second.
            walls: the wall clock that each row names, NaT where it has an offset.
            is_date: which rows have a date without a time.
        """
        opens = _first_pass_first(self.zone, times, walls)
        if self.timeframe.is_intraday:
            return opens
        if is_date.any():
            opens[is_date] = self.calendar.bars_of_days(self.timeframe, walls[is_date])
        if (zone := self._zone_of_midnights(opens[~is_date])) is not None:
            local = opens[~is_date] + zone_offsets(zone, opens[~is_date])
            opens[~is_date] = self.calendar.bars_of_days(self.timeframe, local)
        return opens

    def _zone_of_midnights(self, times: Times) -> str | None:
        """The time zone in which each of these times is a midnight, where no bar opens at any of them; else None.

        Many programs write a day as its midnight, of UTC or of the exchange.
        """
        if not len(times) or self.calendar.has_bar(self.timeframe, times).any():
            return None
        for zone in (self.calendar.zone, self.zone, "UTC"):
            walls = times + zone_offsets(zone, times)
            if (walls == walls.astype("datetime64[D]")).all():
                return zone
        return None


def _first_pass_first(zone: str, times: Times, walls: Times) -> Times:
    """The times with the first pass of hours that occur twice an hour earlier, where the file has both passes."""
    times = times.copy()
    # An hour before the earlier pass the zone's clock is still the one of before.
    behind = zone_offsets(zone, times - np.timedelta64(4, "h")) - zone_offsets(zone, times)
    earlier = times - np.maximum(behind, np.timedelta64(0, "us"))
    twice = (behind > np.timedelta64(0, "us")) & (walls == times + zone_offsets(zone, times))
    twice &= earlier + zone_offsets(zone, earlier) == walls
    rows = np.flatnonzero(twice)
    if len(times) and times[-1] < times[0]:
        rows = rows[::-1]
    for night in np.unique(walls[rows].astype("datetime64[D]")):
        of_night = rows[walls[rows].astype("datetime64[D]") == night]
        steps_back = np.flatnonzero(np.diff(walls[of_night]) <= np.timedelta64(0, "us"))
        first = of_night[: steps_back[0] + 1] if len(steps_back) else of_night[:0]
        times[first] = earlier[first]
    return times


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads one file after the other.

    Attributes:
        connection: its session time zone is that of naive times.
        options: how the market's files are written.
        columns: which to give; NaN where a file has none of that name.
        bars: what the files' times mean.
    """

    connection: duckdb.DuckDBPyConnection
    options: FilesOptions
    columns: Sequence[str]
    bars: Bars

    def candles(self, path: Path, *, since: np.datetime64, until: np.datetime64) -> Candles:
        """The candles that open from `since` to `until` (excluded), in order, the last of equal times only.

        Where rows of one time have different values, the others are set aside.

        Args:
            path: a Parquet file, or a text file, packed or not.
            since: datetime64[us], UTC.
            until: datetime64[us], UTC.

        Raises:
            PermanentError: the file cannot be read, lacks a column, or none of its rows is a candle.
        """
        stretch = {
            "since": int(since.astype(np.int64)),
            "until": int(until.astype(np.int64)),
            "margin": self.bars.margin,
        }
        is_parquet = path.suffix.lower() == PARQUET
        try:
            if is_parquet:
                return self._read(parquet_table(self.connection, path, self.options), stretch)
            try:
                return self._from_text(path, stretch, copy=False)
            # A copy has one kind of line end.
            except duckdb.Error:
                return self._from_text(path, stretch, copy=True)
        except duckdb.Error as error:
            wanted = "a Parquet file" if is_parquet else "a CSV file"
            raise PermanentError(f"{path}: expected {wanted}, found: {_first_line(error)}") from error
        except (OSError, UnicodeError) as error:
            wanted = f"a readable file in {(self.options.encoding or 'UTF-8').upper()}"
            raise PermanentError(f"{path}: expected {wanted}, found: {_first_line(error)}") from error

    def _from_text(self, path: Path, stretch: dict[str, int], *, copy: bool) -> Candles:
        with (
            tempfile.TemporaryDirectory(prefix="refresh-file-") as name,
            open_text(path, self.options.encoding, Path(name), copy=copy) as text,
        ):
            return self._read(csv_table(self.connection, text, self.options, self.columns, Path(name)), stretch)

    def _read(self, table: Table, stretch: dict[str, int]) -> Candles:
        select(self.connection, table, self.columns, stretch)
        unreadable = malformed(self.connection, table, stretch)
        rows = self.connection.execute(
            f"select t, wall, is_date, {', '.join(self.columns)} from found where reason is null"
        ).fetchnumpy()
        written = rows.pop("t").astype(TIME_UNIT)
        walls = np.ma.filled(rows.pop("wall").astype("float64"), np.nan)
        is_date = rows.pop("is_date").astype(bool)
        opens = self.bars.opened(written, _as_times(walls), is_date)
        chosen = (opens >= np.datetime64(stretch["since"], "us")) & (opens < np.datetime64(stretch["until"], "us"))
        if unreadable and not chosen.any():
            refuse_if_nothing_is_readable(self.connection, table, unreadable[0])
        if self.bars.timeframe.is_intraday and is_date.all():
            _require_clocks(table, written, self.bars.timeframe)
        values = {name: np.asarray(rows[name])[chosen] for name in self.columns}
        unreadable += _other_values(opens[chosen], values)
        return Candles.of(opens[chosen], unreadable, **values).sorted()


def _require_clocks(table: Table, written: Times, timeframe: Timeframe) -> None:
    days, counts = np.unique(written, return_counts=True)
    if len(days) and counts.max() > 2:
        day = days[counts.argmax()].astype("datetime64[D]")
        raise PermanentError(
            f"{table.name}: expected times of day for {timeframe}, found dates alone ({day} in {counts.max()} rows)"
        )


def _as_times(microseconds: Floats) -> Times:
    known = np.isfinite(microseconds)
    times = np.full(len(microseconds), np.datetime64("NaT", "us"))
    times[known] = microseconds[known].astype(np.int64).astype(TIME_UNIT)
    return times


def _other_values(opens: Times, values: Mapping[str, Floats]) -> list[Malformed]:
    """The rows whose time a later row of the file has with other values."""
    order = np.argsort(opens, kind="stable")
    again = opens[order][1:] == opens[order][:-1]
    rows, following = order[:-1][again], order[1:][again]
    differs = np.zeros(len(rows), dtype=bool)
    for column in values.values():
        differs |= ~np.isclose(column[rows], column[following], rtol=0, atol=0, equal_nan=True)
    return [
        Malformed(",".join([str(opens[row]), *(f"{column[row]:g}" for column in values.values())]), TWO_VALUES)
        for row in rows[differs][:MOST_REPLACED].tolist()
    ]


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0]
