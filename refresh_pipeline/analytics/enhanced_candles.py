"""Enhanced candles: Bill Williams' columns. Which there are and how each follows; how windows are computed is not here.

ENHANCED_CANDLES is the table; FORMULAS, in the order in which they build on one another, is its definition: a further
column is a further entry. Fractals, peaks and the alligator's mouth have modules of their own.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.alligator_mouth import RANGE_PERIODS, mouth
from refresh_pipeline.analytics.bars import Bars, Column, Values, flag_column, price_column, text_column
from refresh_pipeline.analytics.formulas import Formula, computation
from refresh_pipeline.analytics.fractals import DEGREES, fractals
from refresh_pipeline.analytics.peaks import REACH, peaks
from refresh_pipeline.analytics.recursive import averages, smoothed
from refresh_pipeline.analytics.rolling import (
    is_true,
    rising,
    shifted,
    simple_moving_average,
    windowed_maximum,
)
from refresh_pipeline.analytics.ties import PRICES, above, averages_tie, prices_tie, snapped, without_ties
from refresh_pipeline.analytics.warm_up import LAST_BIT, bars_to_forget

FAST, SLOW, ACCELERATION = 5, 34, 5
# Rows without a value; both are finite windows, so this is their warm-up too.
AO_UNDEFINED = SLOW - 1
AC_UNDEFINED = AO_UNDEFINED + ACCELERATION - 1
# periods, shift forward in bars
ALLIGATOR = {"jaw": (13, 8), "teeth": (8, 5), "lips": (5, 3)}
BIG_ALLIGATOR = {"big_jaw": (89, 55), "big_teeth": (55, 34), "big_lips": (34, 21)}
TIDE_ALLIGATOR = {"tide_jaw": (377, 233), "tide_teeth": (233, 144), "tide_lips": (144, 89)}
LINES = ALLIGATOR | BIG_ALLIGATOR | TIDE_ALLIGATOR
AVERAGES = [smoothed(periods) for periods, _ in LINES.values()]
# The ao's peaks are at least a third of the highest ao of so many bars.
HEIGHT_PERIODS, HEIGHT_SHARE = 233, 1 / 3
MFI_SCALE = 1e5

COLORS = np.array(["red", "green"], dtype=object)
ZONES = np.array(["red", "gray", "green"], dtype=object)
# By what volume and mfi do: nothing to compare, squat, fake, fade, green.
MFI_CODES = np.array(["0", "+-", "-+", "--", "++"], dtype=object)
SQUAT, FAKE, FADE, GREEN = range(1, len(MFI_CODES))


def _median(bars: Bars) -> Sequence[Values]:
    return [(bars["high"] + bars["low"]) / 2]


def _awesome(bars: Bars) -> Sequence[Values]:
    median = bars["median"]
    difference = simple_moving_average(median, FAST) - simple_moving_average(median, SLOW)
    return [without_ties(difference, averages_tie(median))]


def _accelerator(bars: Bars) -> Sequence[Values]:
    ao = bars["ao"]
    return [without_ties(ao - simple_moving_average(ao, ACCELERATION), averages_tie(bars["median"]))]


def _averages(bars: Bars) -> Sequence[Values]:
    return averages(bars, bars["median"], AVERAGES)


def _line(bars: Bars, periods: int, shift: int) -> Sequence[Values]:
    return [shifted(bars[smoothed(periods).state], shift)]


def _gator(bars: Bars) -> Sequence[Values]:
    upper, lower = bars["jaw"] - bars["teeth"], bars["lips"] - bars["teeth"]
    tie = averages_tie(bars["median"])
    return [without_ties(upper, tie), without_ties(lower, tie)]


def _facilitation(bars: Bars) -> Sequence[Values]:
    volume, span = bars["volume"], bars["high"] - bars["low"]
    return [np.divide(span, volume, out=np.full(len(bars), np.nan), where=volume > 0) * MFI_SCALE]


def _divergent(bars: Bars) -> Sequence[Values]:
    high, low, close, median, lips = (bars[name] for name in ("high", "low", "close", "median", "lips"))
    tie, line_tie = prices_tie(median), averages_tie(median)
    buy = above(lips, high, line_tie) & above(shifted(low, 1), low, tie) & above(close, median, tie)
    sell = above(low, lips, line_tie) & above(high, shifted(high, 1), tie) & above(median, close, tie)
    return [is_true(buy), is_true(sell), np.where(buy, 1.0, -is_true(sell))]


def _sides_of_zero(bars: Bars) -> Sequence[Values]:
    return [is_true(bars["ao"] > 0), is_true(bars["ao"] < 0)]


def _zero_cross(bars: Bars) -> Sequence[Values]:
    ao, before = bars["ao"], shifted(bars["ao"], 1)
    up, down = is_true((before < 0) & (ao > 0)), is_true((before > 0) & (ao < 0))
    return [up - down, up, down]


def _rises(bars: Bars, name: str) -> NDArray[np.bool_]:
    return rising(bars[name], averages_tie(bars["median"]))


def _color(bars: Bars, of: str) -> Sequence[Values]:
    return [COLORS[_rises(bars, of).astype(np.int8)]]


def _zone(bars: Bars) -> Sequence[Values]:
    ao_rises, ac_rises = _rises(bars, "ao"), _rises(bars, "ac")
    green = _now_and_before(ao_rises & ac_rises)
    red = _now_and_before(~ao_rises & ~ac_rises)
    signal = green.astype(np.float64) - red
    return [ZONES[signal.astype(np.int8) + 1], signal, green.astype(np.float64), red.astype(np.float64)]


def _now_and_before(holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return holds & _before(holds)


def _before(holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What held one row earlier; of the first row it is not known, and stays."""
    return np.concatenate([holds[:1], holds[:-1]])


def _accelerator_signals(bars: Bars) -> Sequence[Values]:
    ac, ao_green, ac_green = bars["ac"], _rises(bars, "ao"), _rises(bars, "ac")
    ac_green_two_ago = _before(_before(ac_green))
    buy = _now_and_before(ac_green & ~ao_green) & ~((ac > 0) & ~ac_green_two_ago)
    sell = _now_and_before(~ac_green & ao_green) & ~((ac < 0) & ac_green_two_ago)
    return [is_true(buy), is_true(sell)]


def _saucer(bars: Bars) -> Sequence[Values]:
    ao, green = bars["ao"], _rises(bars, "ao")
    before = _before(green)
    buy = (ao > 0) & green & ~before & ~_before(before)
    sell = (ao < 0) & ~green & before & _before(before)
    return [is_true(buy), is_true(sell)]


def _price_peaks(bars: Bars) -> Sequence[Values]:
    close = snapped(bars["close"], bars["median"])
    return [is_true(peaks(bars, close)), is_true(peaks(bars, -close))]


def _ao_peaks(bars: Bars) -> Sequence[Values]:
    # So many times the ao is a whole number of half ticks, which has digits to go by.
    ao = snapped(bars["ao"] * (2 * FAST * SLOW), bars["median"])
    flags = []
    for side in (ao, -ao):
        above_zero = np.maximum(side, 0)
        at_least = windowed_maximum(above_zero, HEIGHT_PERIODS) * (HEIGHT_SHARE * (1 - PRICES))
        flags.append(is_true(peaks(bars, above_zero, at_least)))
    return flags


def _facilitation_codes(bars: Bars) -> Sequence[Values]:
    volume, before = bars["volume"], shifted(bars["volume"], 1)
    # A bar that moved without volume had it as easy as can be: the next one with volume has it harder.
    mfi = np.where((volume == 0) & (bars["high"] > bars["low"]), np.inf, bars["mfi"])
    mfi_before = shifted(mfi, 1)
    tie = MFI_SCALE * np.divide(averages_tie(bars["median"]), volume, out=np.zeros(len(bars)), where=volume > 0)
    # Two bars without volume have nothing to compare.
    with np.errstate(invalid="ignore"):
        rises, falls = above(mfi, mfi_before, tie), above(mfi_before, mfi, tie)
    cases = {
        SQUAT: (volume > before) & falls,
        FAKE: (volume < before) & rises,
        FADE: (volume < before) & falls,
        GREEN: (volume > before) & rises,
    }
    code = np.select([holds & (volume > 0) for holds in cases.values()], list(cases), 0)
    return [code.astype(np.float64), *(is_true(code == one) for one in (SQUAT, GREEN, FADE, FAKE)), MFI_CODES[code]]


def _line_warm_up(periods: int, shift: int) -> int:
    # Alone a line would need half; its differences with the other lines are what has to be exact.
    return periods + shift + bars_to_forget(1 / periods, LAST_BIT)


def _line_formula(name: str, periods: int, shift: int) -> Formula:
    description = f"{_whose(name)}: the {periods} bar smoothed average of the median price, {shift} bars forward."
    column = price_column(name, description, _line_warm_up(periods, shift), reach=shift)
    return Formula([column], partial(_line, periods=periods, shift=shift), undefined=periods + shift)


def _whose(name: str) -> str:
    which, _, line = name.rpartition("_")
    return f"{which} alligator's {line}".strip().capitalize()


def _fractal_columns(degree: int) -> list[Column]:
    sides = {"up": "High above the highs", "down": "Low below the lows"}
    return [
        flag_column(
            f"fractal_{side}_{degree}",
            f"{which} of the {degree} bars before and the {degree} after; known {degree} bars later.",
            warm_up=degree,
            repaint=degree,
        )
        for side, which in sides.items()
    ]


def _peak(name: str, description: str, before: int) -> Column:
    description = f"{description}, see peaks.py; known {REACH} bars later."
    return flag_column(name, description, warm_up=before, repaint=REACH)


LINES_UNDEFINED = {name: periods + shift for name, (periods, shift) in LINES.items()}
LINES_WARM_UP = {name: _line_warm_up(*line) for name, line in LINES.items()}
JAW_SHIFT, TEETH_SHIFT, LIPS_SHIFT = (shift for _, shift in ALLIGATOR.values())
# A zone looks at the colours of two bars, and a colour at the values of two.
ZONE_WARM_UP = AC_UNDEFINED + 2
# Colours of three bars.
SAUCER_WARM_UP, SIGNAL_WARM_UP = AO_UNDEFINED + 3, AC_UNDEFINED + 3
AO_PEAKS_UNDEFINED = AO_UNDEFINED + HEIGHT_PERIODS - 1
# The bars around a peak compete, and each of them with the highest before it.
AO_PEAKS_WARM_UP = AO_PEAKS_UNDEFINED + REACH
MOUTH_UNDEFINED = LINES_UNDEFINED["jaw"] + 1
MOUTH_WARM_UP, MOUTH_REACH = LINES_WARM_UP["jaw"] + 1, max(JAW_SHIFT + 1, RANGE_PERIODS)

FORMULAS: Sequence[Formula] = (
    Formula([price_column("median", "Middle of the bar: (high + low) / 2.", 0)], _median),
    Formula(
        [price_column("ao", f"Awesome Oscillator: SMA{FAST} - SMA{SLOW} of the median price.", AO_UNDEFINED)],
        _awesome,
        version=2,
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [price_column("ac", f"Accelerator: ao - SMA{ACCELERATION} of ao.", AC_UNDEFINED)],
        _accelerator,
        version=2,
        undefined=AC_UNDEFINED,
    ),
    Formula([], _averages, states=[average.state for average in AVERAGES]),
    *(_line_formula(name, *line) for name, line in LINES.items()),
    Formula(
        [
            price_column(
                "gator_upper", "Gator oscillator above zero: jaw - teeth, signed.", LINES_WARM_UP["jaw"], JAW_SHIFT
            ),
            price_column(
                "gator_lower",
                "Gator oscillator below zero: -(teeth - lips), signed.",
                LINES_WARM_UP["teeth"],
                TEETH_SHIFT,
            ),
        ],
        _gator,
        version=2,
    ),
    Formula(
        [
            Column(
                "mfi",
                "Market Facilitation Index: (high - low) / volume * 100000; null without volume.",
                unit="price per 100000 of volume",
            )
        ],
        _facilitation,
    ),
    Formula([column for degree in DEGREES for column in _fractal_columns(degree)], fractals, version=2),
    Formula(
        [
            flag_column(
                "divergent_buy",
                "1 below the lips with a lower low and a close above the middle.",
                LINES_WARM_UP["lips"],
                LIPS_SHIFT,
            ),
            flag_column(
                "divergent_sell",
                "1 above the lips with a higher high and a close below the middle.",
                LINES_WARM_UP["lips"],
                LIPS_SHIFT,
            ),
            flag_column(
                "divergent",
                "1 where divergent_buy, else -1 where divergent_sell, else 0.",
                LINES_WARM_UP["lips"],
                LIPS_SHIFT,
            ),
        ],
        _divergent,
        version=2,
        undefined=LINES_UNDEFINED["lips"],
    ),
    Formula(
        [
            flag_column("ao_above_zero", "1 where ao is above 0, else 0.", AO_UNDEFINED),
            flag_column("ao_below_zero", "1 where ao is below 0, else 0.", AO_UNDEFINED),
        ],
        _sides_of_zero,
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [
            flag_column(
                "zero_cross", "1 where ao went from below 0 to above, -1 the other way, else 0.", AO_UNDEFINED + 1
            ),
            flag_column("zero_cross_buy", "1 where ao went from below 0 to above, else 0.", AO_UNDEFINED + 1),
            flag_column("zero_cross_sell", "1 where ao went from above 0 to below, else 0.", AO_UNDEFINED + 1),
        ],
        _zero_cross,
        undefined=AO_UNDEFINED + 1,
    ),
    Formula(
        [text_column("ao_color", "green where ao is above the previous bar's, else red.", AO_UNDEFINED + 1)],
        partial(_color, of="ao"),
        version=2,
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [text_column("ac_color", "green where ac is above the previous bar's, else red.", AC_UNDEFINED + 1)],
        partial(_color, of="ac"),
        version=2,
        undefined=AC_UNDEFINED,
    ),
    Formula(
        [
            text_column(
                "zone", "green or red where ao and ac are so on this bar and the previous, else gray.", ZONE_WARM_UP
            ),
            flag_column("zone_signal", "1 in the green zone, -1 in the red one, else 0.", ZONE_WARM_UP),
            flag_column("zone_buy", "1 in the green zone, else 0.", ZONE_WARM_UP),
            flag_column("zone_sell", "1 in the red zone, else 0.", ZONE_WARM_UP),
        ],
        _zone,
        version=2,
        undefined=AC_UNDEFINED,
    ),
    Formula(
        [
            flag_column(
                "ac_buy",
                "1 where ac has risen and ao fallen for two bars, unless ac is above 0 and fell before.",
                SIGNAL_WARM_UP,
            ),
            flag_column(
                "ac_sell",
                "1 where ac has fallen and ao risen for two bars, unless ac is below 0 and rose before.",
                SIGNAL_WARM_UP,
            ),
        ],
        _accelerator_signals,
        version=2,
        undefined=AC_UNDEFINED,
    ),
    Formula(
        [
            flag_column("saucer_buy", "1 where ao above 0 turns green after two red bars, else 0.", SAUCER_WARM_UP),
            flag_column("saucer_sell", "1 where ao below 0 turns red after two green bars, else 0.", SAUCER_WARM_UP),
        ],
        _saucer,
        version=2,
        undefined=AO_UNDEFINED,
    ),
    Formula(
        [
            _peak("price_peak_above", "Peak of the close", REACH),
            _peak("price_peak_below", "Trough of the close", REACH),
        ],
        _price_peaks,
        version=2,
        undefined=REACH,
    ),
    Formula(
        [
            _peak("ao_peak_above", "Peak of the ao above 0", AO_PEAKS_WARM_UP),
            _peak("ao_peak_below", "Trough of the ao below 0", AO_PEAKS_WARM_UP),
        ],
        _ao_peaks,
        version=2,
        undefined=AO_PEAKS_WARM_UP,
    ),
    Formula(
        [
            flag_column("mfi_signal", "1 squat, 2 fake, 3 fade, 4 green, 0 neither.", 1),
            flag_column("mfi_squat", "1 where volume rose and mfi fell, else 0.", 1),
            flag_column("mfi_green", "1 where volume and mfi rose, else 0.", 1),
            flag_column("mfi_fade", "1 where volume and mfi fell, else 0.", 1),
            flag_column("mfi_fake", "1 where volume fell and mfi rose, else 0.", 1),
            text_column("mfi_code", "What volume and mfi did: +- squat, -+ fake, -- fade, ++ green, 0 neither.", 1),
        ],
        _facilitation_codes,
        version=2,
        undefined=1,
    ),
    Formula(
        [
            text_column(
                "mouth_direction",
                "buy where lips, teeth, jaw are in rising order and all rise, sell, neither.",
                MOUTH_WARM_UP,
                MOUTH_REACH,
            ),
            text_column(
                "mouth_phase", "What the lines do: opening, open, closing, sleeping.", MOUTH_WARM_UP, MOUTH_REACH
            ),
            text_column(
                "bar_position", "Where the bar is: above all lines, below them, or in.", MOUTH_WARM_UP, MOUTH_REACH
            ),
            text_column(
                "water_state",
                "What the bar does there: sleeping, switching, entering, eating, throwing, poping, splashing.",
                MOUTH_WARM_UP,
                MOUTH_REACH,
            ),
            Column(
                "mouth_confidence",
                "How far the lines are apart and how fast they move, in mean ranges of a bar; half without direction.",
                unit="0 to 1",
                warm_up=MOUTH_WARM_UP,
                reach=MOUTH_REACH,
            ),
        ],
        mouth,
        version=2,
        undefined=MOUTH_UNDEFINED,
    ),
)

ENHANCED_CANDLES = computation("enhanced_candles", FORMULAS, carries_candles=True)
