from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from refresh_pipeline.analytics.recursive import CHECKPOINT_BARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics import sample_bars
from refresh_pipeline_tests.analytics.sample_bars import computed_alone, differing, history
from refresh_pipeline_tests.lake_server import address_in
from refresh_pipeline_tests.warehouse.warehouse_fixtures import SHIPPED_TABLES, query

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B = Series("A/USD", Timeframe.m5), Series("B/USD", Timeframe.m5)
MARKET = Market.model_validate(
    {
        "name": "test",
        "source": {"kind": "demo"},
        "calendar": "crypto",
        "instruments": ["A/USD", "B/USD"],
        "timeframes": ["m5"],
        "history": "30d",
    }
)
BARS = 2000
EVERY = slice(None)
EVERYTHING = "select * from test.enhanced_candles"


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(database=address_in(tmp_path))
    warehouse.prepare(MARKET)
    return warehouse


def candles(seed: int, rows: slice | NDArray[np.int64] = EVERY) -> Candles:
    whole = history(sample_bars.Market(bars=BARS, seed=seed))
    times = np.datetime64("2025-01-01", "us") + np.arange(BARS) * np.timedelta64(5, "m")
    return Candles(times[rows].astype(TIME_UNIT), {name: values[rows] for name, values in whole.items()})


def refreshed(warehouse, arrivals):
    warehouse.store_candles(MARKET, arrivals, "demo", NOW)
    return warehouse.refresh_tail(MARKET, Table.enhanced_candles, [A, B])


def assert_equals_computing_everything(warehouse, series):
    with warehouse.reader() as connection:
        stored = arrays_of(
            connection,
            "select * from test.enhanced_candles where instrument = ? order by open_time",
            [series.instrument],
        )
    whole = computed_alone(
        SHIPPED_TABLES[Table.enhanced_candles], {name: stored[name].astype(np.float64) for name in CANDLE_COLUMNS}
    )
    for name, expected in whole.items():
        values = stored[name] if expected.dtype == object else stored[name].astype(np.float64)
        assert len(differing(values, expected, relative=0)) == 0, name


CHANGES = {
    "a new candle": [slice(BARS - 1, None)],
    "two hundred new candles": [slice(BARS - 200, None)],
    "a hole filled in the middle": [slice(900, 950)],
    "a hole filled on a checkpoint": [slice(7 * CHECKPOINT_BARS - 1, 7 * CHECKPOINT_BARS)],
    "earlier history": [slice(0, 300)],
    "a hole and new candles": [slice(1200, 1201), slice(BARS - 3, None)],
    "candles one by one": [slice(row, row + 1) for row in range(BARS - 4, BARS)],
}


@pytest.mark.parametrize("later", list(CHANGES.values()), ids=list(CHANGES))
def test_what_comes_later_ends_in_the_same_bits_as_if_it_had_always_been_there(warehouse, later):
    left_out = np.concatenate([np.arange(BARS)[rows] for rows in later])
    first = np.setdiff1d(np.arange(BARS), left_out)
    refreshed(warehouse, {A: candles(1, first), B: candles(2)})
    for rows in later:
        refreshed(warehouse, {A: candles(1, rows)})
    assert_equals_computing_everything(warehouse, A)
    assert_equals_computing_everything(warehouse, B)


def test_a_late_correction_far_back_changes_every_row_it_touches_and_the_checkpoints_after_it(warehouse):
    refreshed(warehouse, {A: candles(1)})
    corrected = candles(1, slice(700, 701))
    for name in ("high", "close"):
        corrected[name][:] *= 1.01
    refreshed(warehouse, {A: corrected})
    assert_equals_computing_everything(warehouse, A)
    refreshed(warehouse, {A: candles(1, slice(BARS - 1, None))})
    assert_equals_computing_everything(warehouse, A)


def test_new_candles_write_the_rows_whose_flags_they_settle_and_no_others(warehouse):
    refreshed(warehouse, {A: candles(1, slice(0, BARS - 60))})
    before = set(query(warehouse, EVERYTHING))
    (result,) = refreshed(warehouse, {A: candles(1, slice(BARS - 60, None))}).values()
    after = set(query(warehouse, EVERYTHING))
    assert (result.added, result.revised) == (60, len(before - after))
    assert 0 < result.revised < SHIPPED_TABLES[Table.enhanced_candles].repaint


def test_checkpoints_count_bars_and_lie_on_every_block_once_the_slowest_average_has_begun(warehouse):
    refreshed(warehouse, {A: candles(1)})
    with warehouse.reader() as connection:
        kept = arrays_of(connection, "select candles, len(state) as states from test.checkpoints order by open_time")
    assert kept["candles"].tolist() == list(range(3 * CHECKPOINT_BARS, BARS, CHECKPOINT_BARS))
    assert set(kept["states"].tolist()) == {9}


def test_lost_checkpoints_come_back_with_the_next_refresh(warehouse):
    refreshed(warehouse, {A: candles(1, slice(0, BARS - 1))})
    with warehouse.get_connection() as connection:
        connection.execute("delete from test.checkpoints")
    refreshed(warehouse, {A: candles(1, slice(BARS - 1, None))})
    assert_equals_computing_everything(warehouse, A)
    with warehouse.reader() as connection:
        assert len(connection.execute("select 1 from test.checkpoints").fetchall()) == BARS // CHECKPOINT_BARS - 2


# ---- indicators, whose recursions go on from the newest checkpoint and whose blocks reach further back


def indicators_and_checkpoints(warehouse: Warehouse) -> tuple[list[object], list[object]]:
    rows = "select * from test.indicators order by instrument, open_time"
    states = "select * from test.checkpoints where asset = 'indicators' order by instrument, open_time"
    # NaN is not equal to itself, as text it is.
    return [*map(repr, query(warehouse, rows))], [*map(repr, query(warehouse, states))]


def with_indicators(warehouse: Warehouse, arrivals: dict[Series, Candles]) -> None:
    warehouse.store_candles(MARKET, arrivals, "demo", NOW)
    warehouse.refresh_tail(MARKET, Table.indicators, [A, B])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], list[object]]:
    """Indicators and checkpoints where all candles came at once."""
    warehouse = Warehouse(database=address_in(tmp_path_factory.mktemp("whole")))
    warehouse.prepare(MARKET)
    with_indicators(warehouse, {A: candles(1), B: candles(2, slice(0, 700))})
    return indicators_and_checkpoints(warehouse)


@pytest.mark.parametrize("later", list(CHANGES.values()), ids=list(CHANGES))
def test_indicators_after_later_candles_are_those_of_candles_that_came_at_once(warehouse, whole, later):
    left_out = np.concatenate([np.arange(BARS)[rows] for rows in later])
    first = np.setdiff1d(np.arange(BARS), left_out)
    with_indicators(warehouse, {A: candles(1, first), B: candles(2, slice(0, 699))})
    with_indicators(warehouse, {B: candles(2, slice(699, 700))})
    for rows in later:
        with_indicators(warehouse, {A: candles(1, rows)})
    assert indicators_and_checkpoints(warehouse) == whole


@pytest.mark.parametrize("lost", ["true", "candles < 1000", "candles > 1000"])
def test_lost_checkpoints_of_indicators_come_back_with_the_next_refresh(warehouse, whole, lost):
    with_indicators(warehouse, {A: candles(1, slice(0, BARS - 1)), B: candles(2, slice(0, 700))})
    with warehouse.get_connection() as connection:
        connection.execute(f"delete from test.checkpoints where instrument = 'A/USD' and {lost}")
    with_indicators(warehouse, {A: candles(1, slice(BARS - 1, None))})
    found = indicators_and_checkpoints(warehouse)
    assert found[0] == whole[0]
    assert found[1] == whole[1] or lost == "candles > 1000"
