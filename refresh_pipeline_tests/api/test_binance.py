"""`/binance`: against the table, with stock ccxt, and with a second instance that follows the first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ccxt
import httpx
import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.pipeline import compute
from refresh_pipeline.sources import Request
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.api.served import BARS, BTC, FAIR, NOW, Shop, served
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens, query

BASE = "/binance/fair/api/v3"
MILLISECONDS = "datetime64[ms]"
FEW = 60


def klines(client: httpx.Client, **params: Any) -> list[list[Any]]:
    answer = client.get(f"{BASE}/klines", params={"symbol": "BTCUSD", "interval": "5m", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stamp(number: int) -> int:
    return int(opens(1, number).astype(MILLISECONDS).astype(np.int64)[0])


def test_a_kline_has_twelve_fields_and_prices_to_the_last_digit(client: httpx.Client, shop: Shop) -> None:
    rows = klines(client)
    stored = query(
        shop.warehouse,
        f"select epoch_ms(open_time), {', '.join(CANDLE_COLUMNS)} from fair.raw_candles "
        "where instrument = 'BTC/USD' and timeframe = 'm5' order by open_time desc limit 500",
    )[::-1]
    assert [(row[0], *map(float, row[1:6])) for row in rows] == stored
    assert all(len(row) == 12 and isinstance(row[1], str) for row in rows)
    assert rows[0][6] == rows[1][0] - 1
    assert rows[0][7:] == ["0", 0, "0", "0", "0"]


@pytest.mark.parametrize(
    ("params", "first", "count"),
    [
        ({"startTime": 0, "limit": 3}, 0, 3),
        ({"startTime": stamp(10), "endTime": stamp(12)}, 10, 3),
        ({"startTime": stamp(10) + 1, "limit": 1}, 11, 1),
        ({"endTime": stamp(10), "limit": 2}, 9, 2),
        ({"limit": 5000}, BARS - 1000, 1000),
        ({"startTime": stamp(BARS)}, 0, 0),
    ],
)
def test_both_ends_are_included(client: httpx.Client, params: dict[str, int], first: int, count: int) -> None:
    assert [row[0] for row in klines(client, **params)] == [stamp(number) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("symbol=NOPE&interval=5m", -1121),
        ("symbol=btcusd&interval=5m", -1121),
        ("symbol=BTCUSD&interval=7m", -1120),
        ("symbol=BTCUSD&interval=1d", -1120),
        ("interval=5m", -1102),
        ("symbol=BTCUSD", -1102),
        ("symbol=BTCUSD&interval=5m&limit=0", -1130),
        ("symbol=BTCUSD&interval=5m&startTime=-1", -1130),
        ("symbol=BTCUSD&interval=5m&endTime=9999999999999999", -1130),
    ],
)
def test_a_wrong_request_has_the_venues_code(client: httpx.Client, query: str, code: int) -> None:
    answer = client.get(f"{BASE}/klines?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["msg"]


def test_the_weight_of_the_minute_is_counted(client: httpx.Client) -> None:
    used = [int(client.get(f"{BASE}/ping").headers["x-mbx-used-weight-1m"]) for _ in range(2)]
    assert used[1] == used[0] + 1
    assert int(client.get(f"{BASE}/time").json()["serverTime"]) == int(NOW.timestamp() * 1000)


def test_symbols_can_be_chosen(client: httpx.Client) -> None:
    def symbols(params: str) -> list[str]:
        return [one["symbol"] for one in client.get(f"{BASE}/exchangeInfo{params}").json()["symbols"]]

    assert symbols("") == ["BTCUSD", "ETHUSD", "SOLUSD"]
    assert symbols('?symbols=["ETHUSD","BTCUSD"]') == ["ETHUSD", "BTCUSD"]
    assert symbols("?symbolStatus=HALT") == []
    assert client.get(f"{BASE}/exchangeInfo?symbol=NOPE").json()["code"] == -1121
    assert client.get("/binance/nope/api/v3/exchangeInfo").json()["type"] == "/problems/unknown-market"


def test_stock_ccxt_reads_it(client: httpx.Client) -> None:
    exchange = ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}}})
    exchange.urls["api"]["public"] = f"{client.base_url}{BASE}"
    assert sorted(exchange.load_markets()) == ["BTC/USD", "ETH/USD", "SOL/USD"]
    rows = exchange.fetch_ohlcv("BTC/USD", "5m", limit=10)
    assert rows == [[row[0], *map(float, row[1:6])] for row in klines(client, limit=10)]
    with pytest.raises(ccxt.BadSymbol):
        exchange.fetch_ohlcv("DOGE/USD", "5m")


class Follower:
    """A second instance: the same market, whose source is the first one's address."""

    def __init__(self, root: Path, url: str) -> None:
        text = FAIR.replace("{kind: demo}", f'{{kind: binance, base_url: "{url}"}}').replace("{symbol: XETH}", "{}")
        self.market: Market = parse_market(text, "fair.yaml")
        self.warehouse = Warehouse(database=str(root / "follower.duckdb"), patience=30)
        self.warehouse.prepare(self.market)
        self.source = open_source(self.market, root / "limits")

    def refresh(self) -> None:
        request = Request(BTC, opens(1)[0], instant(NOW))
        for chunk in fetch(self.source, self.market, [request], NOW):
            assert chunk.error is None, chunk.error
            self.warehouse.store_candles(self.market, {BTC: chunk.candles}, "binance", NOW)
        compute_all(self.warehouse, self.market)


def test_a_second_instance_follows_the_first_through_a_correction(tmp_path: Path) -> None:
    shop, whole = Shop.opened(tmp_path / "first", REFRESH_API_RATE="100000"), candles(FEW)
    corrected = replace(whole, columns={**whole.columns, "high": whole["high"] * 1.01})
    store(shop, whole)
    with served(shop) as client:
        follower = Follower(tmp_path, f"{client.base_url}/binance/fair")
        follower.refresh()
        assert stored(follower.warehouse) == stored(shop.warehouse)
        store(shop, corrected)
        follower.refresh()
        assert stored(follower.warehouse) == stored(shop.warehouse)


def store(shop: Shop, arrived: Candles) -> None:
    shop.warehouse.store_candles(shop.market, {BTC: arrived}, "demo", NOW)
    compute_all(shop.warehouse, shop.market)


def compute_all(warehouse: Warehouse, market: Market) -> None:
    for table in (Table.enhanced_candles, Table.indicators):
        compute.compute(warehouse, market, table, [BTC])


def stored(warehouse: Warehouse) -> list[list[tuple]]:
    """Candles and all that is computed of them."""
    where = "where timeframe = 'm5' order by instrument, open_time"
    raw = query(warehouse, f"select instrument, open_time, {', '.join(CANDLE_COLUMNS)} from fair.raw_candles {where}")
    tables = [query(warehouse, f"select * from fair.{table} {where}") for table in ("enhanced_candles", "indicators")]
    return [raw, *tables]
