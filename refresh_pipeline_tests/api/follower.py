"""An instance that follows another one's candles over `/binance`; imports nothing that only tests need."""

from pathlib import Path

from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.pipeline import compute
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.binance import BinanceSource
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.api.served import BTC, FAIR, NOW
from refresh_pipeline_tests.warehouse.warehouse_fixtures import opens


class Follower:
    """A second instance: the same market, whose source is the first one's address."""

    def __init__(self, root: Path, url: str) -> None:
        text = FAIR.replace("{kind: demo}", f'{{kind: binance, base_url: "{url}"}}').replace("{symbol: XETH}", "{}")
        self.market: Market = parse_market(text, "fair.yaml")
        self.warehouse = Warehouse(database=str(root / "follower.duckdb"), patience=30)
        self.warehouse.prepare(self.market)
        # Where nobody answers, it gives up within a second.
        self.source = BinanceSource(self.market, root / "limits", retry_policy=RetryPolicy(attempts=3, first_wait=0.1))

    def refresh(self) -> None:
        request = Request(BTC, opens(1)[0], instant(NOW))
        for chunk in fetch(self.source, self.market, [request], NOW):
            assert chunk.error is None, chunk.error
            self.warehouse.store_candles(self.market, {BTC: chunk.candles}, "binance", NOW)
        compute_all(self.warehouse, self.market)


def compute_all(warehouse: Warehouse, market: Market) -> None:
    for table in (Table.enhanced_candles, Table.indicators):
        compute.compute(warehouse, market, table, [BTC])
