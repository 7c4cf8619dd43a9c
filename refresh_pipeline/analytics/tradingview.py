"""TradingView's variants of indicators that TA-Lib computes otherwise, with their entries for the registry.

Each function takes columns of one stretch of one series, oldest first, then its parameters, and gives arrays of that
length with NaN where there is no value. The sources are the formulas in TradingView's help and its built-in scripts.
"""

from collections.abc import Mapping
from math import atan, degrees, pi

import numpy as np

from refresh_pipeline.analytics import side_by_side
from refresh_pipeline.analytics.charting_registry import ChartingFunction
from refresh_pipeline.analytics.rolling import ratio, shifted, simple_moving_average, windowed_sum
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.market.candles import Floats

_ema, _rsi, _atr, _min, _max, _stddev = (bare(name) for name in ("EMA", "RSI", "ATR", "MIN", "MAX", "STDDEV"))
# Bars that Ehlers' Hilbert transform looks back.
HILBERT_BARS = 6


def _behind_nan(function: object, values: Floats, periods: int) -> Floats:
    """A function of TA-Lib over the values behind the leading NaN."""
    result, known = np.full(len(values), np.nan), np.flatnonzero(~np.isnan(values))
    if len(known) and callable(function):
        result[known[0] :] = function(values[known[0] :], periods)
    return result


def chande_momentum(close: Floats, periods: int) -> Floats:
    """100 * (rises - falls) / (rises + falls), plain sums of the last changes; NaN where nothing changed."""
    change = close - shifted(close, 1)
    rises, falls = (windowed_sum(np.maximum(each, 0.0), periods) for each in (change, -change))
    return 100 * ratio(rises - falls, rises + falls)


def relative_volatility(close: Floats, deviation: int, periods: int) -> Floats:
    """Dorsey's index of 1993: the average deviation of rising bars against that of all, 0 to 100."""
    spread, change = _stddev(close, deviation), close - shifted(close, 1)
    rising = _behind_nan(_ema, np.where(change > 0, spread, spread * 0), periods)
    falling = _behind_nan(_ema, np.where(change > 0, spread * 0, spread), periods)
    return 100 * ratio(rising, rising + falling)


def detrended(close: Floats, periods: int) -> tuple[Floats, Floats]:
    """The close less its mean of periods / 2 + 1 bars ago; and the close of then less the mean of now (centered)."""
    back, mean = periods // 2 + 1, simple_moving_average(close, periods)
    return close - shifted(mean, back), shifted(close, back) - mean


def stochastic_rsi(close: Floats, rsi: int, stochastic: int, smooth_k: int, smooth_d: int) -> tuple[Floats, Floats]:
    """The place of the RSI in its own range, 0 to 100, smoothed by simple means: %K and %D."""
    strength = _rsi(close, rsi)
    lowest, highest = (_behind_nan(extreme, strength, stochastic) for extreme in (_min, _max))
    k = simple_moving_average(100 * ratio(strength - lowest, highest - lowest), smooth_k)
    return k, simple_moving_average(k, smooth_d)


def mama_of_median(high: Floats, low: Floats, fast: float, slow: float) -> tuple[Floats, Floats]:
    """Ehlers' MAMA and FAMA of the median price, (high + low) / 2, from the mean of the first six bars on."""
    price = (high + low) / 2
    mama, fama = np.full(len(price), np.nan), np.full(len(price), np.nan)
    if len(price) < HILBERT_BARS:
        return mama, fama
    phases = _phases(price)
    first = HILBERT_BARS - 1
    mama[first] = fama[first] = price[:HILBERT_BARS].mean()
    for row in range(HILBERT_BARS, len(price)):
        alpha = max(fast / max(phases[row - 1] - phases[row], 1.0), slow)
        mama[row] = alpha * price[row] + (1 - alpha) * mama[row - 1]
        fama[row] = alpha / 2 * mama[row] + (1 - alpha / 2) * fama[row - 1]
    return mama, fama


def _phases(price: Floats) -> list[float]:
    """The phase of the dominant cycle at each bar in degrees, by Ehlers' homodyne discriminator of 2001."""
    rows = len(price)
    smooth, detrended, in_phase, quadrature = ([0.0] * rows for _ in range(4))
    period, phases, i2, q2, real, imaginary = 0.0, [0.0] * rows, 0.0, 0.0, 0.0, 0.0
    prices = price.tolist()
    for row in range(HILBERT_BARS, rows):
        gain = 0.075 * period + 0.54
        smooth[row] = (4 * prices[row] + 3 * prices[row - 1] + 2 * prices[row - 2] + prices[row - 3]) / 10
        detrended[row] = _hilbert(smooth, row, gain)
        quadrature[row], in_phase[row] = _hilbert(detrended, row, gain), detrended[row - 3]
        i2_before, q2_before = i2, q2
        i2 = 0.2 * (in_phase[row] - _hilbert(quadrature, row, gain)) + 0.8 * i2_before
        q2 = 0.2 * (quadrature[row] + _hilbert(in_phase, row, gain)) + 0.8 * q2_before
        real = 0.2 * (i2 * i2_before + q2 * q2_before) + 0.8 * real
        imaginary = 0.2 * (i2 * q2_before - q2 * i2_before) + 0.8 * imaginary
        found = 2 * pi / atan(imaginary / real) if imaginary and real else 0.0
        found = min(max(min(max(found, 0.67 * period), 1.5 * period), 6.0), 50.0)
        period = 0.2 * found + 0.8 * period
        phases[row] = degrees(atan(quadrature[row] / in_phase[row])) if in_phase[row] else 0.0
    return phases


def _hilbert(values: list[float], row: int, gain: float) -> float:
    """Ehlers' Hilbert transform of four values."""
    early, late = values[row - 6], values[row - 4]
    return (0.0962 * values[row] + 0.5769 * values[row - 2] - 0.5769 * late - 0.0962 * early) * gain


def keltner(  # noqa: PLR0917 - columns and parameters come by position
    high: Floats, low: Floats, close: Floats, periods: int, multiplier: float, atr: int
) -> tuple[Floats, Floats, Floats]:
    """EMA of the close, and so many ATR (Wilder's) on both sides: middle, upper, lower."""
    middle, reach = _ema(close, periods), multiplier * _atr(high, low, close, atr)
    return middle, middle + reach, middle - reach


VARIANTS: Mapping[str, ChartingFunction] = {
    "tv_cmo": ChartingFunction(
        chande_momentum, "momentum", "Chande, 1994, with plain sums; TA-Lib smooths them as Wilder does.", "close",
        {"timeperiod": 9}, [("", "-100 to 100", "Chande's momentum; null where nothing changed")],
        lambda p: p["timeperiod"] + 1,
        of_a_window=True,
    ),
    "tv_rvi": ChartingFunction(
        relative_volatility, "volatility", "Dorsey, 1993, with EMA; TA-Lib averages as Wilder does.", "close",
        {"deviation": 10, "timeperiod": 14}, [("", "0 to 100", "Relative volatility index")],
        lambda p: p["deviation"] + p["timeperiod"], lambda p: 1.5 * p["timeperiod"],
    ),
    "tv_dpo": ChartingFunction(
        detrended, "momentum", "Close against a mean of earlier bars; `centered` is drawn so many bars back.", "close",
        {"timeperiod": 21},
        [
            ("", "price", "Close less its mean of timeperiod / 2 + 1 bars ago"),
            ("centered", "price", "Close of timeperiod / 2 + 1 bars ago less the mean"),
        ],
        lambda p: 2 * p["timeperiod"],
        of_a_window=True,
    ),
    "tv_stochrsi": ChartingFunction(
        stochastic_rsi, "momentum", "Chande and Kroll, 1994, smoothed; TA-Lib's %K is not smoothed.", "close",
        {"timeperiod": 14, "stochperiod": 14, "smooth_k": 3, "smooth_d": 3},
        [("k", "0 to 100", "Smoothed place of the RSI in its range"), ("d", "0 to 100", "Mean of %K")],
        lambda p: p["timeperiod"] + p["stochperiod"] + p["smooth_k"] + p["smooth_d"], lambda p: 3 * p["timeperiod"],
    ),
    "tv_mama": ChartingFunction(
        mama_of_median, "overlap", "Ehlers, 2001, of the median price; TA-Lib takes the close.", "high low",
        {"fastlimit": 0.5, "slowlimit": 0.05},
        [("mama", "price", "MESA adaptive average"), ("fama", "price", "Following adaptive average")],
        lambda _: 33, lambda _: 50,
        side_by_side=side_by_side.mama_of_median,
    ),
    "tv_keltner": ChartingFunction(
        keltner, "volatility", "EMA of the close and 2 ATR 10; `keltner` has ATR 20.", "high low close",
        {"timeperiod": 20, "multiplier": 2.0, "atrperiod": 10},
        [
            ("middle", "price", "EMA of the close"),
            ("upper", "price", "EMA plus the multiple of the ATR"),
            ("lower", "price", "EMA less the multiple of the ATR"),
        ],
        lambda p: p["timeperiod"], lambda p: 2 * p["timeperiod"],
    ),
}  # fmt: skip
