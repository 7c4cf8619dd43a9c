"""Yahoo, Alpaca, Bybit and OKX, held against venues on loopback that speak their contracts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, TransientError
from refresh_pipeline.sources.alpaca import AlpacaSource
from refresh_pipeline.sources.bybit import BybitSource
from refresh_pipeline.sources.http_client import AccessDenied, RetryPolicy
from refresh_pipeline.sources.okx import OkxSource
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.sources.windowed import WindowedSource
from refresh_pipeline.sources.yahoo import YahooSource
from refresh_pipeline_tests.fakes.chart_venues import (
    KEY,
    FakeAlpaca,
    FakeBybit,
    FakeOkx,
    FakeVenue,
    FakeYahoo,
    ohlcv,
)
from refresh_pipeline_tests.fakes.http_server import Fault

QUICK = RetryPolicy(attempts=3, first_wait=0.01, answer=5.0, limits=0.5)
NOW = datetime(2024, 6, 12, 15, 0, 30, tzinfo=UTC)
SECRETS = {
    "REFRESH_SECRET_ALPACA_KEY": KEY["APCA-API-KEY-ID"],
    "REFRESH_SECRET_ALPACA_SECRET": KEY["APCA-API-SECRET-KEY"],
}


@dataclass(frozen=True)
class Kind:
    """A kind of source, its fake, an instrument of it and what the venue calls it."""

    source: type[WindowedSource]
    fake: type[FakeVenue]
    instrument: str
    symbol: str
    # Every so many minutes there is no trade.
    hole: int = 0


KINDS = {
    "yahoo": Kind(YahooSource, FakeYahoo, "AAPL", "AAPL", hole=17),
    "alpaca": Kind(AlpacaSource, FakeAlpaca, "AAPL", "AAPL"),
    "bybit": Kind(BybitSource, FakeBybit, "BTC/USDT", "BTCUSDT"),
    "okx": Kind(OkxSource, FakeOkx, "BTC/USDT", "BTC-USDT"),
}


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def venue(name: str) -> Iterator[FakeVenue]:
    with KINDS[name].fake(NOW, (KINDS[name].symbol,)) as server:
        yield server


def fetched(
    name: str, venue: FakeVenue, folder: Path, since: str, timeframe: str = "m1", more: str = "", until: datetime = NOW
) -> list[Fetched]:
    instrument = KINDS[name].instrument
    market = parse_market(
        f"{{name: it, source: {{kind: {name}, base_url: '{venue.base_url}'{more}}}, calendar: crypto, "
        f"instruments: [{instrument}, XXX/YYY], timeframes: [{timeframe}], history: 1d}}",
        "it.yaml",
    )
    source = KINDS[name].source(market, folder / "limits", SECRETS.get, QUICK)
    return list(source.fetch([Request(Series(instrument, Timeframe(timeframe)), instant(since), instant(until))], NOW))


def candles(got: list[Fetched]) -> Candles:
    assert [str(each.error) for each in got if each.error] == []
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    return Candles.concatenated([each.candles for each in got])


def error(got: list[Fetched]) -> Exception:
    assert got[-1].error is not None
    return got[-1].error


def test_every_closed_candle_comes_once_with_its_numbers(name: str, venue: FakeVenue, tmp_path: Path) -> None:
    found = candles(fetched(name, venue, tmp_path, "2024-06-11T20:00"))
    opens = np.arange(instant("2024-06-11T20:00"), instant("2024-06-12T15:00"), np.timedelta64(1, "m"))
    if hole := KINDS[name].hole:
        opens = opens[opens.astype("datetime64[m]").astype(np.int64) % hole != 0]
    np.testing.assert_array_equal(found.open_time, opens)
    row = 500
    wanted = ohlcv(opens[row].item().replace(tzinfo=UTC))
    assert [found[each][row] for each in ("open", "high", "low", "close", "volume")] == wanted
    assert found.malformed == ()


def test_a_window_has_no_more_rows_than_an_answer_holds(name: str, venue: FakeVenue, tmp_path: Path) -> None:
    fetched(name, venue, tmp_path, "2024-06-11T20:00")
    requests = {"yahoo": 1, "alpaca": 2, "bybit": 2, "okx": 12}
    # A session begins in the window: Alpaca is asked for splits and dividends as well.
    assert len(venue.asked) == requests[name] + (name == "alpaca")


@pytest.mark.parametrize(
    ("name", "more", "follows"),
    [
        ("yahoo", "", {"split"}),
        ("alpaca", "", set()),
        ("alpaca", ", adjustment: dividend", {"dividend"}),
        ("alpaca", ", adjustment: all", {"split", "dividend"}),
    ],
)
def test_splits_and_dividends_come_with_the_candles(
    name: str, more: str, follows: set[str], venue: FakeVenue, tmp_path: Path
) -> None:
    got = fetched(name, venue, tmp_path, "2024-05-20", "D1", more=more)
    assert len(candles(got)) > 15
    told = {each.kind.value: each for one in got for each in one.adjustments}
    assert {kind: (each.instrument, str(each.ex_time)[:16], each.value) for kind, each in told.items()} == {
        "split": ("AAPL", "2024-05-28T00:00", 4.0),
        "dividend": ("AAPL", "2024-05-30T00:00", 0.5),
    }
    assert {kind for kind, each in told.items() if each.in_prices} == follows


def test_a_refused_request_for_splits_costs_no_candle(tmp_path: Path) -> None:
    with FakeAlpaca(NOW, ("AAPL",)) as venue:
        venue.fail(Fault(403, {"message": "subscription does not permit them"}), path="corporate-actions")
        got = fetched("alpaca", venue, tmp_path, "2024-06-11T20:00")
    assert len(candles(got)) == 1140
    assert [each.adjustments for each in got if each.adjustments] == []


def test_a_day_begins_with_the_calendars(name: str, venue: FakeVenue, tmp_path: Path) -> None:
    found = candles(fetched(name, venue, tmp_path, "2024-06-01", "D1"))
    assert str(found.open_time[-1])[:16] == "2024-06-11T00:00"
    assert len(found) == 11 if not KINDS[name].hole else 9 < len(found) <= 11


def test_an_unknown_symbol_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    with KINDS[name].fake(NOW, ()) as venue:
        found = error(fetched(name, venue, tmp_path, "2024-06-12T14:00"))
    assert isinstance(found, PermanentError)
    assert KINDS[name].symbol in str(found)
    assert "`symbol`" in str(found)


def test_before_the_first_candle_there_is_nothing(name: str, venue: FakeVenue, tmp_path: Path) -> None:
    early = datetime(2019, 6, 1, tzinfo=UTC)
    assert len(candles(fetched(name, venue, tmp_path, "2019-05-01", "D1", until=early))) == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(429, "Too Many Requests", {"Retry-After": "500"}), TransientError),
        (Fault(200, "<html>Welcome to this hotel's network</html>"), PermanentError),
        (Fault(200, {"unexpected": True}), PermanentError),
    ],
)
def test_a_refusal_is_what_it_is(
    name: str, venue: FakeVenue, tmp_path: Path, fault: Fault, kind: type[Exception]
) -> None:
    venue.fail(fault, times=99)
    assert isinstance(error(fetched(name, venue, tmp_path, "2024-06-12T14:00")), kind)


def test_a_busy_server_is_asked_again(name: str, venue: FakeVenue, tmp_path: Path) -> None:
    venue.fail(Fault(503, "busy"), times=1)
    assert len(candles(fetched(name, venue, tmp_path, "2024-06-12T14:30"))) > 20


def test_a_row_that_is_no_candle_costs_itself_alone(tmp_path: Path) -> None:
    with FakeBybit(NOW, ("BTCUSDT",)) as venue:
        rows = [["1718200800000", "1", "2", "1", "1.5", "3"], ["x"], ["1718200860000", "a", "2", "1", "1", "1"]]
        venue.fail(Fault(200, {"retCode": 0, "retMsg": "OK", "result": {"list": rows}}))
        found = candles(fetched("bybit", venue, tmp_path, "2024-06-12T14:00"))
    assert len(found.malformed) == 1
    assert len(found) == 2
    assert np.isnan(found["open"][1])


def test_words_of_a_limit_in_a_good_answer_are_a_limit(tmp_path: Path) -> None:
    limits = {
        "bybit": {"retCode": 10006, "retMsg": "Too many visits!"},
        "okx": {"code": "50011", "msg": "Too Many Requests", "data": []},
    }
    for name, body in limits.items():
        with KINDS[name].fake(NOW, (KINDS[name].symbol,)) as venue:
            venue.fail(Fault(200, body), times=99)
            found = error(fetched(name, venue, tmp_path / name, "2024-06-12T14:00"))
        assert isinstance(found, TransientError)
        assert "oo" in str(found)


def test_minutes_beyond_yahoos_reach_say_so(tmp_path: Path) -> None:
    with FakeYahoo(NOW, ("AAPL",)) as venue:
        found = error(fetched("yahoo", venue, tmp_path, "2024-03-01", until=datetime(2024, 3, 2, tzinfo=UTC)))
    assert "must be within the last 30 days" in str(found)
    assert "set a shorter history" in str(found)


def test_a_pair_of_currencies_has_yahoos_ending(tmp_path: Path) -> None:
    with FakeYahoo(NOW, ("XXXYYY=X",)) as venue:
        market = parse_market(
            f"{{name: it, source: {{kind: yahoo, base_url: '{venue.base_url}'}}, calendar: fx, "
            "instruments: [XXX/YYY], timeframes: [m1], history: 1d}",
            "it.yaml",
        )
        source = open_source(market, tmp_path / "limits", SECRETS.get)
        request = Request(Series("XXX/YYY", Timeframe.m1), instant("2024-06-12T14:00"), instant(NOW))
        assert len(candles(list(source.fetch([request], NOW)))) > 50
        assert venue.asked[0].path == "/v8/finance/chart/XXXYYY=X"


@pytest.mark.parametrize("key", [None, "two words"])
def test_a_key_that_is_missing_or_no_key_is_told_before_anything_is_asked(key: str | None, tmp_path: Path) -> None:
    with FakeAlpaca(NOW, ("AAPL",)) as venue:
        market = parse_market(
            f"{{name: it, source: {{kind: alpaca, base_url: '{venue.base_url}'}}, calendar: XNYS, "
            "instruments: [AAPL], timeframes: [m1], history: 1d}",
            "it.yaml",
        )
        source = open_source(market, tmp_path / "limits", {"REFRESH_SECRET_ALPACA_KEY": key}.get)
        request = Request(Series("AAPL", Timeframe.m1), instant("2024-06-12T14:00"), instant(NOW))
        found = error(list(source.fetch([request], NOW)))
        assert venue.asked == []
    assert "REFRESH_SECRET_ALPACA_KEY" in str(found)


def test_a_wrong_key_is_denied_and_never_shown(tmp_path: Path) -> None:
    with FakeAlpaca(NOW, ("AAPL",)) as venue:
        venue.fail(Fault(403, {"message": f"forbidden {KEY['APCA-API-SECRET-KEY']}"}), times=9)
        found = error(fetched("alpaca", venue, tmp_path, "2024-06-12T14:00"))
    assert isinstance(found, AccessDenied)
    assert KEY["APCA-API-SECRET-KEY"] not in str(found)
    assert "does the plan have the feed iex?" in str(found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{kind: yahoo, feed: x}", "source: feed: found 'x'; unknown key"),
        ("{kind: alpaca, feed: x}", "source: feed: found 'x'"),
        ("{kind: bybit, category: option}", "source: category: found 'option'"),
        ("{kind: alpaca, base_url: 'http://example.com'}", "allowed: https://"),
    ],
)
def test_a_wrong_option_is_told(source: str, message: str, tmp_path: Path) -> None:
    market = parse_market(
        f"{{name: m, source: {source}, calendar: crypto, instruments: [A], timeframes: [H1], history: 1d}}", "m"
    )
    with pytest.raises(MarketError) as caught:
        open_source(market, tmp_path)
    assert message in str(caught.value)
