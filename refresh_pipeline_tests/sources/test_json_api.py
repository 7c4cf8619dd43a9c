"""APIs that nothing but a YAML describes: the examples that are shipped, and what such a YAML may say."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, TransientError
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline.sources.json_api import JsonApiSource
from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer
from refresh_pipeline_tests.fakes.json_apis import KEY, FakeJsonApi, daily, values

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "sources" / "examples"
# A Wednesday, in the middle of a minute.
NOW = datetime(2024, 6, 5, 12, 0, 30, tzinfo=UTC)
KEYS = [f"REFRESH_SECRET_{name}" for name in ("CRYPTOCOMPARE", "TIINGO", "TWELVEDATA")]
QUICK = RetryPolicy(attempts=2, first_wait=0.01, answer=5.0, limits=1.0)


@pytest.fixture
def api() -> Iterator[FakeJsonApi]:
    with FakeJsonApi(NOW) as server:
        yield server


def example(name: str, api: LoopbackServer) -> Market:
    """A shipped market, but for its address."""
    text = (EXAMPLES / f"{name}.yaml").read_text()
    (line,) = [line for line in text.splitlines() if "base_url:" in line]
    text = re.sub("requests: (8|50),", "requests: 1000,", text.replace(line, f'  base_url: "{api.base_url}"'))
    return parse_market(text, f"{name}.yaml")


def source_of(market: Market, folder: Path, secrets: Mapping[str, str] | None = None) -> JsonApiSource:
    given = dict.fromkeys(KEYS, KEY) if secrets is None else secrets
    return JsonApiSource(market, folder / "limits", given.get, QUICK)


def chunks(market: Market, source: JsonApiSource, key: str, since: str, until: str | datetime = NOW) -> list[Fetched]:
    got = list(fetch(source, market, [Request(Series.from_key(key), instant(since), instant(until))], NOW))
    assert [each.last for each in got].count(True) == 1
    return got


def whole(got: Sequence[Fetched]) -> Candles:
    assert [str(each.error) for each in got if each.error] == []
    return Candles.concatenated([each.candles for each in got if len(each.candles)])


def spans(candles: Candles) -> tuple[str, str, int]:
    return str(candles.open_time[0])[:16], str(candles.open_time[-1])[:16], len(candles)


def test_coingecko_gives_candles_by_the_day_with_the_time_of_their_close(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("coingecko", api)
    got = whole(chunks(market, source_of(market, tmp_path), "BTC/USD|m30", "2024-06-05T06:00"))
    assert spans(got) == ("2024-06-05T06:00", "2024-06-05T11:30", 12)
    expected = values("bitcoin", int(got.open_time[3].astype("datetime64[s]").astype(int)))
    assert {name: got[name][3] for name in ("open", "high", "low", "close")} == {
        name: value for name, value in expected.items() if name != "volume"
    }
    assert np.isnan(got["volume"]).all()
    assert [asked.query["days"] for asked in api.asked] == ["1"]
    # Days are made from its four hours.
    days = whole(chunks(market, source_of(market, tmp_path), "ETH/USD|D1", "2024-06-01"))
    assert spans(days) == ("2024-06-01T00:00", "2024-06-04T00:00", 4)


def test_cryptocompare_is_asked_in_windows_of_what_an_answer_holds(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("cryptocompare", api)
    got = chunks(market, source_of(market, tmp_path), "BTC/USD|m1", "2024-06-02T12:00")
    assert spans(whole(got)) == ("2024-06-02T12:00", "2024-06-05T11:59", 3 * 1440)
    assert set(np.diff(whole(got).open_time).astype("timedelta64[s]").astype(int)) == {60}
    assert [len(each.candles) for each in got] == [1999, 1999, 322]
    assert {asked.path for asked in api.asked} == {"/data/v2/histominute"}
    assert whole(got)["volume"][0] == values("BTCUSD", 1717329600)["volume"]


def test_an_ordinary_refresh_asks_for_little_more_than_it_needs(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("cryptocompare", api)
    chunks(market, source_of(market, tmp_path), "BTC/USD|m1", "2024-06-05T11:50")
    assert [int(asked.query["limit"]) for asked in api.asked] == [12]


def test_twelve_data_comes_newest_first_as_text(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("twelvedata", api)
    got = whole(chunks(market, source_of(market, tmp_path), "EUR/USD|m15", "2024-06-05T06:00"))
    assert spans(got) == ("2024-06-05T06:00", "2024-06-05T11:45", 24)
    assert got["close"][0] == values("EUR/USD", 1717567200)["close"]
    assert api.asked[0].query["symbol"] == "EUR/USD"
    # Four hours hang on New York's evening and are made from hours.
    four = whole(chunks(market, source_of(market, tmp_path), "EUR/USD|H4", "2024-06-04T21:00"))
    assert spans(four) == ("2024-06-04T21:00", "2024-06-05T05:00", 3)


def test_tiingos_days_are_sessions_and_tell_splits_and_dividends(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("tiingo", api)
    got = chunks(market, source_of(market, tmp_path), "AAPL|D1", "2024-05-20")
    # Memorial Day is no session; the session of the fifth of June is not over, and its split is told all the same.
    assert [str(each)[:16] for each in whole(got).open_time] == [
        f"2024-{day}T04:00" for day in ("05-20", "05-21", "05-22", "05-23", "05-24", "05-28", "05-29", "05-30", "05-31",
                                        "06-03", "06-04")
    ]  # fmt: skip
    assert whole(got)["close"][0] == daily("AAPL", date(2024, 5, 20))["close"]
    told = [each for chunk in got for each in chunk.adjustments]
    assert [
        (each.instrument, str(each.ex_time)[:16], each.kind.value, each.value, each.in_prices) for each in told
    ] == [
        ("AAPL", "2024-05-29T04:00", "dividend", 0.25, False),
        ("AAPL", "2024-06-05T04:00", "split", 4.0, False),
    ]
    asked = api.asked[0]
    assert (asked.path, asked.query["startDate"]) == ("/tiingo/daily/AAPL/prices", "2024-05-20")
    (unknown,) = chunks(market, source_of(market, tmp_path), "MSFT|D1", "2024-05-20")
    assert isinstance(unknown.error, PermanentError)
    # Weeks are made from its days.
    weeks = whole(chunks(market, source_of(market, tmp_path), "AAPL|W1", "2024-05-20"))
    assert spans(weeks) == ("2024-05-20T04:00", "2024-05-27T04:00", 2)


def test_what_prices_follow_already_is_told_and_a_weeks_row_tells_no_day(tmp_path: Path) -> None:
    row = {"t": "2024-06-04", "o": 1, "h": 3, "l": 1, "c": 2, "v": 9, "s": 4.0, "d": 0.5}
    fields = {"time": "t", "open": "o", "high": "h", "low": "l", "close": "c", "split": "s", "dividend": "d"}
    ways = {"time": "date", "fields": fields, "timeframes": {"D1": "1d", "W1": "1w"}}
    for adjustment, follows in (("raw", [False, False]), ("split", [True, False]), ("all", [True, True])):
        with Anything([row, {**row, "t": "2024-06-03", "s": 1.0, "d": None}]) as api:
            market = market_of(api.base_url, adjustment=adjustment, **ways)
            (got,) = chunks(market, source_of(market, tmp_path), "BTC/USD|D1", "2024-06-01")
            assert [each.in_prices for each in got.adjustments] == follows
            assert {str(each.ex_time)[:10] for each in got.adjustments} == {"2024-06-04"}
            (week,) = chunks(market, source_of(market, tmp_path), "BTC/USD|W1", "2024-05-27")
            assert week.adjustments == []


def test_words_tell_no_data_from_a_fault_and_a_limit_from_both(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("twelvedata", api)
    source = source_of(market, tmp_path)
    none = chunks(market, source, "EUR/USD|m15", "2024-06-05T11:46", "2024-06-05T11:50")
    assert (len(none[0].candles), none[0].error) == (0, None)
    spent = {"code": 429, "message": "You have run out of API credits for the current minute.", "status": "error"}
    api.fail(Fault(200, spent))
    assert len(whole(chunks(market, source, "EUR/USD|m15", "2024-06-05T06:00"))) == 24
    api.fail(Fault(200, {"code": 400, "message": "**symbol** not found", "status": "error"}))
    error = chunks(market, source, "EUR/USD|m15", "2024-06-05T06:00")[-1].error
    assert isinstance(error, PermanentError)
    assert "expected candles at values" in str(error)
    assert "symbol** not found" in str(error)


def test_a_key_that_is_missing_is_told_by_its_name(api: FakeJsonApi, tmp_path: Path) -> None:
    market = example("cryptocompare", api)
    error = chunks(market, source_of(market, tmp_path, {}), "BTC/USD|m1", "2024-06-05T11:50")[-1].error
    assert isinstance(error, PermanentError)
    assert "REFRESH_SECRET_CRYPTOCOMPARE is not set" in str(error)
    assert api.asked == []


@pytest.mark.parametrize("name", ["cryptocompare", "twelvedata"])
def test_a_key_gets_into_no_message_and_no_log(
    api: FakeJsonApi, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    market = example(name, api)
    wrong = "wrong-key-98765"
    secrets = {"REFRESH_SECRET_CRYPTOCOMPARE": wrong, "REFRESH_SECRET_TWELVEDATA": wrong}
    key = market.series[0].key
    with caplog.at_level(logging.DEBUG):
        errors = [chunks(market, source_of(market, tmp_path, secrets), key, "2024-06-05T11:00")[-1].error]
        api.fail(Fault(500, f"<html>{wrong}</html>"), times=9)
        errors.append(chunks(market, source_of(market, tmp_path, secrets), key, "2024-06-05T11:00")[-1].error)
    assert [isinstance(each, TransientError) for each in errors] == [False, True]
    assert wrong not in caplog.text + "".join(str(each) for each in errors)


# ---- what a YAML may say

PLAIN = {
    "kind": "http",
    "path": "/candles/{symbol}",
    "timeframes": {"m1": "1"},
    "fields": {"time": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"},
    "time": "s",
}


class Anything(LoopbackServer):
    """Answers with whatever it was given."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    async def answer(self, request: web.Request) -> web.Response:
        return web.json_response(self.body)


def market_of(base_url: str, **changes: Any) -> Market:
    source = {**PLAIN, "base_url": base_url, **changes}
    source = {name: value for name, value in source.items() if value is not None}
    text = json.dumps({"name": "it", "source": source, "calendar": "crypto", "instruments": ["BTC/USD"],
                       "timeframes": ["m1"], "history": "1d"})  # fmt: skip
    return parse_market(text, "it.yaml")


def read(body: Any, folder: Path, **changes: Any) -> Fetched:
    with Anything(body) as api:
        market = market_of(api.base_url, **changes)
        return chunks(market, source_of(market, folder), "BTC/USD|m1", "2024-06-05T11:50")[-1]


@pytest.mark.parametrize("key", ["k{s3cr3t}z", "ab{cd", "{symbol}", "$API_KEY}", "%7B 100%"])
def test_a_key_with_braces_is_sent_as_it_is(key: str, tmp_path: Path) -> None:
    with Anything([ROW]) as api:
        market = market_of(
            api.base_url, params={"pair": "{symbol}", "apikey": "$API_KEY"}, headers={"X-Key": "$API_KEY"}
        )
        source = source_of(market, tmp_path, {"API_KEY": key})
        assert len(whole(chunks(market, source, "BTC/USD|m1", "2024-06-05T11:50"))) == 1
    (asked,) = api.asked
    assert (asked.query["apikey"], asked.query["pair"], asked.headers["x-key"]) == (key, "BTC/USD", key)


MINUTE = 1717588200
ROW = {"t": MINUTE, "o": 1, "h": 3, "l": 1, "c": 2, "v": 9}
LISTED = {"time": 0, "open": 1, "high": 2, "low": 3, "close": 4}


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ([ROW], {}),
        ({"data": {"BTC/USD": [ROW]}}, {"candles": ["data", "{symbol}"]}),
        ({"data": [{"rows": [ROW]}]}, {"candles": "data.0.rows"}),
        ({name: [value] for name, value in ROW.items()}, {}),
        ([[MINUTE, "1", "3", "1", "2"]], {"fields": LISTED}),
        ([{**ROW, "t": MINUTE * 1000}], {"time": "ms"}),
        ([{**ROW, "t": str(MINUTE * 1_000_000)}], {"time": "us"}),
        ([{**ROW, "t": "2024-06-05T11:50:00Z"}], {"time": "iso"}),
        ([{**ROW, "t": "2024-06-05 17:20:00+05:30"}], {"time": "iso"}),
        ([{**ROW, "t": MINUTE + 60}], {"time_of": "close"}),
        ([{"at": {"t": MINUTE}, "p": [1, 3, 1, 2]}],
         {"fields": {"time": "at.t", "open": "p.0", "high": "p.1", "low": "p.2", "close": "p.3"}}),
        ([ROW, {**ROW, "t": MINUTE + 900}], {}),
    ],
)  # fmt: skip
def test_candles_are_found_wherever_the_yaml_says(tmp_path: Path, body: Any, changes: dict[str, Any]) -> None:
    got = read(body, tmp_path, **changes)
    assert got.error is None
    assert spans(got.candles) == ("2024-06-05T11:50", "2024-06-05T11:50", 1)
    assert [got.candles[name][0] for name in ("open", "high", "low", "close")] == [1, 3, 1, 2]


def test_rows_without_a_time_are_set_aside_and_numbers_that_are_none_are_bad(tmp_path: Path) -> None:
    got = read([ROW, {**ROW, "t": "soon"}, {**ROW, "t": MINUTE + 60, "c": "-"}, "?"], tmp_path)
    assert len(got.candles) == 2
    assert np.isnan(got.candles["close"][1])
    assert [each.text for each in got.candles.malformed] == [json.dumps({**ROW, "t": "soon"}), '"?"']


@pytest.mark.parametrize(
    ("body", "changes", "said"),
    [
        ({"oops": 1}, {"candles": "data"}, "expected candles at data"),
        ("text", {}, "expected candles at the top"),
        ([{"t": MINUTE}], {}, "no candle can be read with these fields"),
        ({"t": [MINUTE], "o": [1, 2], "h": [3], "l": [1], "c": [2]}, {}, "columns of one length"),
    ],
)
def test_an_answer_of_another_shape_is_a_lasting_error(
    tmp_path: Path, body: Any, changes: dict[str, Any], said: str
) -> None:
    error = read(body, tmp_path, **changes).error
    assert isinstance(error, PermanentError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": None}, r"source: path: missing"),
        ({"path": "/{coin}"}, r"source: path: found '/\{coin\}'; allowed in braces: symbol, base"),
        ({"path": "/{since}"}, r"since and until as in \{since:s\}"),
        ({"path": "/{symbol.__class__}"}, r"allowed in braces"),
        ({"params": {"a": "{"}}, r"source: params\.a: found"),
        ({"time": "hours"}, r"source: time: found 'hours'"),
        ({"timeframes": {"m7": "7"}}, r"unknown timeframe 'm7'"),
        ({"fields": {"time": 0}}, r"source: fields\.open: missing"),
        ({"fields": {**LISTED, "hi": 2}}, r"source: fields\.hi: found 2; unknown key; did you mean 'high'"),
        ({"rate": {"requests": 0, "seconds": 1}}, r"source: rate\.requests: found 0; allowed: 1 or more"),
        ({"colour": "red"}, r"source: colour: found 'red'; unknown key"),
        ({"name": "a b"}, r"source: name: found 'a b'"),
        ({"time": "date"}, r"time: date has no time of day for m1; allowed: D1, W1, MN1"),
        ({"adjustment": "both"}, r"source: adjustment: found 'both'"),
    ],
)
def test_a_description_that_cannot_be_is_refused_with_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(MarketError, match=said):
        source_of(market_of("http://127.0.0.1:1", **changes), tmp_path)


def test_the_shipped_examples_are_markets() -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    assert len(found) >= 3
    for path in found:
        market = parse_market(path.read_text(), path.name)
        assert market.name == path.stem
        assert Timeframe.D1 in market.timeframes
