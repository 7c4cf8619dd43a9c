"""Enhanced candles: Bill Williams' columns. Which there are and how each follows; how windows are computed is not here.

ENHANCED_CANDLES is the table; FORMULAS, in the order in which they build on one another, is its definition: a further
column is a further entry.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Column, Values
from refresh_pipeline.analytics.formulas import Formula, computation
from refresh_pipeline.analytics.recursions import LAST_BIT, bars_to_forget, per_series, smoothed_moving_average
from refresh_pipeline.analytics.windows import rising, shifted, simple_moving_average, without_residue

FAST, SLOW, ACCELERATION = 5, 34, 5
# Rows without a value; both are finite windows, so this is their warm-up too.
AO_UNDEFINED = SLOW - 1
AC_UNDEFINED = AO_UNDEFINED + ACCELERATION - 1
# periods, shift forward in bars
ALLIGATOR = {"jaw": (13, 8), "teeth": (8, 5), "lips": (5, 3)}

COLORS = np.array(["red", "green"], dtype=object)
ZONES = np.array(["red", "gray", "green"], dtype=object)


def _median(bars: Bars) -> Sequence[Values]:
    return [(bars["high"] + bars["low"]) / 2]


def _awesome(bars: Bars) -> Sequence[Values]:
    median = bars["median"]
    return [without_residue(simple_moving_average(median, FAST) - simple_moving_average(median, SLOW), median)]


def _accelerator(bars: Bars) -> Sequence[Values]:
    ao = bars["ao"]
    return [without_residue(ao - simple_moving_average(ao, ACCELERATION), bars["median"])]


def _line(bars: Bars, periods: int, shift: int) -> Sequence[Values]:
    return [shifted(per_series(smoothed_moving_average, bars, "median", periods=periods), shift)]


def _gator(bars: Bars) -> Sequence[Values]:
    upper, lower = bars["jaw"] - bars["teeth"], bars["lips"] - bars["teeth"]
    return [without_residue(upper, bars["median"]), without_residue(lower, bars["median"])]


def _color(bars: Bars, of: str) -> Sequence[Values]:
    return [COLORS[rising(bars[of]).astype(np.int8)]]


def _zone(bars: Bars) -> Sequence[Values]:
    ao_rises, ac_rises = rising(bars["ao"]), rising(bars["ac"])
    green = _now_and_before(ao_rises & ac_rises)
    red = _now_and_before(~ao_rises & ~ac_rises)
    signal = green.astype(np.float64) - red
    return [ZONES[signal.astype(np.int8) + 1], signal, green.astype(np.float64), red.astype(np.float64)]


def _now_and_before(holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    both = holds.copy()
    both[1:] &= holds[:-1]
    return both


def _line_warm_up(periods: int, shift: int) -> int:
    # Alone a line would need half; its differences with the other lines are what has to be exact.
    return periods + shift + bars_to_forget(1 / periods, LAST_BIT)


def _price(name: str, description: str, warm_up: int) -> Column:
    return Column(name, description, unit="price", warm_up=warm_up)


def _flag(name: str, description: str, warm_up: int) -> Column:
    return Column(name, description, unit="flag", warm_up=warm_up, sql_type="tinyint")


def _text(name: str, description: str, warm_up: int) -> Column:
    return Column(name, description, unit="text", warm_up=warm_up, sql_type="varchar")


def _line_formula(name: str, periods: int, shift: int) -> Formula:
    description = f"Alligator's {name}: the {periods} bar smoothed average of the median price, {shift} bars forward."
    column = _price(name, description, _line_warm_up(periods, shift))
    return Formula([column], partial(_line, periods=periods, shift=shift), undefined=periods + shift)


LINES_UNDEFINED = {name: periods + shift for name, (periods, shift) in ALLIGATOR.items()}
LINES_WARM_UP = {name: _line_warm_up(*line) for name, line in ALLIGATOR.items()}
# A zone looks at the colours of two bars, and a colour at the values of two.
ZONE_WARM_UP = AC_UNDEFINED + 2

FORMULAS: Sequence[Formula] = (
    Formula([_price("median", "Middle of the bar: (high + low) / 2.", 0)], _median),
    Formula(
        [_price("ao", f"Awesome Oscillator: SMA{FAST} - SMA{SLOW} of the median price.", AO_UNDEFINED)],
        _awesome,
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [_price("ac", f"Accelerator: ao - SMA{ACCELERATION} of ao.", AC_UNDEFINED)],
        _accelerator,
        undefined=AC_UNDEFINED,
    ),
    *(_line_formula(name, *line) for name, line in ALLIGATOR.items()),
    Formula(
        [
            _price("gator_upper", "Gator oscillator above zero: jaw - teeth, signed.", LINES_WARM_UP["jaw"]),
            _price("gator_lower", "Gator oscillator below zero: -(teeth - lips), signed.", LINES_WARM_UP["teeth"]),
        ],
        _gator,
    ),
    Formula(
        [_text("ao_color", "green where ao is above the previous bar's, else red.", AO_UNDEFINED + 1)],
        partial(_color, of="ao"),
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [_text("ac_color", "green where ac is above the previous bar's, else red.", AC_UNDEFINED + 1)],
        partial(_color, of="ac"),
        undefined=AC_UNDEFINED,
    ),
    Formula(
        [
            _text("zone", "green or red where ao and ac are so on this bar and the previous, else gray.", ZONE_WARM_UP),
            _flag("zone_signal", "1 in the green zone, -1 in the red one, else 0.", ZONE_WARM_UP),
            _flag("zone_buy", "1 in the green zone, else 0.", ZONE_WARM_UP),
            _flag("zone_sell", "1 in the red zone, else 0.", ZONE_WARM_UP),
        ],
        _zone,
        undefined=AC_UNDEFINED,
    ),
)

ENHANCED_CANDLES = computation("enhanced_candles", FORMULAS, carries_candles=True)
