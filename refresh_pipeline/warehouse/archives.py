"""The archive files that candles were read from, with their checksums. Downloading them is `sources`' part."""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, BulkFile
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, texts, timestamp
from refresh_pipeline.warehouse.schema import Table, qualified


def record_files(
    connection: duckdb.DuckDBPyConnection, market: str, files: Sequence[tuple[Series, BulkFile]], now: datetime
) -> None:
    """Record files that were read, in place of their earlier rows, inside the open transaction."""
    if not files:
        return
    table = qualified(market, Table.archive_files)
    # The later of two readings of one file is right.
    latest = {(series, file.path): file for series, file in files}
    read = numbered(
        [series for series, _ in latest],
        path=texts(path for _, path in latest),
        sha256=texts(file.sha256 for file in latest.values()),
        since=np.array([file.since for file in latest.values()], dtype=TIME_UNIT),
        until=np.array([file.until for file in latest.values()], dtype=TIME_UNIT),
    )
    with registered(connection, "files_read", read):
        connection.execute(
            f"delete from {table} f using files_read r "
            "where f.instrument = r.instrument and f.timeframe = r.timeframe and f.path = r.path"
        )
        connection.execute(
            f"insert into {table} (instrument, timeframe, path, sha256, since, until, read_at) "
            'select instrument, timeframe, path, sha256, since, "until", ? from files_read',
            [timestamp(now)],
        )


def files_between(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    batch: Sequence[Series],
    since: np.datetime64,
    until: np.datetime64,
) -> dict[Series, list[BulkFile]]:
    """The recorded files of each series whose range lies between two instants, oldest first."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            f"select w.series_no, f.path, f.sha256, f.since, f.until from {qualified(market, Table.archive_files)} f "
            "join wanted w using (instrument, timeframe) where f.since >= ? and f.until <= ? order by f.since",
            [since.astype(datetime), until.astype(datetime)],
        )
    files: dict[Series, list[BulkFile]] = {}
    for number, *columns in zip(*rows.values(), strict=True):
        files.setdefault(batch[number], []).append(BulkFile(*columns))
    return files
