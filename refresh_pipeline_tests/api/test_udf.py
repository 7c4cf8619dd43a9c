"""`/udf`: TradingView's protocol, against the table."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from refresh_pipeline.api.service import Service
from refresh_pipeline.api.udf import trading_times
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.api.served import BARS, BTC, MALL, NOW, Shop, served, uvicorn_of
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, opens, prices, query

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


# What a charting library shows at first, and what it adds where somebody scrolls.
AT_FIRST, A_PAGE, A_PAGE_OF_DAYS = 330, 700, 25
WALKED = {
    "fx": ("EUR/USD", ["H1", "D1"], ("1700-1700", "America/New_York"), "forex"),
    "nse": ("RELIANCE", ["m15", "D1", "W1"], ("0915-1530", "Asia/Kolkata"), "stock"),
    "crypto": ("BTC/USD", ["H4", "MN1"], ("24x7", "Etc/UTC"), "crypto"),
}
FIRST_DAY, LAST_DAY = np.datetime64("2025-12-01T00:00", "us"), np.datetime64("2026-03-14T12:00", "us")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, dict[str, Market]]]:
    """A client of markets on three calendars, each with all candles of some months."""
    shop = Shop.opened(tmp_path_factory.mktemp("walk") / "shop", REFRESH_API_RATE="100000")
    markets, now = {}, LAST_DAY.astype(datetime).replace(tzinfo=UTC)
    for name, (instrument, timeframes, *_) in WALKED.items():
        changed = {"name": name, "calendar": name, "instruments": [instrument], "timeframes": timeframes}
        market = markets[name] = Market.model_validate({**yaml.safe_load(MALL), **changed})
        shop.warehouse.prepare(market)
        shop.warehouse.store_candles(market, {each: whole(market, each) for each in market.series}, "demo", now)
    service = Service.of(shop.settings, list(markets.values()), lambda: now)
    with uvicorn_of(service, shop.settings) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}/udf") as client:
        yield client, markets


def whole(market: Market, series: Series) -> Candles:
    times = market.calendar.open_times(series.timeframe, FIRST_DAY, LAST_DAY)
    return Candles(times, prices(len(times)))


@pytest.mark.parametrize("name", WALKED)
def test_a_charting_library_walks_through_a_market(walked: tuple[httpx.Client, dict[str, Market]], name: str) -> None:
    client, markets = walked
    market, (instrument, _, session, kind) = markets[name], WALKED[name]
    offered = client.get("config").json()
    assert offered["supports_search"] is not offered["supports_group_request"]
    assert {"value": name, "name": name, "desc": name} in offered["exchanges"]
    assert {"value": kind, "name": kind} in offered["symbols_types"]
    asked = {"query": instrument[:3].lower(), "type": kind, "exchange": name, "limit": 30}
    [found] = client.get("search", params=asked).json()
    info = client.get("symbols", params={"symbol": found["ticker"]}).json()
    assert (info["ticker"], info["session"], info["timezone"]) == (f"{name}:{instrument}", *session)
    assert (info["type"], info["minmov"], info["has_intraday"]) == (kind, 1, True)
    assert set(info["supported_resolutions"]) <= set(offered["supported_resolutions"])
    for resolution, series in zip(info["supported_resolutions"], market.series, strict=True):
        stored = whole(market, series)
        shown = trading_times(series.timeframe, stored.open_time).astype("datetime64[s]").astype(np.int64).tolist()
        bars = scrolled(client, info["ticker"], resolution)
        assert [bar[0] for bar in bars] == shown
        assert [bar[4] for bar in bars] == stored.columns["close"].tolist()


def scrolled(client: httpx.Client, ticker: str, resolution: str) -> list[tuple[float, ...]]:
    """All bars as a chart asks for them: the newest, older ones page by page, and the newest again."""
    now = int(client.get("time").text)
    bars: list[tuple[float, ...]] = []
    to, more = now, A_PAGE if resolution.isdigit() else A_PAGE_OF_DAYS
    count = AT_FIRST if resolution.isdigit() else more
    while True:
        # `from` is a guess of the library's; the count decides.
        asked = {"symbol": ticker, "resolution": resolution, "from": to - 3600, "to": to, "countback": count}
        page = client.get("history", params=asked).json()
        if page["s"] == "no_data":
            assert "nextTime" not in page
            break
        rows = list(zip(*(page[column] for column in "tohlcv"), strict=True))
        assert len(rows) <= count
        bars, to, count = rows + bars, page["t"][0], more
    polled = {"symbol": ticker, "resolution": resolution, "from": bars[-1][0], "to": now + 86_400}
    newest = client.get("history", params=polled).json()
    assert (newest["t"], newest["c"]) == ([bars[-1][0]], [bars[-1][4]])
    return bars
