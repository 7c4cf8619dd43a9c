"""Candles as of an instant: held against a log of everything that was ever stored."""

import re
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.warehouse import Warehouse
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


def found(candles: Candles) -> dict[int, float]:
    hours = (candles.open_time - np.datetime64("2026-01-01", "us")) // np.timedelta64(1, "h")
    return dict(zip(hours.tolist(), candles["close"].tolist(), strict=True))


@settings(max_examples=15, deadline=None)
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
            assert found(warehouse.candles_as_of(MARKET, BTC, moment)) == stood(log, moment)


def test_other_series_stay_out_of_it(tmp_path: Path) -> None:
    warehouse = Warehouse(database=str(tmp_path / "refresh.duckdb"))
    other = Series("ETH/USD", BTC.timeframe)
    stored(warehouse, [(NOW, {1: 10.0})])
    stored(warehouse, [(NOW, {2: 11.0})], other)
    assert found(warehouse.candles_as_of(MARKET, BTC, NOW)) == {1: 10.0}
    assert found(warehouse.candles_as_of(MARKET, other, NOW)) == {2: 11.0}


def test_the_documented_query_says_the_same(tmp_path: Path) -> None:
    (query,) = [text for text in re.findall(r"```sql\n(.*?)```", DATA.read_text(), re.DOTALL) if "union all" in text]
    warehouse = Warehouse(database=str(tmp_path / "refresh.duckdb"))
    log = [(NOW + timedelta(minutes=n), {1: 10.0 + n, 2 + n: 10.0}) for n in range(4)]
    stored(warehouse, log)
    moment = NOW + timedelta(minutes=2, seconds=30)
    query = query.replace("demo.", f"{MARKET.name}.").replace("2026-11-20 12:00", moment.strftime("%Y-%m-%d %H:%M:%S"))
    query = query.replace("BTC/USD", BTC.instrument).replace("'H1'", f"'{BTC.timeframe.value}'")
    with duckdb.connect(warehouse.database, read_only=True) as connection:
        rows = connection.execute(query).fetchall()
    assert [row[4] for row in rows] == list(stood(log, moment).values()) == [12.0, 10.0, 10.0, 10.0]
