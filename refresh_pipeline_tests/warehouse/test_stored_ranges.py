"""The ranges that storing keeps, held against the candles in the file, whatever arrives in whatever order."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, Times, instant
from refresh_pipeline.market.gaps import Stretch
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, ETH, FIRST, NOW, flat, market_of, opens

MARKET = market_of()
STEP = np.timedelta64(5, "m")


def missing(warehouse: Warehouse, since: int = 0, until: int = 100) -> dict[str, list[tuple[int, int, int]]]:
    """The bars (by number) from which and before which candles are missing, and how many."""
    begin, end = (FIRST + number * STEP for number in (since, until))
    gaps = warehouse.missing_between(MARKET, {BTC: begin, ETH: begin}, end, NOW)
    return {series.instrument: [_numbers(each) for each in stretches] for series, stretches in gaps.items()}


def _numbers(stretch: Stretch) -> tuple[int, int, int]:
    return int((stretch.since - FIRST) / STEP), int((stretch.until - FIRST) / STEP), stretch.expected


def test_gaps_lie_between_two_candles_or_at_an_end(warehouse: Warehouse) -> None:
    warehouse.store_candles(MARKET, {BTC: flat(1.5, 3, 4, 5, 9, 10, 20)}, "test", NOW)
    assert missing(warehouse) == {
        "BTC/USD": [(0, 3, 3), (6, 9, 3), (11, 20, 9), (21, 100, 79)],
        "ETH/USD": [(0, 100, 100)],
    }


def test_candles_outside_the_span_count_for_nothing(warehouse: Warehouse) -> None:
    warehouse.store_candles(MARKET, {BTC: flat(1.5, *range(100)), ETH: flat(1.5, 1, 50)}, "test", NOW)
    assert missing(warehouse, 10, 20) == {"BTC/USD": [], "ETH/USD": [(10, 20, 10)]}


def test_a_candle_off_the_grid_is_no_candle_of_a_bar(warehouse: Warehouse) -> None:
    warehouse.store_candles(MARKET, {BTC: flat(1.5, 0, 1, 2)}, "test", NOW)
    late = flat(1.5, 3)
    shifted = Candles(late.open_time - np.timedelta64(1, "m"), late.columns)
    warehouse.store_candles(MARKET, {BTC: shifted}, "test", NOW + timedelta(minutes=1))
    assert missing(warehouse, 0, 5)["BTC/USD"] == [(3, 5, 2)]


def test_a_series_that_is_off_the_grid_throughout_is_looked_at_once(warehouse: Warehouse) -> None:
    late = flat(1.5, *range(10))
    warehouse.store_candles(MARKET, {BTC: Candles(late.open_time + STEP // 2, late.columns)}, "test", NOW)
    assert missing(warehouse, 0, 5)["BTC/USD"] == [(0, 5, 5)]
    with warehouse.reader() as connection:
        rows = connection.execute("select instrument, first_open_time from fair.stored_ranges").fetchall()
    assert rows == [("BTC/USD", None)]


def test_nothing_asked_is_nothing_found(warehouse: Warehouse) -> None:
    assert warehouse.missing_between(MARKET, {}, opens(101)[-1], NOW) == {}


WORLDS = {
    "crypto": "{name: w, source: {kind: demo}, calendar: crypto, instruments: [A, B], timeframes: [m15, H4, D1], "
    "history: 30d}",
    "nse": "{name: w, source: {kind: demo}, calendar: nse, instruments: [A, B], timeframes: [m15, H4, D1], "
    "history: 30d}",
    # Gold rests an hour a day, the pair does not.
    "fx": "{name: w, source: {kind: demo}, calendar: fx, timeframes: [m15, H4, D1], history: 30d, "
    "instruments: {A: {}, B: {class: metal}}}",
}
AT = datetime(2024, 3, 20, 12, 7, 30, tzinfo=UTC)


@settings(deadline=None, max_examples=examples(4))
@given(st.sampled_from(sorted(WORLDS)), st.integers(0, 2**32), st.floats(0.1, 1))
def test_gaps_and_completeness_equal_a_plain_enumeration_of_expected_bars(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, share: float
) -> None:
    market, random = parse_market(WORLDS[name], file="w.yaml"), np.random.default_rng(seed)
    store = Warehouse(tmp_path_factory.mktemp("ranges") / "ranges.duckdb")
    store.prepare(market)
    history = {series: _history(market.calendar_of(series.instrument), series.timeframe, random, share)
               for series in market.series}  # fmt: skip
    for _ in range(3):
        arrivals = {s: _candles(random.choice(t, len(t) * 2 // 3)) for s, t in history.items() if len(t)}
        store.store_candles(market, arrivals, "test", NOW)
    kept = {(gap.series, gap.first, gap.last, gap.candles) for gap in store.gaps(market, AT)}
    counts = store.coverage(market, market.series, AT)
    with connect(store.database) as connection:
        rows = connection.execute("select instrument, timeframe, open_time from w.raw_candles").fetchall()
    expected = set()
    for series in market.series:
        stored = [time for *key, time in rows if key == [series.instrument, series.timeframe.value]]
        bars = _bars(market, series, stored)
        here = np.isin(bars, np.array(stored, dtype=TIME_UNIT))
        expected |= {(series, *run) for run in _runs(bars, here)}
        # What came before it is due counts on both sides.
        early = _early(market, series, stored)
        assert (counts[series].expected, counts[series].stored) == (len(bars) + early, here.sum() + early)
    assert kept == expected


def _history(calendar: Calendar, timeframe: Timeframe, random: np.random.Generator, share: float) -> Times:
    bars = calendar.open_times(timeframe, instant("2024-02-10"), instant("2024-03-20T12:00"))
    chosen = bars[random.random(len(bars)) < share]
    return np.concatenate([chosen, chosen[:2] + np.timedelta64(7, "m")])


def _candles(times: Times) -> Candles:
    return Candles(times, {name: np.full(len(times), 1.5) for name in CANDLE_COLUMNS})


def _bars(market: Market, series: Series, stored: list[datetime]) -> Times:
    """The bars from the history's beginning, or the oldest candle, to the newest that closed half an hour ago."""
    calendar, end = market.calendar_of(series.instrument), instant(AT) - np.timedelta64(30, "m")
    since = market.calendar.floor(series.timeframe, np.array([instant(AT) - np.timedelta64(30, "D")]))[0]
    bars = calendar.open_times(series.timeframe, min([since, *map(instant, stored)]), end)
    return bars[calendar.closes(series.timeframe, bars) <= end]


def _early(market: Market, series: Series, stored: list[datetime]) -> int:
    """How many stored bars closed in the last half an hour."""
    calendar, now = market.calendar_of(series.instrument), instant(AT)
    bars = calendar.open_times(series.timeframe, now - np.timedelta64(3, "D"), now)
    closes = calendar.closes(series.timeframe, bars)
    recent = bars[(closes > now - np.timedelta64(30, "m")) & (closes <= now)]
    return int(np.isin(recent, np.array(stored, dtype=TIME_UNIT)).sum())


def _runs(bars: Times, here: np.ndarray) -> list[tuple[np.datetime64, np.datetime64, int]]:
    padded = np.concatenate([[True], here, [True]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(padded) == -1), np.flatnonzero(np.diff(padded) == 1) - 1
    return [(bars[a], bars[b], int(b - a + 1)) for a, b in zip(starts, ends, strict=True)]
