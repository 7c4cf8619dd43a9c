import numpy as np
import pytest

from refresh_pipeline.analytics.availability import known_at, later_known
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.sample_bars import FIRST, QUARTER, computed_alone, stacked
from refresh_pipeline_tests.warehouse.test_checkpoints import MARKET, A, B, candles, refreshed


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(database=str(tmp_path / "refresh.duckdb"))
    warehouse.prepare(MARKET)
    return warehouse


@pytest.fixture
def known(warehouse):
    refreshed(warehouse, {A: candles(1), B: candles(2, slice(0, 500))})
    with warehouse.reader() as connection:
        return arrays_of(connection, "select * from test.enhanced_candles_known where instrument = 'A/USD' order by 3")


def test_every_flag_that_waits_says_at_which_bar_it_was_known(known):
    bars = stacked([{name: known[name] for name in ("open", "high", "low", "close", "volume")}])
    expected = known_at(ENHANCED_CANDLES, bars)
    assert set(expected) == {name for name in known if name.endswith("_known_at")}
    for name, times in expected.items():
        # Theirs is a bar every quarter of an hour.
        is_known, told = ~np.isnat(times), known[name]
        assert np.isnat(told).tolist() == (~is_known).tolist()
        rows = (times[is_known] - FIRST) // QUARTER
        np.testing.assert_array_equal(told[is_known], known["open_time"][rows])


def test_with_the_bars_up_to_when_a_flag_is_known_it_is_there_and_a_bar_earlier_it_is_not(known):
    history = {name: known[name] for name in ("open", "high", "low", "close", "volume")}
    for name in later_known(ENHANCED_CANDLES):
        flagged = np.flatnonzero((known[name].astype(np.float64) == 1) & ~np.isnat(known[f"{name}_known_at"]))
        for row in flagged[-2:]:
            bar = int(np.searchsorted(known["open_time"], known[f"{name}_known_at"][row]))
            at_its_close = {each: values[: bar + 1] for each, values in history.items()}
            before = {each: values[:bar] for each, values in history.items()}
            assert computed_alone(ENHANCED_CANDLES, at_its_close)[name][row] == 1
            assert computed_alone(ENHANCED_CANDLES, before)[name][row] == 0


def test_the_view_comes_back_with_the_columns_of_today(warehouse):
    with warehouse.get_connection() as connection:
        connection.execute("create or replace view test.enhanced_candles_known as select 1 as something_else")
    # As the next run does.
    Warehouse(database=warehouse.database).prepare(MARKET)
    with warehouse.reader() as connection:
        assert connection.execute("select fractal_up_2_known_at from test.enhanced_candles_known").fetchall() == []
