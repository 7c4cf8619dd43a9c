"""Computed tables after any change: what is in them equals computing everything, and only what changed was touched."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import cast

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Column, Computation, Values
from refresh_pipeline.analytics.rolling import shifted
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.analytics.warm_up import bars_to_forget
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import column_versions, computed_batch
from refresh_pipeline.warehouse.arrays import BEGINNING, arrays_of
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.incremental import CELLS_AT_ONCE, Recomputed, TailRefresh, pending_recompute
from refresh_pipeline.warehouse.ingest import Staged, store
from refresh_pipeline.warehouse.schema import Table, candle_columns
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.sample_bars import differing
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.children import child, says
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    NOW,
    SHIPPED_TABLES,
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
SHIPPED = tuple(SHIPPED_TABLES.values())


# ---- small computations with everything that the shipped ones may have

PERIODS = 3
EMA = bare("EMA")
EMA_WARM_UP = PERIODS + bars_to_forget(2 / (PERIODS + 1), e_foldings=25)
REPAINT = 4


def _small(bars: Bars) -> Mapping[str, Values]:
    ema = np.concatenate([np.empty(0), *(EMA(bars["close"][rows].copy(), PERIODS) for rows in bars.slices)])
    change = np.where(bars.position >= 1, bars["close"] - shifted(bars["close"], 1), np.nan)
    with np.errstate(divide="ignore"):
        inverse = 1 / np.round(change)
    columns = {"ema": ema, "inverse": inverse, "next_low": _next_low(bars), "word": _words(change)}
    return {name: values[bars.wanted_rows] for name, values in columns.items()}


def _next_low(bars: Bars) -> NDArray[np.float64]:
    """The lowest low of this bar and the next ones, as far as they are known: later bars repaint it."""
    result = bars["low"].copy()
    for rows in bars.slices:
        low, lowest = bars["low"][rows], result[rows]
        for later in range(1, REPAINT + 1):
            lowest[:-later] = np.minimum(lowest[:-later], low[later:])
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
# The same without the column that later bars repaint.
LASTING = replace(
    SMALL,
    columns=[column for column in SMALL.columns if not column.repaint],
    compute=lambda bars: {name: values for name, values in _small(bars).items() if name != "next_low"},
)
SMALL_TABLES = (SMALL, SHIPPED_TABLES[Table.indicators])


@contextmanager
def warehouse_of(
    market: Market, computations: Sequence[Computation] = SMALL_TABLES
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database file with the tables of these computations, kept open: opening it takes most of the time."""
    with tempfile.TemporaryDirectory() as folder, connect(str(Path(folder) / "warehouse.duckdb")) as connection:
        with transaction(connection):
            column_versions.ensure(connection, market.name, computations, market.two_sided)
        yield connection


def put(connection: duckdb.DuckDBPyConnection, market: Market, arrivals: Mapping[Series, Candles]) -> None:
    """Store candles."""
    with transaction(connection):
        store(connection, market.name, Staged.of(arrivals, candle_columns(market.two_sided)), "test", NOW)


def refresh(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    computation: Computation,
    cells_at_once: int = CELLS_AT_ONCE,
    keep: Mapping[Timeframe, timedelta] | None = None,
) -> dict[Series, Recomputed]:
    """Refresh one computed table of every series."""
    pending = pending_recompute(connection, market.name, Table(computation.name), market.series)
    opened = partial(nullcontext, connection)
    return TailRefresh(
        opened, market.name, computation, market.calendar, market.two_sided, keep or {}, cells_at_once
    ).run(pending)


def rows_of(connection: duckdb.DuckDBPyConnection, market: Market, table: str, series: Series) -> dict[str, NDArray]:
    """A table's rows of one series, oldest first."""
    return arrays_of(
        connection,
        f"select * from {market.name}.{table} where instrument = ? and timeframe = ? order by open_time",
        [series.instrument, series.timeframe.value],
    )


def assert_whole(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    computation: Computation,
    since: np.datetime64 | None = None,
) -> None:
    """The table holds what computing every candle from the first one gives, to 1e-9 relative, nulls included.

    Rows from `since` on: where older ones are not kept, they must not be there.
    """
    for series in market.series:
        raw = rows_of(connection, market, "raw_candles", series)
        held = rows_of(connection, market, computation.name, series)
        bars = Bars(raw["open_time"], {name: raw[name] for name in CANDLE_COLUMNS}, np.array([0, len(raw["close"])]))
        oldest = BEGINNING if since is None or not (bars.open_time >= since).any() else since
        kept = bars.open_time >= oldest
        assert held["open_time"].tolist() == raw["open_time"][kept].tolist(), series
        carried = {name: raw[name] for name in CANDLE_COLUMNS} if computation.carries_candles else {}
        for name, whole in {**computation.compute(bars), **carried}.items():
            expected = whole[kept]
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
    sent: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.sent = np.zeros(len(self.truth["close"]), dtype=bool)

    def tell(self, rows: NDArray[np.int64]) -> dict[Series, Candles]:
        self.sent[rows] = True
        columns = {name: values[rows] for name, values in self.truth.items()}
        return {self.series: Candles(opens(len(self.sent))[rows], columns)}

    def begin(self, first: int, last: int, holes: Sequence[tuple[int, int]]) -> dict[Series, Candles]:
        """Everything from one row to another, but for holes."""
        rows = np.arange(first, last)
        for start, length in holes:
            rows = rows[(rows < start) | (rows >= start + length)]
        return self.tell(rows)

    def newest(self, count: int) -> dict[Series, Candles]:
        last = int(np.flatnonzero(self.sent)[-1]) + 1
        return self.tell(np.arange(last, min(last + count, len(self.sent))))

    def earlier(self, count: int) -> dict[Series, Candles]:
        first = int(np.flatnonzero(self.sent)[0])
        return self.tell(np.arange(max(first - count, 0), first))

    def mended(self, share: int, count: int) -> dict[Series, Candles]:
        """Some of the candles that were left out."""
        first, last = np.flatnonzero(self.sent)[[0, -1]]
        missing = first + np.flatnonzero(~self.sent[first:last])
        at = len(missing) * share // 101
        return self.tell(missing[at : at + count])

    def corrected(self, share: int, count: int) -> dict[Series, Candles]:
        sent = np.flatnonzero(self.sent)
        rows = sent[len(sent) * share // 101 :][:count]
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
    with warehouse_of(market, computations) as connection:
        for past, (first, last, holes) in zip(pasts, histories, strict=True):
            put(connection, market, past.begin(first, max(last, first + 1), holes) if first < bars else {})
        for step in [(), *steps]:
            arrivals: dict[Series, Candles] = {}
            for past, (change, share, count) in zip(pasts, step, strict=False):
                arrivals |= CHANGES[change](past, share, count) if past.sent.any() else {}
            put(connection, market, arrivals)
            for computation in computations:
                refresh(connection, market, computation)
                assert_whole(connection, market, computation)


SMALL_BARS = 400
THREE = market_of(("BTC/USD", "ETH/USD", "SOL/USD"))


@settings(max_examples=examples(5), deadline=None)
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
LONG = max(each.warm_up for each in SHIPPED) + 700


@settings(max_examples=examples(3), deadline=None)
@given(
    histories=st.lists(
        st.tuples(st.integers(0, 300), st.integers(LONG - 300, LONG), holes_within(300)), min_size=2, max_size=2
    ),
    steps=st.lists(st.lists(ONE_CHANGE, min_size=1, max_size=2), min_size=1, max_size=3),
)
def test_the_shipped_tables_equal_ones_computed_anew_whatever_happens(histories, steps):
    whatever_happens(MARKET, SHIPPED, LONG, histories, steps)


# ---- how much is read and written


@dataclass
class Watched:
    """A connection, and what was asked of it."""

    connection: duckdb.DuckDBPyConnection
    statements: list[str] = field(default_factory=list)

    def execute(self, statement: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        self.statements.append(statement)
        return self.connection.execute(statement, parameters)

    def register(self, name: str, arrays: Mapping[str, NDArray]) -> None:
        self.connection.register(name, dict(arrays))

    def unregister(self, name: str) -> None:
        self.connection.unregister(name)

    def about(self, beginning: str, table: str) -> int:
        """How many statements begin so and name a table."""
        return sum(each.startswith(beginning) and f".{table} " in each for each in self.statements)


def watched_refresh(
    connection: duckdb.DuckDBPyConnection, market: Market, computation: Computation
) -> tuple[Watched, list[Bars]]:
    """Refresh, and say what was asked of the connection and computed on."""
    watched, bars = Watched(connection), []

    def compute(given: Bars) -> Mapping[str, Values]:
        bars.append(given)
        return computation.compute(given)

    refresh(cast("duckdb.DuckDBPyConnection", watched), market, replace(computation, compute=compute))
    return watched, bars


@pytest.fixture
def three() -> Iterator[duckdb.DuckDBPyConnection]:
    """Three series of 400 candles, refreshed."""
    with warehouse_of(THREE) as connection:
        put(connection, THREE, {series: candles(400, seed=number) for number, series in enumerate(THREE.series)})
        refresh(connection, THREE, SMALL)
        yield connection


def test_all_series_of_a_run_are_read_in_one_query_and_written_in_one(three: duckdb.DuckDBPyConnection):
    put(three, THREE, {series: candles(1, first=400, seed=9) for series in THREE.series})
    watched, [bars] = watched_refresh(three, THREE, SMALL)
    assert watched.about("select", "raw_candles") == 1
    assert watched.about("insert", "enhanced_candles") == 1
    assert watched.about("delete", "enhanced_candles") == 1
    assert len(bars.slices) == 3
    assert_whole(three, THREE, SMALL)


def test_rows_that_no_later_bar_repaints_are_written_by_stretches_of_time_and_in_each_by_series(
    three: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(computed_batch, "STRETCH", 150)
    put(three, THREE, {series: candles(400, seed=9) for series in THREE.series})
    refresh(three, THREE, LASTING)
    rows = three.execute("select instrument, open_time from fair.enhanced_candles order by rowid").fetchall()
    names = [instrument for instrument, _ in rows]
    begins = [number for number, name in enumerate(names) if not number or name != names[number - 1]]
    lengths = np.diff([*begins, len(rows)]).tolist()
    assert lengths == [100] * 3 + [150] * 6
    stretches = [[time for _, time in rows[begin : begin + size]] for begin, size in zip(begins, lengths, strict=True)]
    assert all(times == sorted(times) for times in stretches)
    newest = max(time for _, time in rows)
    assert [times[-1] == newest for times in stretches] == [False] * 6 + [True] * 3
    assert_whole(three, THREE, LASTING)


def test_rows_that_later_bars_repaint_are_written_in_order_of_time(three: duckdb.DuckDBPyConnection):
    times = three.execute("select open_time from fair.enhanced_candles order by rowid").fetchall()
    assert len(times) == 1200
    assert times == sorted(times)


def test_of_a_long_history_hardly_more_than_the_warm_up_is_read(three: duckdb.DuckDBPyConnection):
    put(three, THREE, {BTC: candles(1, first=400, seed=9)})
    _, [bars] = watched_refresh(three, THREE, SMALL)
    assert EMA_WARM_UP + REPAINT < len(bars) <= 1.1 * (EMA_WARM_UP + REPAINT) + 3


def test_series_that_did_not_change_are_neither_read_nor_written(three: duckdb.DuckDBPyConnection):
    def places(series: Series) -> list[tuple]:
        return three.execute(
            "select rowid from fair.enhanced_candles where instrument = ? order by open_time", [series.instrument]
        ).fetchall()

    before = places(ETH)
    put(three, THREE, {BTC: flat(7.0, 200)})
    _, [bars] = watched_refresh(three, THREE, SMALL)
    assert len(bars.slices) == 1
    assert places(ETH) == before
    assert len(places(BTC)) == 400


def test_where_nothing_changed_nothing_is_asked(three: duckdb.DuckDBPyConnection):
    watched, bars = watched_refresh(three, THREE, SMALL)
    assert bars == []
    assert watched.about("insert", "enhanced_candles") == 0


def test_a_refresh_says_what_it_added_and_what_it_wrote_again(three: duckdb.DuckDBPyConnection):
    # Lower than any before: it is the lowest of the next bars for each of the four before it.
    lowest = flat(0.5, 400)
    put(three, THREE, {BTC: lowest, ETH: flat(7.0, 398)})
    assert refresh(three, THREE, SMALL)[BTC] == Recomputed(added=1, revised=REPAINT, repainted=REPAINT)
    # Higher than those: nothing is lower for any of them.
    put(three, THREE, {BTC: flat(1000.0, 401)})
    assert refresh(three, THREE, SMALL) == {BTC: Recomputed(added=1, revised=0)}
    put(three, THREE, {BTC: flat(900.0, 401)})
    assert refresh(three, THREE, SMALL) == {BTC: Recomputed(added=0, revised=1)}


def test_a_hole_longer_than_the_warm_up_makes_the_query_reach_further_back():
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: candles(200), ETH: candles(1200)})
        refresh(connection, MARKET, SMALL)
        put(connection, MARKET, {BTC: candles(1, first=1200, seed=1), ETH: candles(1, first=1200, seed=1)})
        watched, [bars] = watched_refresh(connection, MARKET, SMALL)
        assert watched.about("select", "raw_candles") > 1
        assert len(bars) < 600
        assert_whole(connection, MARKET, SMALL)


def test_a_series_too_long_for_memory_is_computed_a_piece_at_a_time_and_equals_the_whole():
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: candles(3000), ETH: candles(50)})
        for table in SMALL_TABLES:
            recomputed = refresh(connection, MARKET, table, cells_at_once=1)
            assert {series: (each.added, each.revised) for series, each in recomputed.items()} == {
                BTC: (3000, 0),
                ETH: (50, 0),
            }
            assert_whole(connection, MARKET, table)


def test_what_is_stored_of_a_long_series_stays_when_a_later_piece_fails():
    pieces = []

    def compute(bars: Bars) -> Mapping[str, Values]:
        pieces.append(len(bars))
        if len(pieces) == 3:
            raise OSError("the disk is full")
        return _small(bars)

    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: candles(3000)})
        with pytest.raises(OSError, match="full"):
            refresh(connection, MARKET, replace(SMALL, compute=compute), cells_at_once=1)
        stored = query_of(connection, "select count(*) from fair.enhanced_candles")
        [queued] = query_of(connection, "select since from fair.recompute_queue where asset = 'enhanced_candles'")
        assert stored == [(2048,)]
        assert queued[0] == opens(3000)[2048].astype(datetime)
        refresh(connection, MARKET, SMALL)
        assert_whole(connection, MARKET, SMALL)


def query_of(connection: duckdb.DuckDBPyConnection, statement: str) -> list[tuple]:
    """A query's rows."""
    return connection.execute(statement).fetchall()


# ---- how long rows are kept


def test_rows_are_kept_for_as_long_as_the_market_says_and_go_on_from_all_of_history():
    keep = {Timeframe.m5: timedelta(days=2)}
    table = SHIPPED_TABLES[Table.indicators]
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: candles(288 * 5 + 100), ETH: candles(100)})
        refresh(connection, MARKET, SMALL)
        refresh(connection, MARKET, table, keep=keep)
        kept = rows_of(connection, MARKET, "indicators", BTC)
        assert kept["open_time"][0] == opens(288 * 3 + 1)[-1]
        assert_whole(connection, MARKET, table, since=kept["open_time"][0])
        assert len(rows_of(connection, MARKET, "indicators", ETH)["open_time"]) == 100
        # A day later a day leaves, and what is new goes on from what is no longer there.
        put(connection, MARKET, {BTC: candles(288, first=288 * 5 + 100)})
        refresh(connection, MARKET, SMALL)
        refresh(connection, MARKET, table, keep=keep)
        kept = rows_of(connection, MARKET, "indicators", BTC)
        assert kept["open_time"][0] == opens(288 * 4 + 1)[-1]
        assert_whole(connection, MARKET, table, since=kept["open_time"][0])


def test_a_correction_older_than_what_is_kept_reaches_the_sums_that_go_on_from_it():
    keep = {Timeframe.m5: timedelta(days=2)}
    table = SHIPPED_TABLES[Table.indicators]
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: candles(288 * 5)})
        put(connection, MARKET, {BTC: flat(90.0, 10)})
        for made, kept in ((SMALL, {}), (table, keep)):
            refresh(connection, MARKET, made, keep=kept)
        assert_whole(connection, MARKET, table, since=rows_of(connection, MARKET, "indicators", BTC)["open_time"][0])


def test_a_series_that_always_has_holes_is_read_once():
    sparse = candles(900).where(np.arange(900) % 3 == 0)
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: sparse})
        refresh(connection, MARKET, SMALL)
        put(connection, MARKET, {BTC: candles(1, first=900, seed=1)})
        watched, _ = watched_refresh(connection, MARKET, SMALL)
        assert watched.about("select", "raw_candles") == 1
        assert_whole(connection, MARKET, SMALL)


def test_candles_decades_apart_take_no_reading_of_decades():
    lonely, old = candles(1), Candles.concatenated([candles(1), candles(300, first=3_000_000)])
    with warehouse_of(MARKET) as connection:
        put(connection, MARKET, {BTC: lonely, ETH: old})
        refresh(connection, MARKET, SMALL)
        put(connection, MARKET, {BTC: candles(1, first=3_000_000), ETH: candles(1, first=3_000_300)})
        watched, [bars] = watched_refresh(connection, MARKET, SMALL)
        assert watched.about("select", "raw_candles") == 1
        lonely_bars, old_bars = np.diff(bars.starts)
        assert lonely_bars == 2
        assert old_bars < 200
        assert_whole(connection, MARKET, SMALL)


def test_a_weekend_before_the_change_costs_no_second_query():
    market = market_of(("EUR/USD",), timeframes="[m15]", calendar="fx")
    calendar, [series] = market.calendar, market.series
    # 2024-01-15 was a Monday.
    times = calendar.open_times(Timeframe.m15, np.datetime64("2024-01-01"), np.datetime64("2024-01-15T02:00"))
    history = Candles(times, prices(len(times)))
    with warehouse_of(market) as connection:
        put(connection, market, {series: history.where(np.arange(len(times)) < len(times) - 1)})
        refresh(connection, market, SMALL)
        put(connection, market, {series: history})
        watched, [bars] = watched_refresh(connection, market, SMALL)
        assert watched.about("select", "raw_candles") == 1
        assert len(bars) < 1.2 * (EMA_WARM_UP + REPAINT)
        assert_whole(connection, market, SMALL)


def test_timeframes_long_and_short_are_refreshed_together():
    market = market_of(timeframes="[m5, H1, D1, W1, MN1]")
    calendar, start, now = market.calendar, np.datetime64("2023-11-01", "us"), np.datetime64("2024-03-05T03:00", "us")
    with warehouse_of(market) as connection:
        grids = {series: calendar.open_times(series.timeframe, start, now)[-300:] for series in market.series}
        histories = {series: Candles(grid, prices(len(grid), seed=len(grid))) for series, grid in grids.items()}
        put(connection, market, {s: each.where(np.arange(len(each)) < len(each) - 1) for s, each in histories.items()})
        refresh(connection, market, SMALL)
        assert_whole(connection, market, SMALL)
        put(connection, market, histories)
        refresh(connection, market, SMALL)
        assert_whole(connection, market, SMALL)


@pytest.mark.parametrize("cells_at_once", [1, 5_000, 12_000])
def test_in_chunks_or_at_once_the_result_is_the_same(cells_at_once: int):
    tables = []
    for limit in (CELLS_AT_ONCE, cells_at_once):
        with warehouse_of(THREE) as connection:
            put(connection, THREE, {series: candles(400, seed=number) for number, series in enumerate(THREE.series)})
            recomputed = refresh(connection, THREE, SMALL, cells_at_once=limit)
            assert [*recomputed] == [*THREE.series]
            tables.append(connection.execute("select * from fair.enhanced_candles order by all").fetchall())
    assert tables[0] == tables[1]
    assert len(tables[0]) == 1200


MANY = market_of([f"{letter}{letter}{letter}/USD" for letter in "ABCDEFGHIJKLMNOP"])


def many_chunks(warehouse: Warehouse, compute: Callable[[Bars], Mapping[str, Values]]) -> dict[Series, Recomputed]:
    """Refresh sixteen series, each a chunk, with a second thread that computes."""
    made = replace(SHIPPED_TABLES[Table.enhanced_candles], compute=compute)
    pending = warehouse.pending_recompute(MANY, Table.enhanced_candles, MANY.series)
    # As `refresh_tail` opens it for many chunks: DuckDB works with one thread.
    opened, session = partial(warehouse.get_connection, threads=1), partial(warehouse.session, threads=1)
    work = TailRefresh(opened, "fair", made, MANY.calendar, two_sided=False, cells_at_once=9_000, session=session)
    assert not work.computes_ahead(pending)
    assert replace(work, overlaps=True).computes_ahead(pending) == (len(pending.series) == len(MANY.series))
    return replace(work, overlaps=True).run(pending)


def test_of_many_chunks_the_next_are_computed_in_a_thread_and_the_result_is_the_same(tmp_path: Path):
    warehouse, computation = prepared(tmp_path, MANY), SHIPPED_TABLES[Table.enhanced_candles]
    arrivals = {series: candles(60, seed=number) for number, series in enumerate(MANY.series)}
    warehouse.store_candles(MANY, arrivals, "test", NOW)
    threads, calls = set[str](), 0

    def watched(bars: Bars) -> Mapping[str, Values]:
        nonlocal calls
        threads.add(threading.current_thread().name)
        calls += 1
        if calls == 12:
            raise ZeroDivisionError
        return computation.compute(bars)

    with pytest.raises(ZeroDivisionError):
        many_chunks(warehouse, watched)
    assert {name.rstrip("0123456789_") for name in threads} == {"compute"}
    # What was written before stays, and the next refresh does the rest.
    written = {*many_chunks(warehouse, watched)}
    assert 5 <= len(written) <= 9
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compute")]
    with warehouse.get_connection() as connection:
        assert_whole(connection, MANY, computation)


def test_rows_of_a_series_that_is_computed_in_pieces_are_all_counted(three: duckdb.DuckDBPyConnection):
    put(three, THREE, {BTC: candles(2_500)})
    # Pieces of 1,024 rows, of which the last waits to be written with other series.
    recomputed = refresh(three, THREE, SMALL, cells_at_once=9_000)
    # 400 of them were stored before.
    assert (recomputed[BTC].added, recomputed[BTC].revised) == (2_100, 400)


def test_what_is_unknown_or_infinite_is_null(three: duckdb.DuckDBPyConnection):
    put(three, THREE, {BTC: flat(7.0, *range(10), volume=float("nan"))})
    refresh(three, THREE, SMALL)
    rows = three.execute(
        "select ema, inverse, volume, word from fair.enhanced_candles where instrument = 'BTC/USD' "
        "order by open_time limit 4"
    ).fetchall()
    assert rows == [(None, None, None, None), (None, None, None, "down"), *[(7.0, None, None, "down")] * 2]


def test_texts_that_are_mostly_missing_are_stored(tmp_path: Path):
    # Fresh series with one known text each: DuckDB 1.5 looks at a sample of all rows, here every fourth, and sees none.
    market = market_of([f"A{number}/USD" for number in range(118)])
    warehouse = prepared(tmp_path, market)
    warehouse.store_candles(market, {series: candles(34) for series in market.series}, "test", NOW)
    warehouse.refresh_tail(market, Table.enhanced_candles, market.series)
    assert query(warehouse, "select count(ao_color) from fair.enhanced_candles") == [(118,)]


# ---- what is made from what, and what happens in between


def test_what_is_made_from_a_table_becomes_stale_from_the_first_candle_that_changed(three: duckdb.DuckDBPyConnection):
    def queued(asset: str) -> list[tuple]:
        return three.execute(
            "select instrument, since from fair.recompute_queue where asset = ? order by all", [asset]
        ).fetchall()

    assert queued("enhanced_candles") == []
    assert len(queued("indicators")) == 3
    refresh(three, THREE, SHIPPED_TABLES[Table.indicators])
    assert queued("indicators") == []
    put(three, THREE, {BTC: flat(7.0, 300)})
    refresh(three, THREE, SMALL)
    assert queued("indicators") == [("BTC/USD", opens(400)[300].astype(object))]
    assert len(queued("exports")) == 3


def interrupted(computation: Computation, meanwhile: Callable[[], object]) -> Computation:
    """The same, but something else happens while it computes."""

    def compute(bars: Bars) -> Mapping[str, Values]:
        meanwhile()
        return computation.compute(bars)

    return replace(computation, compute=compute)


@pytest.mark.parametrize("meanwhile", [{BTC: candles(1, first=400, seed=9)}, {BTC: flat(7.0, 3)}])
def test_a_change_between_reading_and_writing_is_not_lost(three: duckdb.DuckDBPyConnection, meanwhile):
    put(three, THREE, {BTC: flat(7.0, 200), ETH: flat(7.0, 200)})
    recomputed = refresh(three, THREE, interrupted(SMALL, lambda: put(three, THREE, meanwhile)))
    assert [*recomputed] == [ETH]
    assert [*refresh(three, THREE, SMALL)] == [BTC]
    assert_whole(three, THREE, SMALL)


def test_who_comes_late_does_not_write_over_what_somebody_else_made_from_newer_candles(
    three: duckdb.DuckDBPyConnection,
):
    def somebody_else() -> None:
        refresh(three, THREE, SMALL)
        put(three, THREE, {BTC: candles(1, first=400, seed=9)})
        refresh(three, THREE, SMALL)

    put(three, THREE, {BTC: flat(7.0, 200)})
    assert refresh(three, THREE, interrupted(SMALL, somebody_else)) == {}
    assert_whole(three, THREE, SMALL)


def test_who_comes_late_does_not_settle_a_change_that_came_after_somebody_elses_refresh(
    three: duckdb.DuckDBPyConnection,
):
    def somebody_else() -> None:
        refresh(three, THREE, SMALL)
        put(three, THREE, {BTC: candles(1, first=400, seed=9)})

    put(three, THREE, {BTC: flat(7.0, 200)})
    assert refresh(three, THREE, interrupted(SMALL, somebody_else)) == {}
    assert [*refresh(three, THREE, SMALL)] == [BTC]
    assert_whole(three, THREE, SMALL)


def test_a_failure_while_computing_leaves_the_series_stale_and_the_table_as_it_was(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(50)}, "test", NOW)
    before = everything(warehouse)

    def fail(bars: Bars) -> Mapping[str, Values]:
        raise ZeroDivisionError

    broken = replace(SHIPPED_TABLES[Table.enhanced_candles], compute=fail)
    pending = warehouse.pending_recompute(MARKET, Table.enhanced_candles, MARKET.series)
    with pytest.raises(ZeroDivisionError):
        TailRefresh(warehouse.get_connection, "fair", broken, MARKET.calendar, two_sided=False).run(pending)
    assert everything(warehouse) == before


def test_another_process_may_have_the_file_while_this_one_computes(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(50)}, "test", NOW)
    said: list[str] = []

    def somebody_else() -> None:
        with child("hold", warehouse.database, "write") as other:
            said.append(says(other))

    made = interrupted(SHIPPED_TABLES[Table.enhanced_candles], somebody_else)
    pending = warehouse.pending_recompute(MARKET, Table.enhanced_candles, MARKET.series)
    TailRefresh(warehouse.get_connection, "fair", made, MARKET.calendar, two_sided=False).run(pending)
    assert said == ["open"]


def test_quotes_are_carried_along(tmp_path: Path):
    market = market_of(two_sided=True)
    warehouse = prepared(tmp_path, market)
    quoted = candles(3)
    quoted = replace(quoted, columns={**quoted.columns, "ask_close": np.array([1.0, np.nan, np.inf])})
    warehouse.store_candles(market, {BTC: quoted}, "test", NOW)
    warehouse.refresh_tail(market, Table.enhanced_candles, [BTC])
    assert query(warehouse, "select ask_close from fair.enhanced_candles order by open_time") == [
        (1.0,),
        (None,),
        (None,),
    ]
