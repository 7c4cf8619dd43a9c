"""FXCM's archive, held against one on loopback with the traps that others met in the real one."""

import gzip
import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import PRICE_COLUMNS, QUOTE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources import fxcm as archive_of
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.fxcm import HEADER, FxcmSource, read_candles
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline_tests.fakes import fxcm as fake
from refresh_pipeline_tests.fakes.fxcm import FakeFxcm
from refresh_pipeline_tests.fakes.http_server import Fault

# A Monday: the week that is over has no file yet, the one before it has.
NOW = datetime(2024, 6, 17, 12, 0, tzinfo=UTC)
QUICK = RetryPolicy(attempts=4, first_wait=0.01, answer=5.0, limits=5.0)


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive on loopback may be asked as fast as it answers; that a limit is kept is shown where limits are."""
    monkeypatch.setattr(archive_of, "SECONDS_PER_REQUEST", 0.001)


@pytest.fixture
def archive() -> Iterator[FakeFxcm]:
    with FakeFxcm(NOW) as server:
        yield server


def market_at(base_url: str, two_sided: bool = True) -> Market:
    text = f"""
        name: fx
        source: {{kind: fxcm, base_url: "{base_url}"}}
        calendar: fx
        two_sided: {str(two_sided).lower()}
        instruments: [EUR/USD, USD/JPY, GBP/USD, XAU/USD]
        timeframes: [m1, m5, H1, H4, D1, W1]
        history: 30d
    """
    return parse_market(text, "fx.yaml")


def source_at(archive: FakeFxcm, directory: Path, *, two_sided: bool = True) -> FxcmSource:
    return FxcmSource(market_at(archive.base_url, two_sided), directory / "limits", retry_policy=QUICK)


def asking(since: str, until: str | datetime, timeframe: Timeframe, name: str = "EUR/USD") -> Request:
    return Request(Series(name, timeframe), instant(since), instant(until))


def one(source: FxcmSource, since: str, until: str | datetime, timeframe: Timeframe, now: datetime = NOW) -> Candles:
    """Everything that came of one series, which ended once and without an error."""
    got = list(source.fetch([asking(since, until, timeframe)], now))
    assert [str(each.error) for each in got if each.error] == []
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    return Candles.concatenated([each.candles for each in got if len(each.candles)])


def error_of(source: FxcmSource, name: str = "EUR/USD") -> SourceError:
    (*_, end) = source.fetch([asking("2024-05-27", "2024-06-01", Timeframe.H1, name)], NOW)
    assert end.error is not None
    return end.error


def hours(since: str, until: str) -> list[np.datetime64]:
    return list(market_at("http://nowhere").calendar.open_times(Timeframe.H1, instant(since), instant(until)))


def test_a_candle_has_both_sides_the_middle_and_no_volume(archive: FakeFxcm, tmp_path: Path) -> None:
    candles = one(source_at(archive, tmp_path), "2024-05-28T10:00", "2024-05-28T11:00", Timeframe.H1)
    quote = fake.quote("EURUSD", datetime(2024, 5, 28, 10, tzinfo=UTC), timedelta(hours=1))
    assert [candles[name][0] for name in QUOTE_COLUMNS] == quote
    assert [candles[name][0] for name in PRICE_COLUMNS] == [(quote[n] + quote[n + 4]) / 2 for n in range(4)]
    assert np.isnan(candles["volume"]).all()
    assert archive.paths == ["/H1/EURUSD/2024/22.csv.gz"]


def test_a_market_with_one_side_gets_the_middle_alone(archive: FakeFxcm, tmp_path: Path) -> None:
    candles = one(source_at(archive, tmp_path, two_sided=False), "2024-05-28", "2024-05-29", Timeframe.H1)
    assert set(candles.columns) == {*PRICE_COLUMNS, "volume"}


def test_weeks_come_one_by_one_and_only_those_that_are_over(archive: FakeFxcm, tmp_path: Path) -> None:
    source = source_at(archive, tmp_path)
    got = list(source.fetch([asking("2024-05-20T00:00", NOW, Timeframe.H1)], NOW))
    # The last week is over, and its file not there yet.
    assert [len(each.candles) for each in got] == [117, 120, 120, 0]
    opens = np.concatenate([each.candles.open_time for each in got])
    assert list(opens) == hours("2024-05-20T00:00", "2024-06-07T21:00")
    asked = len(archive.asked)
    assert asked <= 5
    # It is not asked for again for some hours, by whatever process.
    assert len(one(source_at(archive, tmp_path), "2024-06-07T12:00", NOW, Timeframe.H1)) == 9
    assert archive.paths[asked:] == ["/H1/EURUSD/2024/23.csv.gz"]


@pytest.mark.parametrize("shift", [0, -1, 1])
def test_a_week_is_known_by_its_timestamps_whatever_its_number(tmp_path: Path, shift: int) -> None:
    with FakeFxcm(NOW, shifts={2024: shift}) as archive:
        candles = one(source_at(archive, tmp_path), "2024-04-07T21:00", "2024-06-07T21:00", Timeframe.H1)
        assert list(candles.open_time) == hours("2024-04-07T21:00", "2024-06-07T21:00")
        # A file that held another week than the one looked for is kept for that one.
        assert len(archive.asked) <= 9 + 2


def test_the_numbering_may_change_with_the_year(tmp_path: Path) -> None:
    now = datetime(2026, 4, 1, tzinfo=UTC)
    with FakeFxcm(now, shifts={2026: -1}) as archive:
        candles = one(source_at(archive, tmp_path), "2025-11-30T22:00", "2026-02-27T22:00", Timeframe.H1, now)
        # Under "one less", the week of Monday 29 December 2025 would be number 0.
        expected = set(hours("2025-11-30T22:00", "2026-02-27T22:00")) - set(
            hours("2025-12-28T22:00", "2026-01-02T22:00")
        )
        assert set(but_for_holidays(candles)) == expected
        assert list(candles.open_time) == sorted(candles.open_time)


def but_for_holidays(candles: Candles) -> list[np.datetime64]:
    """The opening times, without those of Christmas and New Year, on which the archive in miniature trades."""
    return list(candles.open_time[market_at("http://nowhere").calendar.is_open(candles.open_time)])


def test_a_week_that_the_archive_lacks_is_no_failure_and_no_end(archive: FakeFxcm, tmp_path: Path) -> None:
    archive.missing = {(2024, 20), (2024, 21)}
    candles = one(source_at(archive, tmp_path), "2024-05-05T21:00", "2024-06-07T21:00", Timeframe.H1)
    there = hours("2024-05-05T21:00", "2024-05-10T21:00") + hours("2024-05-26T21:00", "2024-06-07T21:00")
    assert list(candles.open_time) == there


def test_a_week_that_is_not_over_is_not_asked_for(archive: FakeFxcm, tmp_path: Path) -> None:
    wednesday = datetime(2024, 6, 12, 12, 0, tzinfo=UTC)
    archive.lag = timedelta(0)
    assert len(one(source_at(archive, tmp_path), "2024-06-10T00:00", wednesday, Timeframe.H1, wednesday)) == 0
    assert archive.asked == []


def test_minutes_without_a_quote_stay_holes(archive: FakeFxcm, tmp_path: Path) -> None:
    candles = one(source_at(archive, tmp_path), "2024-05-28T10:00", "2024-05-28T11:00", Timeframe.m1)
    assert len(candles) == 58
    assert instant("2024-05-28T10:28") not in candles.open_time


def test_days_come_from_yearly_files_and_those_of_this_year_from_hours(archive: FakeFxcm, tmp_path: Path) -> None:
    candles = one(source_at(archive, tmp_path), "2023-11-01T21:00", NOW, Timeframe.D1)
    calendar = market_at("http://nowhere").calendar
    expected = calendar.open_times(Timeframe.D1, instant("2023-11-01T21:00"), instant("2024-06-07T21:00"))
    assert list(candles.open_time[calendar.has_bar(Timeframe.D1, candles.open_time)]) == list(expected)
    assert archive.paths[:2] == ["/D1/EURUSD/2023.csv.gz", "/D1/EURUSD/2024.csv.gz"]
    made = list(candles.open_time).index(instant("2024-05-28T21:00"))
    whole = one(source_at(archive, tmp_path), "2024-05-28T21:00", "2024-05-29T21:00", Timeframe.H1)
    assert candles["bid_high"][made] == whole["bid_high"].max()
    assert candles["ask_open"][made] == whole["ask_open"][0]


def test_other_timeframes_are_made_from_these(archive: FakeFxcm, tmp_path: Path) -> None:
    source = source_at(archive, tmp_path)
    market = market_at(archive.base_url)
    wanted = [asking("2024-05-26T21:00", "2024-05-31T21:00", timeframe) for timeframe in (Timeframe.m5, Timeframe.H4)]
    got = list(fetch(source, market, wanted, NOW))
    made = {
        each.series.timeframe: Candles.concatenated(
            [other.candles for other in got if other.series == each.series and len(other.candles)]
        )
        for each in wanted
    }
    assert [len(made[timeframe]) for timeframe in (Timeframe.m5, Timeframe.H4)] == [5 * 288, 30]
    assert {path.split("/")[1] for path in archive.paths} == {"m1", "H1"}


def test_crossed_quotes_are_kept_as_they_are(archive: FakeFxcm, tmp_path: Path) -> None:
    candles = one(source_at(archive, tmp_path), "2024-05-26T21:00", "2024-05-31T21:00", Timeframe.m1)
    assert (candles["bid_close"] > candles["ask_close"]).any()
    assert list(faults(candles)) == [None] * len(candles)


def test_a_pair_that_is_not_in_the_archive_ends_the_asking_soon(archive: FakeFxcm, tmp_path: Path) -> None:
    (*_, end) = source_at(archive, tmp_path).fetch([asking("2014-01-01", NOW, Timeframe.H1, "XAU/USD")], NOW)
    assert isinstance(end.error, PermanentError)
    assert "none of 26 weeks of XAUUSD" in str(end.error)
    assert len(archive.asked) < 40


def test_nothing_is_asked_of_before_the_archive_begins(archive: FakeFxcm, tmp_path: Path) -> None:
    assert len(one(source_at(archive, tmp_path), "2009-01-01", "2011-06-01", Timeframe.H1)) == 0
    assert archive.asked == []


@pytest.mark.parametrize("fault", [Fault(403, "no", {"Retry-After": "0.05"}), fake.BUSY, fake.DROPPED, Fault(429)])
def test_trouble_that_passes_is_waited_out(archive: FakeFxcm, tmp_path: Path, fault: Fault) -> None:
    archive.fail(fault, times=2)
    assert len(one(source_at(archive, tmp_path), "2024-05-26T21:00", "2024-05-31T21:00", Timeframe.H1)) == 120


def test_a_file_that_breaks_off_is_asked_for_again_and_then_given_up_for_now(archive: FakeFxcm, tmp_path: Path) -> None:
    path = "/H1/EURUSD/2024/22.csv.gz"
    archive.replace(path, gzip.compress("\n".join(archive.lines(path)).encode())[:-20])
    error = error_of(source_at(archive, tmp_path))
    assert isinstance(error, TransientError)
    assert "breaks off" in str(error)
    assert len(archive.asked) == QUICK.attempts


def test_an_archive_that_wants_fewer_requests_gets_a_minute_of_silence(archive: FakeFxcm, tmp_path: Path) -> None:
    archive.fail(fake.THROTTLED, times=99)
    error = error_of(source_at(archive, tmp_path))
    assert isinstance(error, TransientError)
    assert "wants fewer requests" in str(error)
    assert len(archive.asked) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>Welcome to this hotel's network</html>", "expected a file that begins with DateTime,BidOpen"),
        (b"\xff\xfe\x00rubbish", "bytes that are no text"),
        (gzip.compress(b"DateTime,Open,High\n1,2,3"), "received DateTime,Open,High"),
        (gzip.compress(bytes(51 * 1024 * 1024)), "more than 50 MB"),
    ],
    ids=["a page", "rubbish", "other columns", "too long"],
)
def test_what_is_no_file_of_the_archive_is_said_in_words(
    archive: FakeFxcm, tmp_path: Path, content: bytes, words: str
) -> None:
    archive.replace("/H1/EURUSD/2024/22.csv.gz", content)
    error = error_of(source_at(archive, tmp_path))
    assert isinstance(error, PermanentError)
    assert words in str(error)
    assert len(archive.asked) == 1


def test_rubbish_in_a_file_costs_its_own_rows_only() -> None:
    row = "05/28/2024 {}:00:00.000,1.1,1.3,1.0,1.2,1.2,1.4,1.1,1.3"
    lines = [HEADER, row.format(10), "13/45/2024 x,1,1,1,1,1,1,1,1", "1,2", row.format(11).replace("1.4", "abc"), ""]
    candles = read_candles("\n".join([*lines, row.format(12)]))
    assert [str(at)[11:13] for at in candles.open_time] == ["10", "11", "12"]
    assert [reason is None for reason in faults(candles)] == [True, False, True]
    assert [each.reason for each in candles.malformed] == ["its time cannot be read", "a candle has 9 fields"]
    assert len(read_candles(HEADER)) == 0
    with pytest.raises(PermanentError, match="received nothing"):
        read_candles("")


def test_a_list_of_absent_files_that_cannot_be_read_is_begun_anew(archive: FakeFxcm, tmp_path: Path) -> None:
    source = source_at(archive, tmp_path)
    one(source, "2024-06-07T12:00", NOW, Timeframe.H1)
    (file,) = (tmp_path / "limits").glob("*.absent.json")
    assert all(path.startswith("/H1/EURUSD/2024/") for path in json.loads(file.read_text()))
    file.write_text("[1, 2")
    assert len(one(source, "2024-05-27T00:00", "2024-05-28T00:00", Timeframe.H1)) == 24


def test_an_absent_file_that_was_noted_by_a_clock_that_was_ahead_is_asked_for_again(tmp_path: Path) -> None:
    file, now = tmp_path / "absent.json", time.time()
    file.write_text(json.dumps({"soon": now + 60, "ahead": now + archive_of.ABSENT_FOR + 3 * 3600}))
    absent = archive_of.Absent(file)
    assert ("soon" in absent, "ahead" in absent) == (True, False)


def test_where_nothing_can_be_written_down_the_candles_come_all_the_same(archive: FakeFxcm, tmp_path: Path) -> None:
    source = source_at(archive, tmp_path)
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / f"fxcm-{archive.base_url.removeprefix('http://').replace(':', '_')}.absent.json").mkdir()
    assert len(one(source, "2024-06-03T00:00", NOW, Timeframe.H1)) == 117


@pytest.mark.parametrize("monday", [date(2024, 12, 30), date(2025, 12, 29), date(2026, 1, 5), date(2024, 6, 3)])
def test_no_file_is_looked_for_under_a_number_that_no_week_has(monday: date) -> None:
    numbers = list(archive_of._numbers(monday))
    assert all(1 <= week <= 53 for _, week in numbers)
    assert tuple(monday.isocalendar()[:2]) in numbers


def test_the_archive_on_loopback_is_numbered_by_iso_weeks(archive: FakeFxcm) -> None:
    assert archive.lines("/H1/EURUSD/2024/22.csv.gz")[1].startswith("05/26/2024 21:00:00.000,")
    assert archive.lines("/H1/EURUSD/2024/3.csv.gz")[1].startswith("01/14/2024 22:00:00.000,")
    assert archive.lines("/H1/EURUSD/2024/24.csv.gz") == []
    assert archive.lines("/D1/EURUSD/2023.csv.gz")[1].startswith("01/01/2023 22:00:00.000,")
    assert archive.lines("/D1/XAUUSD/2023.csv.gz") == []
