"""Averages that remember for ever, through TA-Lib's C functions, and how soon they forget. One series at a time.

Every parameter is passed: TA-Lib's defaults change between releases. Finite windows live in windows.py, averages that
a tail goes on with in continued.py.
"""

from collections.abc import Callable, Sequence
from inspect import unwrap
from math import ceil, log1p
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.market.candles import Floats

_talib = load_talib()
# Bare C functions: what TA-Lib wraps around them for data frames costs more than 500 bars do.
_ema, _rsi, _atr, _macd = (unwrap(getattr(_talib, name)) for name in ("EMA", "RSI", "ATR", "MACD"))


def exponential_moving_average(values: Floats, periods: int) -> Floats:
    """The EMA with weight 2 / (periods + 1), in the values' unit; the first, at row `periods - 1`, is a mean.

    >>> exponential_moving_average(np.array([1.0, 3.0, 5.0]), periods=2)
    array([nan,  2.,  4.])
    """
    return _ema(values, timeperiod=periods)


def relative_strength_index(close: Floats, periods: int) -> Floats:
    """Wilder's RSI, 0 to 100; NaN in the first `periods` rows, 0 where the price has never moved.

    >>> relative_strength_index(np.array([1.0, 2.0, 1.5, 2.0]), periods=3)
    array([nan, nan, nan, 75.])
    """
    return _rsi(close, timeperiod=periods)


def average_true_range(high: Floats, low: Floats, close: Floats, periods: int) -> Floats:
    """Wilder's ATR, in units of price; NaN in the first `periods` rows.

    >>> average_true_range(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]), periods=2)
    array([nan, nan,  2.])
    """
    return _atr(high, low, close, timeperiod=periods)


def convergence_divergence(close: Floats, fast: int, slow: int, signal: int) -> tuple[Floats, Floats, Floats]:
    """MACD's line, signal and histogram, in units of price; NaN in the first `slow + signal - 2` rows.

    >>> line, signal, histogram = convergence_divergence(np.arange(6.0), fast=2, slow=3, signal=2)
    >>> line
    array([nan, nan, nan, 0.5, 0.5, 0.5])
    """
    return _macd(close, fastperiod=fast, slowperiod=slow, signalperiod=signal)


def per_series(function: Callable[..., Floats], bars: Bars, *names: str, **parameters: Any) -> Floats:
    """A function of one series, over each series of the bars; `names` are the columns it takes."""
    return _joined([function(*inputs, **parameters) for inputs in _inputs(bars, names)])


def each_per_series(
    function: Callable[..., Sequence[Floats]], outputs: int, bars: Bars, *names: str, **parameters: Any
) -> list[Floats]:
    """The same for a function with several outputs."""
    results = [function(*inputs, **parameters) for inputs in _inputs(bars, names)]
    return [_joined([result[number] for result in results]) for number in range(outputs)]


def _inputs(bars: Bars, names: Sequence[str]) -> list[list[Floats]]:
    columns = [np.ascontiguousarray(bars[name], dtype=np.float64) for name in names]
    return [[column[rows] for column in columns] for rows in bars.slices]


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.empty(0), *parts])


# How many e-foldings of its seed's weight a recursion needs before the tail equals the whole to 1e-9 relative.
# A level: the seed may be wrong by ten times the present price, and exp(-23) = 1e-10.
LEVEL = 23
# A difference of two levels near its zero, or a ratio of averages that die away together: the recursions have to agree
# to the last bit (exp(-37) = 2**-53), and still so after a market has stood still for some hundred bars. Beyond that an
# RSI that keeps its last value cannot be known from the tail, and a line may be off by 1e-15 of the price.
LAST_BIT = 50


def bars_to_forget(weight: float, e_foldings: float) -> int:
    """How many bars it takes until a seed's share has shrunk by exp(-e_foldings); `weight` is the newest value's.

    >>> bars_to_forget(weight=2 / 201, e_foldings=LEVEL)
    2300
    """
    return ceil(e_foldings / -log1p(-weight))
