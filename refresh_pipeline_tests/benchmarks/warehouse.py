"""The warehouse against the fewest statements that do the same on the same file; opening and closing included."""

from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.tail import TailRefresh
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size, side_by_side
from refresh_pipeline_tests.benchmarks.wide_run import BEGIN, MINUTE, wide_market

BARS_READ = 500
# Later than anything the wide run has stored.
LATER = BEGIN + MINUTE * 1000


def measure(size: Size, database: Path) -> list[Comparison]:
    """Storing one tick of two candles a series, and reading the newest 500 candles of every series."""
    warehouse, market = Warehouse(database=str(database)), wide_market(size)
    minutes = (LATER + MINUTE * number for number in count())
    since = np.full(size.series, instant(BEGIN - MINUTE * BARS_READ))
    all_there_is = np.full(size.series, np.datetime64("NaT", "us"))
    tail = TailRefresh(warehouse.get_connection, market.name, ENHANCED_CANDLES, market.calendar, market.two_sided)

    def store(now: datetime) -> None:
        warehouse.store_candles(market, dict(zip(market.series, _arrivals(size, now), strict=True)), "demo", now)

    # Once before: a series is read because it is stale.
    store(next(minutes))
    stale = warehouse.stale(market, Table.enhanced_candles, market.series)
    stored = side_by_side(
        f"store {2 * size.series} candles, half of them new",
        lambda: store(next(minutes)),
        lambda: bare_store(database, size, next(minutes)),
        size.rounds,
    )
    read = side_by_side(
        f"read the last {BARS_READ} candles of {size.series} series",
        lambda: tail._candles(stale, since, all_there_is),
        lambda: bare_read(database),
        size.rounds,
    )
    notes = ("design: 3.4 ms on an open connection; open and close 11 ms", "design: 20 ms on an open connection")
    return [_noted(each, note) for each, note in zip((stored, read), notes, strict=True)]


def _noted(comparison: Comparison, note: str) -> Comparison:
    return Comparison(comparison.what, comparison.ours, comparison.bare, note)


def _arrivals(size: Size, now: datetime) -> Iterator[Candles]:
    """Two candles for each series."""
    prices = np.full(2, price_at(now))
    for _ in range(size.series):
        yield Candles.of(times_before(now), open=prices, high=prices, low=prices, close=prices, volume=prices)


def bare_store(database: Path, size: Size, now: datetime) -> None:
    """Replace and add the same rows, with nothing else kept in step."""
    staged = {"instrument": _names(size), "open_time": np.tile(times_before(now), size.series)}
    staged |= {name: np.full(2 * size.series, price_at(now)) for name in CANDLE_COLUMNS}
    columns = ", ".join(staged)
    with duckdb.connect(str(database)) as connection:
        connection.register("staged", staged)
        connection.execute("begin transaction")
        connection.execute(
            "delete from wide.raw_candles r using staged s "
            "where r.instrument = s.instrument and r.timeframe = 'm1' and r.open_time = s.open_time"
        )
        connection.execute(f"insert into wide.raw_candles ({columns}, timeframe) select {columns}, 'm1' from staged")
        connection.execute("commit")


def _names(size: Size) -> NDArray[np.object_]:
    return np.repeat(np.array([f"S{number:03d}" for number in range(size.series)], dtype=object), 2)


def price_at(now: datetime) -> float:
    """Another one each minute, so that the candle that was there before is revised."""
    return 100 + now.minute / 10


def times_before(now: datetime) -> NDArray[np.datetime64]:
    """The opening times of the two newest candles."""
    return np.array([instant(now - 2 * MINUTE), instant(now - MINUTE)])


def bare_read(database: Path) -> object:
    """The same rows by one query bounded by time."""
    with duckdb.connect(str(database)) as connection:
        return connection.execute(
            f"select instrument, open_time, {', '.join(CANDLE_COLUMNS)} from wide.raw_candles "
            "where timeframe = 'm1' and open_time >= ? order by instrument, open_time",
            [BEGIN.replace(tzinfo=None) - MINUTE * BARS_READ],
        ).fetchnumpy()
