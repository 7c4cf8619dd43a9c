import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Column, Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.formulas import Formula, computation
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, Market, computed_alone, flat, history, stacked

BOTH = pytest.mark.parametrize("table", [ENHANCED_CANDLES, INDICATORS], ids=lambda table: table.name)
ODD = {
    "nothing": [],
    "a series without bars": [flat(5.0, 0)],
    "one bar": [flat(5.0, 1)],
    "two bars": [history(Market(bars=2))],
    "never moving": [flat(0.1, 400)],
    "one tick after long": [{name: np.append(values, 0.2) for name, values in flat(0.1, 400).items()}],
    "short among long": [history(Market(bars=n, seed=n)) for n in (300, 0, 1, 33, 0, 400)],
}


@BOTH
@pytest.mark.parametrize("histories", list(ODD.values()), ids=list(ODD))
def test_every_column_has_a_row_per_candle_and_is_never_infinite(table: Computation, histories):
    bars = stacked(histories)
    computed = table.compute(bars)
    assert list(computed) == [column.name for column in table.columns]
    for column in table.columns:
        values = computed[column.name]
        assert values.dtype == (object if column.sql_type == "varchar" else np.float64)
        assert len(values) == len(bars)
        assert column.sql_type == "varchar" or not np.isinf(values.astype(np.float64)).any()


# Without a value on this market: functions of numbers that prices are not, and what has to happen first.
NEVER = {"acos", "asin", "exp", "cosh", "sinh"} | {
    f"{side}_zone_{value}" for side in ("supply", "demand") for value in ("high", "low", "volume", "strength")
}


@BOTH
def test_a_series_as_long_as_the_longest_warm_up_and_one_bar_has_a_value_in_every_column(table: Computation):
    bars = max(column.warm_up for column in table.columns) + 1
    computed = computed_alone(table, {**history(Market(bars, price=900.0)), "volume": np.ones(bars)})
    settled = {column.name: computed[column.name][-1 - column.repaint] for column in table.columns}
    empty = {name for name, value in settled.items() if value is None or value != value} - NEVER
    # The bars reach into no second month.
    assert {name for name in empty if not name.startswith("pivot_month")} == set()


@BOTH
def test_columns_say_what_they_are(table: Computation):
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert all(column.description.endswith(".") and column.unit for column in table.columns)
    assert not any("{" in column.name + column.description for column in table.columns)
    assert {column.sql_type for column in table.columns} <= {"double", "varchar", "tinyint", "smallint", "integer"}


def test_a_formula_sees_the_columns_before_it_and_is_null_where_it_is_undefined():
    double = Formula([Column("double", "Twice the close.", "price")], lambda bars: [2 * bars["close"]], undefined=1)
    again = Formula([Column("four", "Twice that.", "price")], lambda bars: [2 * bars["double"]])
    computed = computation("test", [double, again], carries_candles=False).compute(stacked([flat(1.0, 2)] * 2))
    np.testing.assert_array_equal(computed["four"], [np.nan, 4.0, np.nan, 4.0])
