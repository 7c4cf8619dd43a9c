"""How far back TA-Lib's functions look: what the table says is enough, and they are all that is needed."""

import numpy as np
import pytest

from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, lookback, whole_outputs
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.benchmarks.measure_warm_up import needed_by, outputs, traded, with_memory

MARKETS = [traded({"volatility": 0.01}, seed=11), traded({"volatility": 0.01, "tick": 0.01, "halted": 300}, seed=12)]
# In a market that stands still Hilbert's transform divides rounding by rounding, and never agrees.
HILBERT = {"HT_DCPERIOD", "HT_DCPHASE", "HT_PHASOR", "HT_SINE", "HT_TRENDMODE", "HT_TRENDLINE", "MAMA"}
WITHOUT_END = {each.name.upper() for each in registry(CALENDARS["crypto"]).values() if each.cumulative} | {"VWAP"}
# Rows' numbers count from where one begins.
COUNTS = {"MAXINDEX", "MININDEX", "MINMAXINDEX"}


@pytest.mark.parametrize("name", list(with_memory()))
def test_a_function_with_a_memory_has_forgotten_its_beginning_after_its_warm_up(name):
    for market in MARKETS[:1] if name in HILBERT else MARKETS:
        assert needed_by(name, market) <= FUNCTIONS[name].warm_up


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(with_memory()) - WITHOUT_END - COUNTS - {"MAVP"}))
def test_a_function_without_a_memory_needs_no_bar_beyond_its_first_window(name):
    first = lookback(name, FUNCTIONS[name].parameters)
    market = MARKETS[0]
    late = {key: values[1000 - first :] for key, values in market.items()}
    for whole, cut in zip(outputs(name, market), outputs(name, late), strict=True):
        scale = np.nanmax(np.abs(whole), initial=0)
        expected = whole[1000:]
        np.testing.assert_allclose(cut[first:], expected, rtol=1e-9, atol=1e-10 * scale)


def test_whole_numbers_are_told_from_prices():
    assert whole_outputs("CDLDOJI") == [True]
    assert whole_outputs("SUPERTREND") == [False, True]
    assert whole_outputs("MACD") == [False, False, False]


def test_asking_for_a_lookback_leaves_talib_s_own_defaults_alone():
    before = lookback("RSI", {"timeperiod": 14})
    assert lookback("RSI", {"timeperiod": 21}) == 21
    assert lookback("RSI", {"timeperiod": 14}) == before == 14
