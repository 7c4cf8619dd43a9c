"""A data folder as a client reads it: the file is opened for one question and closed before the answer is used."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np

from refresh_pipeline.client.errors import ClientError
from refresh_pipeline.client.place import Columns, Question
from refresh_pipeline.market.candles import Times, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe, UnknownTimeframe
from refresh_pipeline.warehouse import column_versions, snapshots, versions
from refresh_pipeline.warehouse.adjustments import ADJUSTED
from refresh_pipeline.warehouse.arrays import BEGINNING, END, arrays_of, texts, timestamp
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.compute_on_read import computed_columns, expired_stretch
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.point_in_time import candles_as_of
from refresh_pipeline.warehouse.schema import Table, qualified

DATABASE, LAKE_SCHEME = "refresh.duckdb", "ducklake:"
LAYERS = {
    "candles": Table.raw_candles,
    "enhanced": Table.enhanced_candles,
    "indicators": Table.indicators,
}
Moment = np.datetime64
# Columns that say which series a row is of.
KEY = ("instrument", "timeframe")


class FolderPlace:
    """The warehouse of a data folder, a database file, or a lake by its address.

    Raises:
        ClientError: there is none of them.
    """

    def __init__(self, path: Path | str) -> None:
        self._data_dir: Path | None = None
        if str(path).startswith(LAKE_SCHEME):
            self._database = _lake(str(path))
            return
        file = Path(path) / DATABASE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise ClientError(
                f"wanted a data folder or a URL, found {str(path)!r}; {file} is no file: run refresh once, "
                "or name the folder of REFRESH_DATA_DIR"
            )
        self._database, self._data_dir = str(file), file.parent

    def rows(self, question: Question) -> Columns:
        """The rows of one series."""
        with self._open() as connection:
            market, series = _series_of(connection, question)
            if question.as_of is not None:
                return _as_of(connection, market, series, question.as_of, question)
            rows = _rows(connection, market, series, question)
            expired = _expired(connection, market, series, question, rows)
            if expired is None:
                return rows
            computing = _computing(connection, self._data_dir, market, LAYERS[question.layer], expired)
        return self._completed(computing, series, question, rows, expired)

    def _completed(
        self, market: Market, series: Series, question: Question, rows: Columns, expired: tuple[Moment, Moment]
    ) -> Columns:
        """The rows after those that have expired, which are computed with the file closed in between."""
        table = LAYERS[question.layer]
        found = computed_columns(self._open, market, {table: list(rows)}, series, expired)
        # Rows that are stored before the expired ones are of an older `keep`: they are computed with them.
        later = rows["open_time"] >= expired[1]
        every = {name: np.concatenate([found[table, name], values[later]]) for name, values in rows.items()}
        chosen = _window(every["open_time"], question)
        return {name: values[chosen] for name, values in every.items()}

    def series(self, market: str | None) -> Columns:
        """The stored series with the version of their candles."""
        with self._open() as connection:
            return arrays_of(
                connection,
                " union all ".join(
                    f"select '{name}' as market, s.instrument, s.timeframe, s.candle_count, s.first_open_time, "
                    f"s.last_open_time, v.version from {qualified(name, Table.series)} s left join "
                    f"{qualified(name, Table.versions)} v on v.asset = '{Table.raw_candles}' "
                    "and v.instrument = s.instrument and v.timeframe = s.timeframe"
                    for name in _markets(connection, market)
                )
                + " order by market, instrument, timeframe",
            )

    def gaps(self, market: str | None) -> Columns:
        """The missing candles as of the last refresh."""
        with self._open() as connection:
            return arrays_of(
                connection,
                " union all ".join(
                    f"select '{name}' as market, instrument, timeframe, first_open_time, last_open_time, candles "
                    f"from {qualified(name, Table.gaps)}"
                    for name in _markets(connection, market)
                )
                + " order by market, instrument, timeframe, first_open_time",
            )

    def snapshots(self, api: str, since: datetime | None, until: datetime | None, limit: int | None) -> Columns:
        """The columns of an API's payloads."""
        with self._open() as connection:
            collection, name = only_api(api, snapshots.located(connection, api))
            return snapshots.rows_of(connection, collection, name, since=since, until=until, limit=limit).arrays

    def changes(self, after: int, epoch: str | None) -> tuple[str, int, Columns, bool]:
        """What the change feed says."""
        with self._open() as connection:
            read = versions.changes(connection, after, epoch=epoch)
        return read.epoch, read.version, change_columns([_row(change) for change in read.changes]), read.reset

    def _open(self) -> "_Opened":
        return _Opened(self._database)


def _lake(address: str) -> str:
    try:
        place = place_of(address)
        if place.exists:
            return address
    except (ValueError, WarehouseUnreadable) as error:
        raise ClientError(str(error)) from error
    raise ClientError(f"{place.name} has no catalogue yet: run refresh once with this REFRESH_WAREHOUSE")


class _Opened:
    """A connection for one question, with errors in a client's words."""

    def __init__(self, database: str) -> None:
        self._connection = connect(database, read_only=True)

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.__enter__()
        except (WarehouseUnreadable, TimeoutError) as error:
            raise ClientError(str(error)) from error

    def __exit__(self, *failure: object) -> None:
        self._connection.__exit__(*failure)  # pyright: ignore[reportArgumentType]


def only_api(name: str, found: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The one API that a name means: its collection and its id.

    Raises:
        ClientError: there is none, or there are several.
    """
    if not found:
        raise ClientError(f"api: found {name!r}, and no payload of such an API is stored; see refresh apis list")
    if len(found) > 1:
        listed = ", ".join(f"{collection}.{api}" for collection, api in found)
        raise ClientError(f"api: found {name!r}, which several collections have; allowed: {listed}")
    return found[0]


def _row(change: versions.Change) -> tuple[object, ...]:
    return (
        change.version,
        change.market,
        change.asset,
        change.instrument,
        change.timeframe,
        change.since,
        change.changed_at,
    )


def change_columns(rows: list[tuple[object, ...]]) -> Columns:
    """Changes by column: version, market, asset, instrument, timeframe, since, changed_at."""
    columns = list(zip(*rows, strict=True)) or [()] * 7
    names = ("market", "asset", "instrument", "timeframe")
    return {
        "version": np.array(columns[0], dtype=np.int64),
        **{name: texts(values) for name, values in zip(names, columns[1:5], strict=True)},
        "since": np.array([value or "NaT" for value in columns[5]], dtype="datetime64[us]"),
        "changed_at": np.array(columns[6], dtype="datetime64[us]"),
    }


def _markets(connection: duckdb.DuckDBPyConnection, wanted: str | None) -> list[str]:
    rows = connection.execute(
        "select schema_name from duckdb_tables() where table_name = ? and database_name = current_database() "
        "order by all",
        [Table.series.value],
    ).fetchall()
    markets = [name for (name,) in rows if wanted in (None, name)]
    if not markets:
        stored = ", ".join(name for (name,) in rows) or "none"
        raise ClientError(f"market: found {wanted!r}, stored: {stored}")
    return markets


def _series_of(connection: duckdb.DuckDBPyConnection, question: Question) -> tuple[str, Series]:
    """The market and the series that a question means."""
    try:
        timeframe = Timeframe.parse(question.timeframe)
    except UnknownTimeframe as error:
        raise ClientError(str(error)) from error
    markets = _markets(connection, question.market)
    stored = connection.execute(
        " union all ".join(
            f"select '{name}', instrument from {qualified(name, Table.series)} where timeframe = $timeframe"
            for name in markets
        ),
        {"timeframe": timeframe.value},
    ).fetchall()
    found = [(market, name) for market, name in stored if _plain(name) == _plain(question.instrument)]
    if not found:
        names = ", ".join(sorted({name for _, name in stored})[:20]) or "none"
        raise ClientError(f"instrument: found {question.instrument!r}; stored on {timeframe}: {names}")
    if len(found) > 1:
        names = ", ".join(market for market, _ in found)
        raise ClientError(f"{question.instrument} on {timeframe} is stored in the markets {names}; name one: market=")
    return found[0][0], Series(found[0][1], timeframe)


def _plain(instrument: str) -> str:
    return "".join(letter for letter in instrument.upper() if letter not in "/-_ ")


def _rows(connection: duckdb.DuckDBPyConnection, market: str, series: Series, question: Question) -> Columns:
    table = f'"{market}".{ADJUSTED}' if question.adjusted else qualified(market, LAYERS[question.layer])
    columns = _columns(connection, market, table, question)
    asked = {"since": question.since, "until": question.until}
    bounds = {name: timestamp(moment) for name, moment in asked.items() if moment is not None}
    newest_first = question.limit is not None and question.since is None
    limit = "" if question.limit is None else f" limit {int(question.limit)}"
    signs = {"since": ">=", "until": "<"}
    where = "".join(f" and open_time {signs[name]} ${name}" for name in bounds)
    quoted = ", ".join(f'"{name}"' for name in columns)
    rows = arrays_of(
        connection,
        f"select {quoted} from {table} where instrument = $instrument and timeframe = $timeframe"
        f"{where} order by open_time{' desc' if newest_first else ''}{limit}",
        {"instrument": series.instrument, "timeframe": series.timeframe.value, **bounds},
    )
    return {name: values[::-1] for name, values in rows.items()} if newest_first else rows


def _expired(
    connection: duckdb.DuckDBPyConnection, market: str, series: Series, question: Question, rows: Columns
) -> tuple[Moment, Moment] | None:
    """The stretch of the answer that is not stored, and has to be computed; None where the rows are all of it."""
    table, is_newest = LAYERS[question.layer], question.since is None
    if table is Table.raw_candles or (is_newest and len(rows["open_time"]) == question.limit):
        return None
    since = BEGINNING if question.since is None else instant(question.since)
    until = END if question.until is None else instant(question.until)
    if question.limit is not None and not is_newest:
        times = arrays_of(
            connection,
            f"select open_time from {qualified(market, Table.raw_candles)} where instrument = ? and timeframe = ? "
            "and open_time >= ? and open_time < ? order by open_time limit ?",
            [series.instrument, series.timeframe.value, timestamp(since), timestamp(until), question.limit],
        )["open_time"]
        until = times[-1] + np.timedelta64(1, "us") if len(times) else until
    newest = question.limit if is_newest else None
    return expired_stretch(connection, market, table, series, (since, until), newest=newest)


def _computing(
    connection: duckdb.DuckDBPyConnection,
    data_dir: Path | None,
    name: str,
    table: Table,
    expired: tuple[Moment, Moment],
) -> Market:
    """The market's YAML, which says how to compute rows, where it is the one that the stored rows were computed by."""
    # Reading YAML takes as long as most answers, and most answers need none.
    from refresh_pipeline.market.model import MarketError  # noqa: PLC0415
    from refresh_pipeline.market_files import load_markets  # noqa: PLC0415
    from refresh_pipeline.settings import load_settings  # noqa: PLC0415

    wanted = (
        f"{table}: rows from {expired[0]} to {expired[1]} are not stored, computing them takes the YAML of {name!r}"
    )
    hint = "set REFRESH_MARKETS_DIR to its folder, ask the API, or ask for rows from then on"
    try:
        folder = {} if data_dir is None else {"data_dir": str(data_dir)}
        [market] = load_markets(load_settings(enabled_markets=name, **folder), named_by="market")
        computation = computations(market)[table]
    except (MarketError, ValueError, OSError) as error:
        raise ClientError(f"{wanted}: {error}; {hint}") from error
    if differing := column_versions.differing(connection, name, computation, market.two_sided):
        raise ClientError(f"{wanted} that they are stored by, found another one ({min(differing)} differs); {hint}")
    return market


def _columns(connection: duckdb.DuckDBPyConnection, market: str, table: str, question: Question) -> list[str]:
    described = connection.execute(f"describe {table}").fetchall()
    stored = [row[0] for row in described if row[0] not in KEY]
    wanted = stored if question.columns is None else ["open_time", *question.columns]
    if unknown := [name for name in wanted if name not in stored]:
        raise ClientError(f"columns: found {unknown[0]!r}; {question.layer} of {market} has {', '.join(stored)}")
    return list(dict.fromkeys(wanted))


def _as_of(
    connection: duckdb.DuckDBPyConnection, market: str, series: Series, moment: datetime, question: Question
) -> Columns:
    described = connection.execute(f"describe {qualified(market, Table.raw_candles)}").fetchall()
    two_sided = any(row[0] == "bid_open" for row in described)
    candles = candles_as_of(connection, market, series, moment, two_sided)
    chosen = _window(candles.open_time, question)
    return {
        "open_time": candles.open_time[chosen],
        **{name: values[chosen] for name, values in candles.columns.items()},
    }


def _window(times: Times, question: Question) -> slice:
    first = 0 if question.since is None else int(np.searchsorted(times, instant(question.since)))
    end = len(times) if question.until is None else int(np.searchsorted(times, instant(question.until)))
    if question.limit is None:
        return slice(first, end)
    if question.since is None:
        return slice(max(first, end - question.limit), end)
    return slice(first, min(end, first + question.limit))
