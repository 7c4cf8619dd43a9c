"""From a market to its source, and timeframes that a source lacks, made from those it has."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS, Candles, Malformed, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request, TransientError
from refresh_pipeline.sources.fetching import base_timeframe, fetch, require_served
from refresh_pipeline.sources.registry import SOURCES, WITH_TOKEN, open_source
from refresh_pipeline_tests.fakes.binance import FakeBinance

NOW = datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)
EUR = "EUR/USD"

OPEN_THE_DEMO = """
import sys
from pathlib import Path
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.sources.registry import open_source
text = "{name: d, source: {kind: demo}, calendar: crypto, instruments: [A], timeframes: [H1], history: 1d}"
open_source(parse_market(text, "d.yaml"), Path("."))
print([name for name in ("httpx", "aiohttp", "tenacity") if name in sys.modules])
"""


def market(
    kind: str = "demo", timeframes: str = "m1, m5, H1, H3, W1", calendar: str = "crypto", more: str = ""
) -> Market:
    return parse_market(
        f"{{name: it, source: {{kind: {kind}{more}}}, calendar: {calendar}, instruments: [EUR/USD, BTC/USDT], "
        f"timeframes: [{timeframes}], history: 1d}}",
        "it.yaml",
    )


@dataclass
class Venue:
    """A source in memory: candles at every step of its calendar, in chunks of any length, and its own clock."""

    native_timeframes: Sequence[Timeframe] = (Timeframe.m1, Timeframe.H1, Timeframe.D1)
    chunk: int = 1000
    now: datetime = NOW
    calendar: str = "crypto"
    columns: Sequence[str] = CANDLE_COLUMNS
    # Base candles that it never had, that are bad, and where it breaks off.
    holes: Sequence[str] = ()
    bad: Sequence[str] = ()
    breaks_at: str | None = None
    malformed: Sequence[Malformed] = ()
    asked: list[Request] = field(default_factory=list)
    kind: str = "venue"

    def candles(self, timeframe: Timeframe, since: np.datetime64, until: np.datetime64) -> Candles:
        grid = market(calendar=self.calendar).calendar
        opens = grid.open_times(timeframe, since, until)
        opens = opens[grid.closes(timeframe, opens) <= instant(self.now)]
        opens = opens[~np.isin(opens, np.array(self.holes, dtype="datetime64[us]"))]
        numbers = opens.astype(np.int64) / 6e7 % 9973
        columns = dict.fromkeys(self.columns, numbers + 5)
        columns |= {name: numbers + 9 for name in self.columns if name.endswith("high")}
        columns |= {name: numbers + 1 for name in self.columns if name.endswith("low")}
        columns["high"] = np.where(np.isin(opens, np.array(self.bad, dtype="datetime64[us]")), 0.5, columns["high"])
        return Candles(opens, columns)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        for request in requests:
            self.asked.append(request)
            until = request.until if self.breaks_at is None else min(request.until, instant(self.breaks_at))
            candles = self.candles(request.series.timeframe, request.since, until)
            for start in range(0, len(candles), self.chunk):
                mask = np.isin(np.arange(len(candles)), np.arange(start, start + self.chunk))
                chunk = replace(candles.where(mask), malformed=tuple(self.malformed))
                yield Fetched(request.series, chunk, last=False, seconds=0.5)
            error = TransientError(f"{request.series}: broke off") if self.breaks_at else None
            yield Fetched(request.series, Candles.none(), error=error)


def request(timeframe: Timeframe, since: str, until: str | datetime = NOW) -> Request:
    return Request(Series(EUR, timeframe), instant(since), instant(until))


def bars(venue: Venue, *requests: Request, now: datetime = NOW) -> dict[str, Candles]:
    """What came for each series, each closed exactly once."""
    got = list(fetch(venue, market(calendar=venue.calendar), requests, now))
    assert sorted(each.series.key for each in got if each.last) == sorted(each.series.key for each in requests)
    return {
        key: Candles.concatenated([each.candles for each in got if each.series.key == key and len(each.candles)])
        for key in {each.series.key for each in got}
    }


def same(left: Candles, right: Candles) -> bool:
    return list(left.open_time) == list(right.open_time) and all(
        np.array_equal(left[name], right[name]) for name in right.columns
    )


def test_what_a_source_serves_itself_passes_through(tmp_path: Path) -> None:
    venue = Venue()
    wanted = request(Timeframe.H1, "2024-06-01T00:00")
    assert same(bars(venue, wanted)["EUR/USD|H1"], venue.candles(Timeframe.H1, wanted.since, wanted.until))
    assert venue.asked == [wanted]


@pytest.mark.parametrize(
    ("wanted", "base"),
    [("m1", "m1"), ("m5", "m1"), ("m30", "m1"), ("H1", "H1"), ("H3", "H1"), ("H8", "H1"), ("W1", "D1"), ("MN1", "D1")],
)
def test_the_longest_timeframe_that_divides_is_asked_for(wanted: str, base: str) -> None:
    assert base_timeframe(Venue(), Timeframe(wanted)) is Timeframe(base)


def test_nothing_divides_what_is_shorter_than_everything() -> None:
    assert base_timeframe(Venue(native_timeframes=[Timeframe.H1]), Timeframe.m5) is None
    assert base_timeframe(Venue(native_timeframes=[Timeframe.H2]), Timeframe.H3) is None


@pytest.mark.parametrize("chunk", [1, 2, 7, 60, 1000])
@pytest.mark.parametrize("timeframe", [Timeframe.m5, Timeframe.H3])
def test_bars_are_the_same_however_their_base_candles_are_cut(timeframe: Timeframe, chunk: int) -> None:
    venue = Venue(chunk=chunk)
    since, until = instant("2024-06-01T03:00"), instant("2024-06-01T12:00")
    base = venue.candles(Timeframe.m1 if timeframe is Timeframe.m5 else Timeframe.H1, since, until)
    whole = resample(base, timeframe, market().calendar)
    assert same(bars(venue, request(timeframe, "2024-06-01T03:00"))[f"EUR/USD|{timeframe}"], whole)


def test_a_range_is_widened_to_whole_bars_and_bars_outside_it_are_not_given() -> None:
    venue = Venue()
    got = bars(venue, request(Timeframe.H3, "2024-06-01T04:30", "2024-06-01T09:30"))["EUR/USD|H3"]
    assert list(got.open_time) == [instant("2024-06-01T06:00"), instant("2024-06-01T09:00")]
    assert (venue.asked[0].since, venue.asked[0].until) == (instant("2024-06-01T03:00"), instant("2024-06-01T12:00"))
    assert got["high"][1] == venue.candles(Timeframe.H1, got.open_time[1], instant("2024-06-01T12:00"))["high"].max()


def test_a_bar_that_has_not_ended_is_not_given() -> None:
    assert bars(Venue(), request(Timeframe.m5, "2024-06-01T11:50"))["EUR/USD|m5"].open_time[-1] == instant(
        "2024-06-01T11:55"
    )
    early = NOW - timedelta(seconds=31)
    assert bars(Venue(now=early), request(Timeframe.m5, "2024-06-01T11:50"), now=early)["EUR/USD|m5"].open_time[
        -1
    ] == instant("2024-06-01T11:50")


def test_a_bar_whose_last_candle_the_venue_has_not_closed_yet_is_not_given_although_our_clock_is_ahead() -> None:
    late = Venue(now=NOW - timedelta(minutes=2))
    assert bars(late, request(Timeframe.m5, "2024-06-01T11:40"))["EUR/USD|m5"].open_time[-1] == instant(
        "2024-06-01T11:50"
    )


def test_a_bar_that_the_venue_says_is_complete_is_not_given_before_our_clock_agrees() -> None:
    got = bars(Venue(now=NOW + timedelta(hours=1)), request(Timeframe.m5, "2024-06-01T11:50", "2024-06-01T13:00"))
    assert got["EUR/USD|m5"].open_time[-1] == instant("2024-06-01T11:55")


def test_a_hole_at_the_end_of_a_bar_does_not_hold_it_back_once_trading_goes_on() -> None:
    venue = Venue(holes=["2024-06-01T11:54"])
    got = bars(venue, request(Timeframe.m5, "2024-06-01T11:50"))["EUR/USD|m5"]
    assert list(got.open_time) == [instant("2024-06-01T11:50"), instant("2024-06-01T11:55")]
    assert got["volume"][0] == venue.candles(Timeframe.m1, got.open_time[0], got.open_time[1])["volume"].sum()


def test_a_hole_at_the_end_of_an_old_range_does_not_hold_its_last_bar_back() -> None:
    venue = Venue(holes=["2024-06-01T08:58", "2024-06-01T08:59"])
    got = bars(venue, request(Timeframe.m5, "2024-06-01T08:50", "2024-06-01T09:00"))["EUR/USD|m5"]
    assert list(got.open_time) == [instant("2024-06-01T08:50"), instant("2024-06-01T08:55")]


def test_a_hole_at_the_end_of_the_newest_bar_holds_it_back_for_now() -> None:
    venue = Venue(holes=["2024-06-01T11:59"])
    got = bars(venue, request(Timeframe.m5, "2024-06-01T11:50"))["EUR/USD|m5"]
    assert list(got.open_time) == [instant("2024-06-01T11:50")]


def test_a_week_is_complete_when_its_last_session_is() -> None:
    # Sunday evening in New York: the week of days from Sunday 17:00 on has ended, its last day on Friday.
    now = datetime(2024, 6, 9, 21, 0, 5, tzinfo=UTC)
    venue = Venue(native_timeframes=[Timeframe.D1], now=now, calendar="fx")
    got = bars(venue, request(Timeframe.W1, "2024-05-26T21:00", now), now=now)["EUR/USD|W1"]
    assert list(got.open_time) == [instant("2024-05-26T21:00"), instant("2024-06-02T21:00")]


def test_quotes_keep_both_sides() -> None:
    venue = Venue(columns=(*CANDLE_COLUMNS, *QUOTE_COLUMNS), chunk=7)
    got = bars(venue, request(Timeframe.m5, "2024-06-01T11:00"))["EUR/USD|m5"]
    assert got["bid_high"][0] == venue.candles(Timeframe.m1, got.open_time[0], got.open_time[1])["bid_high"].max()


def test_a_bar_with_a_bad_candle_in_it_is_made_of_the_others_and_says_so() -> None:
    venue = Venue(bad=["2024-06-01T11:52"])
    got = bars(venue, request(Timeframe.m5, "2024-06-01T11:45"))["EUR/USD|m5"]
    assert got["base_bars"].tolist() == [5, 4, 5]
    assert got["complete"].tolist() == [1, 0, 1]


def test_malformed_rows_are_told_once_with_the_series_that_was_wanted() -> None:
    venue = Venue(chunk=60, malformed=[Malformed("?", "no kline")])
    got = list(fetch(venue, market(), [request(Timeframe.m5, "2024-06-01T11:00")], NOW))
    assert [row.text for each in got for row in each.candles.malformed] == ["?"]


def test_a_source_that_breaks_off_gives_whole_bars_and_its_error() -> None:
    venue = Venue(breaks_at="2024-06-01T08:53", chunk=10)
    got = list(fetch(venue, market(), [request(Timeframe.m5, "2024-06-01T08:40")], NOW))
    assert [str(at) for each in got for at in each.candles.open_time.astype("datetime64[m]")] == [
        "2024-06-01T08:40",
        "2024-06-01T08:45",
    ]
    # Named after itself, not after the series that was asked for: one reason is told once.
    assert [str(each.error) for each in got if each.last] == ["EUR/USD m5: broke off"]


def test_a_series_that_serves_itself_and_longer_ones_is_asked_for_once() -> None:
    venue = Venue(chunk=100)
    requests = [
        request(Timeframe.m1, "2024-06-01T11:50"),
        request(Timeframe.m5, "2024-06-01T10:00"),
        request(Timeframe.m30, "2024-06-01T09:40"),
        request(Timeframe.H1, "2024-06-01T09:00"),
    ]
    got = bars(venue, *requests)
    assert [each.series.timeframe for each in venue.asked] == [Timeframe.m1, Timeframe.H1]
    assert {key: (str(each.open_time[0])[11:16], len(each)) for key, each in got.items()} == {
        "EUR/USD|m1": ("11:50", 10),
        "EUR/USD|m5": ("10:00", 24),
        "EUR/USD|m30": ("10:00", 4),
        "EUR/USD|H1": ("09:00", 3),
    }


def test_a_range_without_candles_ends_with_none() -> None:
    venue = Venue()
    assert len(bars(venue, request(Timeframe.m5, "2024-06-02T00:00", "2024-06-03T00:00"))["EUR/USD|m5"]) == 0


def test_binance_three_hour_bars_come_from_its_hours(tmp_path: Path) -> None:
    with FakeBinance(["BTCUSDT"], now=NOW) as venue:
        it = market("binance", "H1, H3, W1", more=f", base_url: '{venue.base_url}'")
        source = open_source(it, tmp_path)
        wanted = Request(Series("BTC/USDT", Timeframe.H3), instant("2024-03-01"), instant(NOW))
        hours = Request(Series("BTC/USDT", Timeframe.H1), instant("2024-03-01"), instant(NOW))
        got = list(fetch(source, it, [wanted], NOW))
        made = Candles.concatenated([each.candles for each in got])
        base = Candles.concatenated([each.candles for each in source.fetch([hours], NOW)])
    assert len(got) == 3
    assert made.open_time[-1] == instant("2024-06-01T09:00")
    assert same(
        made, resample(base.between(instant("2024-03-01"), instant("2024-06-01T12:00")), Timeframe.H3, it.calendar)
    )


def test_a_caller_that_leaves_early_leaves_nothing_running(tmp_path: Path) -> None:
    with FakeBinance(["BTCUSDT"], now=NOW) as venue:
        it = market("binance", "m1, H3", more=f", base_url: '{venue.base_url}'")
        wanted = Request(Series("BTC/USDT", Timeframe.H3), instant("2018-01-01"), instant(NOW))
        for _ in fetch(open_source(it, tmp_path), it, [wanted], NOW):
            break
        assert [thread.name for thread in threading.enumerate() if thread.name == "fetching"] == []


def test_each_kind_of_source_opens(tmp_path: Path) -> None:
    options = {
        "files": f", directory: '{tmp_path}'",
        "http": ", base_url: 'http://127.0.0.1:1', path: /, timeframes: {H1: x}, time: s, "
        "fields: {time: 0, open: 1, high: 2, low: 3, close: 4}",
        "ccxt": ", exchange: kraken",
    }
    installed = [kind for kind in SOURCES if kind != "ccxt" or importlib.util.find_spec("ccxt")]
    for kind in installed:
        opened = open_source(market(kind, "H1, D1", more=options.get(kind, "")), tmp_path)
        assert opened.kind.partition(":")[0] == kind


def test_an_unknown_kind_of_source_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match=r"market 'it': source\.kind: found 'kraken'; allowed: demo, binance, oanda"):
        open_source(market("kraken"), tmp_path)


def test_a_timeframe_that_cannot_be_made_is_refused_with_what_can() -> None:
    hourly = Venue(native_timeframes=[Timeframe.H1])
    require_served(market(timeframes="H1, H3, D1, W1, MN1"), hourly)
    with pytest.raises(MarketError, match=r"market 'it': timeframes: found m5.*allowed: H1 and multiples"):
        require_served(market(timeframes="m5, H1"), hourly)


def test_a_simulated_market_needs_no_http_client() -> None:
    done = subprocess.run([sys.executable, "-c", OPEN_THE_DEMO], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def described(more: str, base_url: str = "https://api.example.com") -> Market:
    """A market of a JSON API, with more options of its source."""
    options = "path: /x, timeframes: {m1: x}, time: s, fields: {time: 0, open: 1, high: 2, low: 3, close: 4}"
    text = f"source: {{kind: http, base_url: '{base_url}', {options}, {more}}}"
    return parse_market(f"name: x\ncalendar: crypto\ninstruments: [A/B]\ntimeframes: [m1]\nhistory: 1d\n{text}\n", "x")


FOREIGN = ("HOME", "AWS_SECRET_ACCESS_KEY", "SMTP_PASSWORD", "REFRESH_API_KEY", "DROPBOX_APP_SECRET")


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("option", ["headers: {X-Key: 'a $%s'}", "params: {a: b, k: $%s}"])
def test_a_market_names_no_variable_of_others(name: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(MarketError, match=f"found the variable {name}; allowed: .*REFRESH_SECRET_"):
        open_source(described(option % name), tmp_path)


def test_a_market_names_its_secrets_and_what_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_source(described("headers: {X-Key: $REFRESH_SECRET_MINE}"), tmp_path)
    monkeypatch.setenv("REFRESH_YAML_VARIABLES", "A_KEY, VENUE_KEY")
    open_source(described("headers: {X-Key: $VENUE_KEY}"), tmp_path)


@pytest.mark.parametrize("option", ["headers: {X-Key: $REFRESH_SECRET_MINE}", "params: {apikey: literal}"])
def test_a_token_goes_to_no_other_machine_in_the_clear(option: str, tmp_path: Path) -> None:
    with pytest.raises(MarketError, match=r"http:// to api\.example\.com, which shows the token"):
        open_source(described(option, "http://api.example.com"), tmp_path)
    for url in ("http://127.0.0.1:8080", "http://localhost", "https://api.example.com"):
        open_source(described(option, url), tmp_path)
    open_source(described(f"{option}, insecure_http: true", "http://api.example.com"), tmp_path)
    open_source(described("params: {a: b}", "http://api.example.com"), tmp_path)


TOKENS = ("oanda", "dhan", "alpaca")


def test_every_source_with_a_token_is_held_against_plain_http() -> None:
    assert set(TOKENS) == set(WITH_TOKEN)


@pytest.mark.parametrize("kind", TOKENS)
def test_a_venues_own_token_goes_to_no_other_machine_in_the_clear(kind: str, tmp_path: Path) -> None:
    def opened(address: str, more: str = "") -> None:
        options = ", ".join(each for each in (f"kind: {kind}", f"base_url: '{address}'", more) if each)
        text = f"name: x\nsource: {{{options}}}\ncalendar: crypto\ninstruments: {{A/B: {{ids: {{security_id: 1}}}}}}\n"
        open_source(parse_market(f"{text}timeframes: [m1]\nhistory: 1d\n", "x"), tmp_path)

    with pytest.raises(MarketError, match=r"http:// to api\.example\.com, which shows the token"):
        opened("http://api.example.com")
    for address in ("http://127.0.0.1:8080", "http://[::1]:8080", "https://api.example.com"):
        opened(address)
    opened("http://api.example.com", "insecure_http: true")
