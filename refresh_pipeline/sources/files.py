"""Candles from CSV and Parquet files that somebody else writes, one file per series. Nothing is written here.

A file is called like its series, `BTC-USD_H1.parquet` or `BTC-USD_H1.csv`; of both the Parquet file is read. Its first
row names the columns. What contradicts itself is passed on as it stands, for validation to reject; what cannot be read
as a candle at all is passed on as text. DuckDB reads the files, in the session time zone that `timezone:` names:
local hours that the clocks skip count as if the clocks had not been changed yet. Of hours that occur twice a file in
order of time has the first pass first; what stands there once counts as the second. A date without a time names the bar
of that day, week or month.
"""

import csv
import glob
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.market.calendars.base import Calendar, zone_offsets
from refresh_pipeline.market.candles import (
    CANDLE_COLUMNS,
    PRICE_COLUMNS,
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

TIME_COLUMNS = ("open_time", "time", "timestamp", "datetime", "date")
DELIMITERS = ",;\t|"
# In bytes; what is no CSV file may have no second line.
LONGEST_HEADER = 1 << 16
# DuckDB takes a path for a pattern, hence the escapes, and the names of its folders (volume=5) for columns.
PARQUET_SCAN = "read_parquet($path, hive_partitioning=false)"
# In microseconds.
DAY = 86_400_000_000
# How far the beginning of the bar that a date names may lie from it, and more.
MONTH = 32 * DAY
# On a calendar's wall clock: inside the day's bar, and where a week that opens on Sunday evening has begun.
NOON, EVENING = (np.timedelta64(hours, "h") for hours in (12, 18))
# A file that repeats all of itself is listed so far.
MOST_REPLACED = 1000
TWO_VALUES = "another row of the file has the same time and other values"


# From `since` to `until` (excluded), in microseconds since 1970.
Stretch = dict[str, int]


class FilesOptions(BaseModel):
    """What `source:` may say of a market of files beside its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: str
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("allowed: a zone of the IANA database, for instance Europe/Berlin") from error
        return name


@dataclass(frozen=True, slots=True)
class Table:
    """A file as DuckDB is to read it; everything but the path is SQL.

    Attributes:
        path: the file.
        scan: the table function over it, with the parameter `$path`.
        columns: what each of the file's columns, by its name in lower case, is called in the scan.
        raw_time: the opening time as it stands in the file.
        time: `raw_time` in microseconds since 1970, null where it cannot be read.
        nearby: what holds for every row from `$since` to `$until` and for every unreadable time, and is quick to find.
        rejects: whether DuckDB lists the rows that it could not split into columns.
    """

    path: Path
    scan: str
    columns: Mapping[str, str]
    raw_time: str
    time: str
    nearby: str
    rejects: bool
    # Microseconds of the wall clock that `raw_time` names, null where it names an instant.
    wall: str
    # Whether it is a date without a time.
    is_date: str


class FilesSource:
    """Reads what lies in a directory; a file that is not there means that there is no data."""

    kind = "files"
    # Each timeframe has its own file; one that is missing is not made from another.
    native_timeframes = tuple(Timeframe)

    def __init__(self, market: Market, *_: object) -> None:
        """The source of one market; sources on the network take further arguments, which mean nothing here."""
        options = source_options(market, FilesOptions)
        self._market = market
        self._timezone = options.timezone
        self._directory = Path(options.directory).expanduser().absolute()
        self._columns = (*CANDLE_COLUMNS, *(QUOTE_COLUMNS if market.two_sided else ()))

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Closed candles for each request, one answer each, in the order of the requests.

        A file that cannot be used ends its series with a PermanentError that says what was expected and found.

        Args:
            requests: for any timeframes.
            now: bars that end later are left out.
        """
        with open_duckdb(session={"TimeZone": self._timezone}) as connection:
            for request in requests:
                yield self._fetched(connection, request, instant(now))

    def _fetched(self, connection: duckdb.DuckDBPyConnection, request: Request, now: np.datetime64) -> Fetched:
        started = time.perf_counter()
        candles, failure = Candles.none(), None
        try:
            path = self._path(request.series)
            if path is not None:
                calendar = self._market.calendar_of(request.series.instrument)
                bars = Bars(calendar, request.series.timeframe, self._timezone)
                found = read_candles(
                    connection, path, self._columns, bars, since=request.since, until=min(request.until, now)
                )
                candles = found.where(calendar.closes(request.series.timeframe, found.open_time) <= now)
        except SourceError as error:
            failure = error
        return Fetched(request.series, candles, error=failure, seconds=time.perf_counter() - started)

    def _path(self, series: Series) -> Path | None:
        stem = Series(self._market.symbol(series.instrument, default=str), series.timeframe).file_stem
        try:
            if not self._directory.is_dir():
                raise PermanentError(
                    f"{self._directory}: expected a directory with candles, found none; see directory:"
                )
            paths = [self._directory / f"{stem}{ending}" for ending in (".parquet", ".csv")]
            return next((path for path in paths if path.exists()), None)
        except OSError as error:
            raise PermanentError(
                f"{self._directory}: expected a readable directory, found: {error.strerror}"
            ) from error


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
        if not self.timeframe.is_intraday and is_date.any():
            into = EVENING if self.timeframe is Timeframe.W1 else NOON
            moments = walls[is_date].astype("datetime64[D]").astype(TIME_UNIT) + into
            moments = moments.astype(TIME_UNIT)
            utc = (moments - zone_offsets(self.calendar.zone, moments)).astype(TIME_UNIT)
            opens[is_date] = self.calendar.floor(self.timeframe, utc)
        return opens


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


def read_candles(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[str],
    bars: Bars,
    *,
    since: np.datetime64,
    until: np.datetime64,
) -> Candles:
    """The candles of one file that open from `since` to `until` (excluded), in order, the last of equal times only.

    Where rows of one time have different values, the others are set aside.

    Args:
        connection: its session time zone is that of naive times.
        path: a Parquet file, or a CSV file with a header.
        columns: which to give; NaN where the file has none of that name.
        bars: what the file's times mean.
        since: datetime64[us], UTC.
        until: datetime64[us], UTC.

    Raises:
        PermanentError: the file cannot be read, lacks a column, or none of its rows is a candle.
    """
    stretch = {"since": int(since.astype(np.int64)), "until": int(until.astype(np.int64)), "margin": bars.margin}
    try:
        table = _parquet_table(connection, path) if path.suffix == ".parquet" else _csv_table(path)
        _select(connection, table, columns, stretch)
        malformed = _malformed(connection, table, stretch)
        rows = connection.execute(
            f"select t, wall, is_date, {', '.join(columns)} from found where reason is null"
        ).fetchnumpy()
        written = rows.pop("t").astype(TIME_UNIT)
        walls = np.ma.filled(rows.pop("wall").astype("float64"), np.nan)
        opens = bars.opened(written, _as_times(walls), rows.pop("is_date").astype(bool))
        chosen = (opens >= since) & (opens < until)
        if malformed and not chosen.any():
            _refuse_if_nothing_is_readable(connection, table, malformed[0])
    except duckdb.Error as error:
        wanted = "a Parquet file" if path.suffix == ".parquet" else "a CSV file with one kind of line end"
        raise PermanentError(f"{path}: expected {wanted}, found: {_first_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{path}: expected a readable file in UTF-8, found: {_first_line(error)}") from error
    values = {name: np.asarray(rows[name])[chosen] for name in columns}
    malformed += _other_values(opens[chosen], values)
    return Candles.of(opens[chosen], malformed, **values).sorted()


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


def _parquet_table(connection: duckdb.DuckDBPyConnection, path: Path) -> Table:
    described = connection.execute(
        f"describe select * from {PARQUET_SCAN}", {"path": glob.escape(str(path))}
    ).fetchall()
    columns = _first_of_each([(name, f'"{name}"') for name, *_ in described])
    types = _first_of_each([(name, kind) for name, kind, *_ in described])
    name = _time_column(path, columns)
    scan = PARQUET_SCAN
    if not types[name].startswith(("TIMESTAMP", "DATE")):
        return _with_written_times(path, scan, columns, columns[name], rejects=False)
    time = _moment(columns[name])
    nearby = f"{time} is null or ({time} >= $since - $margin and {time} < $until + $margin)"
    is_wall = "WITH TIME ZONE" not in types[name]
    wall = "epoch_us(try_cast(raw_time as timestamp))" if is_wall else "null::bigint"
    is_date = "true" if types[name].startswith("DATE") else "false"
    return Table(path, scan, columns, columns[name], _moment("raw_time"), nearby, False, wall, is_date)


def _csv_table(path: Path) -> Table:
    with path.open("rb") as lines:
        line = next(iter(lines.readline(LONGEST_HEADER).decode("utf-8-sig").splitlines()), "")
    # DuckDB's own guess looks at the rows as well, and takes a ragged file for one with a single column.
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    columns = _first_of_each([(name, f"c{number}") for number, name in enumerate(names)])
    types = ", ".join(f"'c{number}': 'varchar'" for number in range(len(names)))
    scan = (
        f"read_csv($path, auto_detect=false, header=true, delim='{delimiter}', quote='\"', escape='\"', "
        f"columns={{{types}}}, store_rejects=true, hive_partitioning=false)"
    )
    return _with_written_times(path, scan, columns, columns[_time_column(path, columns)], rejects=True)


def _with_written_times(path: Path, scan: str, columns: Mapping[str, str], column: str, *, rejects: bool) -> Table:
    text = f"trim(cast({column} as varchar))"
    # Reading a time with its zone takes ten times as long as without, which is off by a day at most.
    rough = f"epoch_us(try_cast({text} as timestamp))"
    nearby = f"{rough} is null or ({rough} >= $since - $margin and {rough} < $until + $margin)"
    wall = "epoch_us(try_cast(raw_time as timestamp))"
    is_date = r"regexp_full_match(raw_time, '\d{4}[-/]\d{1,2}[-/]\d{1,2}')"
    return Table(path, scan, columns, text, _written("raw_time"), nearby, rejects, wall, is_date)


def _first_of_each(columns: Sequence[tuple[str, str]]) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for name, value in columns:
        by_name.setdefault(name.strip().lower(), value)
    return by_name


def _time_column(path: Path, columns: Mapping[str, str]) -> str:
    """The name of the column with the opening times, in a file that has every column it needs."""
    missing = [name for name in PRICE_COLUMNS if name not in columns]
    names = [name for name in TIME_COLUMNS if name in columns]
    if missing or not names:
        wanted = missing if names else [" or ".join(TIME_COLUMNS), *missing]
        raise PermanentError(
            f"{path}: expected a first row that names the columns {', '.join(wanted)}; "
            f"found {', '.join(filter(None, columns)) or 'nothing'}"
        )
    return names[0]


def _written(text: str) -> str:
    """SQL for microseconds since 1970 from a text, null where it is neither a time nor an epoch since 1973."""
    number = f"try_cast({text} as double)"
    # Seconds, milliseconds, microseconds and nanoseconds do not overlap before the year 2286.
    units = ((1e8, 1e10, 1e6), (1e11, 1e13, 1e3), (1e14, 1e16, 1), (1e17, 1e19, 1e-3))
    cases = [f"when {number} >= {low} and {number} < {high} then {number} * {unit}" for low, high, unit in units]
    # Before 2.0 DuckDB reads an offset only behind seconds.
    with_seconds = rf"regexp_replace({text}, '([ T]\d+:\d+)([^:\d].*)?$', '\1:00\2')"
    return f"coalesce({_moment(text)}, cast(case {' '.join(cases)} end as bigint), {_moment(with_seconds)})"


def _moment(raw: str) -> str:
    # Null for infinity, which is a timestamp as well.
    return f"epoch_us(try_cast({raw} as timestamptz))"


def _select(connection: duckdb.DuckDBPyConnection, table: Table, columns: Sequence[str], stretch: Stretch) -> None:
    """What the file holds of a stretch and little more, in its order, as the temporary table `found`."""
    connection.execute("drop table if exists reject_errors; drop table if exists reject_scans")
    raw = [f"{table.columns.get(name, 'null::varchar')} as raw_{name}" for name in columns]
    # DuckDB takes "1_5" for a number.
    cast = {
        name: f"try_cast(case when not contains(raw_{name}::varchar, '_') then raw_{name} end as double)"
        for name in columns
    }
    numbers = [f"coalesce({cast[name]}, 'nan') as {name}" for name in columns]
    # An empty price is a candle's fault, not a row's; a volume that is no number is not known.
    unreadable = [
        f"when {cast[name]} is null and raw_{name} is not null then '{name} is no number'"
        for name in columns
        if name != "volume"
    ]
    cells = [f"coalesce(raw_{name}::varchar, '')" for name in ("time", *columns)]
    # No common table expressions: materialized ones lose the order of rows before DuckDB 2.0.
    connection.execute(
        f"""
        create or replace temp table found as
        select {table.time} as t, {table.wall} as wall, coalesce({table.is_date}, false) as is_date,
            {", ".join(numbers)},
            case when t is null then 'its time cannot be read' {" ".join(unreadable)} end as reason,
            case when reason is not null then concat_ws(',', {", ".join(cells)}) end as text
        from (select {table.raw_time} as raw_time, {", ".join(raw)} from {table.scan} where {table.nearby})
        """,
        {"path": glob.escape(str(table.path)), **stretch},
    )


def _malformed(connection: duckdb.DuckDBPyConnection, table: Table, stretch: Stretch) -> list[Malformed]:
    """What could not be read: rows with text for a number, and rows that DuckDB could not split into columns."""
    unread = connection.execute(
        "select text, reason from found where reason is not null and (t is null or (t >= $since and t < $until))",
        {name: stretch[name] for name in ("since", "until")},
    ).fetchall()
    if table.rejects:
        unread += connection.execute(
            "select first(csv_line), first(error_message) from reject_errors group by line order by line"
        ).fetchall()
    return [Malformed(str(text), reason) for text, reason in unread]


def _refuse_if_nothing_is_readable(connection: duckdb.DuckDBPyConnection, table: Table, example: Malformed) -> None:
    query = (
        f"select count(*) from (select {table.raw_time} as raw_time from {table.scan}) where {table.time} is not null"
    )
    if connection.execute(query, {"path": glob.escape(str(table.path))}).fetchall() == [(0,)]:
        raise PermanentError(
            f"{table.path}: expected rows such as 2024-01-31 09:15,1.1,1.3,1.0,1.2,500; none could be read, "
            f"the first unreadable one is {example.text!r}: {example.reason}"
        )


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0]
