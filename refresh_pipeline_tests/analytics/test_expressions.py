"""Indicators as expressions in YAML: values as numpy has them, refusals in words, no look-ahead."""

import numpy as np
import pytest

from refresh_pipeline.analytics.expressions import expression_part, expression_values
from refresh_pipeline.analytics.indicators import UnknownIndicator, indicators
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline_tests.analytics.live_steps import begun, different, fed
from refresh_pipeline_tests.analytics.sample_bars import Market, history, rows_of, stacked

TEXT = "(close - mean(close, 20)) / std(close, 20)"
BARS = history(Market(1100, seed=5))


def test_values_are_those_of_plain_arrays():
    table = indicators([{"z20": TEXT}, {"broken_out": "close > lag(max(high, 55), 1)"}, "sma_20"], CryptoCalendar())
    assert [column.name for column in table.columns] == ["z20", "broken_out", "sma_20"]
    found = table.compute(stacked([BARS]))
    close, high = np.asarray(BARS["close"]), np.asarray(BARS["high"])
    windows = np.lib.stride_tricks.sliding_window_view(close, 20)
    wanted = (close[19:] - windows.mean(axis=1)) / windows.std(axis=1)
    np.testing.assert_allclose(found["z20"][19:].astype(float), wanted, rtol=1e-7, atol=1e-9)
    assert np.isnan(found["z20"][:19].astype(float)).all()
    above = close[55:] > np.lib.stride_tricks.sliding_window_view(high, 55)[:-1].max(axis=1)
    np.testing.assert_array_equal(found["broken_out"][55:].astype(float), above.astype(float))
    # Another text is another column to the warehouse: stored values are computed anew.
    other = indicators([{"z20": TEXT.replace("20", "21")}], CryptoCalendar())
    assert other.fingerprints["z20"] != table.fingerprints["z20"]


def test_warm_up_follows_from_the_windows():
    formula = expression_part("x", "lag(mean(sum(close, 5), 10), 3) + where(volume > 0, open, low)").formula
    assert (formula.warm_up, list(formula.takes)) == (4 + 9 + 3, ["close", "volume", "open", "low"])


def test_division_by_zero_and_unknown_values_are_null():
    found = expression_values(np.array([1.0, 0.0, np.nan]), "where(1 / close > 0, sqrt(-close), 2)", ("close",))
    assert np.isnan(found).tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lag(close, -1)", "later bars are unknown"),
        ("lag(close, 0)", "1 to 2000"),
        ("mean(close, open)", "found 'open' bars"),
        ("close.__class__", "found 'close.__class__'"),
        ("__import__('os')", "found \"__import__('os')\""),
        ("[x for x in close]", "allowed: open"),
        ("sma_20 + 1", "found 'sma_20'"),
        ("close +", "no expression"),
        ("True", "found 'True'"),
        ("1 + 2", "reads no candle"),
        ("close < open < high", "found 'close < open < high'"),
        ("+".join(["close"] * 150), "characters"),
        ("+".join(["low"] * 90), "more than 200 parts"),
    ],
)
def test_what_is_not_allowed_is_refused_in_words(text, said):
    with pytest.raises(MarketError, match=r"(?s).*") as refused:
        computations(parse_market(YAML.format(text=text.replace("'", "''")), "x.yaml"))
    assert said in str(refused.value)


YAML = """
name: x
source: {{kind: demo}}
calendar: crypto
instruments: [BTC/USD]
timeframes: [m5]
history: 1d
indicators: {{compute: [sma_20, {{mine: '{text}'}}]}}
"""


@pytest.mark.parametrize("name", ["close", "Mine", "sma_20", "instrument", "a b"])
def test_a_name_that_is_taken_or_none_is_refused(name):
    with pytest.raises(UnknownIndicator, match="found"):
        indicators([{name: "close - open"}], CryptoCalendar())


def test_live_mode_goes_on_with_an_expression_to_the_last_bit():
    table = indicators([{"z20": TEXT}], CryptoCalendar())
    live = begun(table, [BARS], [1060])
    [(_, rows)] = fed(live, [BARS], [1060], 4)
    assert different(rows, table.compute(stacked([rows_of(BARS, slice(0, 1064))])), 1060, 4) == {}
