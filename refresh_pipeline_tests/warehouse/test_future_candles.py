"""No candle that closes later than now is stored."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, market_of, prepared, query


def test_a_candle_that_has_not_closed_is_rejected_with_the_reason(tmp_path: Path) -> None:
    market, now = market_of(), datetime.now(UTC).replace(hour=0, minute=7, second=0, microsecond=0) + timedelta(days=40)
    warehouse = prepared(tmp_path, market)
    opens = instant(now.replace(minute=0)) + np.timedelta64(5, "m") * np.array([0, 1, 2, 9_000])
    candles = Candles(opens, {name: np.full(4, 7.0) for name in CANDLE_COLUMNS})
    stored = warehouse.store_candles(market, {BTC: candles}, "test", now)
    assert (stored[BTC].added, stored[BTC].rejected) == (1, 3)
    assert query(warehouse, "select distinct reason from fair.rejected_candles") == [("closes later than now",)]
