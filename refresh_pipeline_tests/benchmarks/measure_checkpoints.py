"""Measures a refresh of one new candle for many series: going on from checkpoints against warming up.

Run as `python -m refresh_pipeline_tests.benchmarks.measure_checkpoints [series] [bars]`. The figures are in
docs/decisions/0002-state-or-warm-up.md.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import TIME_UNIT, Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.incremental import TailRefresh
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics import sample_bars

SERIES, BARS = 50, 21_000
TICKS = 3
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WARMED_UP = replace(
    ENHANCED_CANDLES, states=(), columns=[replace(each, reach=None) for each in ENHANCED_CANDLES.columns]
)


def market_of(count: int) -> Market:
    """A market of so many instruments."""
    return Market.model_validate(
        {
            "name": "test",
            "source": {"kind": "demo"},
            "calendar": "crypto",
            "instruments": [f"I{number}/USD" for number in range(count)],
            "timeframes": ["m1"],
            "history": "30d",
        }
    )


def candles(batch: Sequence[Series], bars: int, rows: slice) -> dict[Series, Candles]:
    """The same rows of each series' simulated history."""
    times = (np.datetime64("2025-01-01", "us") + np.arange(bars + TICKS) * np.timedelta64(1, "m")).astype(TIME_UNIT)
    arrivals = {}
    for seed, series in enumerate(batch):
        whole = sample_bars.history(sample_bars.Market(bars=bars + TICKS, seed=seed))
        arrivals[series] = Candles(times[rows], {name: values[rows] for name, values in whole.items()})
    return arrivals


def seconds_a_tick(warehouse: Warehouse, market: Market, computation: Computation, bars: int) -> float:
    """Seconds for one refresh after the newest candle of every series came again with another volume."""
    batch = market.series
    newest = candles(batch, bars, slice(bars - 1, bars))
    for each in newest.values():
        each["volume"][:] = time.time() % 1000
    warehouse.store_candles(market, newest, "demo", NOW)
    stale = warehouse.pending_recompute(market, Table.enhanced_candles, batch)
    began = time.perf_counter()
    TailRefresh(warehouse.get_connection, market.name, computation, market.calendar, two_sided=False).run(stale)
    return time.perf_counter() - began


def main() -> None:
    """Print seconds a tick, and what the checkpoints weigh."""
    count, bars = (*map(int, sys.argv[1:]), *(SERIES, BARS)[len(sys.argv) - 1 :])
    market = market_of(count)
    batch = market.series
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(database=str(Path(folder) / "measured.duckdb"))
        warehouse.prepare(market)
        began = time.perf_counter()
        warehouse.store_candles(market, candles(batch, bars, slice(0, bars)), "demo", NOW)
        stored = time.perf_counter()
        warehouse.refresh_tail(market, Table.enhanced_candles, batch)
        print(f"{count} series x {bars} bars: stored {stored - began:.1f} s, ", end="")
        print(f"all computed {time.perf_counter() - stored:.1f} s")
        for what, computation in (("checkpoints", ENHANCED_CANDLES), ("warm-up", WARMED_UP)):
            ticks = [seconds_a_tick(warehouse, market, computation, bars) for _ in range(TICKS)]
            print(f"{what:<12}{computation.warm_up:>6} bars of warm-up, {min(ticks):.2f} to {max(ticks):.2f} s a tick")
        with warehouse.reader() as connection:
            (rows,) = connection.execute("select count(*) from test.checkpoints").fetchall()[0]
        print(f"{rows} checkpoints for {count * bars} rows")


if __name__ == "__main__":
    main()
