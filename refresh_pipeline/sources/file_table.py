"""A file as SQL: where its columns stand, how its times become instants and its cells numbers.

DuckDB reads the files, in the session time zone that `timezone:` names.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb

from refresh_pipeline.market.candles import Malformed
from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.file_dialect import (
    Dialect,
    header_of,
    lacking,
    positions_of,
    sample_rows,
    with_clock,
    with_contents,
)
from refresh_pipeline.sources.file_numbers import Marks
from refresh_pipeline.sources.file_options import FilesOptions
from refresh_pipeline.sources.file_text import Text, without_first_lines

# DuckDB takes a path for a pattern, hence the escapes, and the names of its folders (volume=5) for columns.
PARQUET_SCAN = "read_parquet($path, hive_partitioning=false)"
# From `since` to `until` (excluded), in microseconds since 1970.
Stretch = dict[str, int]


@dataclass(frozen=True, slots=True)
class Table:
    """A file as DuckDB is to read it; everything but the path is SQL.

    Attributes:
        path: the file.
        scan: the table function over it, with the parameter `$path`.
        columns: what each of our columns is called in the scan, as far as the file has it.
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
    # How its numbers are written, and what messages call the file.
    marks: Marks = field(default_factory=Marks)
    source: str = ""

    @property
    def name(self) -> str:
        """What messages call the file: not the copy that is read."""
        return self.source or str(self.path)

    @property
    def parameters(self) -> dict[str, str]:
        """What `scan` asks for."""
        return {"path": glob.escape(str(self.path))}


def parquet_table(connection: duckdb.DuckDBPyConnection, path: Path, options: FilesOptions) -> Table:
    """A Parquet file; raises PermanentError where it lacks a column."""
    described = connection.execute(
        f"describe select * from {PARQUET_SCAN}", {"path": glob.escape(str(path))}
    ).fetchall()
    names, types = [str(name) for name, *_ in described], [str(kind) for _, kind, *_ in described]
    positions = positions_of(names, options)
    if fault := lacking(names, positions):
        raise PermanentError(f"{path}: {fault}")
    quoted = {each: '"' + names[at[0]].replace('"', '""') + '"' for each, at in positions.items()}
    kind, raw = types[positions["open_time"][0]], quoted["open_time"]
    if not kind.startswith(("TIMESTAMP", "DATE")):
        return _with_written_times(path, PARQUET_SCAN, quoted, raw, Written(options.formats, is_text=False))
    time = _moment(raw)
    nearby = f"{time} is null or ({time} >= $since - $margin and {time} < $until + $margin)"
    wall = "epoch_us(try_cast(raw_time as timestamp))" if "WITH TIME ZONE" not in kind else "null::bigint"
    is_date = "true" if kind.startswith("DATE") else "false"
    return Table(path, PARQUET_SCAN, quoted, raw, _moment("raw_time"), nearby, False, wall, is_date)


def csv_table(
    connection: duckdb.DuckDBPyConnection, text: Text, options: FilesOptions, columns: Sequence[str], folder: Path
) -> Table:
    """A text file as its rows and the market's options say.

    Args:
        connection: its session time zone is that of naive times.
        text: the file's.
        options: of the market.
        columns: which are wanted.
        folder: where a copy without the lines above the rows may lie.

    Raises:
        PermanentError: no header, a time or a number with two readings, or several instruments.
    """
    dialect = dialect_of(connection, text, options, columns, folder)
    scan, path = _scan(dialect, text, folder)
    places = {name: f"c{at[0]}" for name, at in dialect.positions.items()}
    written = Written(formats=dialect.formats, marks=dialect.marks)
    return replace(_with_written_times(path, scan, places, _raw_time(dialect.positions), written), source=text.name)


def dialect_of(
    connection: duckdb.DuckDBPyConnection, text: Text, options: FilesOptions, columns: Sequence[str], folder: Path
) -> Dialect:
    """How a text file is written; arguments and errors as for `csv_table`."""
    header = header_of(text, options)

    def compare(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
        scan, path = _scan(header, text, folder)
        positions = header.positions if options.columns else with_clock(header, sample_rows(header, text))
        return _readings(connection, (scan, path, _raw_time(positions)), first, second)

    return with_contents(header, text, options, compare, columns)


def _scan(dialect: Dialect, text: Text, folder: Path) -> tuple[str, Path]:
    # DuckDB counts blank lines at the beginning in a way of its own.
    is_plain = dialect.first_row == int(dialect.has_header)
    path = text.path if is_plain else without_first_lines(text, dialect.first_row, folder)
    header = str(is_plain and dialect.has_header).lower()
    types = ", ".join(f"'c{number}': 'varchar'" for number in range(len(dialect.names)))
    delimiter = dialect.delimiter.replace("'", "''")
    return (
        f"read_csv($path, auto_detect=false, header={header}, delim='{delimiter}', quote='\"', escape='\"', "
        f"columns={{{types}}}, store_rejects=true, hive_partitioning=false, compression='none')"
    ), path


def _raw_time(positions: Mapping[str, tuple[int, ...]]) -> str:
    cells = [f"trim(c{at})" for at in positions["open_time"]]
    return cells[0] if len(cells) == 1 else f"concat_ws(' ', {', '.join(cells)})"


def _readings(
    connection: duckdb.DuckDBPyConnection, read: tuple[str, Path, str], first: Sequence[str], second: Sequence[str]
) -> tuple[int, int]:
    """How many rows of the whole file the first formats alone can read, and the second alone."""
    scan, path, raw = read
    one, other = (f"try_strptime({raw}, {_list(formats)}) is not null" for formats in (first, second))
    query = f"select count(*) filter ({one} and not {other}), count(*) filter ({other} and not {one}) from {scan}"
    ((only_first, only_second),) = connection.execute(query, {"path": glob.escape(str(path))}).fetchall()
    return only_first, only_second


def _list(formats: Sequence[str]) -> str:
    quoted = ", ".join("'" + form.replace("'", "''") + "'" for form in formats)
    return f"[{quoted}]"


@dataclass(frozen=True, slots=True)
class Written:
    """How the times and numbers of a file are written; `is_text` of a CSV file, whose broken rows DuckDB lists."""

    formats: tuple[str, ...] = ()
    marks: Marks = field(default_factory=Marks)
    is_text: bool = True


def _with_written_times(path: Path, scan: str, columns: Mapping[str, str], raw: str, written: Written) -> Table:
    text = f"trim(cast({raw} as varchar))"
    if written.formats:
        return _with_formats(path, scan, columns, text, written)
    # Reading a time with its zone takes ten times as long as without, which is off by a day at most.
    rough = f"epoch_us(try_cast({text} as timestamp))"
    wall = "epoch_us(try_cast(raw_time as timestamp))"
    is_date = r"regexp_full_match(raw_time, '\d{4}[-/]\d{1,2}[-/]\d{1,2}')"
    time = _written("raw_time")
    return Table(path, scan, columns, text, time, _nearby(rough), written.is_text, wall, is_date, written.marks)


def _with_formats(path: Path, scan: str, columns: Mapping[str, str], text: str, written: Written) -> Table:
    def parsed(raw: str, formats: Sequence[str]) -> str:
        return f"try_strptime({raw}, {_list(formats)})" if formats else "null::timestamp"

    zoned = [form for form in written.formats if "%z" in form]
    in_utc = [form for form in written.formats if "%z" not in form and form.endswith(("Z", "UTC", "GMT"))]
    naive = [form for form in written.formats if form not in (*zoned, *in_utc)]
    dates = [form for form in naive if "%H" not in form and "%I" not in form]
    moments = [f"{parsed('raw_time', naive)}::timestamptz", parsed("raw_time", zoned), parsed("raw_time", in_utc)]
    time = f"coalesce({', '.join(f'epoch_us({moment})' for moment in moments)})"
    rough = f"epoch_us({parsed(text, written.formats)})"
    wall = f"epoch_us({parsed('raw_time', naive)})"
    is_date = f"{parsed('raw_time', dates)} is not null"
    return Table(path, scan, columns, text, time, _nearby(rough), written.is_text, wall, is_date, written.marks)


def _nearby(rough: str) -> str:
    return f"{rough} is null or ({rough} >= $since - $margin and {rough} < $until + $margin)"


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


def select(connection: duckdb.DuckDBPyConnection, table: Table, columns: Sequence[str], stretch: Stretch) -> None:
    """What the file holds of a stretch and little more, in its order, as the temporary table `found`."""
    connection.execute("drop table if exists reject_errors; drop table if exists reject_scans")
    raw = [f"{table.columns.get(name, 'null::varchar')} as raw_{name}" for name in columns]
    cast = {name: table.marks.sql(f"raw_{name}", units=name == "volume") for name in columns}
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
        {**table.parameters, **stretch},
    )


def malformed(connection: duckdb.DuckDBPyConnection, table: Table, stretch: Stretch) -> list[Malformed]:
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


def refuse_if_nothing_is_readable(connection: duckdb.DuckDBPyConnection, table: Table, example: Malformed) -> None:
    """Raise PermanentError where no row of the file has a time that can be read."""
    query = (
        f"select count(*) from (select {table.raw_time} as raw_time from {table.scan}) where {table.time} is not null"
    )
    if connection.execute(query, table.parameters).fetchall() == [(0,)]:
        raise PermanentError(
            f"{table.name}: expected rows such as 2024-01-31 09:15,1.1,1.3,1.0,1.2,500; none could be read, "
            f"the first unreadable one is {example.text!r}: {example.reason}"
        )
