"""Binance's klines, held against a venue on loopback that speaks its contract, and against recorded answers."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources.binance import INTERVALS, BinanceSource, read_klines
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline_tests.fakes import binance as fake
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.reference_data import ORIGINS, Answers, answer_of

NOW = datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)
QUICK = RetryPolicy(attempts=4, first_wait=0.01, answer=5.0, limits=2.0)
INSTRUMENTS = tuple(f"{symbol.removesuffix('USDT')}/USDT" for symbol in fake.SYMBOLS)


@pytest.fixture
def venue() -> Iterator[FakeBinance]:
    with FakeBinance(now=NOW) as server:
        yield server


def market_at(base_url: str, instruments: Sequence[str] = INSTRUMENTS, more: str = "") -> Market:
    text = f"""
        name: crypto
        source: {{kind: binance, base_url: "{base_url}"{more}}}
        calendar: crypto
        instruments: {json.dumps(list(instruments))}
        timeframes: [m1]
        history: 30d
    """
    return parse_market(text, "crypto.yaml")


def source_at(venue: FakeBinance, directory: Path) -> BinanceSource:
    return BinanceSource(market_at(venue.base_url), directory / "limits", retry_policy=QUICK)


def asking(since: str, until: str | datetime, timeframe: Timeframe = Timeframe.m1, *names: str) -> list[Request]:
    return [Request(Series(name, timeframe), instant(since), instant(until)) for name in names or ("BTC/USDT",)]


def fetched(source: BinanceSource, requests: Sequence[Request]) -> dict[str, Candles]:
    """Everything that came, series by series; each ended once and without an error."""
    got = list(source.fetch(requests, NOW))
    assert [str(each.error) for each in got if each.error] == []
    assert sorted(each.series.key for each in got if each.last) == sorted(each.series.key for each in requests)
    return {
        key: Candles.concatenated([each.candles for each in got if each.series.key == key])
        for key in {each.series.key for each in got}
    }


def one(source: BinanceSource, since: str, until: str | datetime, timeframe: Timeframe = Timeframe.m1) -> Candles:
    (candles,) = fetched(source, asking(since, until, timeframe)).values()
    return candles


def ends_of(source: BinanceSource, requests: Sequence[Request]) -> dict[str, Fetched]:
    return {each.series.instrument: each for each in source.fetch(requests, NOW) if each.last}


def error_of(source: BinanceSource) -> SourceError:
    error = ends_of(source, asking("2024-06-01T11:50", NOW))["BTC/USDT"].error
    assert error is not None
    return error


def minutes(since: str, until: str) -> np.ndarray:
    return np.arange(instant(since), instant(until), np.timedelta64(1, "m"))


def test_candles_are_what_the_venue_says_they_are(venue: FakeBinance, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-01T11:50", "2024-06-01T11:55")
    assert list(candles.open_time) == list(minutes("2024-06-01T11:50", "2024-06-01T11:55"))
    row = venue.candle("BTCUSDT", "1m", "2024-06-01T11:52")
    assert [candles[name][2] for name in CANDLE_COLUMNS] == [float(field) for field in row[1:6]]


def test_the_candle_that_is_still_forming_is_left_out(venue: FakeBinance, tmp_path: Path) -> None:
    assert one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW).open_time[-1] == instant("2024-06-01T11:59")


@pytest.mark.parametrize("hours", [-2, 2])
def test_the_venues_clock_decides_what_is_closed_not_ours(venue: FakeBinance, tmp_path: Path, hours: int) -> None:
    # Asked as by a machine whose clock is wrong: `until` and `now` are its own.
    requests = asking("2024-06-01T09:00", NOW + timedelta(hours=hours))
    (candles,) = [each.candles for each in source_at(venue, tmp_path).fetch(requests, NOW + timedelta(hours=hours))]
    assert candles.open_time[-1] == instant("2024-06-01T10:00" if hours < 0 else "2024-06-01T11:59")


def test_a_candle_is_closed_from_the_first_instant_after_it(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    venue.now = datetime(2024, 6, 1, 12, 0, 59, 999_000, tzinfo=UTC)
    assert one(source, "2024-06-01T11:59", "2024-06-01T13:00").open_time[-1] == instant("2024-06-01T11:59")
    venue.now = datetime(2024, 6, 1, 12, 1, tzinfo=UTC)
    assert one(source, "2024-06-01T11:59", "2024-06-01T13:00").open_time[-1] == instant("2024-06-01T12:00")


@pytest.mark.parametrize("timeframe", INTERVALS)
def test_every_timeframe_comes_in_whole_bars(venue: FakeBinance, tmp_path: Path, timeframe: Timeframe) -> None:
    since = NOW - timedelta(minutes=timeframe.minutes * 5)
    source = source_at(venue, tmp_path)
    candles = fetched(source, [Request(Series("BTC/USDT", timeframe), instant(since), instant(NOW))]).popitem()[1]
    calendar = market_at(venue.base_url).calendar
    closed = calendar.open_times(timeframe, instant(since), instant(NOW))
    closed = closed[calendar.closes(timeframe, closed) <= instant(NOW)]
    assert len(closed) > 2
    assert list(candles.open_time) == list(closed)
    assert {asked.query["interval"] for asked in venue.asked if "interval" in asked.query} == {INTERVALS[timeframe]}


def test_since_is_included_and_until_is_not(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    assert len(one(source, "2024-06-01T11:00", "2024-06-01T11:01")) == 1
    assert len(one(source, "2024-06-01T11:00:00.000001", "2024-06-01T11:01")) == 0
    assert len(one(source, "2024-06-01T11:00", "2024-06-01T11:01:00.000001")) == 2
    # Both ends of the venue's own range are included.
    ends = [int(asked.query["endTime"]) % 60_000 for asked in venue.asked if "endTime" in asked.query]
    assert ends == [59_999, 59_999, 0]


@pytest.mark.parametrize("cap", [1000, 400, 7])
def test_long_ranges_come_whole_however_few_rows_a_page_has(tmp_path: Path, cap: int) -> None:
    with FakeBinance(now=NOW, page_cap=cap) as venue:
        since, until = ("2024-05-31T00:00", "2024-06-01T12:00") if cap > 7 else ("2024-06-01T11:00", "2024-06-01T12:00")
        candles = one(source_at(venue, tmp_path), since, until)
        assert list(candles.open_time) == list(minutes(since, until))
        assert len(venue.pages) == -(-len(candles) // cap)


def test_pages_arrive_one_by_one_oldest_first(venue: FakeBinance, tmp_path: Path) -> None:
    got = list(source_at(venue, tmp_path).fetch(asking("2024-05-30T12:00", NOW), NOW))
    assert [len(each.candles) for each in got] == [1000, 1000, 880]
    assert [each.last for each in got] == [False, False, True]
    assert got[0].candles.open_time[-1] < got[1].candles.open_time[0]
    assert all(each.seconds > 0 for each in got)


def test_an_ordinary_refresh_is_one_request_a_series(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    fetched(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert sorted(symbol for symbol, _ in venue.pages) == sorted(fake.SYMBOLS)
    assert [asked.path.rpartition("/")[2] for asked in venue.asked[:2]] == ["time", "exchangeInfo"]
    assert len(venue.asked) == len(INSTRUMENTS) + 2
    fetched(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert len(venue.asked) == 2 * len(INSTRUMENTS) + 3


def test_holes_at_the_venue_are_no_end(venue: FakeBinance, tmp_path: Path) -> None:
    missing = minutes("2024-05-31T20:00", "2024-05-31T20:30")
    for open_time in missing:
        venue.remove("BTCUSDT", "1m", str(open_time))
    candles = one(source_at(venue, tmp_path), "2024-05-31T12:00", "2024-06-01T12:00")
    assert len(candles) == 1440 - 30
    assert not np.isin(missing, candles.open_time).any()


def test_what_is_asked_for_before_its_listing_begins_with_its_listing(tmp_path: Path) -> None:
    with FakeBinance(now=NOW, listed=datetime(2024, 6, 1, 11, 30, tzinfo=UTC)) as venue:
        source = source_at(venue, tmp_path)
        assert one(source, "2024-05-01T00:00", NOW).open_time[0] == instant("2024-06-01T11:30")
        assert len(one(source, "2024-05-01T00:00", "2024-05-02T00:00")) == 0


@pytest.mark.parametrize(("since", "until"), [("2024-06-01T11:00", "2024-06-01T11:00"), ("2030-01-01", "2030-01-02")])
def test_a_range_without_candles_ends_with_none(venue: FakeBinance, tmp_path: Path, since: str, until: str) -> None:
    assert len(one(source_at(venue, tmp_path), since, until)) == 0
    assert venue.pages == []


def test_nothing_asked_is_nothing_asked_of_the_venue(venue: FakeBinance, tmp_path: Path) -> None:
    assert list(source_at(venue, tmp_path).fetch([], NOW)) == []
    assert venue.asked == []


def test_a_late_correction_is_seen_when_the_candle_is_read_again(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    before = one(source, "2024-06-01T11:50", NOW)
    venue.correct("BTCUSDT", "1m", "2024-06-01T11:55", close="12345.60000000")
    after = one(source, "2024-06-01T11:50", NOW)
    assert list(np.flatnonzero(after["close"] != before["close"])) == [5]
    assert after["close"][5] == 12345.6


def test_rows_twice_or_out_of_order_come_out_in_order_and_once(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    rows = [venue.candle("BTCUSDT", "1m", f"2024-06-01T11:5{minute}") for minute in (2, 0, 1, 2)]
    venue.fail(Fault(200, rows), path="klines")
    candles = one(source, "2024-06-01T11:50", "2024-06-01T11:53")
    assert list(candles.open_time) == list(minutes("2024-06-01T11:50", "2024-06-01T11:53"))


def test_microseconds_are_known_by_their_size(venue: FakeBinance, tmp_path: Path) -> None:
    venue.stamps_per_ms = 1000
    candles = one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)
    assert list(candles.open_time) == list(minutes("2024-06-01T11:50", "2024-06-01T12:00"))


@pytest.mark.parametrize("row", [[], [1717242960000, "1"], "text", {"open": 1}, None, [None] * 12, [10**30] * 12, 7])
def test_a_row_without_the_shape_of_a_kline_is_set_aside_and_the_others_stay(
    venue: FakeBinance, tmp_path: Path, row: Any
) -> None:
    venue.replace("BTCUSDT", "1m", "2024-06-01T11:56", row)
    candles = one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)
    if row is None:
        assert candles.malformed == ()
    else:
        assert [(each.text, bool(each.reason)) for each in candles.malformed] == [(json.dumps(row)[:200], True)]
    assert len(candles) == 9
    assert list(faults(candles)) == [None] * 9


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", ["abc", "", None, [], "NaN"])
def test_a_candle_with_a_number_that_is_none_is_bad_and_keeps_its_time(field: int, value: Any) -> None:
    rows = [[start, "2", "4", "1", "3", "9", start + 59_999, "0", 1, "0", "0", "0"] for start in (60_000, 120_000)]
    rows[1][field] = value
    candles, _ = read_klines(rows)
    assert [reason is None for reason in faults(candles)] == [True, False]
    assert list(candles.open_time.astype("datetime64[ms]").astype(int)) == [60_000, 120_000]
    assert candles.malformed == ()


def test_a_candle_with_a_number_that_is_none_does_not_cost_its_neighbours(venue: FakeBinance, tmp_path: Path) -> None:
    venue.correct("BTCUSDT", "1m", "2024-06-01T11:56", high="abc")
    candles = one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)
    assert list(np.flatnonzero(faults(candles) != None)) == [6]  # noqa: E711 (elementwise)


def test_a_page_of_nothing_but_rubbish_ends_the_series_and_no_loop_begins(venue: FakeBinance, tmp_path: Path) -> None:
    venue.fail(Fault(200, [["?"] * 12] * 1000), times=99, path="klines")
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, PermanentError)
    assert "none of 1000 rows says when it opened" in str(error)
    assert len(venue.pages) == 1


def test_a_host_that_sends_the_same_old_page_again_and_again_is_found_out(venue: FakeBinance, tmp_path: Path) -> None:
    page = [venue.candle("BTCUSDT", "1m", str(at)) for at in minutes("2024-05-31T00:00", "2024-05-31T16:40")]
    venue.fail(Fault(200, page), times=99, path="klines")
    got = list(source_at(venue, tmp_path).fetch(asking("2024-05-31T00:00", NOW), NOW))
    assert [len(each.candles) for each in got] == [1000, 0]
    assert "received older ones only" in str(got[-1].error)
    assert len(venue.pages) == 2


def test_one_unknown_symbol_among_twenty_fails_alone(venue: FakeBinance, tmp_path: Path) -> None:
    venue.symbols.remove("ADAUSDT")
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert [name for name, end in ends.items() if end.error] == ["ADA/USDT"]
    assert all(len(end.candles) == 10 for name, end in ends.items() if name != "ADA/USDT")
    error = ends["ADA/USDT"].error
    assert isinstance(error, PermanentError)
    assert all(part in str(error) for part in ("ADA/USDT m1", "symbol ADAUSDT", "Invalid symbol", "`symbol`"))
    assert [symbol for symbol, _ in venue.pages].count("ADAUSDT") == 1


def test_a_symbol_of_its_own_comes_from_the_yaml(venue: FakeBinance, tmp_path: Path) -> None:
    market = parse_market(
        f"""
        name: crypto
        source: {{kind: binance, base_url: "{venue.base_url}"}}
        calendar: crypto
        instruments: {{XBT/USD: {{symbol: BTCUSDT}}}}
        timeframes: [m1]
        history: 1d
        """,
        "crypto.yaml",
    )
    source = BinanceSource(market, tmp_path)
    assert len(fetched(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, "XBT/USD"))["XBT/USD|m1"]) == 10
    assert venue.pages[0][0] == "BTCUSDT"


def test_a_timeframe_that_binance_does_not_have_is_refused_for_its_series_only(
    venue: FakeBinance, tmp_path: Path
) -> None:
    requests = asking("2024-06-01T00:00", NOW, Timeframe.H3) + asking("2024-06-01T11:50", NOW)
    ends = {each.series.key: each for each in source_at(venue, tmp_path).fetch(requests, NOW)}
    assert "Binance has no H3" in str(ends["BTC/USDT|H3"].error)
    assert len(ends["BTC/USDT|m1"].candles) == 10


@pytest.mark.parametrize(
    "fault",
    [
        fake.too_many_requests(0.02),
        fake.too_many_requests(None),
        fake.banned(0.02),
        fake.INTERNAL_ERROR,
        fake.BUSY,
        fake.BACKEND_TIMEOUT,
        fake.OVER_LIMIT_IN_200,
        fake.BAD_GATEWAY,
        fake.DROPPED,
        Fault(200, "[[1717242960000,", headers={}),
    ],
)
@pytest.mark.parametrize("path", ["klines", "time"])
def test_trouble_that_passes_is_waited_out(venue: FakeBinance, tmp_path: Path, fault: Fault, path: str) -> None:
    venue.fail(fault, times=2, path=path)
    assert len(one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)) == 10


@pytest.mark.parametrize("fault", [fake.INTERNAL_ERROR, fake.BUSY, fake.DROPPED, fake.too_many_requests(0.01)])
def test_trouble_that_stays_fails_as_transient(venue: FakeBinance, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=99, path="klines")
    assert isinstance(error_of(source_at(venue, tmp_path)), TransientError)
    assert len(venue.pages) == QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fake.FIREWALL, "firewall"),
        (fake.WRONG_PLACE, "does not serve this place"),
        (fake.NOT_JSON, "expected JSON, received <html>"),
        (fake.NOT_A_LIST, "expected a list of klines"),
        (Fault(400, {"code": -1100, "msg": "Illegal characters found."}), "code -1100: Illegal characters"),
        (Fault(404, "nothing here"), "HTTP 404"),
        (Fault(302, "", {"Location": "https://elsewhere"}), "the venue has moved"),
    ],
)
def test_trouble_that_will_not_pass_is_asked_once_and_said_in_words(
    venue: FakeBinance, tmp_path: Path, fault: Fault, words: str
) -> None:
    venue.fail(fault, times=99, path="klines")
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, PermanentError)
    assert words in str(error)
    assert len(venue.pages) == 1


def test_a_place_that_is_not_served_costs_one_request_not_one_a_series(venue: FakeBinance, tmp_path: Path) -> None:
    venue.fail(fake.WRONG_PLACE, times=99)
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert len(ends) == 20
    assert all(isinstance(end.error, PermanentError) for end in ends.values())
    assert str(ends["ADA/USDT"].error).startswith("ADA/USDT m1: GET 127.0.0.1")
    assert len(venue.asked) == 1


def test_a_ban_of_hours_ends_the_fetch_at_once_and_no_later_one_knocks(venue: FakeBinance, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    fetched(source, asking("2024-06-01T11:50", NOW))
    venue.fail(fake.banned(7200), times=999, path="klines")
    asked = len(venue.asked)
    started = time.monotonic()
    ends = ends_of(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert all("3600 s" in str(end.error) or "3599 s" in str(end.error) for end in ends.values())
    # Not the hour of the ban.
    assert time.monotonic() - started < 600
    # The clock, and what was under way when the ban came.
    assert len(venue.asked) - asked <= 1 + len(INSTRUMENTS)
    asked = len(venue.asked)
    assert all(end.error for end in ends_of(source_at(venue, tmp_path), asking("2024-06-01T11:50", NOW)).values())
    assert len(venue.asked) == asked


def test_a_ban_that_does_not_say_how_long_it_lasts_is_taken_for_the_shortest(
    venue: FakeBinance, tmp_path: Path
) -> None:
    source = source_at(venue, tmp_path)
    venue.fail(fake.banned(None), times=99, path="klines")
    assert "allowed in 120 s" in str(error_of(source))
    assert len(venue.pages) == 1


def test_while_one_request_is_slowed_down_nobody_else_asks(venue: FakeBinance, tmp_path: Path) -> None:
    venue.fail(fake.too_many_requests(1.0), path="klines", symbol="BTCUSDT")
    many = [f"BTC/USDT{'' if n == 0 else n}" for n in range(100)]
    venue.symbols |= {f"BTCUSDT{n}" for n in range(100)}
    source = BinanceSource(market_at(venue.base_url, many), tmp_path, retry_policy=QUICK)
    fetched(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *many))
    refused = next(asked.at for asked in venue.asked if asked.status == 429)
    # What was on its way when the refusal came is through at once; then there is silence.
    later = sorted(asked.at - refused for asked in venue.asked if asked.at > refused)
    gaps = np.diff(later)
    assert gaps.max() > 0.15
    assert len(venue.pages) == 101


def test_the_limit_that_the_venue_states_is_kept(tmp_path: Path) -> None:
    # 60 series weigh 120; the venue allows 100 a minute, of which the clock and exchangeInfo take 21.
    names = [f"S{number}/USDT" for number in range(60)]
    with FakeBinance([f"S{number}USDT" for number in range(60)], NOW, weight_per_minute=100) as venue:
        source = BinanceSource(
            market_at(venue.base_url, names), tmp_path, retry_policy=RetryPolicy(limits=0.5, first_wait=0.01)
        )
        ends = ends_of(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *names))
        assert {asked.status for asked in venue.asked} == {200}
        assert 90 <= max(venue.used.values()) <= 100 or len(venue.used) > 1
        done = [name for name in names if ends[name].error is None]
        assert done == names[: len(done)]
        assert "rate limit is used up" in str(ends["S59/USDT"].error)


def test_weight_that_another_program_uses_is_left_to_it(tmp_path: Path) -> None:
    with FakeBinance(now=NOW, weight_per_minute=1000) as venue:
        minute = int(time.time() // 60)
        venue.used = dict.fromkeys((minute, minute + 1), 930)
        source = BinanceSource(
            market_at(venue.base_url), tmp_path, retry_policy=RetryPolicy(limits=0.1, first_wait=0.01)
        )
        ends = ends_of(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
        assert {asked.status for asked in venue.asked} == {200}
        assert any(end.error and end.error.transient for end in ends.values())


def test_a_host_without_exchange_info_serves_candles_all_the_same(venue: FakeBinance, tmp_path: Path) -> None:
    venue.fail(Fault(404, "not here"), times=99, path="exchangeInfo")
    assert len(one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)) == 10


def test_an_answer_that_is_late_is_an_answer(venue: FakeBinance, tmp_path: Path) -> None:
    venue.fail(fake.slow(0.1), path="klines")
    assert len(one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)) == 10


def test_a_caller_that_leaves_early_ends_the_asking(venue: FakeBinance, tmp_path: Path) -> None:
    arriving = source_at(venue, tmp_path).fetch(asking("2020-01-01", NOW, Timeframe.m1, *INSTRUMENTS), NOW)
    with closing(arriving):  # pyright: ignore[reportArgumentType]
        next(arriving)
    # What the venue has in hand it still answers; had the asking gone on, it would take minutes.
    counts = [-1, len(venue.asked)]
    while counts[-1] != counts[-2] and len(counts) < 20:
        time.sleep(0.2)
        counts.append(len(venue.asked))
    assert counts[-1] == counts[-2]


def test_a_venue_that_is_gone_fails_every_series_as_transient(tmp_path: Path) -> None:
    with FakeBinance(now=NOW) as venue:
        source = source_at(venue, tmp_path)
    ends = ends_of(source, asking("2024-06-01T11:50", NOW, Timeframe.m1, *INSTRUMENTS))
    assert len(ends) == 20
    assert all(isinstance(end.error, TransientError) for end in ends.values())
    assert "is the venue reachable?" in str(ends["BTC/USDT"].error)


@pytest.mark.parametrize(
    "url", ["ftp://host", "data-api.binance.vision", "https://", "https://user:pw@host", "http://h/?k=1"]
)
def test_a_base_url_that_is_none_is_refused_by_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(MarketError, match=r"market 'crypto': source: base_url: found .*allowed: http"):
        BinanceSource(market_at(url), tmp_path)


def test_an_unknown_option_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match=r"api_key: found 'x'; unknown key.*base_url"):
        BinanceSource(market_at("https://data-api.binance.vision", more=', api_key: "x"'), tmp_path)


@pytest.fixture(params=ORIGINS)
def recorded(request: pytest.FixtureRequest) -> Answers:
    """The venue's answer of that name: in the documented form, and as recorded where those lie beside the checkout."""
    return partial(answer_of, request.param, "binance")


@pytest.mark.parametrize(
    "name",
    ["klines_1m_recorded_2021", "klines_ADABTC_1m_from_vision_dump", "klines_BTCUSDT_1h_2024w01"],
)
def test_recorded_klines_are_read_whole(name: str, recorded: Answers) -> None:
    rows = recorded(name)["body"]
    candles, ends = read_klines(rows)
    assert list(candles.open_time.astype("datetime64[ms]").astype(int)) == [row[0] for row in rows]
    assert list(ends.astype("datetime64[ms]").astype(int)) == [row[6] for row in rows]
    for number, column in enumerate(CANDLE_COLUMNS, start=1):
        assert list(candles[column]) == [float(row[number]) for row in rows]
    assert list(faults(candles)) == [None] * len(rows)


@pytest.mark.parametrize(
    ("name", "transient"),
    [
        ("err_403_waf", False),
        ("err_418_ban", True),
        ("err_429_weight", True),
        ("err_451_geo", False),
        ("err_illegal_chars", False),
        ("err_invalid_interval", False),
        ("err_invalid_symbol", False),
        ("err_missing_symbol", False),
        ("err_server_busy", True),
        ("err_too_many_params", False),
        ("err_unread_params", False),
    ],
)
def test_recorded_refusals_are_told_apart(
    venue: FakeBinance, tmp_path: Path, name: str, transient: bool, recorded: Answers
) -> None:
    answer = recorded(name)
    headers = {key: value for key, value in answer["headers"].items() if key.lower() != "content-type"}
    venue.fail(Fault(answer["status"], answer["body"], headers), times=99, path="klines")
    assert error_of(source_at(venue, tmp_path)).transient is transient


@pytest.mark.parametrize(
    ("name", "weight"), [("exchangeInfo_ETHBTC_recorded_2025", 6000), ("exchangeInfo_recorded_2021", 1200)]
)
def test_the_limit_is_read_from_recorded_exchange_info(
    venue: FakeBinance, tmp_path: Path, name: str, weight: int, recorded: Answers
) -> None:
    venue.fail(Fault(200, recorded(name)["body"]), path="exchangeInfo")
    one(source_at(venue, tmp_path), "2024-06-01T11:50", NOW)
    (account,) = (tmp_path / "limits").glob("binance-127*.json")
    assert json.loads(account.read_text())["limit"] == weight


def test_the_venue_on_loopback_speaks_the_contract(venue: FakeBinance) -> None:
    def klines(**params: str | int) -> httpx.Response:
        return httpx.get(f"{venue.base_url}/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m"} | params)

    start = int(datetime(2024, 6, 1, 11, tzinfo=UTC).timestamp() * 1000)
    assert len(klines().json()) == 500
    assert klines().json()[-1][6] == 1717243259999
    assert len(klines(limit=1500, startTime=start - 10**8).json()) == 1000
    rounded = klines(startTime=start + 1, endTime=start + 5 * 60_000 - 1).json()
    assert [rounded[0][0], rounded[-1][0]] == [start + 60_000, start + 4 * 60_000]
    assert klines(endTime=start, limit=2).json()[-1][0] == start
    assert [len(row) for row in rounded] == [12] * 4
    assert klines(interval="1H").json()["code"] == -1120
    assert klines(symbol="btcusdt").json() == {"code": -1121, "msg": "Invalid symbol."}
    assert klines(symbol="").json()["code"] == -1102
    assert klines(colour="red").json()["code"] == -1104
    assert int(klines().headers["X-MBX-USED-WEIGHT-1M"]) > 10
