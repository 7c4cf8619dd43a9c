"""Rows of one series as arrays: which columns a layer has, and how its rows are read within the reader's budget."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.api.problems import Problem, ProblemError
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.export_spec import Layer, Layout
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export_content import names_in
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.compute_on_read import computed_columns, first_stored
from refresh_pipeline.warehouse.lake import read_on
from refresh_pipeline.warehouse.manifests import joined_columns
from refresh_pipeline.warehouse.point_in_time import candles_as_of
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import PROVENANCE, RESAMPLED, Table, candle_columns, qualified

OPEN_TIME = "open_time"
# Cells that one question reads: a fifth of a second.
CELLS_A_QUESTION = 400_000
# Days without a candle that a window of newest rows must bridge at least: weekends and holidays.
QUIET, MOMENT = np.timedelta64(5, "D"), np.timedelta64(1, "us")
# Up to so many columns, one statement with guessed bounds takes less time than two.
FEW_COLUMNS = 16
# After every candle, and before each.
END, BEGINNING = np.datetime64("9999-12-31", "us"), np.datetime64("0001-01-01", "us")


class Names(StrEnum):
    """Whose names the columns have."""

    own = "own"
    fx_refresh = "fx_refresh"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer: its name there, its table with its name in it, and its SQL type."""

    name: str
    table: Table
    column: str
    sql_type: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Equally long arrays by the names of their columns, oldest row first, and the SQL type of each column.

    `following` is the open time of the first row after these, where a window that begins at `since` holds no more.
    """

    arrays: Mapping[str, NDArray]
    types: Mapping[str, str]
    following: np.datetime64 | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of an answer: the first `limit` from `since`, or the newest `limit` before `until`."""

    limit: int
    since: np.datetime64 | None = None
    until: np.datetime64 | None = None


def columns_of(market: Market, layer: Layer, names: Names) -> list[Column]:
    """Every column of a layer, `open_time` first."""
    if layer is Layer.candles and names is Names.own:
        further = dict.fromkeys(candle_columns(market.two_sided), "double") | PROVENANCE | RESAMPLED
        raw = {OPEN_TIME: "timestamp", **further}
        return [Column(name, Table.raw_candles, name, kind) for name, kind in raw.items()]
    layout = Layout.fx_refresh if names is Names.fx_refresh else Layout.plain
    tables = computations(market).values()
    types = {(table.name, column.name): column.sql_type for table in tables for column in table.columns}
    owners = joined_columns(tables)
    carrier = Table.indicators if layer is Layer.indicators else Table.enhanced_candles
    listed = []
    for joined, shown in names_in(market, layer, layout):
        table, column = owners.get(joined, (carrier.value, joined))
        kind = "timestamp" if column == OPEN_TIME else types.get((table, column), "double")
        listed.append(Column(shown, Table(table), column, kind))
    return listed


def chosen_columns(columns: Sequence[Column], names: str | None) -> Sequence[Column]:
    """The columns of a comma list in its order, `open_time` always first; all where none is named.

    Raises:
        ProblemError: unknown-column.
    """
    if names is None:
        return columns
    by_name = {column.name: column for column in columns}
    wanted = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
    for name in wanted:
        if name not in by_name:
            raise unknown_column(name, list(by_name))
    return [columns[0], *(by_name[name] for name in wanted if name != columns[0].name)]


def unknown_column(name: str, allowed: Sequence[str]) -> ProblemError:
    """The problem of a column that a layer lacks."""
    nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return ProblemError(
        Problem.unknown_column,
        f"columns: found {name!r}; the layer has {len(allowed)} columns, see /api/v1/columns",
        nearest=nearest[0] if nearest else None,
    )


def read_times(
    connection: duckdb.DuckDBPyConnection, market: Market, table: Table, series: Series, window: Window
) -> NDArray:
    """The open times of a window's rows, oldest first, with one more where it begins at `since`."""
    read = Table.raw_candles if _may_expire(market, series, [table]) else table
    column = [Column(OPEN_TIME, read, OPEN_TIME, "timestamp")]
    return _stored_window(connection, market.name, column, series, window)[OPEN_TIME]


def read_window(
    connection: duckdb.DuckDBPyConnection, market: Market, columns: Sequence[Column], series: Series, window: Window
) -> dict[str, NDArray]:
    """A window's rows, oldest first, with one more where it begins at `since`; rows that expired are computed."""
    may_expire = _may_expire(market, series, tables_of(columns))
    if not may_expire or (window.since is None and window.until is None):
        rows = _stored_window(connection, market.name, columns, series, window)
        if not may_expire or len(rows[columns[0].name]) >= window.limit:
            return rows
    times = read_times(connection, market, columns[0].table, series, window)
    if not len(times):
        return empty(columns)
    return read_between(connection, market, columns, series, (times[0], times[-1]))


def _may_expire(market: Market, series: Series, tables: Sequence[Table]) -> bool:
    """Whether rows of these tables may be computed on read."""
    return series.timeframe in market.indicators.keep and any(table in computations(market) for table in tables)


def _stored_window(
    connection: duckdb.DuckDBPyConnection, market: str, columns: Sequence[Column], series: Series, window: Window
) -> dict[str, NDArray]:
    """A window's stored rows, oldest first, with one more where it begins at `since`.

    A question without bounds of time reads the whole table, so the bounds are guessed, and widened until they hold
    enough rows. Of many columns, the open times alone are read so.
    """
    if len(columns) > FEW_COLUMNS:
        times = _stored_window(connection, market, columns[:1], series, window)[columns[0].name]
        return _read_wide(connection, market, columns, series, bounds_of(times)) if len(times) else empty(columns)
    extent = _extent(connection, market, series)
    if extent is None:
        return empty(columns)
    first, last = extent
    is_newest = window.since is None
    wanted = window.limit + (not is_newest)
    begin = first if window.since is None else max(window.since, first)
    end = min(END if window.until is None else window.until, last + MOMENT)
    span = np.timedelta64(series.timeframe.minutes, "m") * (wanted + 2) + QUIET
    while True:
        bounds = (max(begin, end - span), end) if is_newest else (begin, min(end, begin + span))
        rows = _read(connection, market, columns, series, bounds=bounds, limit=wanted, newest_first=is_newest)
        if len(rows[columns[0].name]) >= wanted or bounds == (begin, end) or begin >= end:
            return rows
        span = span * 4


def read_between(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    columns: Sequence[Column],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> dict[str, NDArray]:
    """All rows that open from the first bound up to the second, which is included, oldest first."""
    until, tables = bounds[1] + MOMENT, tables_of(columns)
    since = bounds[0]
    if _may_expire(market, series, tables):
        since = first_stored(connection, market.name, tables, series, (since, until))
    pieces = []
    if since > bounds[0]:
        pieces.append(_computed(connection, market, columns, series, (bounds[0], since)))
    if since < until:
        pieces.append(_read_wide(connection, market.name, columns, series, (since, until)))
    return joined_pieces(pieces)


def _computed(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    columns: Sequence[Column],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> dict[str, NDArray]:
    names = {table: [column.column for column in columns if column.table is table] for table in tables_of(columns)}
    found = computed_columns(lambda: nullcontext(connection), market, names, series, bounds)
    return {column.name: found[column.table, column.column] for column in columns}


def read_as_of(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, moment: datetime, window: Window
) -> dict[str, NDArray]:
    """The window's candles as the table held them at an instant, with one more where it begins at `since`."""
    if not has_tables(connection, market.name):
        return empty([Column(name, Table.raw_candles, name, "double") for name in as_of_columns(market)])
    candles = candles_as_of(connection, market.name, series, moment, market.two_sided)
    times = candles.open_time
    first = 0 if window.since is None else int(np.searchsorted(times, window.since))
    end = len(times) if window.until is None else int(np.searchsorted(times, window.until))
    rows = slice(max(first, end - window.limit), end) if window.since is None else slice(first, end)
    arrays = {OPEN_TIME: times[rows], **{name: values[rows] for name, values in candles.columns.items()}}
    return arrays if window.since is None else {name: values[: window.limit + 1] for name, values in arrays.items()}


def as_of_columns(market: Market) -> list[str]:
    """The columns of candles as of an instant."""
    return [OPEN_TIME, *candle_columns(market.two_sided)]


def empty(columns: Sequence[Column]) -> dict[str, NDArray]:
    """No row of these columns."""
    kinds = {"timestamp": TIME_UNIT, "varchar": "O"}
    return {column.name: np.array([], dtype=kinds.get(column.sql_type, "f8")) for column in columns}


def joined_pieces(pieces: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """Pieces of rows behind one another."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _extent(
    connection: duckdb.DuckDBPyConnection, market: str, series: Series
) -> tuple[np.datetime64, np.datetime64] | None:
    if not has_tables(connection, market):
        return None
    rows = connection.execute(
        f"select first_open_time, last_open_time from {qualified(market, Table.series)} "
        "where instrument = ? and timeframe = ? and candle_count > 0",
        [series.instrument, series.timeframe.value],
    ).fetchall()
    return None if not rows else (np.datetime64(rows[0][0], "us"), np.datetime64(rows[0][1], "us"))


def _read(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    columns: Sequence[Column],
    series: Series,
    *,
    bounds: tuple[np.datetime64, np.datetime64],
    limit: int,
    newest_first: bool,
) -> dict[str, NDArray]:
    tail = f"{'desc' if newest_first else ''} limit {limit}"
    arrays = _asked(
        connection, market, columns, _values(series, bounds), lambda m: f"{_joined(market, columns, m)} {tail}"
    )
    return {name: array[::-1] for name, array in arrays.items()} if newest_first else arrays


def _read_wide(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    columns: Sequence[Column],
    series: Series,
    bounds: tuple[np.datetime64, np.datetime64],
) -> dict[str, NDArray]:
    """All rows that open within [first, until), oldest first.

    A statement for each table: joining and sorting hundreds of columns takes DuckDB longer than reading them.
    """
    values, found = _values(series, bounds), {}
    for table in tables_of(columns):
        of_table = [column for column in columns if column.table is table]
        asked = partial(_narrowed, market, table, columns)
        found[table] = _in_order(_asked(connection, market, of_table, values, asked))
    times = found[columns[0].table][OPEN_TIME]
    found = {table: _at(times, arrays) for table, arrays in found.items()}
    return {column.name: found[column.table][column.column] for column in columns}


def _in_order(arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    times = arrays[OPEN_TIME]
    if (times[1:] > times[:-1]).all():
        return arrays
    order = np.argsort(times)
    return {name: array[order] for name, array in arrays.items()}


def _at(times: NDArray, arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    """The rows of these times; null where there is none."""
    if np.array_equal(times, arrays[OPEN_TIME]):
        return arrays
    places = np.searchsorted(arrays[OPEN_TIME], times)
    present = np.isin(times, arrays[OPEN_TIME])
    return {name: _spread(array, places, present) for name, array in arrays.items()}


def _spread(array: NDArray, places: NDArray, present: NDArray) -> NDArray:
    if array.dtype.kind not in "MOf":
        array = array.astype(np.float64)
    nothing = {"M": np.datetime64("NaT"), "O": None}.get(array.dtype.kind, np.nan)
    spread = np.full(len(places), nothing, dtype=array.dtype)
    spread[present] = array[places[present]]
    return spread


def _values(series: Series, bounds: tuple[np.datetime64, np.datetime64]) -> dict[str, object]:
    return {
        "instrument": series.instrument,
        "timeframe": series.timeframe.value,
        "first": bounds[0].astype(datetime),
        "until": bounds[1].astype(datetime),
    }


def _asked(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    columns: Sequence[Column],
    values: Mapping[str, object],
    statement: Callable[[Mapping[tuple[Table, str], str]], str],
) -> dict[str, NDArray]:
    """What a statement gives; it is told which columns the tables lack, with their SQL types."""
    try:
        return arrays_of(connection, statement({}), values)
    except duckdb.BinderException:
        read_on(connection)
        # A table of before an update lacks the new columns until the next refresh: nobody knows their values yet.
        return arrays_of(connection, statement(_missing(connection, market, columns)), values)


def bounds_of(times: NDArray) -> tuple[np.datetime64, np.datetime64]:
    """From the first of these times up to the last: [first, until)."""
    return times[0], times[-1] + MOMENT


def tables_of(columns: Sequence[Column]) -> list[Table]:
    """The tables of some columns, each once."""
    return list(dict.fromkeys(column.table for column in columns))


def _joined(market: str, columns: Sequence[Column], missing: Mapping[tuple[Table, str], str]) -> str:
    """The rows of these columns in the order of their time; what follows says which way, and how many."""
    tables = tables_of(columns)
    listed = ", ".join(f"{column.table.value}.{_quoted(column.column)} as {_quoted(column.name)}" for column in columns)
    narrowed = ", ".join(f"{table.value} as ({_narrowed(market, table, columns, missing)})" for table in tables)
    joins = " ".join(f"left join {table.value} using (open_time)" for table in tables[1:])
    first = tables[0].value
    return f"with {narrowed} select {listed} from {first} {joins} order by {first}.open_time"


def _missing(
    connection: duckdb.DuckDBPyConnection, market: str, columns: Sequence[Column]
) -> dict[tuple[Table, str], str]:
    """The SQL types of the columns that their tables lack."""
    rows = connection.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = ? "
        "and database_name = current_database()",
        [market],
    ).fetchall()
    present = set(rows)
    return {
        (column.table, column.column): column.sql_type
        for column in columns
        if (column.table.value, column.column) not in present
    }


def _narrowed(market: str, table: Table, columns: Sequence[Column], missing: Mapping[tuple[Table, str], str]) -> str:
    names = dict.fromkeys([OPEN_TIME, *(column.column for column in columns if column.table is table)])
    listed = (
        f"null::{missing[table, name]} as {_quoted(name)}" if (table, name) in missing else _quoted(name)
        for name in names
    )
    return (
        f"select {', '.join(listed)} from {qualified(market, table)} where instrument = $instrument "
        "and timeframe = $timeframe and open_time >= $first and open_time < $until"
    )


def _quoted(name: str) -> str:
    return f'"{name}"'
