"""Rows computed when they are read equal the stored ones, and nothing is written for them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.compute_on_read import computed_rows
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.sample_bars import differing
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, ETH, NOW, candles, opens, prepared

MARKET = parse_market(
    "{name: fair, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD], timeframes: [m5], history: 30d, "
    "indicators: {compute: [ema, rsi, supertrend, sar, vwap, macd], keep: {m5: 2d}}}",
    file="test.yaml",
)
COUNT = 2000
KEPT_FOR_EVER = MARKET.model_copy(update={"indicators": MARKET.indicators.model_copy(update={"keep": {}})})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, Market]:
    warehouse = prepared(tmp_path_factory.mktemp("warehouse"), KEPT_FOR_EVER)
    warehouse.store_candles(KEPT_FOR_EVER, {BTC: candles(COUNT)}, "test", NOW)
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(KEPT_FOR_EVER, table, [BTC])
    return warehouse, KEPT_FOR_EVER


def read(warehouse: Warehouse, table: Table) -> dict[str, NDArray]:
    with warehouse.reader() as connection:
        return arrays_of(
            connection, f"select * exclude (instrument, timeframe) from fair.{table.value} order by open_time"
        )


@pytest.mark.parametrize("table", [Table.enhanced_candles, Table.indicators])
@pytest.mark.parametrize(("first", "end"), [(0, COUNT), (0, 1), (700, 900), (1990, COUNT), (1200, 1999)])
def test_any_stretch_equals_the_stored_rows(
    stored: tuple[Warehouse, Market], table: Table, first: int, end: int
) -> None:
    warehouse, market = stored
    expected = read(warehouse, table)
    pieces = list(
        computed_rows(
            warehouse.reader,
            market,
            table,
            BTC,
            since=opens(1, first)[0],
            until=None if end == COUNT else opens(1, end)[0],
            cells_at_once=25_000,
        )
    )
    assert len(pieces) > 1 or end - first < 500
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    assert found["open_time"].tolist() == opens(end - first, first).tolist()
    for name in expected.keys() - {"open_time"}:
        values = expected[name][first:end]
        as_computed = values if values.dtype == object else values.astype(np.float64)
        assert not len(differing(found[name], as_computed, 0.0)), name


def test_rows_that_are_not_kept_are_computed_as_they_were_stored(stored: tuple[Warehouse, Market]) -> None:
    warehouse, market = stored
    expected = read(warehouse, Table.indicators)
    warehouse.prepare(MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(1, COUNT)}, "test", NOW)
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(MARKET, table, [BTC])
    kept = read(warehouse, Table.indicators)["open_time"]
    assert len(kept) < COUNT / 2
    [found] = computed_rows(warehouse.reader, market, Table.indicators, BTC, columns=["ema_10"], until=kept[0])
    assert list(found) == ["open_time", "ema_10"]
    assert len(found["ema_10"]) == COUNT + 1 - len(kept)
    assert not len(differing(found["ema_10"], expected["ema_10"][: len(found["ema_10"])], 0.0))


def test_a_series_without_candles_has_no_rows_and_an_unknown_column_is_an_error(
    stored: tuple[Warehouse, Market],
) -> None:
    warehouse, market = stored
    assert list(computed_rows(warehouse.reader, market, Table.indicators, ETH)) == []
    with pytest.raises(ValueError, match="no column emma"):
        list(computed_rows(warehouse.reader, market, Table.indicators, BTC, columns=["emma"]))
