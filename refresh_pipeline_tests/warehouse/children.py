"""Other processes that work on a warehouse's file: holders of its lock, writers, readers, and some that die.

Run as `python -m refresh_pipeline_tests.warehouse.children NAME DATABASE ...`; imports little, so that it starts fast.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np

from refresh_pipeline.market.candles import PRICE_COLUMNS, Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.ingest import Staged, store
from refresh_pipeline.warehouse.schema import candle_columns

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARKET = "fair"
# Bounded: a child that nobody ends ends by itself.
PATIENCE = 40.0


@contextmanager
def child(name: str, database: Path | str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """One of the functions below in a process of its own, which is gone when the block ends."""
    command = [sys.executable, "-m", "refresh_pipeline_tests.warehouse.children", name, str(database)]
    with subprocess.Popen(
        [*command, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # What lies in front of the environment stays there, as another DuckDB.
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    """The next line that a child says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def asked(process: subprocess.Popen[str]) -> str:
    """What a child answers to a line."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return says(process)


def finished(process: subprocess.Popen[str]) -> str:
    """What a child says until it ends, which it does well."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return said.strip()


def one_candle(number: int, price: float) -> Candles:
    """A flat candle of five minutes."""
    columns = {name: np.array([price]) for name in (*PRICE_COLUMNS, "volume")}
    open_time = np.datetime64("2024-01-01T00:00", "us") + np.timedelta64(5 * number, "m")
    return Candles(np.array([open_time]), columns)


def stored(connection: duckdb.DuckDBPyConnection, arrivals: dict[Series, Candles]) -> None:
    """The arrivals in the warehouse, in the transaction that is open."""
    store(connection, MARKET, Staged.of(arrivals, candle_columns(two_sided=False)), "child", NOW)


# ---- what children do


def hold(database: str, purpose: str) -> None:
    """Keep the file open until standard input ends."""
    with connect(database, read_only=purpose == "read", patience=PATIENCE):
        print("open", flush=True)
        sys.stdin.read()


def knock(database: str) -> None:
    """Open the file, without any patience, for each line of standard input."""
    for _ in sys.stdin:
        with connect(database, patience=0):
            print("open", flush=True)


def write(database: str, times: str) -> None:
    """Insert a row so many times, opening and closing the file for each."""
    for _ in range(int(times)):
        with connect(database, patience=PATIENCE) as connection, transaction(connection):
            connection.execute("insert into notes values (?)", [os.getpid()])


def read(database: str, times: str) -> None:
    """Count the rows so many times, opening and closing the file for each; say how often the count fell."""
    counts = []
    for _ in range(int(times)):
        with connect(database, read_only=True, patience=PATIENCE) as connection:
            counts += connection.execute("select count(*) from notes").fetchall()
    print(sum(later < earlier for earlier, later in pairwise(counts)), flush=True)


def linger(database: str) -> None:
    """Write and commit, and then neither close nor end."""
    with connect(database, patience=PATIENCE) as connection:
        for number in range(40):
            with transaction(connection):
                connection.execute("insert into notes values (?)", [number])
        with transaction(connection):
            connection.execute("insert into notes values (-1)")
            print("written", flush=True)
            sys.stdin.read()


def fill(database: str, instrument: str, count: str, tell: str = "") -> None:
    """Store a series candle by candle, opening and closing the file for each; each candle is sent twice.

    With `tell`, a line says that a candle and its correction are stored.
    """
    series = Series(instrument, Timeframe.m5)
    for number in range(int(count)):
        for price in (1.5, 2.5):
            with connect(database, patience=PATIENCE) as connection, transaction(connection):
                stored(connection, {series: one_candle(number, price)})
        if tell:
            print(number, "stored", flush=True)


class Fatal:
    """A connection whose process is killed when a certain statement is due."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, fatal: int) -> None:
        self._connection = connection
        self._left = fatal

    def execute(self, statement: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        return self._connection.execute(statement, parameters)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def die_at_each_statement(database: str) -> None:
    """Store a batch again and again, each time in a process that is killed one statement later, until one lives.

    After each death the file is opened and what it holds is said; the last line is of the one that lived.
    """
    died = True
    fatal = 0
    while died:
        # Forked: a new interpreter for each statement would take a hundred times as long.
        pid = os.fork()
        if pid == 0:
            store_until(database, fatal)
            os._exit(0)
        died = os.waitpid(pid, 0)[1] != 0
        with connect(database, read_only=True, patience=0) as connection:
            print(series_stats(connection), flush=True)
        fatal += 1


def store_until(database: str, fatal: int) -> None:
    """A correction, a new candle and a bad one, in one transaction, unless the process is killed."""
    good = Candles.concatenated([one_candle(0, 9.0), one_candle(1, 9.0)])
    arrivals = {Series("BTC/USD", Timeframe.m5): good, Series("ETH/USD", Timeframe.m5): one_candle(0, -1.0)}
    with connect(database, patience=0) as connection:
        doomed: duckdb.DuckDBPyConnection = Fatal(connection, fatal)  # type: ignore[assignment]
        with transaction(doomed):
            stored(doomed, arrivals)


def series_stats(connection: duckdb.DuckDBPyConnection) -> str:
    """How many rows each table holds, and what the counts say."""
    tables = ("raw_candles", "raw_candle_revisions", "rejected_candles")
    rows = [connection.execute(f"select count(*) from {MARKET}.{table}").fetchall()[0][0] for table in tables]
    counted = connection.execute(f"select sum(candle_count)::integer from {MARKET}.series").fetchall()[0][0]
    return f"{rows} counted {counted}"


CHILDREN = {each.__name__: each for each in (hold, knock, write, read, linger, fill, die_at_each_statement)}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])
