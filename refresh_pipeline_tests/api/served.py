"""A real server of the API on loopback, over a small warehouse that is refreshed and exported."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from refresh_pipeline.api.access import rules_of
from refresh_pipeline.api.app import create_app
from refresh_pipeline.api.reading import OPENING
from refresh_pipeline.api.service import Service
from refresh_pipeline.api_files import load_collections
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.pipeline import compute, export
from refresh_pipeline.settings import Settings, load_settings
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens

KEY, READ_KEY = "a key that may do everything", "a key that may only read it"
FAIR = """
name: fair
source: {kind: demo}
calendar: crypto
instruments: {BTC/USD: {}, ETH/USD: {symbol: XETH}, SOL/USD: {}}
timeframes: [m5, H1]
history: 30d
indicators: {compute: [sma_10, mfi]}
"""
# It has BTC/USD as well, on another timeframe and on one of the same.
MALL = """
name: mall
source: {kind: demo}
calendar: crypto
instruments: [BTC/USD, ADA/USD]
timeframes: [H1, D1]
history: 30d
"""
BTC, ETH = Series("BTC/USD", Timeframe.m5), Series("ETH/USD", Timeframe.m5)
BARS = 1200
# When the newest candle of BTC/USD has just closed.
NOW = opens(1, BARS)[0].astype(datetime).replace(tzinfo=UTC) + timedelta(seconds=30)


@dataclass
class Shop:
    """A folder with two markets, of which one has candles."""

    root: Path
    settings: Settings
    markets: list[Market]

    @property
    def market(self) -> Market:
        return self.markets[0]

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(database=self.settings.warehouse, patience=30)

    @classmethod
    def opened(cls, root: Path, **variables: str) -> "Shop":
        for folder in ("home", "markets"):
            (root / folder).mkdir(parents=True)
        (root / "markets" / "fair.yaml").write_text(FAIR)
        (root / "markets" / "mall.yaml").write_text(MALL)
        (root / ".env").write_text("REFRESH_MARKETS=fair,mall\nREFRESH_MARKETS_DIR=markets\n")
        with inside(root):
            os.environ.update(variables)
            settings = load_settings(data_dir=str(root / "data"), markets_dir=str(root / "markets"))
            markets = load_markets(settings)
        shop = cls(root, settings, markets)
        for market in markets:
            shop.warehouse.prepare(market)
        return shop

    def refresh(self, arrivals: dict[Series, Any], now: datetime = NOW) -> None:
        """Store candles, compute what follows from them, and write the files.

        Not while a server in this process reads: two threads would open one file.
        """
        with OPENING:
            self._refresh(arrivals, now)

    def _refresh(self, arrivals: dict[Series, Any], now: datetime) -> None:
        self.warehouse.store_candles(self.market, arrivals, "demo", now)
        for table in (Table.enhanced_candles, Table.indicators):
            compute.compute(self.warehouse, self.market, table, list(arrivals))
        export.export(self.warehouse, self.market, self.settings.exports_dir, list(arrivals), now)
        self.warehouse.write_gaps(self.market, now)

    @classmethod
    def stocked(cls, root: Path, **variables: str) -> "Shop":
        shop = cls.opened(root, **variables)
        shop.refresh({BTC: candles(BARS), ETH: candles(300, seed=1)})
        return shop


@contextmanager
def served(shop: Shop, now: datetime = NOW) -> Iterator[httpx.Client]:
    """A client of a server over the shop, whose clock stands still."""
    service = Service.of(shop.settings, shop.markets, lambda: now, load_collections(shop.settings))
    with (
        uvicorn_of(service, shop.settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        wait_for(lambda: bool(service.feed.epoch))
        yield client


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def uvicorn_of(service: Service, settings: Settings) -> Iterator[int]:
    """The port of a server of this service."""
    config = uvicorn.Config(
        lambda: None, port=0, log_level="error", server_header=False, ws_max_size=65536, timeout_graceful_shutdown=1
    )
    sock = config.bind_socket()
    port = sock.getsockname()[1]
    config.app = create_app(service, rules_of(settings, "127.0.0.1", port))  # type: ignore[assignment]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
