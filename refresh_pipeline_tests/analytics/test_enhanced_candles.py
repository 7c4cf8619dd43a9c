import numpy as np
import pytest

from refresh_pipeline.analytics.alligator_mouth import mouth
from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline_tests.analytics.sample_bars import (
    OWN_GOLDEN,
    Market,
    computed_alone,
    flat,
    history,
    numbers,
    read_csv,
)
from refresh_pipeline_tests.reference_data import SHARED

DEGREES = (2, 3, 5, 8, 13, 21, 34, 55, 89)
# The original's names, in the file of values and in that of colours.
IN_RAW = {
    "median": "Median",
    "ao": "ao",
    "ac": "ac",
    "jaw": "jaw",
    "teeth": "teeth",
    "lips": "lips",
    "big_jaw": "bjaw",
    "big_teeth": "bteeth",
    "big_lips": "blips",
    "tide_jaw": "tjaw",
    "tide_teeth": "tteeth",
    "tide_lips": "tlips",
    "gator_upper": "gl",
    "gator_lower": "gh",
    "mfi": "mfi",
    "divergent_buy": "fdbb",
    "divergent_sell": "fdbs",
    "divergent": "fdb",
    "ao_above_zero": "aoaz",
    "ao_below_zero": "aobz",
    "zero_cross": "zlc",
    "zero_cross_buy": "zlcb",
    "zero_cross_sell": "zlcs",
    "zone": "zcol",
    "zone_signal": "zone_sig",
    "zone_buy": "bz",
    "zone_sell": "sz",
    "ac_buy": "acb",
    "ac_sell": "acs",
    "saucer_buy": "sb",
    "saucer_sell": "ss",
    "price_peak_above": "price_peak_above",
    "price_peak_below": "price_peak_bellow",
    "ao_peak_above": "ao_peak_above",
    "ao_peak_below": "ao_peak_bellow",
    "mfi_signal": "mfi_sig",
    "mfi_squat": "mfi_sq",
    "mfi_green": "mfi_green",
    "mfi_fade": "mfi_fade",
    "mfi_fake": "mfi_fake",
    "mfi_code": "mfi_str",
    "mouth_direction": "mouth_direction",
    "mouth_phase": "mouth_phase",
    "bar_position": "bar_position",
}
IN_RAW |= {
    f"fractal_{side}_{k}": f"{short}{k if k > 2 else ''}"
    for k in DEGREES
    for side, short in (("up", "fh"), ("down", "fl"))
}
IN_COLORS = {"ao_color": "aocolor", "ac_color": "accolor"}
PEAKS = ("price_peak_above", "price_peak_below", "ao_peak_above", "ao_peak_below")
EXACT = [name for name in IN_RAW | IN_COLORS if name not in PEAKS]
# The first row that the original kept has no bar before it there; zones and signals look at its colour later on.
LEFT_OUT = dict.fromkeys(EXACT, 1) | dict.fromkeys(("zone", "zone_signal", "zone_buy", "zone_sell"), 2)
LEFT_OUT |= dict.fromkeys(("ac_buy", "ac_sell", "saucer_buy", "saucer_sell"), 3)
# It writes 11 decimals.
HALF_A_DIGIT = 0.51e-11


def golden_cases():
    """The cases that may be copied, and those that lie beside the checkout, where they do."""
    own, beside = OWN_GOLDEN / "enhanced", SHARED / "golden" / "enhanced"
    whole = ("SPX500_D1", "XAU-USD_W1") if beside.is_dir() else ()
    return [
        *(pytest.param(own, name, id=name) for name in ("AUD-USD_D1", "USD-JPY_m15", "XAU-USD_W1")),
        *(pytest.param(beside, name, id=f"{name} whole") for name in whole),
    ]


GOLDEN = pytest.mark.parametrize(("folder", "name"), golden_cases())


@pytest.fixture(scope="module")
def golden():
    """Computed and original columns, on the rows that the original kept."""
    cases = {}

    def compare(folder, name):
        if (folder, name) not in cases:
            cases[folder, name] = read_case(folder, name)
        return cases[folder, name]

    return compare


def read_case(folder, name):
    candles = read_csv(folder / "in" / f"{name}.csv")
    raw, colors = (read_csv(folder / "out" / f"{name}.{kind}.csv") for kind in ("raw", "colors"))
    columns = {key: numbers(candles[key.capitalize()]) for key in ("open", "high", "low", "close", "volume")}
    kept = [candles["Date"].index(date) for date in raw["Date"]]
    assert raw["Date"] == colors["Date"]
    computed = {key: values[kept] for key, values in computed_alone(ENHANCED_CANDLES, columns).items()}
    computed |= {key: columns[key][kept] for key in ("high", "low", "volume")}
    # Of a line that it had no bars for the original has no column.
    original = {key: raw[theirs] for key, theirs in IN_RAW.items() if theirs in raw}
    original |= {key: colors[theirs] for key, theirs in IN_COLORS.items()}
    return computed, original


def test_the_table_has_exactly_these_columns():
    assert {column.name for column in ENHANCED_CANDLES.columns} == {
        *(IN_RAW | IN_COLORS),
        *("water_state", "mouth_confidence"),
    }
    assert [column.name for column in ENHANCED_CANDLES.columns][:3] == ["median", "ao", "ac"]


@pytest.mark.parametrize("column", EXACT)
@GOLDEN
def test_every_column_equals_the_original(golden, folder, name, column):
    computed, original = golden(folder, name)
    if column not in original:
        assert column.startswith(("big", "tide"))
        return
    computed, original = computed[column][LEFT_OUT[column] :], original[column][LEFT_OUT[column] :]
    if computed.dtype == object:
        assert list(computed) == original
        return
    expected = numbers(original)
    # The original rounds small values of the gator to 0 and has infinite mfi; what is right there is the next tests'.
    left_to_others = ((expected == 0) & column.startswith("gator")) | np.isinf(expected)
    np.testing.assert_allclose(computed[~left_to_others], expected[~left_to_others], rtol=1e-9, atol=HALF_A_DIGIT)


@GOLDEN
def test_small_gator_values_that_the_original_rounds_to_zero_are_kept(golden, folder, name):
    computed, original = golden(folder, name)
    upper, lower = computed["jaw"] - computed["teeth"], computed["lips"] - computed["teeth"]
    for column, exact in (("gator_upper", upper), ("gator_lower", lower)):
        rounded = numbers(original[column]) == 0
        assert (np.abs(exact[rounded]) < 1e-4).all()
        np.testing.assert_array_equal(computed[column], exact)


@GOLDEN
def test_mfi_is_null_where_the_original_is_infinite_for_want_of_volume(golden, folder, name):
    computed, original = golden(folder, name)
    infinite = np.isinf(numbers(original["mfi"]))
    np.testing.assert_array_equal(infinite, computed["volume"] == 0)
    np.testing.assert_array_equal(np.isnan(computed["mfi"]), infinite)


@GOLDEN
def test_peaks_agree_with_the_original_but_for_those_that_need_the_whole_frame(golden, folder, name):
    computed, original = golden(folder, name)
    ours, theirs = (
        [np.nan_to_num(columns[peak])[55:-55] for peak in PEAKS] for columns in (computed, with_numbers(original))
    )
    both, either = (np.sum(one) for one in (np.minimum(ours, theirs), np.maximum(ours, theirs)))
    known = np.isfinite(computed["ao_peak_above"][55:-55])
    for our, their in zip(ours, theirs, strict=True):
        # Of a peak of the original one in fifteen is of a prominence that reaches further than the window.
        assert np.sum((our < their)[known]) <= 1 + 0.07 * their.sum()
    assert both >= 0.5 * either


def with_numbers(original):
    return {peak: numbers(original[peak]) for peak in PEAKS}


@GOLDEN
def test_the_water_changes_where_the_original_always_says_sleeping(golden, folder, name):
    computed, _ = golden(folder, name)
    rows = range(1, len(computed["jaw"]))
    assert list(computed["water_state"][1:]) == [water_by_the_rule(computed, row) for row in rows]
    assert len(set(computed["water_state"])) >= 4


def water_by_the_rule(columns, row):
    """The rule as it is told, for one row."""
    direction, phase, position = (columns[name][row] for name in ("mouth_direction", "mouth_phase", "bar_position"))
    if direction != "neither":
        edge, sign, beyond = ("high", 1, "below") if direction == "sell" else ("low", -1, "above")
        now, before = sign * columns[edge][row], sign * columns[edge][row - 1]
        lips, lips_before, jaw = (
            sign * each for each in (columns["lips"][row], columns["lips"][row - 1], columns["jaw"][row])
        )
        if now < lips and position == beyond:
            return "switching" if phase == "opening" else "poping" if before > lips_before else "splashing"
        if now > lips and position == "in":
            return "throwing" if now < jaw else "entering" if before < lips_before else "eating"
    if phase == "sleeping":
        return "sleeping"
    if position == "in" and phase in ("closing", "opening"):
        return "switching"
    return "entering" if position != columns["bar_position"][row - 1] else "eating"


# Two bars each: jaw, teeth, lips, high, low. The first mouth is shut, so that the second one opens.
@pytest.mark.parametrize(
    ("before", "after", "water"),
    [
        ((9, 9, 9, 12, 11), (8.9, 8.8, 8.7, 8, 7), "switching"),
        ((9, 8, 7, 7.5, 7), (8.9, 7.8, 6.7, 6, 5), "poping"),
        ((9, 8, 7, 6.5, 6), (8.9, 7.8, 6.7, 6, 5), "splashing"),
        ((9, 8, 7, 6.5, 6), (8.9, 7.8, 6.7, 7, 5), "throwing"),
        ((9, 8, 7, 6.5, 6), (8.9, 7.8, 6.7, 9, 5), "entering"),
        ((9, 8, 7, 7.5, 6), (8.9, 7.8, 6.7, 9, 5), "eating"),
        ((9, 9, 9, 12, 11), (9, 9, 9, 12, 11), "sleeping"),
    ],
)
@pytest.mark.parametrize("upside_down", [False, True])
def test_each_state_of_the_water_is_reached_in_a_selling_mouth_and_mirrored_in_a_buying_one(
    before, after, water, upside_down
):
    jaw, teeth, lips, high, low = np.array([before, after], dtype=np.float64).T
    if upside_down:
        jaw, teeth, lips, high, low = 20 - jaw, 20 - teeth, 20 - lips, 20 - low, 20 - high
    columns = {"jaw": jaw, "teeth": teeth, "lips": lips, "high": high, "low": low}
    bars = Bars(np.arange(2).astype(TIME_UNIT), columns, np.array([0, 2]))
    assert mouth(bars)[3][1] == water


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_confidence_is_free_of_the_price_scale_and_neither_always_0_nor_always_1(factor):
    market = history(Market(bars=3000))
    scaled = {name: values * (1 if name == "volume" else factor) for name, values in market.items()}
    confidence = computed_alone(ENHANCED_CANDLES, market)["mouth_confidence"][22:]
    np.testing.assert_allclose(computed_alone(ENHANCED_CANDLES, scaled)["mouth_confidence"][22:], confidence, rtol=1e-6)
    assert 0.2 < np.median(confidence) < 0.8
    assert confidence.min() < 0.1
    assert confidence.max() == 1


FIRST_VALUES = {
    0: ("median", "fractal_up_2", "fractal_down_89"),
    1: ("mfi_signal", "mfi_code"),
    8: ("lips", "divergent_buy", "divergent"),
    13: ("teeth", "gator_lower"),
    21: ("jaw", "gator_upper"),
    22: ("mouth_direction", "mouth_phase", "bar_position", "water_state", "mouth_confidence"),
    33: ("ao", "ao_color", "ao_above_zero", "saucer_buy"),
    34: ("zero_cross", "zero_cross_sell"),
    37: ("ac", "ac_color", "zone", "zone_signal", "zone_buy", "zone_sell", "ac_buy"),
    55: ("big_lips", "price_peak_above"),
    89: ("big_teeth",),
    144: ("big_jaw",),
    233: ("tide_lips",),
    320: ("ao_peak_above", "ao_peak_below"),
    377: ("tide_teeth",),
    610: ("tide_jaw",),
}


@pytest.mark.parametrize(("column", "first"), [(name, row) for row, names in FIRST_VALUES.items() for name in names])
def test_a_column_is_null_until_its_first_value_and_never_again(column, first):
    values = computed_alone(ENHANCED_CANDLES, history(Market(bars=700)))[column]
    known = [value is not None and value == value for value in values]
    assert known == [False] * first + [True] * (700 - first)


def test_the_first_colour_is_red_for_want_of_a_bar_to_compare_with():
    ever_steeper = {name: 1.1 ** np.arange(60.0) for name in ("open", "high", "low", "close", "volume")}
    computed = computed_alone(ENHANCED_CANDLES, ever_steeper)
    assert list(computed["ao_color"][33:]) == ["red"] + ["green"] * 26
    assert list(computed["ac_color"][37:]) == ["red"] + ["green"] * 22
    assert list(computed["zone"][37:]) == ["gray", "gray"] + ["green"] * 21
    assert list(computed["zone_buy"][37:]) == [0, 0] + [1] * 21


def test_a_market_that_stands_still_is_at_zero_red_asleep_and_without_signals():
    computed = computed_alone(ENHANCED_CANDLES, flat(0.1, 900))
    for name in ("ao", "ac", "gator_upper", "gator_lower", "mouth_confidence", "mfi", "zero_cross", "divergent"):
        assert set(computed[name][37:]) == {0.0}
    assert set(computed["zone"][37:]) == {"red"}
    assert set(computed["zone_signal"][37:]) == {-1.0}
    assert set(computed["water_state"][37:]) == {"sleeping"}
    assert set(computed["bar_position"][37:]) == {"in"}
    assert set(computed["tide_jaw"][610:]) == {0.1}
    flags = [column.name for column in ENHANCED_CANDLES.columns if column.repaint]
    assert not any(np.nan_to_num(computed[name]).any() for name in flags)


def test_volume_that_is_zero_or_not_known_leaves_mfi_null_and_its_code_0():
    market = {**history(Market(bars=6)), "volume": np.array([5.0, 0.0, 7.0, np.nan, 7.0, 0.0])}
    computed = computed_alone(ENHANCED_CANDLES, market)
    assert np.isnan(computed["mfi"]).tolist() == [False, True, False, True, False, True]
    # A bar that moved without volume had it easier than any that has volume.
    assert list(computed["mfi_code"]) == [None, "0", "+-", "0", "0", "0"]
    assert computed["mfi_squat"].tolist()[1:] == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("bars", [1, 2, 3])
def test_a_series_of_a_few_bars_has_every_column(bars):
    computed = computed_alone(ENHANCED_CANDLES, history(Market(bars=bars)))
    assert {len(values) for values in computed.values()} == {bars}
    assert np.isfinite(computed["median"]).all()
    assert np.isnan(computed["tide_jaw"]).all()
    assert computed["fractal_up_2"].tolist() == [0.0] * bars


def test_equal_highs_are_no_fractal_and_the_middle_of_a_lone_summit_is_one():
    high = np.array([1.0, 2.0, 5.0, 2.0, 1.0, 3.0, 6.0, 6.0, 3.0, 1.0])
    computed = computed_alone(ENHANCED_CANDLES, {**flat(0.5, 10), "high": high})
    assert np.flatnonzero(computed["fractal_up_2"]).tolist() == [2]
    assert np.flatnonzero(computed["fractal_up_3"]).tolist() == []
