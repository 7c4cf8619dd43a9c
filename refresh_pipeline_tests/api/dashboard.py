"""A market to look at, and a server of its dashboard that can be ended and begun again on the same port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import uvicorn

from refresh_pipeline.api.access import rules_of
from refresh_pipeline.api.app import create_app
from refresh_pipeline.api.service import Service
from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.pipeline import compute, export
from refresh_pipeline.settings import Settings, load_settings
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.demo import DemoSource
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.api.served import wait_for
from refresh_pipeline_tests.end_to_end.programs import free_port
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import change

NOW = datetime(2026, 1, 7, 12, 0, 30, tzinfo=UTC)
BARS, FEW = 200, 3
STUB = (Path(__file__).parent / "dashboard_stub.js").read_text(encoding="utf-8")
# The clock of a page stands where the server's does.
CLOCK = f"""(() => {{
  const Real = Date, shift = {int(NOW.timestamp() * 1000)} - Real.now();
  window.Date = class extends Real {{
    constructor(...given) {{ if (given.length) super(...given); else super(Real.now() + shift); }}
    static now() {{ return Real.now() + shift; }}
  }};
}})()"""


# The shipped market, with a shorter history.
DEMO = """
name: demo
source: {kind: demo, seed: 1}
calendar: crypto
instruments: [BTC/USD, ETH/USD, EUR/USD, USD/JPY, XAU/USD, SPX500, AAPL, RELIANCE]
timeframes: [m5, m15, H1, H4, D1]
history: {m5: 1000m, m15: 3000m, H1: 200h, H4: 800h, D1: 200d}
indicators: {compute: [sma_10, rsi_14, mfi]}
"""


@dataclass
class Stage:
    """The settings and the market that the dashboard shows."""

    settings: Settings
    market: Market

    @classmethod
    def set_up(cls, root: Path, **variables: str) -> "Stage":
        """A simulated market, with a gap, a correction, a series that is behind, and a few files."""
        (root / "home").mkdir(parents=True)
        (root / "markets").mkdir()
        (root / "markets" / "demo.yaml").write_text(DEMO)
        lines = [f"{name}={value}" for name, value in {"REFRESH_API_RATE": "100000", **variables}.items()]
        (root / ".env").write_text("\n".join(lines))
        with inside(root):
            settings = load_settings(data_dir=str(root / "data"), markets_dir=str(root / "markets"))
            [market] = load_markets(settings)
        stage = cls(settings, market)
        stage._stock()
        return stage

    def _stock(self) -> None:
        warehouse = Warehouse(database=str(self.settings.database), patience=30)
        warehouse.prepare(self.market)
        arrivals = {series: _history(self.market, series) for series in self.market.series}
        gold = Series("XAU/USD", Timeframe.m15)
        arrivals[gold] = arrivals[gold].where(np.arange(BARS) < BARS - 12)
        euro = Series("EUR/USD", Timeframe.H1)
        arrivals[euro] = arrivals[euro].where(~np.isin(np.arange(BARS), range(100, 130)))
        warehouse.store_candles(self.market, arrivals, "demo", NOW - timedelta(hours=1))
        bitcoin = Series("BTC/USD", Timeframe.H1)
        whole = arrivals[bitcoin]
        closes = np.where(np.arange(BARS) == BARS - 20, whole["close"] * 1.0005, whole["close"])
        corrected = {**whole.columns, "close": closes, "high": np.maximum(whole["high"], closes)}
        warehouse.store_candles(self.market, {bitcoin: replace(whole, columns=corrected)}, "demo", NOW)
        compute.compute(warehouse, self.market, Table.enhanced_candles, list(arrivals))
        compute.compute(warehouse, self.market, Table.indicators, list(arrivals)[:FEW])
        export.export(warehouse, self.market, self.settings.exports_dir, list(arrivals)[:FEW], NOW)
        warehouse.write_gaps(self.market, NOW)
        change(warehouse, "checkpoint")


def _history(market: Market, series: Series) -> Candles:
    """The newest closed bars of a simulated series."""
    since = NOW - timedelta(minutes=series.timeframe.minutes * (BARS + 1))
    [chunk] = DemoSource(market).fetch([Request(series, instant(since), instant(NOW))], NOW)
    return chunk.candles.where(np.arange(len(chunk.candles.open_time)) >= len(chunk.candles.open_time) - BARS)


class Server:
    """A server of the dashboard; it can be ended, and begun again at the same address."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.port = stage, free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        service = Service.of(self._stage.settings, [self._stage.market], lambda: NOW)
        app = create_app(service, rules_of(self._stage.settings, "127.0.0.1", self.port))
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            port=self.port,
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started and service.feed.version > 0, 60)

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


@contextmanager
def serving(stage: Stage) -> Iterator[Server]:
    """A server while the block runs."""
    server = Server(stage)
    server.begin()
    try:
        yield server
    finally:
        server.end()
