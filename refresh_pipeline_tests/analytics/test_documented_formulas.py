"""The formulas that docs/indicators.md gives for functions of TA-Lib, computed with numpy, equal the functions."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from refresh_pipeline.analytics.talib_functions import FUNCTIONS, bare
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.analytics.sample_bars import Market, history

BARS = dict(history(Market(900, volatility=0.01, seed=3, unknown_volumes=0)))
BARS["volume"] += 1
O, H, L, C, V = (BARS[name] for name in ("open", "high", "low", "close", "volume"))  # noqa: E741 - as in the document
# Recursions begin in different ways; from here on nothing is left of that.
SETTLED = 700


def back(values: Floats, bars: int = 1) -> Floats:
    return np.append(np.full(bars, np.nan), values[:-bars])


def windows(values: Floats, bars: int) -> Floats:
    return sliding_window_view(np.append(np.full(bars - 1, np.nan), values), bars)


def mean(values: Floats, bars: int) -> Floats:
    return windows(values, bars).mean(axis=1)


def total(values: Floats, bars: int) -> Floats:
    return windows(values, bars).sum(axis=1)


def highest(values: Floats, bars: int) -> Floats:
    return windows(values, bars).max(axis=1)


def lowest(values: Floats, bars: int) -> Floats:
    return windows(values, bars).min(axis=1)


def wma(values: Floats, bars: int) -> Floats:
    weights = np.arange(1, bars + 1)
    return windows(values, bars) @ (weights / weights.sum())


def smoothed(values: Floats, weight: float) -> Floats:
    result, line = np.full(len(values), np.nan), np.nan
    for row, value in enumerate(values):
        line = value if np.isnan(line) else line + weight * (value - line)
        result[row] = line
    return result


def ema(values: Floats, bars: int) -> Floats:
    return smoothed(values, 2 / (bars + 1))


def rma(values: Floats, bars: int) -> Floats:
    return smoothed(values, 1 / bars)


def deviation(values: Floats, bars: int) -> Floats:
    return windows(values, bars).std(axis=1)


def slope(y: Floats, x: Floats, bars: int) -> Floats:
    wide, high = windows(x, bars), windows(y, bars)
    wide = wide - wide.mean(axis=1)[:, None]
    return (wide * (high - high.mean(axis=1)[:, None])).mean(axis=1) / (wide**2).mean(axis=1)


def line_at(bars: int, place: float) -> Floats:
    """The least squares line of the last closes, at `place` bars after its oldest one."""
    at = np.arange(bars) - (bars - 1) / 2
    return mean(C, bars) + windows(C, bars) @ at / (at @ at) * (place - (bars - 1) / 2)


TP, MEDIAN, CHANGE = (H + L + C) / 3, (H + L) / 2, C - back(C)
TR = np.fmax(H, back(C)) - np.fmin(L, back(C)) + 0 * back(C)
UP, DOWN = np.maximum(CHANGE, 0), np.maximum(-CHANGE, 0)
PLACE = ((C - L) - (H - C)) / (H - L)
AD = np.cumsum(V * PLACE)


def stochastic(values: Floats, low: Floats, high: Floats, bars: int) -> Floats:
    return 100 * (values - lowest(low, bars)) / (highest(high, bars) - lowest(low, bars))


def generalized(values: Floats) -> Floats:
    line = ema(values, 5)
    return 1.7 * line - 0.7 * ema(line, 5)


def triple(values: Floats, bars: int) -> Floats:
    return ema(ema(ema(values, bars), bars), bars)


def true_share(bars: int) -> Floats:
    return total(C - np.fmin(L, back(C)) + 0 * CHANGE, bars) / total(TR, bars)


def volatility(rising: bool) -> Floats:
    spread = deviation(C, 10)
    return rma(np.where((CHANGE > 0) == rising, spread, 0 * spread), 14)


def momentum(values: Floats) -> Floats:
    return ema(ema(values, 2), 25)


ACCELERATION = 4 * (H - L) / (H + L)
RANGE = ema(H - L, 9)
# The document's formula of each function's first output, with the default parameters.
FORMULAS: dict[str, Callable[[], np.ndarray]] = {
    "SMA": lambda: mean(C, 30),
    "EMA": lambda: ema(C, 30),
    "WMA": lambda: wma(C, 30),
    "RMA": lambda: rma(C, 30),
    "DEMA": lambda: 2 * ema(C, 30) - ema(ema(C, 30), 30),
    "TEMA": lambda: 3 * ema(C, 30) - 3 * ema(ema(C, 30), 30) + triple(C, 30),
    "T3": lambda: generalized(generalized(generalized(C))),
    "TRIMA": lambda: mean(mean(C, 15), 16),
    "HMA": lambda: wma(2 * wma(C, 10) - wma(C, 20), 4),
    "ZLEMA": lambda: ema(2 * C - back(C, 14), 30),
    "VWMA": lambda: total(C * V, 30) / total(V, 30),
    "MIDPOINT": lambda: (highest(C, 14) + lowest(C, 14)) / 2,
    "MIDPRICE": lambda: (highest(H, 14) + lowest(L, 14)) / 2,
    "BBANDS": lambda: mean(C, 20) + 2 * deviation(C, 20),
    "ACCBANDS": lambda: mean(H * (1 + ACCELERATION), 20),
    "DONCHIAN": lambda: highest(H, 20),
    "KC": lambda: ema(TP, 20) + 2 * rma(TR, 10),
    "RSI": lambda: 100 * rma(UP, 14) / (rma(UP, 14) + rma(DOWN, 14)),
    "CMO": lambda: 100 * (rma(UP, 14) - rma(DOWN, 14)) / (rma(UP, 14) + rma(DOWN, 14)),
    "CMOU": lambda: 100 * (total(UP, 14) - total(DOWN, 14)) / (total(UP, 14) + total(DOWN, 14)),
    "STOCH": lambda: mean(stochastic(C, L, H, 5), 3),
    "STOCHF": lambda: stochastic(C, L, H, 5),
    "KDJ": lambda: rma(stochastic(C, L, H, 9), 3),
    "SMI": lambda: 200 * momentum(C - (highest(H, 13) + lowest(L, 13)) / 2) / momentum(highest(H, 13) - lowest(L, 13)),
    "WILLR": lambda: stochastic(C, L, H, 14) - 100,
    "MACD": lambda: ema(C, 12) - ema(C, 26),
    "MACDFIX": lambda: smoothed(C, 0.15) - smoothed(C, 0.075),
    "MACDEXT": lambda: mean(C, 12) - mean(C, 26),
    "APO": lambda: ema(C, 12) - ema(C, 26),
    "PPO": lambda: 100 * (ema(C, 12) / ema(C, 26) - 1),
    "AO": lambda: mean(MEDIAN, 5) - mean(MEDIAN, 34),
    "AC": lambda: FORMULAS["AO"]() - mean(FORMULAS["AO"](), 5),
    "MOM": lambda: C - back(C, 10),
    "ROC": lambda: 100 * (C / back(C, 10) - 1),
    "ROCP": lambda: C / back(C, 10) - 1,
    "ROCR": lambda: C / back(C, 10),
    "ROCR100": lambda: 100 * C / back(C, 10),
    "TRIX": lambda: 100 * (triple(C, 30) / back(triple(C, 30)) - 1),
    "TSI": lambda: 100 * ema(ema(CHANGE, 25), 13) / ema(ema(np.abs(CHANGE), 25), 13),
    "COPPOCK": lambda: wma(100 * (C / back(C, 11) + C / back(C, 14) - 2), 10),
    "DPO": lambda: back(C, 11) - mean(C, 20),
    "FOSC": lambda: 100 * (C - back(line_at(5, 5))) / C,
    "BOP": lambda: (C - O) / (H - L),
    "CCI": lambda: (TP - mean(TP, 14)) / (0.015 * np.abs(windows(TP, 14) - mean(TP, 14)[:, None]).mean(axis=1)),
    "ER": lambda: np.abs(C - back(C, 10)) / total(np.abs(CHANGE), 10),
    "ERI": lambda: H - ema(C, 13),
    "IMI": lambda: 100 * total(np.maximum(C - O, 0), 14) / total(np.abs(C - O), 14),
    "MFI": lambda: 100 * total(np.where(back(TP) < TP, TP * V, 0), 14) / total(np.where(back(TP) != TP, TP * V, 0), 14),
    "QSTICK": lambda: mean(C - O, 10),
    "ULTOSC": lambda: 100 * (4 * true_share(7) + 2 * true_share(14) + true_share(28)) / 7,
    "VHF": lambda: (highest(C, 28) - lowest(C, 28)) / total(np.abs(CHANGE), 28),
    "VORTEX": lambda: total(np.abs(H - back(L)), 14) / total(TR, 14),
    "TRANGE": lambda: TR,
    "ATR": lambda: rma(TR, 14),
    "NATR": lambda: 100 * rma(TR, 14) / C,
    "ADR": lambda: mean(H - L, 14),
    "CVI": lambda: 100 * (ema(H - L, 10) / back(ema(H - L, 10), 10) - 1),
    "MASSI": lambda: total(RANGE / ema(RANGE, 9), 25),
    "RVI": lambda: 100 * volatility(rising=True) / (volatility(rising=True) + volatility(rising=False)),
    "AD": lambda: AD,
    "ADOSC": lambda: ema(AD, 3) - ema(AD, 10),
    "CMF": lambda: total(V * PLACE, 20) / total(V, 20),
    "EFI": lambda: ema(CHANGE * V, 13),
    "MARKETFI": lambda: (H - L) / V,
    "OBV": lambda: np.cumsum(np.append(V[0], (np.sign(CHANGE) * V)[1:])),
    "PVO": lambda: 100 * (ema(V, 12) / ema(V, 26) - 1),
    "PVT": lambda: np.cumsum(np.nan_to_num(V * CHANGE / back(C))),
    "NVI": lambda: 1000 * np.cumprod(np.where(back(V) > V, C / back(C), 1.0)),
    "PVI": lambda: 1000 * np.cumprod(np.where(back(V) < V, C / back(C), 1.0)),
    "RVOL": lambda: V / back(mean(V, 20)),
    "VWAP": lambda: np.cumsum(TP * V) / np.cumsum(V),
    "AVGPRICE": lambda: (O + H + L + C) / 4,
    "WCLPRICE": lambda: (H + L + 2 * C) / 4,
    "AVGDEV": lambda: np.abs(windows(C, 14) - mean(C, 14)[:, None]).mean(axis=1),
    "STDDEV": lambda: deviation(C, 5),
    "VAR": lambda: deviation(C, 5) ** 2,
    "LINEARREG": lambda: line_at(14, 13),
    "LINEARREG_INTERCEPT": lambda: line_at(14, 0),
    "LINEARREG_SLOPE": lambda: line_at(14, 1) - line_at(14, 0),
    "LINEARREG_ANGLE": lambda: np.degrees(np.arctan(line_at(14, 1) - line_at(14, 0))),
    "TSF": lambda: line_at(14, 14),
    "BETA": lambda: slope(L / back(L), H / back(H), 5),
    "CORREL": lambda: slope(H, L, 30) * deviation(L, 30) / deviation(H, 30),
    "PERCENTILE": lambda: np.sort(windows(C, 30), axis=1)[:, 14],
    "PERCENTRANK": lambda: (windows(C, 101)[:, :-1] < C[:, None]).sum(axis=1) * 1.0,
    "AROONOSC": lambda: 100 / 14 * (windows(H, 15).argmax(axis=1) - windows(L, 15).argmin(axis=1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_function_equals_its_documented_formula(name: str) -> None:
    function = FUNCTIONS[name]
    arguments = [BARS[each] for each in function.takes]
    result = bare(name)(*arguments, *function.parameters.values())
    first = result[0] if isinstance(result, tuple) else result
    np.testing.assert_allclose(first[SETTLED:], FORMULAS[name]()[SETTLED:], rtol=1e-6, atol=1e-6)
