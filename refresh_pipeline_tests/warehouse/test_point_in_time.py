"""The past as it stood: candles against a log of everything stored, flags against when they become computable."""

import re
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics.availability import known_at, later_known
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.sample_bars import FIRST, QUARTER, computed_alone, stacked
from refresh_pipeline_tests.lake_server import address_in
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.test_checkpoints import MARKET as KNOWN_MARKET
from refresh_pipeline_tests.warehouse.test_checkpoints import A, B, refreshed
from refresh_pipeline_tests.warehouse.test_checkpoints import candles as quarters
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, market_of

DATA = Path(__file__).resolve().parents[2] / "docs" / "data.md"
MARKET = market_of()
Log = list[tuple[datetime, dict[int, float]]]

# Refreshes minutes apart, each with some of twenty candles, at one of three prices: often new, often corrected, often
# the same again.
refreshes = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.integers(0, 19), st.sampled_from([10.0, 11.0, 12.0]), max_size=12)),
    min_size=1,
    max_size=8,
)


def stored(warehouse: Warehouse, log: Log, series: Series = BTC) -> None:
    warehouse.prepare(MARKET)
    for now, prices in log:
        opens = np.datetime64("2026-01-01", "us") + np.array(list(prices), dtype=np.int64) * np.timedelta64(1, "h")
        values = np.array(list(prices.values()))
        candles = Candles.of(opens, open=values, high=values, low=values, close=values, volume=values)
        warehouse.store_candles(MARKET, {series: candles}, "test", now)


def stood(log: Log, moment: datetime) -> dict[int, float]:
    """What the table held at that instant, by replaying the log."""
    held: dict[int, float] = {}
    for now, prices in log:
        if now <= moment:
            held |= prices
    return dict(sorted(held.items()))


def closes_by_hour(candles: Candles) -> dict[int, float]:
    hours = (candles.open_time - np.datetime64("2026-01-01", "us")) // np.timedelta64(1, "h")
    return dict(zip(hours.tolist(), candles["close"].tolist(), strict=True))


@settings(max_examples=examples(5), deadline=None)
@given(steps=refreshes)
def test_at_every_instant_it_is_what_a_replay_of_the_log_gives(steps: list[tuple[int, dict[int, float]]]) -> None:
    log: Log = []
    now = NOW
    for minutes, prices in steps:
        now += timedelta(minutes=minutes)
        log.append((now, prices))
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(database=f"{folder}/refresh.duckdb")
        stored(warehouse, log)
        for moment in {at + timedelta(seconds=s) for at, _ in log for s in (-1, 0, 1)}:
            assert closes_by_hour(warehouse.candles_as_of(MARKET, BTC, moment)) == stood(log, moment)


def test_other_series_stay_out_of_it(tmp_path: Path) -> None:
    warehouse = Warehouse(database=address_in(tmp_path))
    other = Series("ETH/USD", BTC.timeframe)
    stored(warehouse, [(NOW, {1: 10.0})])
    stored(warehouse, [(NOW, {2: 11.0})], other)
    assert closes_by_hour(warehouse.candles_as_of(MARKET, BTC, NOW)) == {1: 10.0}
    assert closes_by_hour(warehouse.candles_as_of(MARKET, other, NOW)) == {2: 11.0}


def test_the_documented_query_says_the_same(tmp_path: Path) -> None:
    (query,) = [text for text in re.findall(r"```sql\n(.*?)```", DATA.read_text(), re.DOTALL) if "union all" in text]
    warehouse = Warehouse(database=address_in(tmp_path))
    log = [(NOW + timedelta(minutes=n), {1: 10.0 + n, 2 + n: 10.0}) for n in range(4)]
    stored(warehouse, log)
    moment = NOW + timedelta(minutes=2, seconds=30)
    query = query.replace("demo.", f"{MARKET.name}.").replace("2026-11-20 12:00", moment.strftime("%Y-%m-%d %H:%M:%S"))
    query = query.replace("BTC/USD", BTC.instrument).replace("'H1'", f"'{BTC.timeframe.value}'")
    with warehouse.reader() as connection:
        rows = connection.execute(query).fetchall()
    assert [row[4] for row in rows] == list(stood(log, moment).values()) == [12.0, 10.0, 10.0, 10.0]


# ---- when flags become known


@pytest.fixture
def viewed(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(database=address_in(tmp_path))
    warehouse.prepare(KNOWN_MARKET)
    return warehouse


@pytest.fixture
def known(viewed: Warehouse) -> Arrays:
    refreshed(viewed, {A: quarters(1), B: quarters(2, slice(0, 500))})
    with viewed.reader() as connection:
        return arrays_of(connection, "select * from test.enhanced_candles_known where instrument = 'A/USD' order by 3")


def test_every_flag_that_waits_says_at_which_bar_it_was_known(known: Arrays) -> None:
    bars = stacked([{name: known[name] for name in ("open", "high", "low", "close", "volume")}])
    expected = known_at(ENHANCED_CANDLES, bars)
    assert set(expected) == {name for name in known if name.endswith("_known_at")}
    for name, times in expected.items():
        # These bars open every quarter of an hour.
        is_known, known_at_bar = ~np.isnat(times), known[name]
        assert np.isnat(known_at_bar).tolist() == (~is_known).tolist()
        rows = (times[is_known] - FIRST) // QUARTER
        np.testing.assert_array_equal(known_at_bar[is_known], known["open_time"][rows])


def test_with_the_bars_up_to_when_a_flag_is_known_it_is_there_and_a_bar_earlier_it_is_not(known: Arrays) -> None:
    history = {name: known[name] for name in ("open", "high", "low", "close", "volume")}
    for name in later_known(ENHANCED_CANDLES):
        flagged = np.flatnonzero((known[name].astype(np.float64) == 1) & ~np.isnat(known[f"{name}_known_at"]))
        for row in flagged[-2:]:
            bar = int(np.searchsorted(known["open_time"], known[f"{name}_known_at"][row]))
            at_its_close = {each: values[: bar + 1] for each, values in history.items()}
            before = {each: values[:bar] for each, values in history.items()}
            assert computed_alone(ENHANCED_CANDLES, at_its_close)[name][row] == 1
            assert computed_alone(ENHANCED_CANDLES, before)[name][row] == 0


def test_the_view_comes_back_with_the_columns_of_today(viewed: Warehouse) -> None:
    with viewed.get_connection() as connection:
        connection.execute("create or replace view test.enhanced_candles_known as select 1 as something_else")
    # As the next run does.
    Warehouse(database=viewed.database).prepare(KNOWN_MARKET)
    with viewed.reader() as connection:
        assert connection.execute("select fractal_up_2_known_at from test.enhanced_candles_known").fetchall() == []
