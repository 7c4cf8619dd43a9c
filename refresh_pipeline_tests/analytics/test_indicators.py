"""Indicators as the originals have them, whole and in odd markets; how a market chooses among them."""

import re

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.denominators import KEPT, UNDEFINED, note
from refresh_pipeline.analytics.indicators import UnknownIndicator, groups, indicators
from refresh_pipeline.analytics.lazy_talib import load_talib
from refresh_pipeline.analytics.registry import CLASSIC, PROFILE, TALIB, registry
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, lookback
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline_tests.analytics.sample_bars import (
    INDICATORS,
    OWN_GOLDEN,
    Market,
    computed_alone,
    differing,
    flat,
    history,
    numbers,
    read_csv,
)

talib = load_talib()
CRYPTO = CALENDARS["crypto"]
REGISTRY = registry(CRYPTO)
TALIB_COLUMNS = [name for each in REGISTRY.values() for s in each.shipped if s.of == TALIB for name in s.names]
CLASSIC_COLUMNS = [name for each in REGISTRY.values() for s in each.shipped if s.of == CLASSIC for name in s.names]

# What the original calls otherwise than the definition.
CALLED = {"mfi_14": "mfi", "cmf_20": "cmf"}
# Where the original is wrong, and in what: constants over the whole frame, which look ahead.
LOOKS_AHEAD = {
    name for name in CLASSIC_COLUMNS if re.match("(support|resistance)_(level|strength)|(supply|demand)_zone", name)
}
# A share over the whole frame.
OF_THE_FRAME = {"data_quality_score"}
# Ours alone.
NOT_THERE = {"opening_range_high", "opening_range_low"}


@pytest.fixture(scope="module", params=["RELIANCE_1D_400days", "RELIANCE_1T_1day"])
def golden(request):
    """The name, computed columns, and what the original wrote: by TA-Lib, and by its other library for two columns."""
    folder = OWN_GOLDEN / "indicators"
    candles = read_csv(folder / "in" / f"{request.param}.csv")
    columns = {key: numbers(candles[key]) for key in CANDLE_COLUMNS}
    times = np.array([text.replace(" ", "T") for text in candles["timestamp"]], dtype="datetime64[us]")
    computed = INDICATORS.compute(Bars(times, columns, np.array([0, len(times)])))
    other = read_csv(folder / "out" / f"{request.param}.pandas_ta_classic.csv")
    original = read_csv(folder / "out" / f"{request.param}.talib.csv")
    # The original knows no trading session in one of its libraries, and a frame in the other.
    return request.param, computed, original | {"cmf": other["cmf"], "vwap": other["vwap"]}


def as_numbers(cells):
    return np.array(
        [
            {"True": 1.0, "False": 0.0, "": np.nan}.get(cell) if cell in ("True", "False", "") else float(cell)
            for cell in cells
        ]
    )


@pytest.mark.parametrize("name", sorted(set(CLASSIC_COLUMNS) - LOOKS_AHEAD - OF_THE_FRAME - NOT_THERE))
def test_a_column_of_the_predecessor_equals_it_wherever_it_is_known(golden, name):
    frame, computed, original = golden
    cells, values = original[CALLED.get(name, name)], computed[name]
    if values.dtype == object:
        known = np.array([value is not None for value in values])
        assert [*values[known]] == [cell for cell, is_known in zip(cells, known, strict=True) if is_known]
        # Before there is a value the original writes a default.
        assert {cell for cell, is_known in zip(cells, known, strict=True) if not is_known} <= {"sideways", "medium"}
        return
    expected = as_numbers(cells)
    if name.startswith("pivot") and frame == "RELIANCE_1T_1day":
        # There is no session before; the original looks 375 bars back on every timeframe, and so finds none either.
        assert np.isnan(values).all()
        return
    if np.isnan(values[0]) and expected[0] == 0:
        # Against a bar before the first there is no answer; the original says no.
        values, expected = values[1:], expected[1:]
    assert np.isfinite(expected).any()
    assert list(differing(values, expected, relative=1e-9)) == []


def test_the_originals_levels_are_constants_that_look_ahead_and_ours_are_not(golden):
    _, computed, original = golden
    for name in ("support_level_1", "resistance_level_1"):
        assert len(set(original[name])) == 1
        assert len(np.unique(computed[name][np.isfinite(computed[name])])) > 1
        assert np.isnan(computed[name][:11]).all()


def test_the_originals_zones_go_by_a_quantile_of_the_whole_frame_and_ours_by_what_was_known(golden):
    _, computed, original = golden
    known = ~np.isnan(computed["supply_zone_high"])
    there = np.array([cell != "" for cell in original["supply_zone_high"]])
    # Volumes grow towards the end of both frames: judged by all of them, the earlier zones are none.
    assert known.argmax() < there.argmax()
    assert not (there & ~known).any()


def test_a_day_is_a_row_among_days_and_not_a_frame_of_its_own(golden):
    frame, computed, _ = golden
    if frame == "RELIANCE_1D_400days":
        empty = [name for name, values in computed.items() if values.dtype != object and np.isnan(values[250:]).all()]
        assert not set(CLASSIC_COLUMNS) & set(empty)


def test_the_vwap_of_the_original_never_begins_anew_and_ours_does_each_session():
    folder = OWN_GOLDEN / "indicators"
    days = read_csv(folder / "in" / "RELIANCE_1D_400days.csv")
    never = numbers(read_csv(folder / "out" / "RELIANCE_1D_400days.talib.csv")["vwap"])
    columns = {key: numbers(days[key]) for key in CANDLE_COLUMNS}
    times = np.array(days["timestamp"], dtype="datetime64[us]")
    computed = INDICATORS.compute(Bars(times, columns, np.array([0, len(times)])))
    np.testing.assert_allclose(computed["vwap_endless"], never, rtol=1e-9)
    np.testing.assert_allclose(computed["vwap"], (columns["high"] + columns["low"] + columns["close"]) / 3, rtol=1e-12)
    assert len(differing(computed["vwap"], never, relative=1e-9)) > 390


# ---- everything that TA-Lib has


def whole_by_talib(name, market):
    """What TA-Lib gives for the whole history: an array per output, NaN where there is no value yet or no number."""
    function = talib.abstract.Function(name)
    arguments = {**market, "periods": mavp_periods(market)}
    outputs = function(arguments)
    first = lookback(name, FUNCTIONS[name].parameters)
    for output in outputs if isinstance(outputs, list) else [outputs]:
        values = output.astype(np.float64)
        values[:first] = np.nan
        known = np.isfinite(values) & (market["volume"] > 0 if name == "MARKETFI" else True)
        yield np.where(known, values, np.nan)


def mavp_periods(market):
    return np.nan_to_num(talib.HT_DCPERIOD(market["close"]), nan=30.0)


def traded(**kind):
    market = dict(history(Market(**kind)))
    return market | {"volume": np.nan_to_num(market["volume"], nan=7.0)}


def test_every_function_of_the_installed_library_is_there_with_its_parameters_and_outputs():
    assert sorted(FUNCTIONS) == sorted(talib.get_functions())
    for name, function in FUNCTIONS.items():
        there = talib.abstract.Function(name)
        assert dict(function.parameters) == dict(there.parameters), name
        assert function.outputs.split() == (there.output_names if len(there.output_names) > 1 else []), name
    assert len(TALIB_COLUMNS) == 234
    assert len(CLASSIC_COLUMNS) == 90 - 1  # obv is the same in both sets, and counted there


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_history_of_one_block_is_exactly_what_talib_says(name, of_one_block):
    market, computed = of_one_block
    for column, expected in zip(columns_of(name), whole_by_talib(name, market), strict=True):
        assert list(differing(computed[column], expected, relative=1e-9)) == [], column


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_long_history_is_what_talib_says_to_a_billionth(name, of_many_blocks):
    market, computed = of_many_blocks
    for column, expected in zip(columns_of(name), whole_by_talib(name, market), strict=True):
        values = computed[column]
        assert list(np.isnan(values)) == list(np.isnan(expected)), column
        # Near zero a share of the value means nothing: what is left there is TA-Lib's own rounding.
        scale = np.nanmax(np.abs(expected), initial=0)
        off = np.abs(values - expected) > 1e-9 * np.abs(expected) + 1e-10 * scale
        assert list(np.flatnonzero(off)) == [], column


@pytest.fixture(scope="module")
def of_one_block():
    market = traded(bars=512)
    return market, computed_alone(INDICATORS, market)


@pytest.fixture(scope="module")
def of_many_blocks():
    market = traded(bars=3000, price=1.1, volatility=0.001, tick=1e-5)
    return market, computed_alone(INDICATORS, market)


def columns_of(name):
    return next(s.names for s in REGISTRY[name.lower()].shipped if s.of == TALIB)


# ---- odd markets

# Columns that divide by how far prices went.
RATIOS_OF_MOVES = [
    *("rsi", "rsi_14", "cmo", "cmou", "adx_14", "adxr", "dx", "plus_di", "di_minus", "trend_strength", "williams_r"),
    *("stoch_k", "stoch_d", "stochf_fastk", "stochf_fastd", "stochrsi_fastk", "stochrsi_fastd", "kdj_k", "kdj_d"),
    *("kdj_j", "er", "vhf", "imi", "bop", "cci", "mfi_14", "ultosc", "vortex_plusvi", "vortex_minusvi", "smi_smi"),
    *("smi_smisignal", "tsi", "rvi", "massi", "cvi", "correl", "beta", "bb_percent"),
]
# Of them those that look at a window: as soon as it is flat they are null, and as soon as it is not they have a value.
OF_A_WINDOW = {"williams_r": 14, "stochf_fastk": 5, "stoch_k": 16, "er": 11, "cci": 14, "bop": 1, "imi": 14, "cmou": 15}
OF_A_WINDOW |= {"vhf": 29, "vortex_plusvi": 15, "ultosc": 8, "correl": 30, "stochf_fastd": 7, "beta": 6}


def moved_then_halted(halt=200):
    """A market that trades at one price for a while, and then moves again."""
    market, still = traded(bars=700, tick=0.01), np.arange(700)
    still = (still >= 300) & (still < 300 + halt)
    return market | {
        name: np.where(still, market["close"][299], market[name]) for name in ("open", "high", "low", "close")
    }


@pytest.mark.parametrize("name", OF_A_WINDOW)
def test_a_ratio_is_null_exactly_where_its_window_is_flat(name, halted):
    values = halted[name]
    first = 300 + OF_A_WINDOW[name] - 1
    # A window that begins with the last bar before the halt is flat too, where that bar closed at its high and low.
    assert np.isnan(values[first:500]).all()
    assert np.isfinite(values[first - 3 : first - 2]).all() or name in {"bop", "stoch_k", "stochf_fastd", "cci"}
    assert np.isfinite(values[520 if name in {"stoch_k", "stochf_fastd", "correl"} else 501 :][20:]).all()
    assert np.isfinite(values[60:290]).mean() > 0.95


@pytest.fixture(scope="module")
def halted():
    return computed_alone(INDICATORS, moved_then_halted())


def test_no_number_comes_of_rounding_where_a_market_halts_for_long():
    market = moved_then_halted(halt=400)
    computed = computed_alone(INDICATORS, market)
    # The averages need some 400 bars until they are below 1e-13 of the price; a ratio of them keeps its value so long.
    assert np.isfinite(computed["rsi_14"][300:400]).all()
    assert float(np.ptp(computed["rsi_14"][330:500])) < 1e-3
    assert np.isnan(computed["rsi_14"][690:]).all()


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e6])
def test_the_money_flow_of_a_small_market_is_that_of_a_large_one(factor):
    market, whole = traded(bars=300), traded(bars=300)
    computed = computed_alone(INDICATORS, market | {"volume": market["volume"] * factor})["mfi_14"]
    np.testing.assert_allclose(computed, computed_alone(INDICATORS, whole)["mfi_14"], rtol=1e-9)


@pytest.mark.parametrize("name", [*UNDEFINED, *KEPT])
def test_a_description_says_what_a_column_is_where_it_divides_nothing_by_nothing(name):
    columns = {column.name: column.description for column in INDICATORS.columns}
    assert all(columns[column].endswith(note(name)) for column in columns_of(name))


def test_an_unknown_volume_leaves_its_own_row_and_windows_empty_and_nothing_else():
    market = traded(bars=900)
    holed = market | {"volume": np.where(np.arange(900) == 600, np.nan, market["volume"])}
    whole, computed = computed_alone(INDICATORS, market), computed_alone(INDICATORS, holed)
    for name in ("volume_sma_20", "cmf_20", "mfi_14", "vwma", "rvol"):
        missing = np.flatnonzero(np.isnan(computed[name]) & ~np.isnan(whole[name]))
        assert missing[0] == 600, name
        assert 14 <= len(missing) <= 31, name
    for name in ("obv", "ad_line", "adosc", "pvt", "nvi", "pvo", "efi", "vwap", "vwap_endless", "marketfi"):
        assert list(np.flatnonzero(np.isnan(computed[name]) & ~np.isnan(whole[name]))) == [600], name
    with_volume = {
        column.name for column in INDICATORS.columns if len(differing(computed[column.name], whole[column.name], 0))
    }
    assert not {"rsi_14", "close", "adx_14", "sma_20"} & with_volume


def test_a_market_without_volumes_has_no_indicator_of_volume_and_all_others():
    market = history(Market(bars=700))
    computed = computed_alone(INDICATORS, {**market, "volume": np.full(700, np.nan)})
    empty = {name for name, values in computed.items() if values.dtype != object and np.isnan(values).all()}
    assert {"obv", "ad_line", "cmf_20", "mfi_14", "volume_sma_20", "vwap", "nvi", "efi", "pvo"} <= empty
    assert not {"rsi_14", "atr_14", "pivot_point", "ema_200", "fib_50_0", "support_level_1"} & empty


def test_where_nothing_is_traded_ratios_of_volume_are_missing_and_sums_stand_still():
    computed = computed_alone(INDICATORS, {**history(Market(bars=300)), "volume": np.zeros(300)})
    assert np.isnan(computed["volume_ratio"]).all()
    assert np.isnan(computed["vwap"]).all()
    for name in ("marketfi", "mfi", "mfi_14", "cmf", "cmf_20", "vwma", "rvol", "pvo"):
        assert np.isnan(computed[name]).all(), name
    assert set(computed["obv"]) == {0.0}
    assert set(computed["nvi"]) == {1000.0}


def test_on_a_market_that_stands_still_the_bands_have_no_width_and_the_price_no_place_between_them():
    computed = computed_alone(INDICATORS, flat(0.1, 900))
    assert set(computed["bb_width"][19:]) == {0.0}
    assert np.isnan(computed["bb_percent"]).all()
    for name in ("atr_14", "atr_21"):
        assert set(computed[name][21:]) == {0.0}
    for name in RATIOS_OF_MOVES:
        assert np.isnan(computed[name]).all(), name
    assert set(computed["aroon_up"][14:]) == {100.0}
    for name in ("macd_line", "macd_signal", "macd_histogram"):
        np.testing.assert_allclose(computed[name][33:], 0.0, atol=1e-15)
    assert set(computed["doji"]) == {1.0}
    assert set(computed["higher_high"][1:]) == {0.0}
    assert set(computed["trend_direction"][49:]) <= {"sideways", "bullish", "bearish"}


def test_a_market_that_only_rises_has_an_rsi_of_one_hundred():
    rising = {name: np.arange(1.0, 101.0) for name in ("open", "high", "low", "close", "volume")}
    np.testing.assert_allclose(computed_alone(INDICATORS, rising)["rsi_14"][14:], 100.0, rtol=1e-12)


@pytest.mark.parametrize("bars", [1, 2, 5, 20])
def test_a_young_series_has_a_row_per_candle_and_never_a_number_that_is_none(bars):
    computed = computed_alone(INDICATORS, history(Market(bars=bars)))
    for name, values in computed.items():
        assert len(values) == bars, name
        assert values.dtype == object or not np.isinf(values).any(), name


# ---- what a market chooses


def names(wishes):
    return [column.name for column in indicators(wishes, CRYPTO).columns]


def test_all_is_everything_each_column_once():
    everything = [column.name for column in INDICATORS.columns]
    # A volume profile reads 2,880 bars back: `all` leaves it out.
    shipped = {name for each in REGISTRY.values() for some in each.shipped if some.of != PROFILE for name in some.names}
    assert len(set(everything)) == len(everything) == len(shipped)
    assert names(["all"]) == everything


def test_the_default_is_the_group_standard():
    assert names(None) == names(["classic", "standard"])
    assert set(names(None)) == set(names(["standard"]))
    default = set(names(None))
    assert set(CLASSIC_COLUMNS) < default
    assert {"ichimoku_span_a", "supertrend_supertrend", "cci", "hma", "linearreg"} <= default
    # Doubles of the predecessor's columns, transforms of a single price, TA-Lib's patterns.
    assert default.isdisjoint({"rsi", "adx", "macd_macd", "bbands_middleband", "acos", "avgprice", "cdldoji", "alma"})


def test_a_group_an_indicator_and_a_column_can_be_wished_for():
    assert names(["cycles"]) == [
        *("ht_dcperiod", "ht_dcphase", "ht_phasor_inphase", "ht_phasor_quadrature"),
        *("ht_sine_sine", "ht_sine_leadsine", "ht_trendmode"),
    ]
    assert names(["rsi", "macd_signal"]) == ["rsi_14", "rsi_21", "rsi", "macd_signal"]
    assert set(names(["classic"])) == set(CLASSIC_COLUMNS)
    assert {"levels", "sessions", "regimes", "momentum", "patterns"} < set(groups(CRYPTO))


def test_parameters_of_a_market_s_own_make_columns_that_say_so():
    assert names([{"ema": [8, 21]}]) == ["ema_8", "ema_21"]
    assert names([{"macd": {"fastperiod": 8, "slowperiod": 21}}]) == [
        *("macd_macd_8_21", "macd_macdsignal_8_21", "macd_macdhist_8_21"),
    ]
    assert names([{"t3": [{"timeperiod": 8, "vfactor": 0.6}]}, "sma_20"]) == ["t3_8_0_6", "sma_20"]


def test_what_was_wished_for_has_the_same_numbers_as_among_everything():
    market = history(Market(bars=900))
    everything = computed_alone(INDICATORS, market)
    wished = ["trend_direction", "volatility_regime", "data_quality_score", "keltner", "adosc", "ht_sine", {"rsi": 14}]
    computed = computed_alone(indicators(wished, CRYPTO), market)
    assert "ema_20" not in computed
    for name, values in computed.items():
        assert len(differing(values, everything["rsi_14" if name == "rsi_14" else name], relative=0)) == 0, name


def test_a_longer_period_warms_up_for_longer():
    [short], [long] = (indicators([{"rsi": [n]}], CRYPTO).columns for n in (14, 140))
    assert long.warm_up >= 10 * FUNCTIONS["RSI"].warm_up > short.warm_up / 10


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        (["rsy"], "found 'rsy'; did you mean 'rsi'?"),
        (["momentun"], "did you mean 'momentum'?"),
        ([{"emma": [8]}], "found 'emma'; did you mean 'ema'?"),
        ([{"keltner": [8]}], "allowed: an indicator that takes parameters"),
        ([{"ema": [{"periods": 8}]}], r"found periods; ema takes timeperiod \(30\)"),
        ([{"ema": ["eight"]}], "found 'eight', allowed: a number"),
        ([{"ema": [True]}], "found True, allowed: a number"),
        ([{"ema": [8.7]}], "found 8.7, allowed: a whole number"),
        ([{"ema": [float("nan")]}], "found nan, allowed: a whole number"),
        ([{"ema": [-3]}], "found ema with timeperiod -3, with which it cannot be computed"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_the_nearest(wishes, says):
    with pytest.raises(UnknownIndicator, match=says):
        indicators(wishes, CRYPTO)


def test_entries_have_groups_and_sources():
    assert all(each.group and each.source.endswith(".") for each in REGISTRY.values())
    assert {each.name for each in REGISTRY.values() if each.cumulative} == {
        *("obv", "ad", "adosc", "pvt", "wad", "cumsum", "nvi", "pvi", "vwap", "sessions", "zones"),
        *("days", "weeks", "months", "zigzag"),
    }
