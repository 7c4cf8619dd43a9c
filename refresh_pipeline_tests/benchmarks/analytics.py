"""Computations against loops that call TA-Lib, one series after the other, for what it has.

Flags, colours and phases are not TA-Lib's: for enhanced candles the loop does less. bench_enhanced.py sets them
against a bare loop in C, bench_indicators.py looks at indicators closely.
"""

from collections.abc import Callable

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES, LINES
from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.analytics.talib_functions import FUNCTIONS
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.analytics.histories import INDICATORS
from refresh_pipeline_tests.benchmarks.bench_indicators import bare_loop
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size, side_by_side

talib = load_talib()


def measure(size: Size) -> list[Comparison]:
    """Seconds for all candles of all series; the note says how many candles that are in a second."""
    bars = random_bars(size)
    return [
        _compared(ENHANCED_CANDLES, bars, enhanced_candles_of_one, size.rounds),
        side_by_side(
            f"indicators: {len(INDICATORS.columns)} columns, bare {len(FUNCTIONS)} functions of TA-Lib",
            lambda: INDICATORS.compute(bars),
            lambda: bare_loop(bars),
            size.rounds,
        ),
    ]


def _compared(table: Computation, bars: Bars, bare: Callable[..., list[Floats]], rounds: int) -> Comparison:
    def loop() -> list[list[Floats]]:
        return [bare(*(bars[name][rows] for name in ("high", "low", "close", "volume"))) for rows in bars.slices]

    what = f"{table.name}: {len(table.columns)} columns, bare {len(loop()[0])}"
    found = side_by_side(what, lambda: table.compute(bars), loop, rounds)
    speeds = [f"{len(bars) / each / 1e6:.1f}" for each in (found.ours_median, found.bare_median)]
    return Comparison(found.what, found.ours, found.bare, f"{' against '.join(speeds)} million candles/s")


def random_bars(size: Size) -> Bars:
    """A random walk for each series."""
    random = np.random.default_rng(1)
    count = size.series * size.bars
    close = np.exp(np.cumsum(random.normal(0, 0.001, (size.series, size.bars)), axis=1)).ravel() * 100
    reach = np.abs(random.normal(0, 0.05, count))
    columns = {"open": close, "high": close + reach, "low": close - reach, "close": close, "volume": reach}
    opens = np.tile(np.datetime64("2026-01-01", "us") + np.arange(size.bars) * np.timedelta64(60, "s"), size.series)
    return Bars(opens, columns, np.arange(size.series + 1) * size.bars)


def enhanced_candles_of_one(high: Floats, low: Floats, close: Floats, volume: Floats) -> list[Floats]:
    """The lines: oscillators, three alligators, the gator, the facilitation index."""
    median = (high + low) / 2
    ao = talib.SMA(median, timeperiod=5) - talib.SMA(median, timeperiod=34)
    lines = [talib.RMA(median, timeperiod=periods) for periods, _ in LINES.values()]
    facilitation = (high - low) / volume
    return [
        median,
        ao,
        ao - talib.SMA(ao, timeperiod=5),
        *lines,
        lines[0] - lines[1],
        lines[2] - lines[1],
        facilitation,
    ]
