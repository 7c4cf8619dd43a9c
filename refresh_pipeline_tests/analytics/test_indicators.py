import numpy as np
import pytest

from refresh_pipeline.analytics.indicators import INDICATORS, REGISTRY
from refresh_pipeline_tests.analytics.histories import (
    OWN_GOLDEN,
    Market,
    computed_alone,
    differing,
    flat,
    history,
    numbers,
    read_csv,
)

NAMES = [column.name for column in INDICATORS.columns]


@pytest.fixture(scope="module", params=["RELIANCE_1D_400days", "RELIANCE_1T_1day"])
def golden(request):
    """Computed columns, and what the original wrote."""
    folder = OWN_GOLDEN / "indicators"
    candles = read_csv(folder / "in" / f"{request.param}.csv")
    columns = {key: numbers(candles[key]) for key in ("open", "high", "low", "close", "volume")}
    return computed_alone(INDICATORS, columns), read_csv(folder / "out" / f"{request.param}.talib.csv")


def test_the_table_has_exactly_these_columns():
    assert [column.name for column in INDICATORS.columns] == [
        *("sma_10", "sma_20", "sma_50", "sma_100", "sma_200", "ema_10", "ema_20", "ema_50", "ema_100", "ema_200"),
        *("rsi_14", "rsi_21", "macd_line", "macd_signal", "macd_histogram", "atr_14", "atr_21"),
        *("bb_upper", "bb_middle", "bb_lower", "bb_width", "bb_percent"),
    ]
    assert INDICATORS.repaint == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_column_equals_the_original_in_every_row(golden, name):
    computed, original = golden
    expected = numbers(original[name])
    assert np.isfinite(expected).any()
    assert list(differing(computed[name], expected, relative=1e-9)) == []


@pytest.mark.parametrize("indicator", REGISTRY, ids=lambda indicator: indicator.name)
def test_an_entry_says_how_many_rows_have_no_value(indicator):
    computed = computed_alone(INDICATORS, history(Market(bars=300)))
    for formula in indicator.formulas():
        for column in formula.columns:
            assert list(np.flatnonzero(np.isnan(computed[column.name]))) == list(range(formula.undefined))


def test_entries_have_names_groups_and_sources():
    assert len({indicator.name for indicator in REGISTRY}) == len(REGISTRY)
    assert all(indicator.group and indicator.source.endswith(".") for indicator in REGISTRY)


def test_on_a_market_that_stands_still_the_bands_have_no_width_and_the_price_no_place_between_them():
    computed = computed_alone(INDICATORS, flat(0.1, 900))
    assert set(computed["bb_width"][19:]) == {0.0}
    assert np.isnan(computed["bb_percent"]).all()
    for name in ("macd_line", "macd_signal", "macd_histogram", "atr_14", "atr_21", "rsi_14"):
        assert set(computed[name][33:]) == {0.0}


def test_a_market_that_only_rises_has_an_rsi_of_one_hundred():
    rising = {name: np.arange(1.0, 101.0) for name in ("open", "high", "low", "close", "volume")}
    np.testing.assert_allclose(computed_alone(INDICATORS, rising)["rsi_14"][14:], 100.0, rtol=1e-12)
