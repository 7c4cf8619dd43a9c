"""OANDA's candles, held against a venue on loopback that speaks its contract, and against recorded answers."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from refresh_pipeline.market.candles import PRICE_COLUMNS, QUOTE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.market_files import CATALOG
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline.sources.oanda import GRANULARITIES, OandaSource, read_candles
from refresh_pipeline_tests.fakes import oanda as fake
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.fakes.oanda import FakeOanda
from refresh_pipeline_tests.reference_data import ORIGINS, Answers, answer_of

# A Friday, in the middle of a minute and of an hour.
NOW = datetime(2024, 6, 7, 12, 30, 30, tzinfo=UTC)
QUICK = RetryPolicy(attempts=4, first_wait=0.01, answer=5.0, limits=2.0)
INSTRUMENTS = tuple(name.replace("_", "/") for name in fake.INSTRUMENTS if name != "SPX500_USD")


@pytest.fixture
def venue() -> Iterator[FakeOanda]:
    with FakeOanda(NOW) as server:
        yield server


def market_at(base_url: str, two_sided: bool = True, more: str = "") -> Market:
    text = f"""
        name: fx
        source: {{kind: oanda, base_url: "{base_url}"{more}}}
        calendar: fx
        two_sided: {str(two_sided).lower()}
        instruments: {json.dumps({name: {} for name in INSTRUMENTS} | {"SPX500": {"symbol": "SPX500_USD"}})}
        timeframes: [m1]
        history: 30d
    """
    return parse_market(text, "fx.yaml")


def source_at(
    venue: FakeOanda, directory: Path, token: str | None = "t0ken-7f1c", *, two_sided: bool = True
) -> OandaSource:
    secrets = {"OANDA_TOKEN": token}.get
    return OandaSource(market_at(venue.base_url, two_sided), directory / "limits", secrets, QUICK)


def asking(since: str, until: str | datetime, timeframe: Timeframe = Timeframe.m1, *names: str) -> list[Request]:
    return [Request(Series(name, timeframe), instant(since), instant(until)) for name in names or ("EUR/USD",)]


def one(
    source: OandaSource, since: str, until: str | datetime, timeframe: Timeframe = Timeframe.m1, name: str = "EUR/USD"
) -> Candles:
    """Everything that came of one series, which ended once and without an error."""
    got = list(source.fetch(asking(since, until, timeframe, name), NOW))
    assert [str(each.error) for each in got if each.error] == []
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    return Candles.concatenated([each.candles for each in got])


def ends_of(source: OandaSource, requests: Sequence[Request]) -> dict[str, Fetched]:
    return {each.series.instrument: each for each in source.fetch(requests, NOW) if each.last}


def error_of(source: OandaSource) -> SourceError:
    error = ends_of(source, asking("2024-06-07T12:00", NOW))["EUR/USD"].error
    assert error is not None
    return error


def expected(timeframe: Timeframe, since: str, until: str) -> list[np.datetime64]:
    return list(market_at("http://nowhere").calendar.open_times(timeframe, instant(since), instant(until)))


def test_candles_come_with_bid_ask_and_mid_in_one_answer(venue: FakeOanda, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-07T12:00", "2024-06-07T12:05")
    assert list(candles.open_time) == expected(Timeframe.m1, "2024-06-07T12:00", "2024-06-07T12:05")
    row = venue.candle("EUR_USD", "M1", "2024-06-07T12:02")
    assert [candles[name][2] for name in PRICE_COLUMNS] == [float(row["mid"][letter]) for letter in "ohlc"]
    quotes = [float(row[side][letter]) for side in ("bid", "ask") for letter in "ohlc"]
    assert [candles[name][2] for name in QUOTE_COLUMNS] == quotes
    assert candles["bid_close"][2] < candles["close"][2] < candles["ask_close"][2]
    assert candles["volume"][2] == row["volume"]
    assert len(venue.asked) == 1


def test_a_market_with_one_side_asks_for_mid_prices_alone(venue: FakeOanda, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path, two_sided=False), "2024-06-07T12:00", "2024-06-07T12:05")
    assert "bid_open" not in candles.columns
    assert venue.asked[0].query["price"] == "M"


def test_the_candle_that_the_venue_calls_incomplete_is_left_out(venue: FakeOanda, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    assert one(source, "2024-06-07T12:00", NOW).open_time[-1] == instant("2024-06-07T12:29")
    # By its own clock: one that runs behind ours has more to wait for, and one ahead of ours does not hurt.
    venue.now = NOW - timedelta(minutes=5)
    assert one(source, "2024-06-07T12:00", NOW).open_time[-1] == instant("2024-06-07T12:24")


@pytest.mark.parametrize("count_is_time", [True, False])
@pytest.mark.parametrize("timeframe", GRANULARITIES)
def test_every_timeframe_lies_on_the_grid_of_new_york_in_winter_and_summer(
    tmp_path: Path, timeframe: Timeframe, count_is_time: bool
) -> None:
    # Across the change of the clocks on 10 March 2024.
    days = {"W1": 60, "MN1": 200}.get(timeframe, 12)
    since, until = str(instant("2024-03-15") - np.timedelta64(days, "D")), "2024-03-15T00:00"
    with FakeOanda(NOW, count_is_time=count_is_time) as venue:
        candles = one(source_at(venue, tmp_path), since, until, timeframe)
    assert len(candles) > 2
    assert list(candles.open_time) == expected(timeframe, since, until)
    assert {asked.query["granularity"] for asked in venue.asked} == {GRANULARITIES[timeframe]}


@pytest.mark.parametrize("count_is_time", [True, False])
def test_a_page_without_candles_is_a_weekend_not_the_end(tmp_path: Path, count_is_time: bool) -> None:
    # Two pages end in weekends if `count` counts time, whole weekends lie inside one if it counts candles.
    since, until = "2024-05-25T00:00", "2024-06-07T12:00"
    with FakeOanda(NOW, count_is_time=count_is_time) as venue:
        candles = one(source_at(venue, tmp_path), since, until)
        assert list(candles.open_time) == expected(Timeframe.m1, since, until)
        assert len(venue.asked) == (4 if count_is_time else 3)
        assert all(int(asked.query["count"]) <= 5000 and "to" not in asked.query for asked in venue.asked)


def test_a_weekend_alone_has_no_candles_and_is_no_failure(venue: FakeOanda, tmp_path: Path) -> None:
    assert len(one(source_at(venue, tmp_path), "2024-06-01T00:00", "2024-06-02T12:00")) == 0


def test_what_lies_before_the_venues_history_is_passed_over(tmp_path: Path) -> None:
    with FakeOanda(NOW, listed=datetime(2024, 6, 5, tzinfo=UTC), count_is_time=True) as venue:
        candles = one(source_at(venue, tmp_path), "2024-05-01T00:00", NOW)
        assert candles.open_time[0] == instant("2024-06-05T00:00")


def test_since_is_included_and_until_is_not(venue: FakeOanda, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    assert len(one(source, "2024-06-07T12:00", "2024-06-07T12:01")) == 1
    assert len(one(source, "2024-06-07T12:00:00.000001", "2024-06-07T12:01")) == 0
    assert len(one(source, "2024-06-07T12:00", "2024-06-07T12:01:00.000001")) == 2
    assert len(one(source, "2030-01-01", "2030-01-02")) == 0


def test_minutes_in_which_nobody_traded_stay_holes(venue: FakeOanda, tmp_path: Path) -> None:
    venue.remove("EUR_USD", "M1", "2024-06-07T12:03")
    candles = one(source_at(venue, tmp_path), "2024-06-07T12:00", "2024-06-07T12:10")
    assert len(candles) == 9
    assert instant("2024-06-07T12:03") not in candles.open_time


def test_instruments_are_called_as_the_venue_calls_them(venue: FakeOanda, tmp_path: Path) -> None:
    names = ("EUR/USD", "XAU/USD", "SPX500")
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-07T12:00", NOW, Timeframe.m1, *names))
    assert all(end.error is None and len(end.candles) == 30 for end in ends.values())
    assert sorted(instrument for instrument, _, _ in venue.pages) == ["EUR_USD", "SPX500_USD", "XAU_USD"]


@pytest.mark.parametrize("price", ["abc", "", None, [], "NaN", {}])
@pytest.mark.parametrize("side", ["mid", "bid"])
def test_a_price_that_is_no_number_spoils_its_own_candle_only(
    venue: FakeOanda, tmp_path: Path, side: str, price: Any
) -> None:
    venue.correct("EUR_USD", "M1", "2024-06-07T12:02", side, h=price)
    candles = one(source_at(venue, tmp_path), "2024-06-07T12:00", "2024-06-07T12:05")
    column = "high" if side == "mid" else "bid_high"
    assert list(np.isnan(candles[column])) == [False, False, True, False, False]
    assert [reason is None for reason in faults(candles)] == [True, True, side != "mid", True, True]
    assert candles.malformed == ()


ODD_ROWS = [[], "text", "null", 7, {"complete": True}, {"time": 5, "complete": True}, {"time": "2024-06-07T12:02:00Z"}]
ODD_ROWS += [{"time": "yesterday", "complete": True}]


@pytest.mark.parametrize("row", ODD_ROWS)
def test_a_row_without_the_shape_of_a_candle_is_set_aside(venue: FakeOanda, tmp_path: Path, row: Any) -> None:
    venue.replace("EUR_USD", "M1", "2024-06-07T12:02", row)
    candles = one(source_at(venue, tmp_path), "2024-06-07T12:00", "2024-06-07T12:05")
    assert len(candles) == 4
    assert len(candles.malformed) == 1


def test_a_side_that_is_missing_leaves_the_other_prices_in_place(venue: FakeOanda, tmp_path: Path) -> None:
    row = venue.candle("EUR_USD", "M1", "2024-06-07T12:02")
    del row["ask"]
    venue.replace("EUR_USD", "M1", "2024-06-07T12:02", row)
    candles = one(source_at(venue, tmp_path), "2024-06-07T12:00", "2024-06-07T12:05")
    assert list(np.isnan(candles["ask_open"])) == [False, False, True, False, False]
    assert not np.isnan(candles["close"]).any()


@pytest.mark.parametrize(
    "fault",
    [fake.TOO_MANY_REQUESTS, fake.INTERNAL_ERROR, fake.BUSY, fake.BAD_GATEWAY, fake.TORN, fake.DROPPED,
     fake.error(429, "Too many requests", {"Retry-After": "0.05"})],
)  # fmt: skip
def test_trouble_that_passes_is_waited_out(venue: FakeOanda, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=2)
    assert len(one(source_at(venue, tmp_path), "2024-06-07T12:00", NOW)) == 30


@pytest.mark.parametrize("fault", [fake.TOO_MANY_REQUESTS, fake.INTERNAL_ERROR, fake.DROPPED, fake.TORN])
def test_trouble_that_stays_fails_as_transient(venue: FakeOanda, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=99)
    assert isinstance(error_of(source_at(venue, tmp_path)), TransientError)
    assert len(venue.asked) == QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fake.error(400, "Maximum value for 'count' exceeded"), "Maximum value for 'count'"),
        (fake.error(400, "Invalid value specified for 'from'"), "'from'"),
        (fake.error(400, "Invalid value specified for 'to'. Time is in the future"), "in the future"),
        (fake.error(400, "Invalid value specified for 'instrument'"), "give it its `symbol`"),
        (fake.NOT_THERE, "give it its `symbol`"),
        (fake.error(405, "Method Not Allowed"), "HTTP 405"),
        (fake.NOT_JSON, "expected candles, received <html>"),
        (fake.NO_CANDLES, "expected candles"),
        (Fault(200, {"candles": "none"}), "expected candles"),
        (Fault(200, [1, 2]), "expected candles"),
    ],
)
def test_trouble_that_will_not_pass_is_asked_once_and_said_in_words(
    venue: FakeOanda, tmp_path: Path, fault: Fault, words: str
) -> None:
    venue.fail(fault, times=99)
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, PermanentError)
    assert words in str(error)
    assert len(venue.asked) == 1


def test_one_unknown_instrument_among_many_fails_alone(venue: FakeOanda, tmp_path: Path) -> None:
    venue.instruments.remove("XAG_USD")
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-07T12:00", NOW, Timeframe.m1, *INSTRUMENTS))
    assert [name for name, end in ends.items() if end.error] == ["XAG/USD"]
    assert all(len(end.candles) == 30 for name, end in ends.items() if name != "XAG/USD")


def test_a_token_that_is_refused_fails_every_series_alike_and_is_not_tried_for_each(
    venue: FakeOanda, tmp_path: Path
) -> None:
    source = source_at(venue, tmp_path, "wr0ng-token")
    ends = ends_of(source, asking("2024-06-07T12:00", NOW, Timeframe.m1, *INSTRUMENTS))
    assert len(ends) == len(INSTRUMENTS)
    reasons = {str(end.error).removeprefix(f"{name} m1: ") for name, end in ends.items()}
    assert len(reasons) == 1
    assert "OANDA_TOKEN is not good here" in reasons.pop()
    assert all(isinstance(end.error, PermanentError) for end in ends.values())
    assert len(venue.asked) <= 2


def test_without_a_token_nothing_is_asked_and_every_series_says_what_to_do(venue: FakeOanda, tmp_path: Path) -> None:
    for token in (None, ""):
        ends = ends_of(source_at(venue, tmp_path, token), asking("2024-06-07T12:00", NOW, Timeframe.m1, *INSTRUMENTS))
        assert len(ends) == len(INSTRUMENTS)
        assert all("OANDA_TOKEN is not set" in str(end.error) for end in ends.values())
    for token in ("\u201ct0ken\u201d", "t0ken t0ken", "t0\nken"):
        assert "characters that no token has" in str(error_of(source_at(venue, tmp_path, token)))
    assert venue.asked == []


def test_the_token_is_nowhere_in_what_is_said_of_a_failure(venue: FakeOanda, tmp_path: Path) -> None:
    venue.fail(fake.error(400, f"Bearer {venue.token} is odd"), times=1)
    assert venue.token not in str(error_of(source_at(venue, tmp_path)))


def test_the_token_may_be_in_a_setting_of_another_name(venue: FakeOanda, tmp_path: Path) -> None:
    market = market_at(venue.base_url, more=", token: OANDA_LIVE_TOKEN")
    source = OandaSource(market, tmp_path, {"OANDA_LIVE_TOKEN": venue.token}.get, QUICK)
    assert len(one(source, "2024-06-07T12:00", NOW)) == 30


def test_connections_are_opened_one_by_one_and_kept(venue: FakeOanda, tmp_path: Path) -> None:
    venue.fail(Fault(delay=0.05), times=999)
    source = source_at(venue, tmp_path)
    started = time.monotonic()
    ends_of(source, asking("2024-06-07T12:00", NOW, Timeframe.m1, *INSTRUMENTS))
    ends_of(source, asking("2024-06-07T12:00", NOW, Timeframe.m5, *INSTRUMENTS))
    seconds = time.monotonic() - started
    # Two fetches of 14 series: each opened one connection at once, and one more for each half second that it took.
    assert len({asked.connection for asked in venue.asked}) <= 2 + seconds / 0.5
    assert len(venue.asked) == 2 * len(INSTRUMENTS)


def test_more_than_a_hundred_a_second_are_not_asked(venue: FakeOanda, tmp_path: Path) -> None:
    names = [f"A{number}/B" for number in range(150)]
    venue.instruments = {name.replace("/", "_") for name in names}
    text = f"{{name: fx, source: {{kind: oanda, base_url: '{venue.base_url}'}}, calendar: fx, timeframes: [m1], "
    market = parse_market(f"{text} history: 1d, instruments: {json.dumps(names)}}}", "fx.yaml")
    source = OandaSource(market, tmp_path, {"OANDA_TOKEN": venue.token}.get, QUICK)
    ends_of(source, asking("2024-06-07T12:25", NOW, Timeframe.m1, *names))
    asked = np.sort([each.at for each in venue.asked])
    most = max(np.searchsorted(asked, at + 1.0) - n for n, at in enumerate(asked))
    assert most <= 120
    assert len(asked) == 150


def test_a_venue_that_is_gone_fails_every_series_as_transient(tmp_path: Path) -> None:
    with FakeOanda(NOW) as venue:
        source = source_at(venue, tmp_path)
    assert isinstance(error_of(source), TransientError)


@pytest.mark.parametrize(("option", "words"), [(", base: x", "unknown key"), (', base_url: "ftp://x"', "base_url")])
def test_a_wrong_option_is_refused_with_what_is_allowed(tmp_path: Path, option: str, words: str) -> None:
    text = (
        f"{{name: fx, source: {{kind: oanda{option}}}, calendar: fx, instruments: [A], timeframes: [m1], history: 1d}}"
    )
    with pytest.raises(MarketError, match=words):
        OandaSource(parse_market(text, "fx.yaml"), tmp_path, {}.get)


def test_the_market_that_is_shipped_asks_for_what_the_venue_has(venue: FakeOanda, tmp_path: Path) -> None:
    text = (CATALOG / "fx.yaml").read_text(encoding="utf-8")
    market = parse_market(text.replace("kind: oanda", f"kind: oanda, base_url: '{venue.base_url}'"), "fx.yaml")
    assert len(market.instruments) == 15
    assert market.timeframes == tuple(Timeframe)
    source = OandaSource(market, tmp_path, {"OANDA_TOKEN": venue.token}.get, QUICK)
    requests = [Request(series, instant("2024-05-31T21:00"), instant(NOW)) for series in market.series[-60:]]
    assert [str(each.error) for each in source.fetch(requests, NOW) if each.error] == []


@pytest.fixture(params=ORIGINS)
def recorded(request: pytest.FixtureRequest) -> Answers:
    """The venue's answer of that name: in the documented form, and as recorded where those lie beside the checkout."""
    return partial(answer_of, request.param, "oanda")


@pytest.mark.parametrize(
    "name",
    ["candles_DE30_M5", "candles_EURUSD_H1_count10_9rows", "candles_EURUSD_H1_count10_includeFirst"],
)
def test_recorded_candles_are_read_whole(name: str, recorded: Answers) -> None:
    rows = recorded(name)["body"]["candles"]
    candles, opens = read_candles(rows, {"mid": ""})
    assert [f"{at}000Z" for at in candles.open_time] == [row["time"] for row in rows] == [f"{at}000Z" for at in opens]
    for column in PRICE_COLUMNS:
        assert list(candles[column]) == [float(row["mid"][column[0]]) for row in rows]
    assert list(faults(candles)) == [None] * len(rows)


@pytest.mark.parametrize(
    ("name", "transient"),
    [("err_400_count", False), ("err_400_from", False), ("err_400_instrument", False),
     ("err_400_to_future", False), ("err_401", False), ("err_429", True)],
)  # fmt: skip
def test_recorded_refusals_are_told_apart(
    venue: FakeOanda, tmp_path: Path, name: str, transient: bool, recorded: Answers
) -> None:
    answer = recorded(name)
    venue.fail(Fault(answer["status"], answer["body"]), times=99)
    assert error_of(source_at(venue, tmp_path)).transient is transient


def test_the_venue_on_loopback_speaks_the_contract(venue: FakeOanda) -> None:
    def ask(instrument: str = "EUR_USD", token: str = venue.token, **params: Any) -> httpx.Response:
        url = f"{venue.base_url}/v3/instruments/{instrument}/candles"
        return httpx.get(url, params={"granularity": "H1"} | params, headers={"Authorization": f"Bearer {token}"})

    friday = {"from": "2024-05-31T19:00:00Z"}
    assert ask(**friday, count=5001).json() == {"errorMessage": "Maximum value for 'count' exceeded"}
    assert ask(**{"from": "2023-01-01T00:00:00Z", "to": "2024-01-01T00:00:00Z"}).status_code == 400
    assert ask(**friday, to="2024-06-07T12:00:00Z", count=5).status_code == 400
    assert "in the future" in ask(**friday, to="2024-06-07T13:00:00Z").json()["errorMessage"]
    assert ask("EUR/USD", **friday).status_code == 404
    assert "'instrument'" in ask("EURUSD", **friday).json()["errorMessage"]
    assert "'granularity'" in ask(**friday, granularity="M3").json()["errorMessage"]
    assert "'from'" in ask(**{"from": "tomorrow"}).json()["errorMessage"]
    assert ask(token="another", **friday).status_code == 401
    rows = ask(**friday, count=4).json()["candles"]
    times = [row["time"][:13] for row in rows]
    assert times == ["2024-05-31T19", "2024-05-31T20", "2024-06-02T21", "2024-06-02T22"]
    assert rows[0].keys() == {"complete", "volume", "time", "mid"}
    assert ask(**friday, count=4, includeFirst="False").json()["candles"][0]["time"].startswith("2024-05-31T20")
    assert ask(**{"from": "2024-06-07T12:10:00Z"}).json()["candles"][-1]["complete"] is False
    # Weeks begin on Friday there, unless another day is asked for.
    assert ask(**friday, granularity="W", count=1).json()["candles"][0]["time"].startswith("2024-05-24T21")
