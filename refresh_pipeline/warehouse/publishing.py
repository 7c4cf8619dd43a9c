"""What leaves the warehouse: the rows of an export, and the manifests of files that were written and uploaded."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.schema import KEY, Table, candle_columns, qualified
from refresh_pipeline.warehouse.staging import arrays_of, numbered, registered
from refresh_pipeline.warehouse.tail import CELLS_AT_ONCE, Connect, Stale


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
    connect: Connect, market: Market, computations: Collection[Computation], batch: Sequence[Series]
) -> Iterator[tuple[Series, dict[str, NDArray]]]:
    """Series and their rows, one query for as many series as fit in memory."""
    columns = sum(len(each.columns) for each in computations) + 6
    with connect() as connection:
        counts = _row_counts(connection, market.name, batch)
    chunk_no = np.cumsum(counts * columns) // CELLS_AT_ONCE
    for number in np.unique(chunk_no):
        chunk = [batch[index] for index in np.flatnonzero(chunk_no == number)]
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
    own = [f'{each.name}."{column.name}"' for each in computations for column in each.columns]
    enhanced = next(each for each in computations if each.carries_candles)
    joins = " ".join(
        f"left join {qualified(market.name, Table(each.name))} {each.name} on {_same_candle(each.name, enhanced.name)}"
        for each in computations
        if each is not enhanced
    )
    with connect() as connection, registered(connection, "wanted", numbered(chunk)):
        listed = ", ".join(
            [f'{enhanced.name}."{name}"' for name in ("open_time", *candle_columns(market.two_sided))] + own
        )
        rows = arrays_of(
            connection,
            f"select w.series_no, {listed} from {qualified(market.name, Table(enhanced.name))} {enhanced.name} "
            f"join wanted w on {enhanced.name}.instrument = w.instrument and {enhanced.name}.timeframe = w.timeframe "
            f"{joins} order by w.series_no, {enhanced.name}.open_time",
        )
    starts = np.searchsorted(rows.pop("series_no"), np.arange(len(chunk) + 1))
    for number, series in enumerate(chunk):
        yield series, {name: values[starts[number] : starts[number + 1]] for name, values in rows.items()}


def _same_candle(left: str, right: str) -> str:
    return " and ".join(f"{left}.{key} = {right}.{key}" for key in KEY)


def write_exports(
    connection: duckdb.DuckDBPyConnection, market: str, exported: Sequence[Exported], stale: Stale, now: datetime
) -> None:
    """Replace the manifest rows of these files, and settle the series as far as they were read."""
    _replace_manifest(connection, qualified(market, Table.exports), exported, {"exported_at": now})
    written = {each.series for each in exported}
    done = stale.take(np.array([series in written for series in stale.series], dtype=bool))
    with registered(connection, "done", numbered(done.series, changes=done.changes)):
        connection.execute(
            f"delete from {qualified(market, Table.stale)} s using done d where s.asset = ? "
            "and s.instrument = d.instrument and s.timeframe = d.timeframe and s.changes = d.changes",
            [Table.exports.value],
        )


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
    columns = {name: np.array([row[name] for row in rows], dtype=_kind(rows[0][name])) for name in rows[0]}
    listed = ", ".join(columns)
    with registered(connection, "files", columns):
        connection.execute(
            f"delete from {table} t using files f "
            "where t.instrument = f.instrument and t.timeframe = f.timeframe and t.format = f.format"
        )
        connection.execute(f"insert into {table} ({listed}) select {listed} from files")


def _manifest_row(file: Exported | Published) -> dict[str, object]:
    row = {name: value for name, value in asdict(file).items() if name != "series"}
    return {"instrument": file.series.instrument, "timeframe": file.series.timeframe.value} | row


def _kind(value: object) -> str:
    if isinstance(value, datetime):
        return "datetime64[us]"
    return "int64" if isinstance(value, int) else "object"
