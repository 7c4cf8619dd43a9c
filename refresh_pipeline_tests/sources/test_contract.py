"""Every kind of venue against the same faulty answers: empty, repeated, out of order, doubled, cut, forming."""

import gzip
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.sources import Fetched, Request, TransientError
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.fakes.chart_venues import KEY, FakeAlpaca, FakeBybit, FakeOkx
from refresh_pipeline_tests.fakes.dhan import FakeDhan
from refresh_pipeline_tests.fakes.fxcm import FakeFxcm
from refresh_pipeline_tests.fakes.http_server import LoopbackServer
from refresh_pipeline_tests.fakes.json_apis import FakeJsonApi
from refresh_pipeline_tests.fakes.kraken import FakeKraken
from refresh_pipeline_tests.fakes.oanda import FakeOanda

Rows = list[Any]
Change = Callable[[Rows], Rows]
# The client gives up far earlier; a loop without an end has asked more often.
MOST_REQUESTS = 60


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Kind:
    """A kind of source: its fake, a market on it, what is asked for, and where the rows lie in an answer."""

    fake: Callable[[datetime], LoopbackServer]
    now: datetime
    source: str
    series: str
    since: str
    # The part of a path that an answer with rows has.
    path: str
    calendar: str = "crypto"
    details: str = "{}"
    # Several pages, where an answer has an end.
    long_since: str = ""
    rows: Callable[[Any], Rows] = lambda body: body
    with_rows: Callable[[Any, Rows], Any] = lambda body, rows: rows


def columns_as_rows(body: Mapping[str, list[Any]]) -> Rows:
    return list(zip(*body.values(), strict=True))


def rows_as_columns(body: Mapping[str, list[Any]], rows: Rows) -> Any:
    return {name: [row[number] for row in rows] for number, name in enumerate(body)}


def kraken_rows(body: Any) -> Rows:
    return next(rows for rows in body["result"].values() if isinstance(rows, list))


def with_kraken_rows(body: Any, rows: Rows) -> Any:
    return body | {"result": {name: rows if isinstance(had, list) else had for name, had in body["result"].items()}}


KINDS = {
    "binance": Kind(
        lambda now: FakeBinance(now=now), at("2024-06-01T12:00:30"), "binance", "BTC/USDT|m1", "2024-06-01T11:30",
        "/klines", long_since="2024-05-30",
    ),
    "oanda": Kind(
        FakeOanda, at("2024-06-07T12:30:30"), "oanda", "EUR/USD|m1", "2024-06-07T12:00", "/candles", "fx",
        long_since="2024-06-03", rows=lambda body: body["candles"],
        with_rows=lambda body, rows: body | {"candles": rows},
    ),
    "dhan": Kind(
        FakeDhan, at("2024-06-14T05:32:30"), "dhan", "RELIANCE|m5", "2024-06-13T03:45", "/charts/intraday", "nse",
        "{ids: {security_id: 2885}}", long_since="2024-01-10", rows=columns_as_rows, with_rows=rows_as_columns,
    ),
    "http": Kind(
        FakeJsonApi, at("2024-06-05T12:00:30"),
        "http, path: '/data/v2/histominute', params: {fsym: '{base}', tsym: '{quote}', toTs: '{until:s}', "
        "limit: '{rows}'}, headers: {authorization: 'Apikey $REFRESH_SECRET_KEY'}, timeframes: {m1: x}, "
        "candles: Data.Data, time: s, "
        "fields: {time: time, open: open, high: high, low: low, close: close, volume: volumefrom}, rows: 2000",
        "BTC/USD|m1", "2024-06-05T11:30", "histominute", long_since="2024-06-02",
        rows=lambda body: body["Data"]["Data"], with_rows=lambda body, rows: body | {"Data": {"Data": rows}},
    ),
    "fxcm": Kind(
        FakeFxcm, at("2024-06-17T12:00:00"), "fxcm", "EUR/USD|H1", "2024-05-27", ".csv.gz", "fx",
        long_since="2024-05-13", rows=lambda body: body[1:], with_rows=lambda body, rows: [body[0], *rows],
    ),
    "ccxt": Kind(
        lambda now: FakeKraken(now, at("2024-05-31T00:00"), 3000), at("2024-06-01T12:00:30"),
        "ccxt, exchange: kraken, rate: {requests: 1000, seconds: 1}", "BTC/USD|m1", "2024-06-01T11:30", "/OHLC",
        long_since="2024-05-31", rows=kraken_rows, with_rows=with_kraken_rows,
    ),
    "alpaca": Kind(
        lambda now: FakeAlpaca(now, ("AAPL",)), at("2024-06-12T15:00:30"), "alpaca", "AAPL|m1", "2024-06-12T14:30",
        "/bars", long_since="2024-06-11", rows=lambda body: body["bars"],
        with_rows=lambda body, rows: body | {"bars": rows},
    ),
    "bybit": Kind(
        lambda now: FakeBybit(now, ("BTCUSDT",)), at("2024-06-12T15:00:30"), "bybit", "BTC/USDT|m1", "2024-06-12T14:30",
        "/kline", long_since="2024-06-10", rows=lambda body: body["result"]["list"],
        with_rows=lambda body, rows: body | {"result": body["result"] | {"list": rows}},
    ),
    "okx": Kind(
        lambda now: FakeOkx(now, ("BTC-USDT",)), at("2024-06-12T15:00:30"), "okx", "BTC/USDT|m1", "2024-06-12T14:30",
        "/history-candles", long_since="2024-06-12T11:00", rows=lambda body: body["data"],
        with_rows=lambda body, rows: body | {"data": rows},
    ),
}  # fmt: skip
SECRETS = {
    "REFRESH_SECRET_ALPACA_KEY": KEY["APCA-API-KEY-ID"],
    "REFRESH_SECRET_ALPACA_SECRET": KEY["APCA-API-SECRET-KEY"],
    "OANDA_TOKEN": "t0ken-7f1c", "DHAN_CLIENT_ID": "1100003626", "DHAN_ACCESS_TOKEN": "eyJ0.t0ken.e1f9",
    "REFRESH_SECRET_KEY": "key-0123456789",
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    if request.param == "ccxt" and importlib.util.find_spec("ccxt") is None:
        pytest.skip("the extra ccxt is not installed")
    # A limit that is kept takes a test's time.
    monkeypatch.setattr("refresh_pipeline.sources.fxcm.SECONDS_PER_REQUEST", 0.001)
    monkeypatch.setattr("refresh_pipeline.sources.dhan.SECONDS_PER_REQUEST", 0.001)
    return KINDS[request.param]


@contextmanager
def venue(kind: Kind, change: Change) -> Iterator[LoopbackServer]:
    """The fake of the kind, with the rows of each answer changed."""
    with kind.fake(kind.now) as server:
        right = server.answer

        async def answer(request: web.Request) -> web.Response:
            response = await right(request)
            if kind.path not in request.path or response.status != 200 or not isinstance(response.body, bytes):
                return response
            if kind.path == ".csv.gz":
                lines = gzip.decompress(response.body).decode().splitlines()
                changed = kind.with_rows(lines, change(kind.rows(lines)))
                return web.Response(body=gzip.compress("\n".join(changed).encode()))
            body = json.loads(response.body)
            date = {"Date": response.headers["Date"]} if "Date" in response.headers else {}
            return web.json_response(kind.with_rows(body, change(kind.rows(body))), headers=date)

        server.answer = answer
        yield server


def fetched(kind: Kind, server: LoopbackServer, folder: Path, since: str) -> list[Fetched]:
    series = Series.from_key(kind.series)
    market = parse_market(
        f"{{name: it, source: {{kind: {kind.source}, base_url: '{server.base_url}'}}, calendar: {kind.calendar}, "
        f"instruments: {{{series.instrument}: {kind.details}}}, timeframes: [{series.timeframe}], history: 1d}}",
        "it.yaml",
    )
    source = open_source(market, folder / "limits", SECRETS.get)
    got = list(source.fetch([Request(series, instant(since), instant(kind.now))], kind.now))
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    assert [str(each.error) for each in got if "unexpected error" in str(each.error)] == []
    assert len(server.asked) < MOST_REQUESTS
    return got


def candles(kind: Kind, folder: Path, change: Change, since: str = "") -> Candles:
    with venue(kind, change) as server:
        got = fetched(kind, server, folder, since or kind.since)
    assert [str(each.error) for each in got if each.error] == []
    return Candles.concatenated([each.candles for each in got if len(each.candles)])


def assert_same(left: Candles, right: Candles) -> None:
    np.testing.assert_array_equal(left.open_time, right.open_time)
    for name in right.columns:
        np.testing.assert_array_equal(left[name], right[name])


def test_an_empty_answer_is_no_candles_or_worth_another_attempt(kind: Kind, tmp_path: Path) -> None:
    with venue(kind, lambda rows: []) as server:
        got = fetched(kind, server, tmp_path, kind.since)
    assert sum(len(each.candles) for each in got) == 0
    # Dhan answers unknown securities with nothing, and is not believed on days of trade.
    assert got[-1].error is None or (kind.source == "dhan" and isinstance(got[-1].error, TransientError))


def test_the_order_of_rows_means_nothing(kind: Kind, tmp_path: Path) -> None:
    right = candles(kind, tmp_path / "right", list)
    assert len(right) > 10
    assert_same(candles(kind, tmp_path / "backwards", lambda rows: rows[::-1]), right)


def test_a_doubled_row_is_one_candle(kind: Kind, tmp_path: Path) -> None:
    assert_same(candles(kind, tmp_path / "two", lambda rows: [*rows, *rows]), candles(kind, tmp_path / "one", list))


def test_a_row_less_is_a_candle_less(kind: Kind, tmp_path: Path) -> None:
    right = candles(kind, tmp_path / "right", list)
    fewer = candles(kind, tmp_path / "fewer", lambda rows: [row for number, row in enumerate(rows) if number != 3])
    assert 0 < len(np.setdiff1d(right.open_time, fewer.open_time)) <= 2
    assert len(np.setdiff1d(fewer.open_time, right.open_time)) == 0


def test_the_forming_candle_is_left_out(kind: Kind, tmp_path: Path) -> None:
    right = candles(kind, tmp_path, list)
    timeframe = Series.from_key(kind.series).timeframe
    assert right.open_time[-1] + np.timedelta64(timeframe.minutes, "m") <= instant(kind.now)


def test_the_same_page_for_ever_ends(kind: Kind, tmp_path: Path) -> None:
    first: list[Rows] = []

    def same(rows: Rows) -> Rows:
        first.append(rows)
        return first[0]

    right = candles(kind, tmp_path / "right", list, kind.long_since)
    with venue(kind, same) as server:
        got = fetched(kind, server, tmp_path / "same", kind.long_since)
    came = Candles.concatenated([each.candles for each in got if len(each.candles)]).open_time
    # ccxt cuts a page that is longer than it asked for, so it finds all candles.
    assert 0 < len(came) <= len(right)
    assert len(np.setdiff1d(came, right.open_time)) == 0
    assert len(np.unique(came)) == len(came)
