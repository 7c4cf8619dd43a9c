"""`/binance`: against the table, with stock ccxt, and with a second instance that follows the first."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ccxt
import httpx
import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.api.follower import Follower, compute_all
from refresh_pipeline_tests.api.served import BARS, BTC, NOW, Shop, served, wait_for
from refresh_pipeline_tests.end_to_end.programs import free_port
from refresh_pipeline_tests.isolated_env import inside
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


# The first instance, and a second one that fetches all the time; both as processes that can be killed.
SERVE = """
import sys
from pathlib import Path
from refresh_pipeline.api.serving import server_of
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.settings import load_settings
settings = load_settings(data_dir=sys.argv[1], markets_dir=sys.argv[2])
server_of(settings, load_markets(settings), "127.0.0.1", int(sys.argv[3])).run()
"""
FOLLOW = """
import sys
from pathlib import Path
from refresh_pipeline_tests.api.follower import Follower
follower = Follower(Path(sys.argv[1]), sys.argv[2])
while True:
    follower.refresh()
    print("refreshed", flush=True)
"""


@contextmanager
def process(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            # As a machine ends it that loses power.
            started.kill()


def test_a_second_instance_follows_through_kills_of_both(tmp_path: Path) -> None:
    shop, whole, port = Shop.opened(tmp_path / "first", REFRESH_API_RATE="100000"), candles(FEW), free_port()
    store(shop, whole)
    url = f"http://127.0.0.1:{port}/binance/fair"
    with inside(shop.root):
        os.environ["REFRESH_API_RATE"] = "100000"
        serving = (SERVE, str(shop.settings.data), str(shop.root / "markets"), str(port))
        with process(*serving):
            wait_for(lambda: answers(f"{url}/api/v3/ping"), 60)
            with process(FOLLOW, str(tmp_path), url) as follower:
                assert follower.stdout is not None
                assert follower.stdout.readline() == "refreshed\n"
        survivor = Follower(tmp_path, url)
        with pytest.raises(AssertionError, match="no answer"):
            survivor.refresh()
        store(shop, replace(whole, columns={**whole.columns, "high": whole["high"] * 1.01}))
        with process(*serving):
            wait_for(lambda: answers(f"{url}/api/v3/ping"), 60)
            survivor.refresh()
    assert stored(survivor.warehouse) == stored(shop.warehouse)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


FREQTRADE = shutil.which("freqtrade")


@pytest.mark.skipif(
    FREQTRADE is None, reason="freqtrade is not installed (pip install freqtrade, in a folder of its own)"
)
def test_freqtrade_downloads_from_it(client: httpx.Client, shop: Shop, tmp_path: Path) -> None:
    assert FREQTRADE is not None
    public = {"urls": {"api": {"public": f"{client.base_url}{BASE}"}}, "options": {"fetchMarkets": {"types": ["spot"]}}}
    config = {
        "stake_currency": "USD",
        "exchange": {
            "name": "binance",
            "pair_whitelist": ["BTC/USD"],
            "ccxt_config": public,
            "ccxt_async_config": public,
            "only_from_ccxt": True,
        },
    }
    (tmp_path / "user_data").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    folders = ["--config", str(tmp_path / "config.json"), "--datadir", str(tmp_path / "data")]
    asked = ["--pairs", "BTC/USD", "-t", "5m", "--timerange", "20240101-20240103", "--data-format-ohlcv", "json"]
    result = subprocess.run(
        [FREQTRADE, "download-data", *folders, *asked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    [file] = (tmp_path / "data").glob("BTC_USD-5m.json")
    rows = json.loads(file.read_text())
    expected = [[row[0], *map(float, row[1:6])] for row in klines(client, startTime=rows[0][0], limit=len(rows))]
    # It writes ten decimals.
    np.testing.assert_allclose(rows, expected, rtol=1e-9)
    assert len(rows) >= 2 * 288


def store(shop: Shop, arrived: Candles) -> None:
    shop.warehouse.store_candles(shop.market, {BTC: arrived}, "demo", NOW)
    compute_all(shop.warehouse, shop.market)


def stored(warehouse: Warehouse) -> list[list[tuple]]:
    """Candles and all that is computed of them."""
    where = "where timeframe = 'm5' order by instrument, open_time"
    raw = query(warehouse, f"select instrument, open_time, {', '.join(CANDLE_COLUMNS)} from fair.raw_candles {where}")
    tables = [query(warehouse, f"select * from fair.{table} {where}") for table in ("enhanced_candles", "indicators")]
    return [raw, *tables]
