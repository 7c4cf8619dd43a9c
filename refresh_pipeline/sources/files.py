"""Candles from CSV and Parquet files that somebody else writes, one file per series. Nothing is written here.

A file is called like its series, `BTC-USD_H1.parquet` or `BTC-USD_H1.csv`; of both the Parquet file is read. Its first
row names the columns. What contradicts itself is passed on as it stands, for validation to reject; what cannot be read
as a candle at all is passed on as text. DuckDB reads the files, in the session time zone that `timezone:` names:
local hours that the clocks skip count as if the clocks had not been changed yet, those that occur twice as the second.
"""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from refresh_pipeline.market.candles import (
    CANDLE_COLUMNS,
    PRICE_COLUMNS,
    QUOTE_COLUMNS,
    TIME_UNIT,
    Candles,
    Malformed,
    instant,
)
from refresh_pipeline.market.model import Market, source_options
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError

TIME_COLUMNS = ("open_time", "time", "timestamp", "datetime", "date")
DELIMITERS = ",;\t|"


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
    """A file as DuckDB is to read it.

    `scan` is the table function with one parameter, the path; `columns` maps the file's column names, in lower case,
    to what each is called in the scan; `time` is SQL for the opening time in microseconds since 1970, null where it
    cannot be read.
    """

    path: Path
    scan: str
    columns: Mapping[str, str]
    time: str

    @property
    def text(self) -> str:
        """SQL for a row as one reads it in the file."""
        cells = [f"coalesce(cast({raw} as varchar), '')" for raw in self.columns.values()]
        return f"concat_ws(',', {', '.join(cells)})"


class FilesSource:
    """Reads what lies in a directory; a file that is not there means that there is no data."""

    kind = "files"
    # Each timeframe has its own file; one that is missing is not made from another.
    native_timeframes = tuple(Timeframe)

    def __init__(self, market: Market) -> None:
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
        with duckdb.connect() as connection:
            connection.execute(f"set TimeZone = '{self._timezone}'")
            for request in requests:
                yield self._fetched(connection, request, instant(now))

    def _fetched(self, connection: duckdb.DuckDBPyConnection, request: Request, now: np.datetime64) -> Fetched:
        started = time.perf_counter()
        candles, failure = Candles.none(), None
        try:
            path = self._path(request.series)
            if path is not None:
                found = read_candles(connection, path, self._columns, request.since, min(request.until, now))
                candles = found.where(self._market.calendar.closes(request.series.timeframe, found.open_time) <= now)
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


def read_candles(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[str],
    since: np.datetime64,
    until: np.datetime64,
) -> Candles:
    """The candles of one file that open from `since` to `until` (excluded), in order, the last of equal times only.

    Args:
        connection: its session time zone is that of naive times.
        path: a Parquet file, or a CSV file with a header.
        columns: which to give; NaN where the file has none of that name.
        since: datetime64[us], UTC.
        until: datetime64[us], UTC.

    Raises:
        PermanentError: the file cannot be read, lacks a column, or none of its rows is a candle.
    """
    try:
        table = _parquet_table(connection, path) if path.suffix == ".parquet" else _csv_table(path)
        _select(connection, table, columns, since, until)
        malformed = _malformed(connection)
        rows = connection.execute(f"select t, {', '.join(columns)} from found where reason is null").fetchnumpy()
        if malformed and len(rows["t"]) == 0:
            _refuse_if_nothing_is_readable(connection, table, malformed[0])
    except duckdb.Error as error:
        kind = path.suffix.removeprefix(".")
        raise PermanentError(f"{path}: expected a {kind} file, found: {_first_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{path}: expected a readable file in UTF-8, found: {_first_line(error)}") from error
    times = rows.pop("t").astype(TIME_UNIT)
    return Candles.of(times, malformed, **rows).sorted()


def _parquet_table(connection: duckdb.DuckDBPyConnection, path: Path) -> Table:
    described = connection.execute("describe select * from read_parquet(?)", [str(path)]).fetchall()
    columns = _first_of_each([(name, '"' + name.replace('"', '""') + '"') for name, *_ in described])
    types = _first_of_each([(name, kind) for name, kind, *_ in described])
    name = _time_column(path, columns)
    is_time = types[name].startswith(("TIMESTAMP", "DATE"))
    return Table(path, "read_parquet(?)", columns, _moment(columns[name]) if is_time else _written(columns[name]))


def _csv_table(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        line = lines.readline()
    # DuckDB's own guess looks at the rows as well, and takes a ragged file for one with a single column.
    delimiter = max(DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    columns = _first_of_each([(name, f"c{number}") for number, name in enumerate(names)])
    types = ", ".join(f"'c{number}': 'varchar'" for number in range(len(names)))
    scan = (
        f"read_csv(?, auto_detect=false, header=true, delim='{delimiter}', quote='\"', escape='\"', "
        f"columns={{{types}}}, store_rejects=true)"
    )
    return Table(path, scan, columns, _written(columns[_time_column(path, columns)]))


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


def _written(raw: str) -> str:
    """SQL for microseconds since 1970 from a text or a number, null where it is neither a time nor an epoch."""
    text = f"trim(cast({raw} as varchar))"
    number = f"try_cast({text} as double)"
    # Seconds, milliseconds, microseconds and nanoseconds since 1970 differ by a factor of 1,000 each.
    factor = f"case when abs({number}) < 1e11 then 1e6 when abs({number}) < 1e14 then 1e3 "
    factor += f"when abs({number}) < 1e17 then 1 else 1e-3 end"
    epoch = f"try_cast({number} * ({factor}) as bigint)"
    # Before 2.0 DuckDB reads an offset only behind seconds.
    with_seconds = rf"regexp_replace({text}, '([ T]\d+:\d+)([^:\d].*)?$', '\1:00\2')"
    is_epoch = rf"regexp_full_match({text}, '-?\d{{9,19}}(\.\d*)?')"
    return f"case when {is_epoch} then {epoch} else {_moment(with_seconds)} end"


def _moment(raw: str) -> str:
    moment = f"try_cast({raw} as timestamptz)"
    return f"case when isfinite({moment}) then epoch_us({moment}) end"


def _select(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    columns: Sequence[str],
    since: np.datetime64,
    until: np.datetime64,
) -> None:
    """What the file holds of a stretch, and every row whose time cannot be read, as the temporary table `found`."""
    numbers = [f"{_number(table, name)} as {name}" for name in columns]
    connection.execute(
        f"""
        create or replace temp table found as
        select {table.time} as t, {", ".join(numbers)}, {_reason(table, columns)} as reason,
            case when reason is not null then {table.text} end as text
        from {table.scan}
        where t is null or (t >= ? and t < ?)
        """,
        [str(table.path), int(since.astype(np.int64)), int(until.astype(np.int64))],
    )


def _number(table: Table, name: str) -> str:
    """SQL for a column's numbers, NaN where there is none."""
    return f"coalesce(try_cast({table.columns[name]} as double), 'nan')" if name in table.columns else "'nan'::double"


def _reason(table: Table, columns: Sequence[str]) -> str:
    """SQL for why a row cannot be read, null where it can; an empty price is a candle's fault, not a row's."""
    cases = ["when t is null then 'its time cannot be read'"]
    for name in columns:
        if name in table.columns:
            raw = f"cast({table.columns[name]} as varchar)"
            cases.append(f"when trim({raw}) <> '' and try_cast({raw} as double) is null then '{name} is no number'")
    return f"case {' '.join(cases)} end"


def _malformed(connection: duckdb.DuckDBPyConnection) -> list[Malformed]:
    """What could not be read: rows with text for a number, and rows that DuckDB could not split into columns."""
    unread = connection.execute("select text, reason from found where reason is not null").fetchall()
    if connection.execute("select 1 from duckdb_tables() where table_name = 'reject_errors'").fetchall():
        unread += connection.execute(
            "select first(csv_line), first(error_message) from reject_errors group by line order by line"
        ).fetchall()
        connection.execute("drop table reject_errors; drop table reject_scans")
    return [Malformed(str(text), reason) for text, reason in unread]


def _refuse_if_nothing_is_readable(connection: duckdb.DuckDBPyConnection, table: Table, example: Malformed) -> None:
    query = f"select count(*) from {table.scan} where {table.time} is not null"
    if connection.execute(query, [str(table.path)]).fetchall() == [(0,)]:
        raise PermanentError(
            f"{table.path}: expected rows such as 2024-01-31 09:15,1.1,1.3,1.0,1.2,500; none could be read, "
            f"the first unreadable one is {example.text!r}: {example.reason}"
        )


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0]
