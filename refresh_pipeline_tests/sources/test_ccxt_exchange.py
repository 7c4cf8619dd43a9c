"""An exchange by way of ccxt, whose client talks to a venue on loopback."""

import importlib.util
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, TransientError
from refresh_pipeline.sources.ccxt_exchange import CcxtSource
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline_tests.fakes import kraken as fake
from refresh_pipeline_tests.fakes.kraken import FakeKraken, row

if importlib.util.find_spec("ccxt") is None:
    pytest.skip("the extra ccxt is not installed", allow_module_level=True)

NOW = datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)
QUICK = RetryPolicy(attempts=3, first_wait=0.01, answer=5.0, limits=5.0)


@pytest.fixture
def venue() -> Iterator[FakeKraken]:
    with FakeKraken(NOW) as server:
        yield server


def market(base_url: str, more: str = ", rate: {requests: 1000, seconds: 1}", exchange: str = "kraken") -> Market:
    return parse_market(
        f"{{name: it, source: {{kind: ccxt, exchange: {exchange}, base_url: '{base_url}'{more}}}, calendar: crypto, "
        "instruments: {BTC/USD: {}, ETH/USD: {}, DOGE/MARS: {}}, timeframes: [m1, H1, H3, W1], history: 1d}",
        "it.yaml",
    )


def chunks(
    venue: FakeKraken, folder: Path, since: str, *names: str, timeframe: str = "m1", now: datetime = NOW
) -> list[Fetched]:
    it = market(venue.base_url)
    series = [Series(name, Timeframe(timeframe)) for name in names or ("BTC/USD",)]
    requests = [Request(each, instant(since), instant(now)) for each in series]
    got = list(fetch(CcxtSource(it, folder / "limits", retry_policy=QUICK), it, requests, now))
    assert sorted(each.series.key for each in got if each.last) == sorted(each.key for each in series)
    return got


def whole(got: list[Fetched]) -> Candles:
    assert [str(each.error) for each in got if each.error] == []
    return Candles.concatenated([each.candles for each in got])


def test_candles_are_what_the_exchange_says_and_the_forming_one_is_left_out(venue: FakeKraken, tmp_path: Path) -> None:
    got = whole(chunks(venue, tmp_path, "2024-06-01T11:30"))
    assert [str(at)[11:16] for at in got.open_time] == [f"11:{minute}" for minute in range(30, 60)]
    expected = row("XXBTZUSD", 1717241400)
    assert [got[name][0] for name in CANDLE_COLUMNS] == [float(value) for value in [*expected[1:5], expected[6]]]
    assert [asked.path.rpartition("/")[2] for asked in venue.asked] == ["Assets", "AssetPairs", "OHLC"]


def test_a_machine_whose_clock_is_ahead_stores_no_forming_candle(venue: FakeKraken, tmp_path: Path) -> None:
    got = whole(chunks(venue, tmp_path, "2024-06-01T11:30", now=NOW + timedelta(seconds=80)))
    assert str(got.open_time[-1])[11:16] == "11:59"


def test_pages_go_on_from_the_newest_candle(tmp_path: Path) -> None:
    with FakeKraken(NOW, begins=datetime(2024, 5, 31, tzinfo=UTC), most=3000) as venue:
        got = chunks(venue, tmp_path, "2024-05-31")
        # The last one has nothing but the forming candle.
        assert [len(each.candles) for each in got] == [720, 720, 720, 0]
        assert set(np.diff(whole(got).open_time).astype("timedelta64[m]").astype(int)) == {1}
        assert len(venue.pages) == 4


def test_what_an_exchange_no_longer_has_is_left_out_without_a_loop(venue: FakeKraken, tmp_path: Path) -> None:
    got = whole(chunks(venue, tmp_path, "2023-01-01"))
    assert str(got.open_time[0])[:16] == "2024-06-01T00:01"
    assert len(venue.pages) == 1


def test_timeframes_that_it_lacks_are_made_and_weeks_are_ours(venue: FakeKraken, tmp_path: Path) -> None:
    source = CcxtSource(market(venue.base_url), tmp_path, retry_policy=QUICK)
    assert [each.value for each in source.native_timeframes] == ["m1", "m5", "m15", "m30", "H1", "H4", "D1"]
    assert source.kind == "ccxt:kraken"
    weeks = whole(chunks(venue, tmp_path, "2024-05-13", timeframe="W1"))
    assert [str(at)[:10] for at in weeks.open_time] == ["2024-05-13", "2024-05-20"]
    three = whole(chunks(venue, tmp_path, "2024-06-01", "ETH/USD", timeframe="H3"))
    assert [str(at)[11:13] for at in three.open_time] == ["00", "03", "06", "09"]


def test_an_unknown_symbol_fails_alone_and_says_where_to_put_the_right_one(venue: FakeKraken, tmp_path: Path) -> None:
    got = chunks(venue, tmp_path, "2024-06-01T11:30", "BTC/USD", "DOGE/MARS")
    errors = {each.series.instrument: each.error for each in got if each.last}
    assert errors["BTC/USD"] is None
    assert isinstance(errors["DOGE/MARS"], PermanentError)
    assert "kraken: BadSymbol" in str(errors["DOGE/MARS"])
    assert "`symbol`" in str(errors["DOGE/MARS"])


@pytest.mark.parametrize("fault", [fake.TOO_MANY, fake.BUSY, fake.Fault(502, "<html>"), fake.Fault(drops=True)])
def test_what_passes_is_asked_again(venue: FakeKraken, tmp_path: Path, fault: fake.Fault) -> None:
    venue.fail(fault, path="OHLC")
    assert len(whole(chunks(venue, tmp_path, "2024-06-01T11:30"))) == 30
    assert len(venue.pages) == 2


def test_what_does_not_pass_is_a_transient_error(venue: FakeKraken, tmp_path: Path) -> None:
    venue.fail(fake.BUSY, times=99)
    error = chunks(venue, tmp_path, "2024-06-01T11:30")[-1].error
    assert isinstance(error, TransientError)
    assert "ExchangeNotAvailable" in str(error)


def test_an_exchange_that_is_gone_fails_every_series_as_transient(tmp_path: Path) -> None:
    with FakeKraken(NOW) as venue:
        pass
    errors = [each.error for each in chunks(venue, tmp_path, "2024-06-01T11:30", "BTC/USD", "ETH/USD")]
    assert [isinstance(each, TransientError) for each in errors] == [True, True]


def test_its_limit_is_shared_through_our_accounts_not_kept_by_ccxt(venue: FakeKraken, tmp_path: Path) -> None:
    it = market(venue.base_url, more=", rate: {requests: 10, seconds: 1}")
    requests = [Request(Series("BTC/USD", Timeframe.m1), instant("2024-06-01T11:30"), instant(NOW))]
    started = time.monotonic()
    for _ in range(6):
        list(CcxtSource(it, tmp_path, retry_policy=QUICK).fetch(requests, NOW))
    # Eighteen questions at ten a second, of two windows.
    assert time.monotonic() - started > 0.9
    (account,) = tmp_path.glob("*.json")
    assert account.name == "ccxt_kraken.json"
    assert json.loads(account.read_text())["spent"]


def test_an_exchange_that_ccxt_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match=r"exchange: found 'krakken'; allowed: one of .*kraken"):
        open_source(market("http://127.0.0.1:1", exchange="krakken"), tmp_path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MarketError, match=r"'ccxt' needs an extra: .*pip install .*\[ccxt\]'"):
        open_source(market("http://127.0.0.1:1"), tmp_path)
