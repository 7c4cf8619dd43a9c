"""What leaves the warehouse: the rows of an export, and the manifests of files that were written and uploaded."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.raw import mark_stale
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified
from refresh_pipeline.warehouse.staging import arrays_of, numbered, registered, texts
from refresh_pipeline.warehouse.tail import CELLS_AT_ONCE, Connect, Stale, same_mark, settle


@dataclass(frozen=True, slots=True)
class Exported:
    """One export file of one series; `path` is relative to the folder of exports."""

    series: Series
    format: str
    path: str
    rows: int
    bytes: int
    sha256: str
    first_open_time: datetime
    last_open_time: datetime


@dataclass(frozen=True, slots=True)
class Published:
    """One export file as it lies at a destination; `sha256` is the export's, `content_hash` the destination's."""

    series: Series
    format: str
    path: str
    url: str
    bytes: int
    sha256: str
    content_hash: str
    hash_name: str


def rows_to_export(
    connect: Connect,
    market: Market,
    computations: Collection[Computation],
    batch: Sequence[Series],
    cells_at_once: int = CELLS_AT_ONCE,
) -> Iterator[tuple[Series, dict[str, NDArray]]]:
    """Series and their rows, one query for as many series as fit in memory."""
    columns = sum(len(each.columns) for each in computations) + 6
    with connect() as connection:
        counts = _row_counts(connection, market.name, batch)
    chunk_no = np.cumsum(counts * columns) // cells_at_once
    for number in np.unique(chunk_no):
        chunk = [series for series, its_chunk in zip(batch, chunk_no, strict=True) if its_chunk == number]
        yield from _chunk_rows(connect, market, computations, chunk)


def _row_counts(connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]) -> NDArray[np.int64]:
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select coalesce(s.candle_count, 0) as n from wanted w "
            f"left join {qualified(market, Table.series)} s using (instrument, timeframe) order by w.series_no",
        )
    return rows["n"]


def _chunk_rows(
    connect: Connect, market: Market, computations: Collection[Computation], chunk: Sequence[Series]
) -> Iterator[tuple[Series, dict[str, NDArray]]]:
    with connect() as connection, registered(connection, "wanted", numbered(chunk)):
        rows = arrays_of(connection, _joined_tables(market, computations))
    starts = np.searchsorted(rows.pop("series_no"), np.arange(len(chunk) + 1))
    for number, series in enumerate(chunk):
        yield series, {name: values[starts[number] : starts[number + 1]] for name, values in rows.items()}


def _joined_tables(market: Market, computations: Collection[Computation]) -> str:
    carrier = next(each for each in computations if each.carries_candles)
    candles = [f'{carrier.name}."{name}"' for name in ("open_time", *candle_columns(market.two_sided))]
    own = [f'{table}."{column}" as "{name}"' for name, (table, column) in joined_columns(computations).items()]
    # Each table is narrowed by itself: the join alone would read all of the second table for every chunk.
    narrowed = ", ".join(
        f"{each.name} as (select t.*, w.series_no from {qualified(market.name, Table(each.name))} t "
        "join wanted w using (instrument, timeframe))"
        for each in computations
    )
    joins = " ".join(f"left join {each.name} using (series_no, open_time)" for each in computations if each != carrier)
    return (
        f"with {narrowed} select {carrier.name}.series_no, {', '.join(candles + own)} from {carrier.name} {joins} "
        f"order by {carrier.name}.series_no, {carrier.name}.open_time"
    )


def joined_columns(computations: Collection[Computation]) -> dict[str, tuple[str, str]]:
    """The computed columns of a joined export, each with its table and its name there.

    What two tables call the same is another thing in each (`mfi`): the later one's column takes its table's name along.
    """
    joined: dict[str, tuple[str, str]] = {}
    for each in computations:
        for column in each.columns:
            name = column.name if column.name not in joined else f"{each.name}_{column.name}"
            joined[name] = (each.name, column.name)
    return joined


def write_exports(
    connection: duckdb.DuckDBPyConnection, market: str, exported: Sequence[Exported], stale: Stale, now: datetime
) -> None:
    """Replace the manifest rows of these files, and settle the series that have not changed since they were read.

    Where they have changed, or somebody else settled them, these files may be older than what was there: such series
    are marked again.
    """
    _replace_manifest(connection, qualified(market, Table.exports), exported, {"exported_at": now})
    written = {each.series for each in exported}
    done = stale.take(np.array([series in written for series in stale.series], dtype=bool))
    with registered(connection, "done", numbered(done.series, since=done.since, mark=done.marks)):
        connection.execute(
            f"create temp table touched as select d.* from done d anti join {qualified(market, Table.stale)} s "
            f"on s.asset = ? and {same_mark('s', 'd')}",
            [Table.exports.value],
        )
        settle(connection, market, Table.exports, made="done")
        mark_stale(connection, market, [Table.exports])
        connection.execute("drop table touched")


def write_uploads(
    connection: duckdb.DuckDBPyConnection, market: str, published: Sequence[Published], now: datetime
) -> None:
    """Replace the manifest rows of these files."""
    _replace_manifest(connection, qualified(market, Table.uploads), published, {"uploaded_at": now})


def exported(connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]) -> list[Exported]:
    """The manifest rows of the batch's export files, in its order."""
    return [Exported(**row) for row in _manifest(connection, qualified(market, Table.exports), Exported, batch)]


def uploaded(connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]) -> list[Published]:
    """The manifest rows of the batch's uploaded files, in its order."""
    return [Published(**row) for row in _manifest(connection, qualified(market, Table.uploads), Published, batch)]


def _manifest(
    connection: duckdb.DuckDBPyConnection, table: str, kind: type[Exported | Published], batch: Sequence[Series]
) -> list[dict[str, Any]]:
    names = [each.name for each in fields(kind) if each.name != "series"]
    with registered(connection, "wanted", numbered(batch)):
        rows = connection.execute(
            f"select x.instrument, x.timeframe, {', '.join(f'x.{name}' for name in names)} from {table} x "
            "join wanted w using (instrument, timeframe) order by w.series_no, x.format"
        ).fetchall()
    return [{"series": Series(row[0], Timeframe(row[1])), **dict(zip(names, row[2:], strict=True))} for row in rows]


def _replace_manifest(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    files: Sequence[Exported] | Sequence[Published],
    more: dict[str, datetime],
) -> None:
    if not files:
        return
    rows = [_manifest_row(each) | more for each in files]
    columns = {name: _array([row[name] for row in rows]) for name in rows[0]}
    listed = ", ".join(columns)
    with registered(connection, "files", columns):
        connection.execute(
            f"delete from {table} t using files f "
            "where t.instrument = f.instrument and t.timeframe = f.timeframe and t.format = f.format"
        )
        connection.execute(f"insert into {table} ({listed}) select {listed} from files")


def _manifest_row(file: Exported | Published) -> dict[str, Any]:
    row = {name: value for name, value in asdict(file).items() if name != "series"}
    return {"instrument": file.series.instrument, "timeframe": file.series.timeframe.value} | row


def _array(values: Sequence[Any]) -> NDArray:
    if isinstance(values[0], str):
        return texts(values)
    return np.array(values, dtype=TIME_UNIT if isinstance(values[0], datetime) else np.int64)
