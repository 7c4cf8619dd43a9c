"""The rows of an export, and the manifests of files that were exported and uploaded.

Writing files is `files`' part, sending them `destinations`'.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT
from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS, Window
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import queries
from refresh_pipeline.warehouse.arrays import BEGINNING, END, arrays_of, numbered, registered, texts
from refresh_pipeline.warehouse.compute_on_read import computed_columns
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import Connect, WarehouseDamaged
from refresh_pipeline.warehouse.incremental import clear, same_version
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified
from refresh_pipeline.warehouse.versions import record_changes

# How many cells are read and written to files at once: a tenth of a gigabyte, so that ticks can run at the same time.
EXPORTED_AT_ONCE = 12_000_000
# A series with more is read in ranges of a third of that.
PIECES = 3
# What reading a series may end with that is no fault of the others: too little memory, a damaged block.
UNREADABLE = (duckdb.Error, MemoryError, WarehouseDamaged)

Rows = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class Exported:
    """One export file of one series; `path` is relative to the folder of exports and unique within a market.

    `shape` names the layout, compression and window; files of an older version of the project have none. `block_hashes`
    are those of a file that grows (see `files.growing`), with a space between them; others have none.
    """

    series: Series
    export: str | None
    layer: str | None
    format: str
    path: str
    shape: str | None
    rows: int
    bytes: int
    sha256: str
    first_open_time: datetime
    last_open_time: datetime
    block_hashes: str | None = ""

    @property
    def has_plain_hash(self) -> bool:
        """Whether `sha256` is the file's own SHA-256, and not that of the hashes of several blocks."""
        return " " not in (self.block_hashes or "")


@dataclass(frozen=True, slots=True)
class Published:
    """One export file at a destination; `sha256` is the export's hash, `content_hash` the destination's."""

    series: Series
    destination: str
    format: str
    path: str
    url: str
    bytes: int
    sha256: str
    content_hash: str
    hash_name: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The columns of an export, the tables they come from, and the window of newest rows."""

    computations: Collection[Computation]
    columns: Sequence[str]
    window: Window


def rows_to_export(
    connect: Connect,
    market: Market,
    selection: Selection,
    batch: Sequence[Series],
    cells_at_once: int = EXPORTED_AT_ONCE,
) -> Iterator[tuple[Series, Rows]]:
    """Each series with all of its selected rows, however they are read; see `pieces_to_export`."""
    for series, pieces in pieces_to_export(connect, market, selection, batch, cells_at_once):
        read = list(pieces)
        yield series, read[0] if len(read) == 1 else _concatenated(read)


def pieces_to_export(
    connect: Connect,
    market: Market,
    selection: Selection,
    batch: Sequence[Series],
    cells_at_once: int = EXPORTED_AT_ONCE,
) -> Iterator[tuple[Series, Iterator[Rows]]]:
    """Each series with its selected rows, in pieces of one time range after the other.

    Read the pieces before the next series. One query reads as many series as fit in memory, or one piece of a longer
    series. A query that fails for several series is repeated for each; what fails for one series is raised where its
    pieces are read.
    """
    with connect() as connection:
        counts, since = _extents(connection, market.name, batch, selection.window)
        stored = _first_stored(connection, market, selection, batch, since)
    cells = counts * len(selection.columns)
    chunk_no = np.cumsum(cells) // cells_at_once
    # A series that is too long for one query, or whose first rows are computed, has none beside it.
    chunk_no = np.where((cells > cells_at_once) | (stored > since), -1 - np.arange(len(batch)), chunk_no)
    for number in dict.fromkeys(chunk_no.tolist()):
        taken = np.flatnonzero(chunk_no == number)
        chunk = [batch[position] for position in taken.tolist()]
        if number < 0:
            rows = max(cells_at_once // PIECES // len(selection.columns), 1)
            bounds = since[taken][0], stored[taken][0]
            yield chunk[0], _pieces(connect, market, selection, chunk[0], bounds=bounds, rows=rows)
        else:
            yield from _chunk_pieces(connect, market, selection, chunk, since[taken])


def _chunk_pieces(
    connect: Connect, market: Market, selection: Selection, chunk: Sequence[Series], since: NDArray
) -> Iterator[tuple[Series, Iterator[Rows]]]:
    try:
        answers = list(_chunk_rows(connect, market, selection, chunk, since))
    except UNREADABLE as error:
        if len(chunk) == 1:
            yield chunk[0], _raised(error)
            return
        for number, series in enumerate(chunk):
            yield from _chunk_pieces(connect, market, selection, [series], since[number : number + 1])
    else:
        yield from ((series, iter([rows])) for series, rows in answers)


def rows_between(
    connect: Connect,
    market: Market,
    selection: Selection,
    batch: Sequence[Series],
    *,
    first: np.datetime64,
    until: np.datetime64,
) -> Rows:
    """The selected rows of all series that open in `[first, until)`; `series_no` is the place in the batch.

    Rows that have expired are computed, as in `pieces_to_export`.
    """
    bounds = {"first": first.astype(datetime), "until": until.astype(datetime)}
    expired = _expired_between(connect, market, selection, batch, bounds)
    since = np.full(len(batch), BEGINNING)
    for number, (_, stored) in expired.items():
        since[number] = stored
    with connect() as connection, registered(connection, "wanted", numbered(batch, since=since)):
        pieces = [arrays_of(connection, _joined_tables(market, selection), bounds)]
    rows = max(EXPORTED_AT_ONCE // PIECES // len(selection.columns), 1)
    for number, (begin, stored) in expired.items():
        stretch = begin, min(stored, until)
        for piece in _computed_pieces(connect, market, selection, batch[number], bounds=stretch, rows=rows):
            pieces.append({"series_no": np.full(len(piece["open_time"]), number, dtype=np.int32), **piece})
    if len(pieces) == 1:
        return pieces[0]
    found = _concatenated(pieces)
    order = np.lexsort((found["open_time"], found["series_no"]))
    return {name: values[order] for name, values in found.items()}


def _expired_between(
    connect: Connect, market: Market, selection: Selection, batch: Sequence[Series], bounds: Mapping[str, datetime]
) -> dict[int, tuple[np.datetime64, np.datetime64]]:
    """By its place in the batch, each series with expired rows: its first candle there, and the first stored row."""
    places = [number for number, series in enumerate(batch) if series.timeframe in market.indicators.keep]
    if not places:
        return {}
    with connect() as connection:
        with registered(connection, "wanted", numbered([batch[number] for number in places])):
            begins = arrays_of(
                connection,
                f"select w.series_no, min(t.open_time) as first from {qualified(market.name, Table.raw_candles)} t "
                "join wanted w using (instrument, timeframe) where t.open_time >= $first and t.open_time < $until "
                "group by w.series_no",
                bounds,
            )
        places = [places[number] for number in begins["series_no"].tolist()]
        since = begins["first"].astype(TIME_UNIT)
        stored = _first_stored(connection, market, selection, [batch[number] for number in places], since)
    return {number: (begin, first) for number, begin, first in zip(places, since, stored, strict=True) if first > begin}


def rows_since(
    connect: Connect, market: Market, selection: Selection, batch: Sequence[Series], since: NDArray
) -> Iterator[tuple[Series, Rows]]:
    """Each series with its selected rows from an instant of its own on, in one query: they must be few."""
    yield from _chunk_rows(connect, market, selection, batch, since)


def _raised(error: Exception) -> Iterator[Rows]:
    raise error
    yield


def _first_stored(
    connection: duckdb.DuckDBPyConnection, market: Market, selection: Selection, batch: Sequence[Series], since: NDArray
) -> NDArray:
    """The instant from which the rows of each series are stored; `since` where none of them has expired."""
    may_expire = np.array([series.timeframe in market.indicators.keep for series in batch], dtype=bool)
    if not may_expire.any():
        return since
    stats = queries.series_stats(connection, market.name, batch)
    first = np.array([stats[series].first_open_time for series in batch], dtype=TIME_UNIT)
    first = np.where(since == BEGINNING, first, since)
    latest = first
    with registered(connection, "wanted", numbered(batch, since=since, may_expire=may_expire)):
        tables = {
            Table(_carrier(market, selection)),
            *(Table(owner) for owner, _ in _owners(market, selection).values()),
        }
        for table in tables - {Table.raw_candles}:
            rows = arrays_of(
                connection,
                f"select w.series_no, min(t.open_time) as first from wanted w join {qualified(market.name, table)} t "
                "on t.instrument = w.instrument and t.timeframe = w.timeframe and t.open_time >= w.since "
                "where w.may_expire group by w.series_no",
            )
            # A series without a row waits to be computed: the newest day is always stored.
            stored = latest.copy()
            stored[rows["series_no"]] = rows["first"]
            latest = np.maximum(latest, stored)
    return np.where(latest > first, latest, since)


def _computed_pieces(
    connect: Connect,
    market: Market,
    selection: Selection,
    series: Series,
    *,
    bounds: tuple[np.datetime64, np.datetime64],
    rows: int,
) -> Iterator[Rows]:
    """The rows of a series that have expired, computed in ranges of so many rows."""
    owners = _owners(market, selection)
    names: dict[Table, list[str]] = {}
    for table, column in owners.values():
        names.setdefault(Table(table), []).append(column)
    times = _open_times(connect, market, Table.raw_candles, series, bounds)
    for first, until in pairwise([*times[::rows], bounds[1]] if len(times) else []):
        found = computed_columns(connect, market, names, series, (first, until))
        yield {name: found[Table(table), column] for name, (table, column) in owners.items()}


def _open_times(
    connect: Connect, market: Market, table: Table, series: Series, bounds: tuple[np.datetime64, np.datetime64]
) -> NDArray:
    with connect() as connection:
        return arrays_of(
            connection,
            f"select open_time from {qualified(market.name, table)} "
            "where instrument = ? and timeframe = ? and open_time >= ? and open_time < ? order by open_time",
            [series.instrument, series.timeframe.value, *(bound.astype(datetime) for bound in bounds)],
        )["open_time"]


def _pieces(
    connect: Connect,
    market: Market,
    selection: Selection,
    series: Series,
    *,
    bounds: tuple[np.datetime64, np.datetime64],
    rows: int,
) -> Iterator[Rows]:
    """One series in ranges of so many rows: those before the second bound are computed."""
    since, stored = bounds
    if stored > since:
        yield from _computed_pieces(connect, market, selection, series, bounds=bounds, rows=rows)
        since = stored
    times = _open_times(connect, market, Table(_carrier(market, selection)), series, (since, END))
    for first, until in pairwise([*times[::rows], END] if len(times) else []):
        [(_, piece)] = _chunk_rows(connect, market, selection, [series], np.array([first]), until=until)
        yield piece


def _concatenated(pieces: Sequence[Rows]) -> dict[str, NDArray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def newest_candles(
    connect: Connect, market: Market, batch: Sequence[Series], back: timedelta, cells_at_once: int = EXPORTED_AT_ONCE
) -> Iterator[tuple[Series, dict[str, NDArray]]]:
    """Each series with its candles that opened within `back` of the newest one."""
    columns = ("open_time", *CANDLE_COLUMNS)
    most = np.array([back / timedelta(minutes=series.timeframe.minutes) for series in batch])
    chunk_no = np.cumsum(most * len(columns)) // cells_at_once
    for number in np.unique(chunk_no):
        chunk = [series for series, its_chunk in zip(batch, chunk_no, strict=True) if its_chunk == number]
        with connect() as connection, registered(connection, "wanted", numbered(chunk)):
            rows = arrays_of(
                connection,
                f"select w.series_no, {', '.join(f'c.{name}' for name in columns)} from wanted w "
                f"join {qualified(market.name, Table.series)} s using (instrument, timeframe) "
                f"join {qualified(market.name, Table.raw_candles)} c on c.instrument = w.instrument "
                "and c.timeframe = w.timeframe and c.open_time > s.last_open_time - $back "
                "order by w.series_no, c.open_time",
                {"back": back},
            )
        yield from _by_series(chunk, rows)


def _by_series(chunk: Sequence[Series], rows: dict[str, NDArray]) -> Iterator[tuple[Series, dict[str, NDArray]]]:
    starts = np.searchsorted(rows.pop("series_no"), np.arange(len(chunk) + 1))
    for number, series in enumerate(chunk):
        yield series, {name: values[starts[number] : starts[number + 1]] for name, values in rows.items()}


def _extents(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], window: Window
) -> tuple[NDArray[np.int64], NDArray]:
    """The number of selected rows of each series, and the first open time; BEGINNING where all rows are selected."""
    question = (
        "select coalesce(s.candle_count, 0) as n, null::timestamp as since from wanted w "
        f"left join {qualified(market, Table.series)} s using (instrument, timeframe) order by w.series_no"
    )
    if window.last or window.days:
        # Only the three key columns: numbering whole rows takes a second at twenty million.
        question = (
            "with back as (select w.series_no, t.open_time, "
            "row_number() over (partition by w.series_no order by t.open_time desc) as nth, "
            "max(t.open_time) over (partition by w.series_no) as newest "
            f"from {qualified(market, Table.raw_candles)} t join wanted w using (instrument, timeframe)) "
            "select coalesce(count(b.open_time), 0) as n, min(b.open_time) as since from wanted w "
            f"left join back b on b.series_no = w.series_no and (b.nth <= {window.last or 0} "
            f"or b.open_time > b.newest - to_days({window.days or 0})) group by w.series_no order by w.series_no"
        )
    with registered(connection, "wanted", numbered(batch)):
        extents = arrays_of(connection, question)
    since = extents["since"].astype(TIME_UNIT)
    return extents["n"], np.where(np.isnat(since), BEGINNING, since)


def _chunk_rows(
    connect: Connect,
    market: Market,
    selection: Selection,
    chunk: Sequence[Series],
    since: NDArray,
    *,
    until: np.datetime64 = END,
) -> Iterator[tuple[Series, Rows]]:
    # Bounds given as values let DuckDB skip the row groups outside.
    bounds = {"first": since.min().astype(datetime), "until": until.astype(datetime)}
    with connect() as connection, registered(connection, "wanted", numbered(chunk, since=since)):
        rows = arrays_of(connection, _joined_tables(market, selection), bounds)
    yield from _by_series(chunk, rows)


def _joined_tables(market: Market, selection: Selection) -> str:
    columns, owners = selection.columns, _owners(market, selection)
    carrier = _carrier(market, selection)
    read = {carrier: {"open_time"}}
    for table, column in owners.values():
        read.setdefault(table, {"open_time"}).add(column)
    # Each table is filtered first: the join alone would read the whole second table for every chunk.
    narrowed = ", ".join(
        f"{table} as (select w.series_no, {', '.join(f't.{_quoted(name)}' for name in sorted(names))} "
        f"from {qualified(market.name, Table(table))} t "
        "join wanted w on w.instrument = t.instrument and w.timeframe = t.timeframe and t.open_time >= w.since "
        "where t.open_time >= $first and t.open_time < $until)"
        for table, names in read.items()
    )
    joins = " ".join(f"left join {table} using (series_no, open_time)" for table in read if table != carrier)
    listed = ", ".join(f"{owners[name][0]}.{_quoted(owners[name][1])} as {_quoted(name)}" for name in columns)
    return (
        f"with {narrowed} select {carrier}.series_no, {listed} from {carrier} {joins} "
        f"order by {carrier}.series_no, {carrier}.open_time"
    )


def _carrier(market: Market, selection: Selection) -> str:
    """The table whose rows carry the candles: where nothing but candles is selected, the candles themselves."""
    if {*selection.columns} <= {"open_time", *candle_columns(market.two_sided)}:
        return Table.raw_candles.value
    return next(table.name for table in selection.computations if table.carries_candles)


def _owners(market: Market, selection: Selection) -> dict[str, tuple[str, str]]:
    """The table of each selected column, and its name there."""
    carrier = _carrier(market, selection)
    owners = {name: (carrier, name) for name in ("open_time", *candle_columns(market.two_sided))}
    owners |= joined_columns(selection.computations)
    return {name: owners[name] for name in selection.columns}


def joined_columns(computations: Collection[Computation]) -> dict[str, tuple[str, str]]:
    """The computed columns of a joined export, each with its table and its name there.

    Two tables may use one name for different columns (`mfi`): the later column gets its table's name as a prefix.
    """
    joined: dict[str, tuple[str, str]] = {}
    for computation in computations:
        for column in computation.columns:
            name = column.name if column.name not in joined else f"{computation.name}_{column.name}"
            joined[name] = (computation.name, column.name)
    return joined


def _quoted(name: str) -> str:
    return f'"{name}"'


def write_exports(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    exported: Sequence[Exported],
    series_exported: PendingRecompute,
    now: datetime,
) -> None:
    """Replace the manifest rows of these files, and take the exported series off the queue.

    A series that changed since it was read, or that another process exported, is queued again: its files may be older
    than the files they replaced.
    """
    _replace_manifest(connection, qualified(market, Table.exports), exported, {"exported_at": now})
    since = dict(zip(series_exported.series, series_exported.since, strict=True))
    files = {file.series: since.get(file.series) for file in exported if file.series.instrument != ALL_INSTRUMENTS}
    # A file of all instruments is one of each series that changed.
    of_all = {file.series.timeframe for file in exported} - {series.timeframe for series in files}
    files |= {series: moment for series, moment in since.items() if series.timeframe in of_all}
    _record_files(connection, market, Table.exports, files)
    read = numbered(series_exported.series, since=series_exported.since, version=series_exported.versions)
    with registered(connection, "series_read", read):
        connection.execute(
            "create temp table touched as select r.* from series_read r "
            f"anti join {qualified(market, Table.recompute_queue)} q on q.asset = ? and {same_version('q', 'r')}",
            [Table.exports.value],
        )
        clear(connection, market, Table.exports, computed="series_read")
        queue_recompute(connection, market, [Table.exports])
        connection.execute("drop table touched")


def drop_exports(connection: duckdb.DuckDBPyConnection, market: str, paths: Sequence[str]) -> None:
    """Take files that are gone off the manifest of exports."""
    if paths:
        chosen = f"from {qualified(market, Table.exports)} where list_contains(?, path)"
        series = connection.execute(f"select distinct instrument, timeframe {chosen}", [list(paths)]).fetchall()
        connection.execute(f"delete {chosen}", [list(paths)])
        changed = [Series(name, Timeframe(timeframe)) for name, timeframe in series if name != ALL_INSTRUMENTS]
        _record_files(connection, market, Table.exports, dict.fromkeys(changed))


def write_uploads(
    connection: duckdb.DuckDBPyConnection, market: str, published: Sequence[Published], now: datetime
) -> None:
    """Replace the manifest rows of these files."""
    _replace_manifest(connection, qualified(market, Table.uploads), published, {"uploaded_at": now})
    _record_files(connection, market, Table.uploads, dict.fromkeys(file.series for file in published))


def _record_files(
    connection: duckdb.DuckDBPyConnection, market: str, asset: Table, since: Mapping[Series, np.datetime64 | None]
) -> None:
    """Move the versions of the series of these files; a file that is written again for itself has no `since`."""
    if since:
        moments = np.array([moment or "NaT" for moment in since.values()], dtype=TIME_UNIT)
        with registered(connection, "series_of_files", numbered(list(since), since=moments)):
            record_changes(connection, market, [asset], "series_of_files")


def exported(connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]) -> list[Exported]:
    """The manifest rows of the batch's export files, in its order."""
    return [Exported(**row) for row in _manifest(connection, qualified(market, Table.exports), Exported, batch)]


def uploaded(
    connection: duckdb.DuckDBPyConnection, market: str, destination: str, batch: Sequence[Series]
) -> list[Published]:
    """The manifest rows of the batch's files at one destination, in its order."""
    rows = _manifest(connection, qualified(market, Table.uploads), Published, batch)
    return [Published(**row) for row in rows if row["destination"] == destination]


def _manifest(
    connection: duckdb.DuckDBPyConnection, table: str, kind: type[Exported | Published], batch: Sequence[Series]
) -> list[dict[str, Any]]:
    names = [column.name for column in fields(kind) if column.name != "series"]
    with registered(connection, "wanted", numbered(batch)):
        rows = connection.execute(
            f"select x.instrument, x.timeframe, {', '.join(f'x.{name}' for name in names)} from {table} x "
            "join wanted w using (instrument, timeframe) order by w.series_no, x.path"
        ).fetchall()
    return [{"series": Series(row[0], Timeframe(row[1])), **dict(zip(names, row[2:], strict=True))} for row in rows]


def _replace_manifest(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    files: Sequence[Exported] | Sequence[Published],
    written: dict[str, datetime],
) -> None:
    if not files:
        return
    rows = [_manifest_row(file) | written for file in files]
    columns = {name: _array([row[name] for row in rows]) for name in rows[0]}
    listed = ", ".join(columns)
    key = [name for name in ("destination", "path") if name in columns]
    with registered(connection, "files", columns):
        connection.execute(
            f"delete from {table} t using files f where {' and '.join(f't.{name} = f.{name}' for name in key)}"
        )
        connection.execute(f"insert into {table} ({listed}) select {listed} from files")


def _manifest_row(file: Exported | Published) -> dict[str, Any]:
    row = {name: value for name, value in asdict(file).items() if name != "series"}
    return {"instrument": file.series.instrument, "timeframe": file.series.timeframe.value} | row


def _array(values: Sequence[Any]) -> NDArray:
    if isinstance(values[0], str):
        return texts(values)
    return np.array(values, dtype=TIME_UNIT if isinstance(values[0], datetime) else np.int64)
