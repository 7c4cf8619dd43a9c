"""Both computations against a loop that calls TA-Lib for the same lines, one series after the other."""

from collections.abc import Callable

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.analytics.enhanced_candles import ALLIGATOR, ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import INDICATORS
from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size, side_by_side

talib = load_talib()


def measure(size: Size) -> list[Comparison]:
    """Seconds for all candles of all series; the note says how many candles that are in a second."""
    bars = random_bars(size)
    return [
        _compared(ENHANCED_CANDLES, bars, enhanced_candles_of_one, size.rounds),
        _compared(INDICATORS, bars, indicators_of_one, size.rounds),
    ]


def _compared(table: Computation, bars: Bars, bare: Callable[..., object], rounds: int) -> Comparison:
    def loop() -> None:
        for rows in bars.slices:
            bare(bars["high"][rows], bars["low"][rows], bars["close"][rows])

    found = side_by_side(f"{table.name}, {len(table.columns)} columns", lambda: table.compute(bars), loop, rounds)
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


def enhanced_candles_of_one(high: Floats, low: Floats, close: Floats) -> list[Floats]:
    """The numeric lines; colours and zones are not TA-Lib's."""
    median = (high + low) / 2
    ao = talib.SMA(median, timeperiod=5) - talib.SMA(median, timeperiod=34)
    lines = [talib.RMA(median, timeperiod=periods) for periods, _ in ALLIGATOR.values()]
    return [median, ao, ao - talib.SMA(ao, timeperiod=5), *lines, lines[0] - lines[1], lines[2] - lines[1]]


def indicators_of_one(high: Floats, low: Floats, close: Floats) -> list[Floats]:
    """The same set."""
    lines = [each(close, timeperiod=periods) for each in (talib.SMA, talib.EMA) for periods in (10, 20, 50, 100, 200)]
    lines += [talib.RSI(close, timeperiod=periods) for periods in (14, 21)]
    lines += talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    lines += [talib.ATR(high, low, close, timeperiod=periods) for periods in (14, 21)]
    upper, middle, lower = talib.BBANDS(close, timeperiod=20, nbdevup=2.0, nbdevdn=2.0, matype=0)
    return [*lines, upper, middle, lower, upper - lower, (close - lower) / (upper - lower)]
