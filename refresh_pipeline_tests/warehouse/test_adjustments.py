"""Splits and dividends in the warehouse: stored once, and followed by views, the notebook and the client."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.client.folder import FolderPlace
from refresh_pipeline.client.place import Question
from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind, adjusted
from refresh_pipeline.warehouse import adjustments
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.versions import changes
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, ETH, NOW, candles, market_of, opens

MARKET = market_of()
TIMES = opens(10)
SPLIT = Adjustment("BTC/USD", TIMES[3], AdjustmentKind.split, 4.0, False)
DIVIDEND = Adjustment("BTC/USD", TIMES[6], AdjustmentKind.dividend, 2.0, False)
KNOWN = Adjustment("BTC/USD", TIMES[1], AdjustmentKind.split, 10.0, True)


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.prepare(MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(10), ETH: candles(10, seed=1)}, "test", NOW)
    return warehouse


def view(warehouse, series):
    with warehouse.reader() as connection:
        return arrays_of(
            connection,
            "select * from fair.adjusted_candles where instrument = ? and timeframe = ? order by open_time",
            [series.instrument, series.timeframe.value],
        )


def test_candles_before_a_split_and_a_dividend_follow_them(warehouse):
    raw = candles(10)
    assert warehouse.store_adjustments(MARKET, [SPLIT, DIVIDEND, KNOWN], "test", NOW) == 3
    dividend = 1 - 2.0 / raw["close"][5]
    price = np.array([dividend / 4] * 3 + [dividend] * 3 + [1.0] * 4)
    volume = np.array([4.0] * 3 + [1.0] * 7)
    found = view(warehouse, BTC)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(found[name], raw[name] * price, rtol=1e-15)
    np.testing.assert_allclose(found["volume"], raw["volume"] * volume, rtol=1e-15)
    with warehouse.reader() as connection:
        factors = adjustments.factors_of(connection, MARKET.name, BTC)
    same = adjusted(raw.open_time, raw.columns, factors)
    np.testing.assert_array_equal(same["close"], found["close"])
    # Another instrument's candles, and raw ones, are as they came.
    np.testing.assert_array_equal(view(warehouse, ETH)["close"], candles(10, seed=1)["close"])
    question = Question("candles", "BTC/USD", "m5", "fair", None, None, 3, ["close"])
    place = FolderPlace(Path(warehouse.database))
    np.testing.assert_array_equal(place.rows(question)["close"], raw["close"][-3:])
    older = replace(question, until=TIMES[3].item(), adjusted=True)
    np.testing.assert_array_equal(place.rows(older)["close"], found["close"][:3])


def test_what_is_told_again_changes_nothing_and_a_correction_takes_its_place(warehouse):
    warehouse.store_adjustments(MARKET, [SPLIT], "test", NOW)
    with warehouse.reader() as connection:
        known = changes(connection).version
    assert warehouse.store_adjustments(MARKET, [SPLIT, SPLIT], "test", NOW + timedelta(days=1)) == 0
    with warehouse.reader() as connection:
        assert changes(connection, known).changes == []
    assert warehouse.store_adjustments(MARKET, [replace(SPLIT, value=2.0)], "test", NOW) == 1
    np.testing.assert_array_equal(view(warehouse, BTC)["close"][:3], candles(10)["close"][:3] / 2)
    with warehouse.reader() as connection:
        told = changes(connection, known).changes
        assert [(change.asset, change.instrument, change.since) for change in told] == [
            ("raw_candles", "BTC/USD", TIMES[0].item())
        ]


def test_a_dividend_above_the_price_or_before_all_candles_changes_nothing(warehouse):
    early = replace(DIVIDEND, ex_time=TIMES[0])
    warehouse.store_adjustments(MARKET, [replace(DIVIDEND, value=1e9), early], "test", NOW)
    np.testing.assert_array_equal(view(warehouse, BTC)["close"], candles(10)["close"])
