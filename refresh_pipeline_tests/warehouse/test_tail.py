"""Computed tables after any change: what is in them equals computing everything, and only what changed was touched."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Column, Computation, Values
from refresh_pipeline.analytics.recursions import bars_to_forget, exponential_moving_average, per_series
from refresh_pipeline.analytics.windows import shifted
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import schema
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.raw import Staged, store
from refresh_pipeline.warehouse.schema import Table, candle_columns
from refresh_pipeline.warehouse.tail import Connect, Recomputed, TailRefresh, stale_series
from refresh_pipeline.warehouse.warehouse import COMPUTATIONS, Warehouse
from refresh_pipeline_tests.analytics.histories import differing
from refresh_pipeline_tests.warehouse.stores import (
    BTC,
    ETH,
    NOW,
    candles,
    everything,
    flat,
    market_of,
    opens,
    prepared,
    prices,
    query,
)

MARKET = market_of()
SHIPPED = tuple(COMPUTATIONS.values())


# ---- small computations with everything that the shipped ones may have

PERIODS = 3
EMA_WARM_UP = PERIODS + bars_to_forget(2 / (PERIODS + 1), e_foldings=25)
REPAINT = 4


def _small(bars: Bars) -> Mapping[str, Values]:
    ema = per_series(exponential_moving_average, bars, "close", periods=PERIODS)
    change = np.where(bars.position >= 1, bars["close"] - shifted(bars["close"], 1), np.nan)
    with np.errstate(divide="ignore"):
        inverse = 1 / np.round(change)
    return {"ema": ema, "inverse": inverse, "next_low": _next_low(bars), "word": _words(change)}


def _next_low(bars: Bars) -> NDArray[np.float64]:
    """The lowest low of this bar and the next ones, as far as they are known: later bars repaint it."""
    result = np.full(len(bars), np.nan)
    for rows in bars.slices:
        low = bars["low"][rows]
        result[rows] = [low[row : row + REPAINT + 1].min() for row in range(len(low))]
    return result


def _words(change: NDArray[np.float64]) -> NDArray[np.object_]:
    words = np.array([None, "up", "down"], dtype=object)
    return words[np.where(np.isnan(change), 0, np.where(change > 0, 1, 2))]


SMALL = Computation(
    "enhanced_candles",
    [
        Column("ema", "", "price", warm_up=EMA_WARM_UP),
        Column("inverse", "infinite where the price stood still", "", warm_up=1),
        Column("next_low", "", "price", repaint=REPAINT),
        Column("word", "", "text", warm_up=1, sql_type="varchar"),
    ],
    _small,
    carries_candles=True,
)
SMALL_TABLES = (SMALL, COMPUTATIONS[Table.indicators])


@contextmanager
def warehouse_of(market: Market, computations: Sequence[Computation] = SMALL_TABLES) -> Iterator[str]:
    """A new database file with the tables of these computations."""
    with tempfile.TemporaryDirectory() as folder:
        database = str(Path(folder) / "warehouse.duckdb")
        with connect(database) as connection, transaction(connection):
            schema.ensure(connection, market.name, computations, market.two_sided)
        yield database


def put(database: str, market: Market, arrivals: Mapping[Series, Candles]) -> None:
    """Store candles."""
    with connect(database) as connection, transaction(connection):
        store(connection, market.name, Staged.of(arrivals, candle_columns(market.two_sided)), "test", NOW)


def refresh(
    database: str,
    market: Market,
    computation: Computation,
    through: Connect | None = None,
    cells_at_once: int = 30_000_000,
) -> dict[Series, Recomputed]:
    """Refresh one computed table of every series."""
    with connect(database) as connection:
        stale = stale_series(connection, market.name, Table(computation.name), market.series)
    opened = through or partial(connect, database)
    work = TailRefresh(opened, market.name, computation, market.calendar, market.two_sided, cells_at_once)
    return work.run(stale)


def rows_of(database: str, market: Market, table: str, series: Series) -> dict[str, NDArray]:
    """A table's rows of one series, oldest first."""
    with connect(database, read_only=True) as connection:
        rows = connection.execute(
            f"select * from {market.name}.{table} where instrument = ? and timeframe = ? order by open_time",
            [series.instrument, series.timeframe.value],
        ).fetchnumpy()
    return {name: np.ma.filled(values, None if values.dtype == object else np.nan) for name, values in rows.items()}


def assert_whole(database: str, market: Market, computation: Computation) -> None:
    """The table holds what computing every candle from the first one gives, to 1e-9 relative, nulls included."""
    for series in market.series:
        raw = rows_of(database, market, "raw_candles", series)
        held = rows_of(database, market, computation.name, series)
        bars = Bars(raw["open_time"], {name: raw[name] for name in CANDLE_COLUMNS}, np.array([0, len(raw["close"])]))
        assert held["open_time"].tolist() == raw["open_time"].tolist(), series
        carried = {name: raw[name] for name in CANDLE_COLUMNS} if computation.carries_candles else {}
        for name, expected in {**computation.compute(bars), **carried}.items():
            finite = expected if expected.dtype == object else np.where(np.isfinite(expected), expected, np.nan)
            found = differing(_kind_of(finite, held[name]), finite, relative=1e-9)
            assert len(found) == 0, (str(series), name, found[:5], held[name][found[:5]], finite[found[:5]])


def _kind_of(like: NDArray, values: NDArray) -> NDArray:
    return values if like.dtype == object else values.astype(np.float64)


# ---- whatever happens


@dataclass
class Past:
    """One series' candles as they really were, and which of them the warehouse has been told."""

    series: Series
    truth: dict[str, NDArray[np.float64]]
    told: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.told = np.zeros(len(self.truth["close"]), dtype=bool)

    def tell(self, rows: NDArray[np.int64]) -> dict[Series, Candles]:
        self.told[rows] = True
        columns = {name: values[rows] for name, values in self.truth.items()}
        return {self.series: Candles(opens(len(self.told))[rows], columns)}

    def begin(self, first: int, last: int, holes: Sequence[tuple[int, int]]) -> dict[Series, Candles]:
        """Everything from one row to another, but for holes."""
        rows = np.arange(first, last)
        for start, length in holes:
            rows = rows[(rows < start) | (rows >= start + length)]
        return self.tell(rows)

    def newest(self, count: int) -> dict[Series, Candles]:
        last = int(np.flatnonzero(self.told)[-1]) + 1
        return self.tell(np.arange(last, min(last + count, len(self.told))))

    def earlier(self, count: int) -> dict[Series, Candles]:
        first = int(np.flatnonzero(self.told)[0])
        return self.tell(np.arange(max(first - count, 0), first))

    def mended(self, share: int, count: int) -> dict[Series, Candles]:
        """Some of the candles that were left out."""
        first, last = np.flatnonzero(self.told)[[0, -1]]
        missing = first + np.flatnonzero(~self.told[first:last])
        at = len(missing) * share // 101
        return self.tell(missing[at : at + count])

    def corrected(self, share: int, count: int) -> dict[Series, Candles]:
        told = np.flatnonzero(self.told)
        rows = told[len(told) * share // 101 :][:count]
        for name in ("open", "high", "low", "close"):
            self.truth[name][rows] *= 1.03125
        return self.tell(rows)


CHANGES: Mapping[str, Callable[[Past, int, int], dict[Series, Candles]]] = {
    "newest": lambda past, share, count: past.newest(count),
    "earlier": lambda past, share, count: past.earlier(count),
    "mended": Past.mended,
    "corrected": Past.corrected,
    "nothing": lambda past, share, count: {},
}
ONE_CHANGE = st.tuples(st.sampled_from([*CHANGES]), st.integers(0, 100), st.integers(1, 40))


def holes_within(bars: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, bars), st.integers(1, bars // 4)), max_size=3)


def whatever_happens(
    market: Market,
    computations: Sequence[Computation],
    bars: int,
    histories: Sequence[tuple[int, int, Sequence[tuple[int, int]]]],
    steps: Sequence[Sequence[tuple[str, int, int]]],
) -> None:
    """Begin with some history of each series, then change some of them; after each step everything is right."""
    pasts = [Past(series, prices(bars, seed=number)) for number, series in enumerate(market.series)]
    with warehouse_of(market, computations) as database:
        for past, (first, last, holes) in zip(pasts, histories, strict=True):
            put(database, market, past.begin(first, max(last, first + 1), holes) if first < bars else {})
        for step in [(), *steps]:
            arrivals: dict[Series, Candles] = {}
            for past, (change, share, count) in zip(pasts, step, strict=False):
                arrivals |= CHANGES[change](past, share, count) if past.told.any() else {}
            put(database, market, arrivals)
            for computation in computations:
                refresh(database, market, computation)
                assert_whole(database, market, computation)


SMALL_BARS = 400
THREE = market_of(("BTC/USD", "ETH/USD", "SOL/USD"))


@settings(max_examples=20, deadline=None)
@given(
    histories=st.lists(
        st.tuples(st.integers(0, SMALL_BARS // 2), st.integers(SMALL_BARS // 2, SMALL_BARS), holes_within(SMALL_BARS)),
        min_size=3,
        max_size=3,
    ),
    steps=st.lists(st.lists(ONE_CHANGE, min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_after_whatever_happens_a_refreshed_table_equals_one_computed_anew(histories, steps):
    whatever_happens(THREE, [SMALL], SMALL_BARS, histories, steps)


# Longer than what the slowest column looks back on, so that the tail is a part of the whole.
LONG = 2 * max(each.warm_up for each in SHIPPED) // 2 + 700


@settings(max_examples=6, deadline=None)
@given(
    histories=st.lists(
        st.tuples(st.integers(0, 300), st.integers(LONG - 300, LONG), holes_within(300)), min_size=2, max_size=2
    ),
    steps=st.lists(st.lists(ONE_CHANGE, min_size=1, max_size=2), min_size=1, max_size=3),
)
def test_the_shipped_tables_equal_ones_computed_anew_whatever_happens(histories, steps):
    whatever_happens(MARKET, SHIPPED, LONG, histories, steps)
