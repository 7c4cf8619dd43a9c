"""`/udf`: TradingView's protocol, against the table."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from refresh_pipeline.api.service import Service
from refresh_pipeline.api.udf import trading_times
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.api.served import BARS, BTC, MALL, NOW, Shop, served, uvicorn_of
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens, query

SYMBOL = "fair:BTC/USD"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop.stocked(tmp_path_factory.mktemp("udf") / "shop", REFRESH_API_RATE="100000")
    whole = candles(BARS)
    late = replace(whole, columns={**whole.columns, "close": np.r_[whole["close"][:-3], whole["close"][-3:] * 1.0001]})
    shop.refresh({BTC: late})
    return shop


@pytest.fixture(scope="module")
def client(shop: Shop) -> Iterator[httpx.Client]:
    with served(shop) as client:
        yield client


def stamp(number: int) -> int:
    return int(opens(1, number).astype("datetime64[s]").astype(np.int64)[0])


def ask(client: httpx.Client, route: str, **params: Any) -> Any:
    answer = client.get(f"/udf/{route}", params={"symbol": SYMBOL, "resolution": "5", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_bars_are_what_the_table_holds_up_to_the_end_which_is_excluded(client: httpx.Client, shop: Shop) -> None:
    bars = ask(client, "history", **{"from": stamp(10), "to": stamp(20)})
    rows = query(
        shop.warehouse,
        "select epoch(open_time)::bigint, open, high, low, close, volume from fair.raw_candles where "
        "instrument = 'BTC/USD' and timeframe = 'm5' order by open_time limit 10 offset 10",
    )
    assert bars["s"] == "ok"
    assert list(zip(*(bars[name] for name in "tohlcv"), strict=True)) == rows


def test_countback_wins_over_from(client: httpx.Client) -> None:
    bars = ask(client, "history", **{"from": stamp(19), "to": stamp(20), "countback": 5})
    assert bars["t"] == [stamp(number) for number in range(15, 20)]


def test_no_data_names_the_bar_before(client: httpx.Client) -> None:
    later = {"from": stamp(BARS), "to": stamp(BARS + 10)}
    assert ask(client, "history", **later) == {"s": "no_data", "nextTime": stamp(BARS - 1)}
    assert ask(client, "history", **{"from": 0, "to": 1000}) == {"s": "no_data"}


@pytest.mark.parametrize(
    "params",
    [{"symbol": "fair:NOPE"}, {"symbol": "nope:BTC/USD"}, {"resolution": "7"}, {"from": "x"}, {"resolution": "1D"}],
)
def test_a_wrong_request_is_an_error_with_200(client: httpx.Client, params: dict[str, str]) -> None:
    body = ask(client, "history", **params)
    assert body["s"] == "error"
    assert body["errmsg"]


def test_a_symbol_is_described(client: httpx.Client) -> None:
    info = ask(client, "symbols")
    wanted = {"ticker": SYMBOL, "session": "24x7", "timezone": "Etc/UTC", "data_status": "delayed_streaming"}
    assert wanted.items() <= info.items()
    assert info["supported_resolutions"] == ["5", "60"]
    assert info["pricescale"] in [10**digits for digits in range(9)]
    assert ask(client, "symbols", symbol="nope")["s"] == "error"


def test_symbols_are_searched(client: httpx.Client) -> None:
    found = ask(client, "search", query="usd", exchange="fair", limit=2)
    assert [one["symbol"] for one in found] == ["BTC/USD", "ETH/USD"]
    assert ask(client, "search", query="ada")[0]["ticker"] == "mall:ADA/USD"
    assert ask(client, "search", query="", type="stock") == []


def test_the_server_says_what_it_offers_and_its_time(client: httpx.Client) -> None:
    offered = ask(client, "config")
    assert offered["supported_resolutions"] == ["5", "60", "1D"]
    assert client.get("/udf/time").text == str(int(NOW.timestamp()))


def test_marks_show_fractals_crosses_and_corrections(client: httpx.Client) -> None:
    marks = ask(client, "marks", **{"from": stamp(0), "to": stamp(BARS)})
    assert set(marks["label"]) == {"▲", "▼", "0", "c"}
    assert len({len(values) for values in marks.values()}) == 1
    corrected = ask(client, "timescale_marks", **{"from": stamp(0), "to": stamp(BARS)})
    assert [mark["time"] for mark in corrected] == [stamp(number) for number in range(BARS - 3, BARS)]
    assert ask(client, "marks", symbol="fair:SOL/USD")["id"] == []


@pytest.mark.parametrize(
    ("calendar", "timeframe", "dates"),
    [
        ("crypto", Timeframe.D1, ["2026-03-06", "2026-03-07", "2026-03-08", "2026-03-09", "2026-03-10"]),
        # Over a change of the clock in New York, and over a weekend.
        ("fx", Timeframe.D1, ["2026-03-06", "2026-03-09", "2026-03-10"]),
        ("fx", Timeframe.W1, ["2026-03-09"]),
        ("nse", Timeframe.D1, ["2026-03-06", "2026-03-09", "2026-03-10"]),
        ("nse", Timeframe.MN1, ["2026-03-01"]),
    ],
)
def test_days_carry_their_trading_date(calendar: str, timeframe: Timeframe, dates: list[str]) -> None:
    bounds = np.array(["2026-03-05T12:00", "2026-03-10T12:00"], dtype="datetime64[us]")
    if timeframe is Timeframe.MN1:
        bounds = np.array(["2026-02-27", "2026-03-10"], dtype="datetime64[us]")
    times = CALENDARS[calendar].open_times(timeframe, *bounds)
    assert trading_times(timeframe, times).astype("datetime64[D]").astype(str).tolist() == dates


def test_an_exchange_has_its_own_hours(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop")
    shares = Market.model_validate({**yaml.safe_load(MALL), "calendar": "XNYS", "instruments": ["AAPL"]})
    with uvicorn_of(Service.of(shop.settings, [shares]), shop.settings) as port:
        url = f"http://127.0.0.1:{port}/udf"
        found = httpx.get(f"{url}/symbols", params={"symbol": "mall:AAPL"}).json()
        listed = httpx.get(f"{url}/search", params={"query": "aap", "type": "stock"}).json()
    assert (found["session"], found["timezone"], found["type"]) == ("0930-1600", "America/New_York", "stock")
    assert [one["symbol"] for one in listed] == ["AAPL"]
