"""The floors: what a cycle cannot do without, done with nothing around it. A client's loop, DuckDB's own statements, a
loop in C for enhanced candles, a loop over TA-Lib for indicators. Nothing here checks, repairs or remembers anything.

The database is a file of its own with the same tables; each statement opens and closes it, as whoever shares it must.
"""

import asyncio
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
from httpx_aiohttp import AiohttpTransport
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.enhanced_candles import LINES
from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, bare
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.binance import INTERVALS, PAGE_ROWS
from refresh_pipeline.sources.http_client import CONNECTIONS

talib = load_talib()
# Texts are texts, not guessed at from a sample; and a report has no place for bars of progress.
SESSION = "set pandas_analyze_sample = 0; set enable_progress_bar = false"
Arrays = Mapping[str, NDArray]
KEYS = ("instrument", "timeframe", "open_time")


# ---- a client


def urls_of(base_url: str, requests: Sequence[Request]) -> list[str]:
    """The same questions as ours."""
    return [
        f"{base_url}/api/v3/klines?symbol={each.series.instrument}&interval={INTERVALS[each.series.timeframe]}"
        f"&startTime={_milliseconds(since)}&endTime={_milliseconds(min(each.until, since + page)) - 1}&limit=1000"
        for each in requests
        for page in [PAGE_ROWS * np.timedelta64(each.series.timeframe.minutes * 60_000_000, "us")]
        for since in np.arange(each.since, each.until, page)
    ]


def _milliseconds(time: np.datetime64) -> int:
    return int(time.astype("datetime64[ms]").astype(np.int64))


def fetch(urls: Sequence[str]) -> int:
    """Ask them all with the same client, as many at once as ours does; reads the JSON and counts its rows."""
    return asyncio.run(_fetch(urls))


async def _fetch(urls: Sequence[str]) -> int:
    waiting, rows = iter(urls), 0
    limits = httpx.Limits(max_connections=CONNECTIONS)
    # The first question for each symbol waits until its candles are drawn, and a busy machine draws slowly.
    async with httpx.AsyncClient(transport=AiohttpTransport(verify=False, limits=limits), timeout=60) as client:

        async def work() -> None:
            nonlocal rows
            for url in waiting:
                received = (await client.get(url)).json()
                rows += len(received)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())
    return rows


# ---- DuckDB


def put(database: Path, table: str, rows: Arrays, whole: Mapping[str, str] | None = None) -> None:
    """Replace and add rows, with nothing else kept in step; the bound lets DuckDB skip what is older.

    `whole` are the types of columns that cannot take NaN.
    """
    columns = ", ".join(f'"{name}"' for name in rows)
    values = ", ".join(f"nullif(\"{n}\", 'nan')::{(whole or {})[n]}" if n in (whole or {}) else f'"{n}"' for n in rows)
    same = " and ".join(f"t.{name} = s.{name}" for name in KEYS)
    with duckdb.connect(str(database)) as connection:
        connection.execute(SESSION)
        connection.register("staged", dict(rows))
        connection.execute("begin transaction")
        connection.execute(
            f"delete from {table} t using staged s where {same} and t.open_time >= ?",
            [rows["open_time"].min().astype(datetime)],
        )
        connection.execute(f"insert into {table} ({columns}) select {values} from staged")
        connection.execute("commit")


def differing(database: Path, table: str, rows: Arrays) -> NDArray[np.int64]:
    """The numbers of those rows that are not stored with the same values: whoever writes the others writes too many."""
    same = " and ".join(f"t.{name} = s.{name}" for name in KEYS)
    # Whether a value is null or NaN, it is missing.
    how = {name: "coalesce({}::double, 'nan'::double)" if rows[name].dtype.kind == "f" else "{}" for name in rows}
    sides = {name: [how[name].format(f'{side}."{name}"') for side in "ts"] for name in rows if name not in KEYS}
    differs = " or ".join(f"{theirs} is distinct from {ours}" for theirs, ours in sides.values())
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute(SESSION)
        connection.register("staged", {**rows, "number": np.arange(len(rows["open_time"]))})
        found = connection.execute(
            f"select s.number from staged s left join (select * from {table} where open_time >= ?) t on {same} "
            f"where t.open_time is null or {differs} order by all",
            [rows["open_time"].min().astype(datetime)],
        ).fetchnumpy()
    return np.asarray(found["number"])


def load(database: Path, table: str, rows: Arrays) -> None:
    """Rows into a table that is not there yet."""
    with duckdb.connect(str(database)) as connection:
        connection.execute(SESSION)
        connection.register("staged", dict(rows))
        connection.execute(f"create table {table} as select * from staged")


def copy(source: Path, rows: str, database: Path, table: str) -> None:
    """A table from one file to another."""
    with duckdb.connect(str(database)) as connection:
        connection.execute(SESSION)
        connection.execute(f"attach '{source}' as source (read_only)")
        connection.execute(f"create table {table} as select * from source.{rows}")


def window(database: Path, table: str, since: np.datetime64) -> tuple[list[tuple[str, str, int]], dict[str, Any]]:
    """The candles of all series from an instant on, behind one another, and how many of each there are."""
    bound = [since.astype(datetime)]
    with duckdb.connect(str(database)) as connection:
        counted = connection.execute(
            f"select instrument, timeframe, count(*) from {table} where open_time >= ? group by all order by all", bound
        ).fetchall()
        candles = connection.execute(
            f"select open_time, {', '.join(CANDLE_COLUMNS)} from {table} "
            "where open_time >= ? order by instrument, timeframe, open_time",
            bound,
        ).fetchnumpy()
    return counted, candles


# ---- a loop in C

LINES_IN_C, FLAGS_IN_C = 15, 43


@cache
def enhanced() -> tuple[Callable[[Bars], object], str]:
    """Enhanced candles, one series after the other, and a note on how."""
    try:
        return _in_c(), "bare: a loop in C, all but 6 columns"
    except (OSError, subprocess.SubprocessError) as error:
        return _by_talib, f"bare: TA-Lib for the lines alone, as there is no loop in C: {error}"


def _in_c() -> Callable[[Bars], object]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise OSError("no C compiler called cc")
    with tempfile.TemporaryDirectory() as folder:
        library, source = f"{folder}/bare_loop.so", str(Path(__file__).with_name("bare_loop.c"))
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-lm"], check=True, capture_output=True
        )
        function = ctypes.CDLL(library).enhanced

    def compute(bars: Bars) -> None:
        for rows in bars.slices:
            count = rows.stop - rows.start
            lines, flags = np.empty((LINES_IN_C, count)), np.zeros((FLAGS_IN_C, count), dtype=np.int8)
            columns = [bars[name][rows].ctypes.data_as(ctypes.c_void_p) for name in ("high", "low", "close", "volume")]
            outputs = [array.ctypes.data_as(ctypes.c_void_p) for array in (lines, flags)]
            function(ctypes.c_long(count), *columns, *outputs)

    return compute


def _by_talib(bars: Bars) -> None:
    for rows in bars.slices:
        enhanced_lines(*(bars[name][rows] for name in ("high", "low", "close", "volume")))


def enhanced_lines(high: Floats, low: Floats, close: Floats, volume: Floats) -> list[Floats]:
    """What TA-Lib has of enhanced candles: oscillators, three alligators, the gator; the facilitation index."""
    median = (high + low) / 2
    ao = talib.SMA(median, timeperiod=5) - talib.SMA(median, timeperiod=34)
    lines = [talib.RMA(median, timeperiod=periods) for periods, _ in LINES.values()]
    more = [lines[0] - lines[1], lines[2] - lines[1], (high - low) / volume]
    return [median, ao, ao - talib.SMA(ao, timeperiod=5), *lines, *more]


# ---- TA-Lib

_CALLS = [
    (
        bare(name),
        ["close" if each == "periods" else each for each in function.takes],
        list(function.parameters.values()),
    )
    for name, function in FUNCTIONS.items()
]
FUNCTION_COUNT = len(_CALLS)


def indicators(bars: Bars) -> None:
    """Every function of TA-Lib on every series, at its default parameters; MAVP over 14 bars."""
    for rows in bars.slices:
        columns = {name: bars[name][rows] for name in CANDLE_COLUMNS}
        periods = np.full(rows.stop - rows.start, 14.0)
        for function, takes, parameters in _CALLS:
            arrays = [columns[name] for name in takes]
            if function.__name__ == "MAVP":
                arrays[1] = periods
            function(*arrays, *parameters)
