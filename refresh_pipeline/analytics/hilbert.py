"""The dominant cycle's phase and what follows from it, computed once: HT_DCPHASE, HT_SINE and HT_TRENDMODE of TA-Lib.

TA-Lib computes the phase anew for each of the three, and the phase is by far the dearest thing it has: half of the time
that all its functions take together.
"""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.market.candles import Floats

_phase, _period, _trendline, _average, _mode = (
    bare(name) for name in ("HT_DCPHASE", "HT_DCPERIOD", "HT_TRENDLINE", "WMA", "HT_TRENDMODE")
)

# Share of a cycle's pace that its phase must move at to count as a cycle, and the price's distance from the trend line
# from which on it is a trend all the same.
SLOWEST, FASTEST, FAR = 0.67, 1.5, 0.015
# Half of the longest cycle is 25 bars: what lies further back than this changes no row.
REACH = 64
# Until here the period within TA-Lib's own trend mode has not met the one it gives out.
BEGINNING = 512


def cycle(close: Floats, first: int) -> tuple[Floats, ...]:
    """From row `first` on: phase in degrees, its sine, the sine 45 degrees ahead, and 1 in a trend or 0 in a cycle.

    NaN in the first 63 rows. Source: Ehlers, Rocket Science for Traders, 2001, as TA-Lib has it.
    """
    begin = max(first - REACH, 0)
    phase = _phase(close)[begin:]
    sine, lead = np.sin(np.radians(phase)), np.sin(np.radians(phase + 45))
    trend = _trend_mode(close, phase, _crossed(sine, lead)).astype(np.float64)
    beginning = _mode(close[:BEGINNING])[begin:] if first < BEGINNING else trend[:0]
    trend[: len(beginning)] = beginning
    trend[np.isnan(phase)] = np.nan
    return tuple(values[first - begin :] for values in (phase, sine, lead, trend))


def _trend_mode(close: Floats, phase: Floats, crossed: np.ndarray) -> np.ndarray:
    """Whether each of the last rows, as many as have a phase here, is in a trend."""
    period, line, price = (values[-len(phase) :] for values in (_period(close), _trendline(close), _average(close, 4)))
    return trend_mode((np.diff(phase, prepend=np.nan), period, line, price), crossed, _rows_since(crossed))


def trend_mode(
    values: tuple[Floats, Floats, Floats, Floats], crossed: np.ndarray, since: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether rows are in a trend, by the phase's step, the cycle's period, the trend line and the smoothed price.

    `crossed` says where the sine crossed the one ahead, `since` how many rows ago.
    """
    step, period, line, price = values
    pace = 360 / period
    in_cycle = crossed | (since + 1 < 0.5 * period) | ((step > SLOWEST * pace) & (step < FASTEST * pace))
    return (np.abs((price - line) / line) >= FAR) | ~in_cycle


def _crossed(sine: Floats, lead: Floats) -> np.ndarray:
    above = sine > lead
    before = np.append(False, above[:-1])
    return above != before


def _rows_since(happened: np.ndarray) -> NDArray[np.int64]:
    row = np.arange(len(happened))
    return row - np.maximum.accumulate(np.where(happened, row, -len(row)))
