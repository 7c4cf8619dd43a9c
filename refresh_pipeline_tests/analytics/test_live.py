"""One bar at a time equals the whole to the last bit: every column, over halts, unknown volumes and blocks."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.analytics.live_steps import begun, different, fed
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, Market, history, rows_of, stacked

# Around the first bar that goes on by itself, around blocks and checkpoints, and short series.
CUTS = [3, 400, 990, 1022, 1024, 1150, 1277, 1534, 1535, 1536]
# Zones take volumes that are all known.
WILD = Market(1700, volatility=0.03, seed=1, unknown_volumes=0)
CALM = Market(1700, volatility=0.0005, price=60000, tick=0.01, halted=0, seed=2)
HALTED = Market(1700, volatility=0.005, price=0.65, tick=0.0001, halted=300, seed=3)
# Parameters for which every way of knowing nulls is taken: windows, averages, and those too long or too short for both.
PARAMETERS = [
    *({name: [2, 3, 30, 100]} for name in ("rsi", "adx", "cmo", "willr", "cci", "mfi", "adxr", "ema", "max", "vhf")),
    *({name: [3, 70]} for name in ("stochrsi", "massi", "smi", "pvo", "tsi", "rvi", "stoch", "cvi", "beta", "natr")),
    {"pvo": {"fastperiod": 5, "slowperiod": 9, "matype": 0}},
    {"stochrsi": {"timeperiod": 9, "fastd_matype": 1}},
    {"smi": {"timeperiod": 9, "fastperiod": 2, "slowperiod": 2}},
    {"adosc": {"fastperiod": 5, "slowperiod": 40}},
]


def differences(table, markets, cuts, steps, change=None):
    """The columns that differ of each series, fed a bar at a time from its cut on."""
    histories = [history(market) for market in markets]
    live = begun(table, histories, cuts)
    if change is not None:
        histories = [change(each, cut) for each, cut in zip(histories, cuts, strict=True)]
        live = begun(table, histories, cuts)
    wrong = []
    for each, pair, cut in zip(histories, fed(live, histories, cuts, steps), cuts, strict=True):
        bars = stacked([rows_of(each, slice(0, cut + steps))])
        wrong += [
            different(rows, whole.compute(bars), cut, steps)
            for rows, whole in zip(pair, (ENHANCED_CANDLES, table), strict=True)
        ]
    return [found for found in wrong if found]


def test_every_column_goes_on_over_a_block_and_a_halt():
    markets = [WILD, CALM, HALTED, HALTED, WILD]
    assert differences(INDICATORS, markets, cuts=[1533, 1534, 1300, 1021, 1023], steps=5) == []


# Shrinking takes minutes.
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    markets=st.lists(
        st.builds(
            Market,
            bars=st.just(1700),
            volatility=st.sampled_from([0.0005, 0.02]),
            price=st.sampled_from([0.65, 60000.0]),
            tick=st.sampled_from([0.0, 0.01]),
            halted=st.sampled_from([0, 100]),
            seed=st.integers(0, 2**32 - 1),
            unknown_volumes=st.sampled_from([0, 0.1]),
        ),
        min_size=1,
        max_size=2,
    ),
    cut=st.sampled_from(CUTS),
)
def test_random_histories_go_on_from_any_bar(markets, cut):
    assert differences(INDICATORS, markets, cuts=[cut] * len(markets), steps=4) == []


def test_parameters_of_a_market_go_on_whatever_their_length():
    table = indicators(PARAMETERS, CALENDARS["crypto"])
    assert differences(table, [WILD, CALM, HALTED], cuts=[1530, 1600, 1300], steps=12) == []


def test_a_corrected_candle_is_loaded_anew():
    def change(each, cut):
        values = {name: np.array(column) for name, column in each.items()}
        values["close"][cut - 5] = values["high"][cut - 5]
        return values

    assert differences(INDICATORS, [WILD], cuts=[1540], steps=4, change=change) == []


@pytest.mark.parametrize("specs", [["sma_20"], ["vwap"], [{"ema": [8]}]])
def test_a_small_selection_goes_on(specs):
    assert differences(indicators(specs, CALENDARS["crypto"]), [WILD], cuts=[1100], steps=4) == []


def test_every_column_that_repaints_is_one_that_live_mode_looks_for():
    # Another one needs a case in live_enhanced.py.
    repainting = {column.name.rstrip("0123456789") for column in ENHANCED_CANDLES.columns if column.repaint}
    assert repainting == {
        *("fractal_up_", "fractal_down_", "price_peak_above", "price_peak_below", "ao_peak_above", "ao_peak_below")
    }
