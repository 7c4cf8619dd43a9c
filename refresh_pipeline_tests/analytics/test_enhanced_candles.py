import numpy as np
import pytest

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.analytics.histories import (
    OWN_GOLDEN,
    SHARED_GOLDEN,
    Market,
    computed_alone,
    flat,
    history,
    numbers,
    read_csv,
)

# The original's names, in the file of values and in that of colours.
IN_RAW = {
    "median": "Median",
    "ao": "ao",
    "ac": "ac",
    "jaw": "jaw",
    "teeth": "teeth",
    "lips": "lips",
    "gator_upper": "gl",
    "gator_lower": "gh",
    "zone": "zcol",
    "zone_signal": "zone_sig",
    "zone_buy": "bz",
    "zone_sell": "sz",
}
IN_COLORS = {"ao_color": "aocolor", "ac_color": "accolor"}
# The first row that the original kept has no bar before it there; a zone looks at that row's colour.
LEFT_OUT = {name: 2 if name.startswith("zone") else 1 for name in IN_RAW | IN_COLORS}
# It writes 11 decimals.
HALF_A_DIGIT = 0.51e-11


def golden_cases():
    """The cases that may be copied, and those that lie beside the checkout."""
    own, beside = OWN_GOLDEN / "enhanced", SHARED_GOLDEN / "enhanced"
    absent = pytest.mark.skipif(not beside.is_dir(), reason="the folder beside the checkout is not there")
    return [
        *(pytest.param(own, name, id=name) for name in ("AUD-USD_D1", "USD-JPY_m15", "XAU-USD_W1")),
        *(pytest.param(beside, name, id=f"{name} whole", marks=absent) for name in ("SPX500_D1", "XAU-USD_W1")),
    ]


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
    original = {key: raw[theirs] for key, theirs in IN_RAW.items()}
    original |= {key: colors[theirs] for key, theirs in IN_COLORS.items()}
    return computed, original


def test_the_table_has_exactly_these_columns():
    assert [column.name for column in ENHANCED_CANDLES.columns] == [
        *("median", "ao", "ac", "jaw", "teeth", "lips", "gator_upper", "gator_lower"),
        *("ao_color", "ac_color", "zone", "zone_signal", "zone_buy", "zone_sell"),
    ]
    assert ENHANCED_CANDLES.repaint == 0


@pytest.mark.parametrize("column", [column.name for column in ENHANCED_CANDLES.columns])
@pytest.mark.parametrize(("folder", "name"), golden_cases())
def test_every_column_equals_the_original(golden, folder, name, column):
    computed, original = (columns[column][LEFT_OUT[column] :] for columns in golden(folder, name))
    if computed.dtype == object:
        assert list(computed) == original
        return
    expected = numbers(original)
    # The original rounds small values of the gator to 0; what is right there is the next test's.
    rounded = (expected == 0) & column.startswith("gator")
    np.testing.assert_allclose(computed[~rounded], expected[~rounded], rtol=1e-9, atol=HALF_A_DIGIT)


@pytest.mark.parametrize(("folder", "name"), golden_cases())
def test_small_gator_values_that_the_original_rounds_to_zero_are_kept(golden, folder, name):
    computed, original = golden(folder, name)
    upper, lower = computed["jaw"] - computed["teeth"], computed["lips"] - computed["teeth"]
    for column, exact in (("gator_upper", upper), ("gator_lower", lower)):
        rounded = numbers(original[column]) == 0
        assert (np.abs(exact[rounded]) < 1e-4).all()
        np.testing.assert_array_equal(computed[column], exact)


@pytest.mark.parametrize(
    ("column", "first"),
    [
        *(("median", 0), ("ao", 33), ("ac", 37), ("jaw", 21), ("teeth", 13), ("lips", 8)),
        *(("gator_upper", 21), ("gator_lower", 13), ("ao_color", 33), ("ac_color", 37)),
        *(("zone", 37), ("zone_signal", 37), ("zone_buy", 37), ("zone_sell", 37)),
    ],
)
def test_a_column_is_null_until_its_first_value_and_never_again(column, first):
    values = computed_alone(ENHANCED_CANDLES, history(Market(bars=60)))[column]
    known = [value is not None and value == value for value in values]
    assert known == [False] * first + [True] * (60 - first)


def test_the_first_colour_is_red_for_want_of_a_bar_to_compare_with():
    ever_steeper = {name: 1.1 ** np.arange(60.0) for name in ("open", "high", "low", "close", "volume")}
    computed = computed_alone(ENHANCED_CANDLES, ever_steeper)
    assert list(computed["ao_color"][33:]) == ["red"] + ["green"] * 26
    assert list(computed["ac_color"][37:]) == ["red"] + ["green"] * 22
    assert list(computed["zone"][37:]) == ["gray", "gray"] + ["green"] * 21
    assert list(computed["zone_buy"][37:]) == [0, 0] + [1] * 21


def test_a_market_that_stands_still_is_at_zero_and_red():
    computed = computed_alone(ENHANCED_CANDLES, flat(0.1, 900))
    for name in ("ao", "ac", "gator_upper", "gator_lower"):
        assert set(computed[name][37:]) == {0.0}
    assert set(computed["zone"][37:]) == {"red"}
    assert set(computed["zone_signal"][37:]) == {-1.0}
