"""Where series have no candles: one question for all of them, held against looking candle by candle."""

from datetime import timedelta

import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, ETH, FIRST, NOW, candles, flat, market_of, opens

MARKET = market_of()
END = opens(101)[-1]


def found(warehouse: Warehouse, since: np.datetime64 = FIRST, until: np.datetime64 = END) -> dict[str, list[tuple]]:
    empty = warehouse.empty_between(MARKET, {BTC: since, ETH: since}, until)
    return {series.instrument: list(zip(*map(_numbers, both), strict=True)) for series, both in empty.items()}


def _numbers(times: Times) -> list[int | None]:
    assert times.dtype == TIME_UNIT
    return [None if np.isnat(each) else int((each - FIRST) / np.timedelta64(5, "m")) for each in times]


def test_holes_lie_between_two_candles_or_at_an_end(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: flat(1.5, 3, 4, 5, 9, 10, 20)}, "test", NOW)
    assert found(warehouse) == {
        "BTC/USD": [(None, 3), (5, 9), (10, 20), (20, None)],
        "ETH/USD": [(None, None)],
    }


def test_candles_outside_the_stretch_count_for_nothing(warehouse: Warehouse):
    warehouse.store_candles(MARKET, {BTC: candles(100), ETH: flat(1.5, 1, 50)}, "test", NOW)
    since, until = opens(1, 10)[0], opens(1, 20)[0]
    # Both ends are told even where nothing is missing: whether a bar is to be expected there is the calendar's to say.
    assert found(warehouse, since, until) == {"BTC/USD": [(None, 10), (19, None)], "ETH/USD": [(None, None)]}


def test_candles_off_the_grid_are_no_holes(warehouse: Warehouse):
    early = flat(1.5, 0, 1, 2)
    late = flat(1.5, 3)
    shifted = type(late)(late.open_time - np.timedelta64(1, "m"), late.columns)
    warehouse.store_candles(MARKET, {BTC: early}, "test", NOW)
    warehouse.store_candles(MARKET, {BTC: shifted}, "test", NOW + timedelta(minutes=1))
    assert [each for each in found(warehouse)["BTC/USD"] if None not in each] == []


def test_nothing_asked_is_nothing_found(warehouse: Warehouse):
    assert warehouse.empty_between(MARKET, {}, END) == {}
