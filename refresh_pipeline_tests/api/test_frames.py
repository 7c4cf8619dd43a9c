"""Rows of many columns are read by table: the same rows as one statement joins."""

import numpy as np
import pytest

from refresh_pipeline.api import frames
from refresh_pipeline.api.frames import Names, Window, columns_of, read_window
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline_tests.api.served import BTC, Shop
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop whose enhanced candles lie in no order, and lack some indicators."""
    shop = Shop.opened(tmp_path_factory.mktemp("frames") / "shop")
    shop.refresh({BTC: candles(60)})
    enhanced, indicators = (qualified("fair", table) for table in (Table.enhanced_candles, Table.indicators))
    with connect(shop.settings.warehouse, patience=30) as connection:
        connection.execute(f"create temp table shuffled as select * from {enhanced} order by hash(open_time)")
        connection.execute(f"delete from {enhanced}")
        connection.execute(f"insert into {enhanced} select * from shuffled")
        connection.execute(f"delete from {indicators} where minute(open_time) % 15 = 0")
    return shop


@pytest.mark.parametrize(
    "window",
    [
        Window(20),
        Window(500),
        Window(7, until=opens(1, 31)[0]),
        Window(9, since=opens(1, 20)[0]),
        Window(9, since=opens(1, 55)[0]),
        Window(5, since=opens(1, 900)[0]),
    ],
)
def test_many_columns_have_the_values_of_few(holed: Shop, window: Window) -> None:
    market = holed.market
    columns = columns_of(market, Layer.joined, Names.own)
    assert len(columns) > frames.FEW_COLUMNS
    with connect(holed.settings.warehouse, read_only=True, patience=30) as connection:
        many = read_window(connection, market, columns, BTC, window)
        for first in range(1, len(columns), 12):
            few = read_window(connection, market, [columns[0], *columns[first : first + 12]], BTC, window)
            for name, values in few.items():
                np.testing.assert_array_equal(many[name], values)
    if window == Window(500):
        # The first nine are unknown, and of the others every third is deleted.
        assert np.isnan(many["sma_10"]).sum() == 9 + 17
        assert not np.isnan(many["median"]).any()
