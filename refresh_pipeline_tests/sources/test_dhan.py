"""Dhan's candles, held against a venue on loopback that speaks its contract, and against recorded answers."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError, dhan
from refresh_pipeline.sources.dhan import DhanSource, read_candles, within_sessions
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline_tests.fakes import dhan as fake
from refresh_pipeline_tests.fakes.dhan import FakeDhan
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.reference_data import ORIGINS, Answers, answer_of

# A Friday, 11:02:30 in India: candles of every length are forming.
NOW = datetime(2024, 6, 14, 5, 32, 30, tzinfo=UTC)
EVENING = datetime(2024, 6, 14, 15, 0, tzinfo=UTC)
QUICK = RetryPolicy(attempts=4, first_wait=0.01, answer=5.0, limits=20.0)


@pytest.fixture
def venue() -> Iterator[FakeDhan]:
    with FakeDhan(NOW) as server:
        yield server


def market_at(base_url: str, more: str = "") -> Market:
    text = f"""
        name: nse
        source: {{kind: dhan, base_url: "{base_url}"{more}}}
        calendar: nse
        instruments:
          RELIANCE: {{ids: {{security_id: 2885}}}}
          TCS: {{ids: {{security_id: "11536"}}}}
          HDFCBANK: {{ids: {{security_id: 1333}}}}
          NIFTY: {{class: index, ids: {{security_id: 13}}}}
          INFY: {{}}
        timeframes: [m1, m5, m15, m30, H1, H2, H4, D1, W1]
        history: 30d
    """
    return parse_market(text, "nse.yaml")


def source_at(venue: FakeDhan, directory: Path, token: str | None = "eyJ0.t0ken.e1f9") -> DhanSource:
    secrets = {"DHAN_CLIENT_ID": venue.client_id, "DHAN_ACCESS_TOKEN": token}.get
    return DhanSource(market_at(venue.base_url), directory / "limits", secrets, QUICK)


def asking(since: str, until: str | datetime, timeframe: Timeframe = Timeframe.m5, *names: str) -> list[Request]:
    return [Request(Series(name, timeframe), instant(since), instant(until)) for name in names or ("RELIANCE",)]


def one(
    source: DhanSource,
    since: str,
    until: str | datetime,
    timeframe: Timeframe = Timeframe.m5,
    name: str = "RELIANCE",
    now: datetime = NOW,
) -> Candles:
    """Everything that came of one series, which ended once and without an error."""
    got = list(source.fetch(asking(since, until, timeframe, name), now))
    assert [str(each.error) for each in got if each.error] == []
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    return Candles.concatenated([each.candles for each in got])


def ends_of(source: DhanSource, requests: Sequence[Request]) -> dict[str, Fetched]:
    return {each.series.instrument: each for each in source.fetch(requests, NOW) if each.last}


def error_of(source: DhanSource, since: str = "2024-06-13T18:30") -> SourceError:
    error = ends_of(source, asking(since, NOW))["RELIANCE"].error
    assert error is not None
    return error


def india(moment: str) -> np.datetime64:
    return instant(moment) - np.timedelta64(330, "m")


def test_candles_are_what_the_columns_say(venue: FakeDhan, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW)
    assert candles.open_time[0] == india("2024-06-14T09:15")
    row = venue.row("2885", "5", "2024-06-14T09:25")
    assert [candles[name][2] for name in CANDLE_COLUMNS] == [row[name] for name in CANDLE_COLUMNS]
    assert venue.questions == [
        {"securityId": "2885", "exchangeSegment": "NSE_EQ", "instrument": "EQUITY", "oi": False, "interval": "5",
         "fromDate": "2024-06-14 00:00:00", "toDate": "2024-06-14 11:02:30"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("timeframe", "last"),
    [("m1", "11:01"), ("m5", "10:55"), ("m15", "10:45"), ("H1", "09:15")],
)
def test_the_candle_that_is_still_forming_is_left_out(
    venue: FakeDhan, tmp_path: Path, timeframe: str, last: str
) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW, Timeframe(timeframe))
    assert candles.open_time[-1] == india(f"2024-06-14T{last}")


def test_the_last_candle_of_a_day_ends_with_the_session(venue: FakeDhan, tmp_path: Path) -> None:
    venue.now = datetime(2024, 6, 14, 10, 0, tzinfo=UTC)
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", venue.now, Timeframe.H1, now=venue.now)
    assert candles.open_time[-1] == india("2024-06-14T15:15")
    assert len(candles) == 7


def test_what_is_closed_by_our_clock_but_not_by_the_venues_is_left_out(venue: FakeDhan, tmp_path: Path) -> None:
    # An answer that says it was given a minute ago.
    venue.fail(
        Fault(200, {name: [venue.row("2885", "1", f"2024-06-14T11:0{minute}")[name] for minute in (0, 1)]
                    for name in fake.COLUMNS}, {"Date": "Fri, 14 Jun 2024 05:31:30 GMT"})
    )  # fmt: skip
    candles = one(source_at(venue, tmp_path), "2024-06-14T05:30", NOW, Timeframe.m1)
    assert list(candles.open_time) == [india("2024-06-14T11:00")]


def test_prints_outside_the_session_are_no_candles_of_it(venue: FakeDhan, tmp_path: Path) -> None:
    venue.now = EVENING
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", EVENING, Timeframe.m1, now=EVENING)
    assert len(candles) == 375
    assert [candles.open_time[0], candles.open_time[-1]] == [india("2024-06-14T09:15"), india("2024-06-14T15:29")]


def test_what_trades_on_a_day_that_the_calendar_does_not_know_stays() -> None:
    # A Saturday without a session; a Friday with one.
    times = [india("2024-06-15T18:20"), india("2024-06-14T09:07"), india("2024-06-14T09:15")]
    candles = Candles.of(times, open=[1, 1, 1], high=[1, 1, 1], low=[1, 1, 1], close=[1, 1, 1])
    assert list(within_sessions(candles, CALENDARS["nse"]).open_time) == [times[0], times[2]]
    # A Friday after the known end: its session in the evening is one that the calendar does not know.
    late = Candles.of([india("2031-06-20T18:20")], open=[1], high=[1], low=[1], close=[1])
    assert len(within_sessions(late, CALENDARS["nse"])) == 1


def test_a_day_opens_at_midnight_in_india_and_todays_comes_in_the_evening(venue: FakeDhan, tmp_path: Path) -> None:
    source = source_at(venue, tmp_path)
    candles = one(source, "2024-06-10T18:30", NOW, Timeframe.D1)
    assert list(candles.open_time) == [india("2024-06-11"), india("2024-06-12"), india("2024-06-13")]
    assert venue.questions == [
        {"securityId": "2885", "exchangeSegment": "NSE_EQ", "instrument": "EQUITY", "oi": False, "expiryCode": 0,
         "fromDate": "2024-06-11", "toDate": "2024-06-15"}
    ]  # fmt: skip
    venue.now = EVENING
    candles = one(source, "2024-06-10T18:30", EVENING, Timeframe.D1, now=EVENING)
    assert candles.open_time[-1] == india("2024-06-14")


def test_the_day_that_a_range_of_days_ends_with_is_asked_for_and_no_other(venue: FakeDhan, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-02T18:30", "2024-06-07T18:30", Timeframe.D1)
    assert [str(at + np.timedelta64(330, "m"))[:10] for at in candles.open_time] == [
        f"2024-06-0{day}" for day in (3, 4, 5, 6, 7)
    ]
    assert (venue.questions[0]["fromDate"], venue.questions[0]["toDate"]) == ("2024-06-03", "2024-06-08")


def test_long_ranges_are_asked_for_in_windows_that_the_venue_allows(venue: FakeDhan, tmp_path: Path) -> None:
    market = market_at(venue.base_url)
    source = source_at(venue, tmp_path)
    venue.holidays = holidays_of(market)
    got = list(source.fetch(asking("2023-08-01T00:00", "2024-06-01T00:00", Timeframe.H1), NOW))
    opens = np.concatenate([each.candles.open_time for each in got])
    expected = market.calendar.open_times(Timeframe.H1, instant("2023-08-01"), instant("2024-06-01"))
    assert {str(at)[:10] for at in set(expected) - set(opens)} <= SPECIAL_DAYS
    assert len(opens) > 1400
    assert len(got) == len(venue.asked) == 4
    assert [each.last for each in got] == [False, False, False, True]


# Of the calendar's, on which the miniature does not trade.
SPECIAL_DAYS = {"2023-11-12", "2024-01-20", "2024-03-02", "2024-05-18"}


def holidays_of(market: Market) -> set[date]:
    sessions = market.calendar.open_times(Timeframe.D1, instant("2022-12-31"), instant("2024-12-30"))
    open_days = set((sessions + np.timedelta64(330, "m")).astype("datetime64[D]").astype(date))
    days = [date(2023, 1, 1) + timedelta(days=n) for n in range(720)]
    return set(days) - open_days


def test_an_index_is_asked_for_as_one(venue: FakeDhan, tmp_path: Path) -> None:
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW, Timeframe.m5, "NIFTY")
    assert (venue.questions[0]["exchangeSegment"], venue.questions[0]["instrument"]) == ("IDX_I", "INDEX")
    assert (candles["volume"] == 0).all()


def test_a_share_without_a_security_id_says_where_it_comes_from(venue: FakeDhan, tmp_path: Path) -> None:
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-13T18:30", NOW, Timeframe.m5, "INFY", "TCS"))
    assert "refresh universe makes one" in str(ends["INFY"].error)
    assert ends["TCS"].error is None


@pytest.mark.parametrize("base", [("m30", "m15"), ("H2", "H1"), ("H4", "H1"), ("W1", "D1")])
def test_other_timeframes_are_made_on_the_grid_of_the_session(
    venue: FakeDhan, tmp_path: Path, base: tuple[str, str]
) -> None:
    venue.now, venue.holidays = EVENING, set()
    market, timeframe = market_at(venue.base_url), Timeframe(base[0])
    requests = asking("2024-06-02T18:30", EVENING, timeframe)
    got = list(fetch(source_at(venue, tmp_path), market, requests, EVENING))
    assert [each.error for each in got if each.error] == []
    made = Candles.concatenated([each.candles for each in got if len(each.candles)])
    expected = market.calendar.open_times(timeframe, instant("2024-06-02T18:30"), instant(EVENING))
    expected = expected[market.calendar.closes(timeframe, expected) <= instant(EVENING)]
    assert list(made.open_time) == list(expected)
    if base[0] == "H2":
        times = [str(at + np.timedelta64(330, "m"))[11:16] for at in made.open_time[:4]]
        assert times == ["09:15", "11:15", "13:15", "15:15"]
        hours = [venue.row("2885", "60", f"2024-06-03T{hour}:15") for hour in ("09", "10")]
        assert made["high"][0] == max(hour["high"] for hour in hours)
        assert made["volume"][0] == sum(hour["volume"] for hour in hours)


def test_an_empty_answer_on_a_day_of_trade_is_asked_again(venue: FakeDhan, tmp_path: Path) -> None:
    venue.fail(fake.EMPTY, times=2)
    assert len(one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW)) == 21
    assert len(venue.asked) == 3


@pytest.mark.parametrize("fault", [fake.EMPTY, fake.NO_DATA])
def test_empty_answers_on_a_day_of_trade_are_never_taken_for_no_data(
    venue: FakeDhan, tmp_path: Path, fault: Fault
) -> None:
    venue.fail(fault, times=99)
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, TransientError)
    assert "though the exchange was open" in str(error)
    assert "security id that is not known (2885" in str(error)
    assert len(venue.asked) == 3


def test_an_empty_window_between_others_ends_the_series_there(venue: FakeDhan, tmp_path: Path) -> None:
    venue.fail(fake.EMPTY, times=99, fromDate="2023-10-29 05:30:00")
    got = list(source_at(venue, tmp_path).fetch(asking("2023-08-01T00:00", "2024-06-01T00:00", Timeframe.H1), NOW))
    assert [len(each.candles) > 0 for each in got] == [True, False]
    assert isinstance(got[-1].error, TransientError)
    # What came after it was not asked for: it would hide the hole.
    assert got[0].candles.open_time[-1] < instant("2023-10-29")


def test_what_is_empty_before_a_share_was_listed_is_no_failure(venue: FakeDhan, tmp_path: Path) -> None:
    venue.listed = date(2024, 4, 1)
    candles = one(source_at(venue, tmp_path), "2023-08-01T00:00", "2024-06-01T00:00", Timeframe.H1)
    assert candles.open_time[0] == india("2024-04-01T09:15")


@pytest.mark.parametrize(("since", "until"), [("2024-06-15T00:00", "2024-06-16T00:00"), ("2024-06-17", "2024-06-18")])
def test_an_empty_answer_on_a_day_without_trade_is_no_failure(
    venue: FakeDhan, tmp_path: Path, since: str, until: str
) -> None:
    later = datetime(2024, 6, 20, tzinfo=UTC)
    venue.now = later
    assert len(one(source_at(venue, tmp_path), since, until, now=later)) == 0
    assert len(venue.asked) == 1


def test_what_has_only_just_closed_may_come_later(venue: FakeDhan, tmp_path: Path) -> None:
    venue.fail(fake.EMPTY, times=99)
    assert len(one(source_at(venue, tmp_path), "2024-06-14T05:25", NOW)) == 0


def test_past_the_end_of_the_calendar_an_empty_answer_is_believed(venue: FakeDhan, tmp_path: Path) -> None:
    later = datetime(2031, 6, 20, tzinfo=UTC)
    (end,) = source_at(venue, tmp_path).fetch(asking("2031-06-19T00:00", later), later)
    assert end.error is None
    assert len(end.candles) == 0


def test_stamps_that_count_from_1980_are_refused_loudly(venue: FakeDhan, tmp_path: Path) -> None:
    venue.is_legacy = True
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, PermanentError)
    assert "count from 1980" in str(error)


@pytest.mark.parametrize("value", ["abc", None, [], {}, "NaN"])
@pytest.mark.parametrize("field", ["open", "high", "volume"])
def test_a_number_that_is_none_spoils_its_own_candle_only(
    venue: FakeDhan, tmp_path: Path, field: str, value: Any
) -> None:
    venue.correct("2885", "5", "2024-06-14T09:25", **{field: value})
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW)
    assert len(candles) == 21
    assert list(np.flatnonzero(np.isnan(candles[field]))) == [2]


@pytest.mark.parametrize("value", ["abc", None, [], -5, 10**30])
def test_a_row_without_a_time_is_set_aside(venue: FakeDhan, tmp_path: Path, value: Any) -> None:
    venue.correct("2885", "5", "2024-06-14T09:25", timestamp=value)
    candles = one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW)
    assert len(candles) == 20
    assert [each.reason for each in candles.malformed] == ["its time cannot be read"]


@pytest.mark.parametrize(
    "fault",
    [fake.RATE_LIMIT, fake.RATE_LIMIT_IN_200, fake.INTERNAL_ERROR, fake.NETWORK_ERROR, fake.BAD_GATEWAY, fake.TORN,
     fake.DROPPED, fake.failed("800", "Internal Server Error"), Fault(200, fake.EMPTY.body | {"open": [1.0]})],
)  # fmt: skip
def test_trouble_that_passes_is_waited_out(venue: FakeDhan, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=2)
    assert len(one(source_at(venue, tmp_path), "2024-06-13T18:30", NOW)) == 21


@pytest.mark.parametrize("fault", [fake.RATE_LIMIT, fake.INTERNAL_ERROR, fake.DROPPED])
def test_trouble_that_stays_fails_as_transient(venue: FakeDhan, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=99)
    assert isinstance(error_of(source_at(venue, tmp_path)), TransientError)
    assert len(venue.asked) == QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fake.refusal(400, "Input_Exception", "DH-905", "Missing required fields, bad values"), "DH-905: Missing"),
        (
            fake.refusal(400, "Input_Exception", "DH-905", "Data for Intraday Charts can be fetched for 90 days"),
            "90 days",
        ),
        (fake.failed("813", "Invalid SecurityId", 400), "code 813: Invalid SecurityId"),
        (fake.failed("812", "Invalid Date Format"), "HTTP 200, code 812"),
        (Fault(404, fake.gateway("/v2/nope")), "is base_url right?"),
        (fake.NOT_JSON, "expected columns of candles, received <html>"),
        (Fault(200, {"open": [], "close": []}), "expected columns of candles"),
        (Fault(200, [1, 2]), "expected columns of candles"),
        (Fault(200, {"status": "failed", "remarks": "no idea"}), "code failed: no idea"),
    ],
)
def test_trouble_that_will_not_pass_is_asked_once_and_said_in_words(
    venue: FakeDhan, tmp_path: Path, fault: Fault, words: str
) -> None:
    venue.fail(fault, times=99)
    error = error_of(source_at(venue, tmp_path))
    assert isinstance(error, PermanentError)
    assert words in str(error)
    assert len(venue.asked) == 1


@pytest.mark.parametrize(
    "fault", [fake.EXPIRED, fake.EXPIRED_IN_200, fake.refusal(400, "Order", "DH-906", "Invalid Token")]
)
def test_a_token_that_has_expired_is_said_once_with_what_to_do(venue: FakeDhan, tmp_path: Path, fault: Fault) -> None:
    venue.fail(fault, times=99)
    names = ("RELIANCE", "TCS", "HDFCBANK", "NIFTY")
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-13T18:30", NOW, Timeframe.m5, *names))
    reasons = {str(end.error).removeprefix(f"{name} m5: ") for name, end in ends.items()}
    assert len(reasons) == 1
    assert "lasts 24 hours" in reasons.pop()
    assert all(isinstance(end.error, PermanentError) for end in ends.values())
    assert len(venue.asked) == 1


def test_a_plan_that_has_no_candles_is_said_once(venue: FakeDhan, tmp_path: Path) -> None:
    venue.fail(fake.NOT_SUBSCRIBED, times=99)
    assert "data plan" in str(error_of(source_at(venue, tmp_path)))


def test_without_credentials_nothing_is_asked(venue: FakeDhan, tmp_path: Path) -> None:
    for token in (None, "", "eyJ0\u201d", "eyJ0 t0ken"):
        assert "neither has: DHAN_ACCESS_TOKEN;" in str(error_of(source_at(venue, tmp_path, token)))
    market = market_at(venue.base_url)
    (end,) = DhanSource(market, tmp_path, lambda name: None).fetch(asking("2024-06-13T18:30", NOW), NOW)
    assert "DHAN_CLIENT_ID, DHAN_ACCESS_TOKEN;" in str(end.error)
    assert venue.asked == []


def test_when_the_days_requests_are_used_up_the_rest_waits_for_a_later_run(
    venue: FakeDhan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dhan, "REQUESTS_PER_DAY", 3)
    names = ("RELIANCE", "TCS", "HDFCBANK", "NIFTY")
    ends = ends_of(source_at(venue, tmp_path), asking("2024-06-13T18:30", NOW, Timeframe.m5, *names))
    assert [name for name in names if ends[name].error] == ["NIFTY"]
    assert isinstance(ends["NIFTY"].error, TransientError)
    assert "the rate limit is used up" in str(ends["NIFTY"].error)
    assert len(venue.asked) == 3


def test_credentials_are_nowhere_in_what_is_said_of_a_failure(venue: FakeDhan, tmp_path: Path) -> None:
    venue.fail(fake.refusal(400, "Input", "DH-905", f"odd {venue.token} of {venue.client_id}"), times=1)
    error = str(error_of(source_at(venue, tmp_path)))
    assert "odd *** of ***" in error


def test_five_a_second_are_asked_and_no_more(tmp_path: Path) -> None:
    with FakeDhan(NOW) as venue:
        names = [f"S{number}" for number in range(14)]
        venue.securities = {str(number) for number in range(100, 114)}
        listed = ", ".join(f"{name}: {{ids: {{security_id: {100 + n}}}}}" for n, name in enumerate(names))
        text = f"{{name: nse, source: {{kind: dhan, base_url: '{venue.base_url}'}}, calendar: nse, history: 1d, "
        market = parse_market(f"{text} timeframes: [m5], instruments: {{{listed}}}}}", "nse.yaml")
        secrets = {"DHAN_CLIENT_ID": venue.client_id, "DHAN_ACCESS_TOKEN": venue.token}.get
        source = DhanSource(market, tmp_path, secrets, QUICK)
        started = time.monotonic()
        ends = ends_of(source, asking("2024-06-13T18:30", NOW, Timeframe.m5, *names))
        seconds = time.monotonic() - started
        assert all(end.error is None for end in ends.values())
        # In the order of the catalog: the priority symbols come first.
        assert [said["securityId"] for said in venue.questions] == [str(100 + n) for n in range(14)]
        # A busy machine comes late for its turns, never early.
        assert 13 / seconds <= fake.PER_SECOND


def test_a_venue_that_is_gone_fails_every_series_as_transient(tmp_path: Path) -> None:
    with FakeDhan(NOW) as venue:
        source = source_at(venue, tmp_path)
    assert isinstance(error_of(source), TransientError)


@pytest.mark.parametrize(("option", "words"), [(", base: x", "unknown key"), (', base_url: "ftp://x"', "base_url")])
def test_a_wrong_option_is_refused_with_what_is_allowed(tmp_path: Path, option: str, words: str) -> None:
    text = (
        f"{{name: nse, source: {{kind: dhan{option}}}, calendar: nse, instruments: [A], timeframes: [m1], history: 1d}}"
    )
    with pytest.raises(MarketError, match=words):
        DhanSource(parse_market(text, "nse.yaml"), tmp_path, {}.get)


@pytest.fixture(params=ORIGINS)
def recorded(request: pytest.FixtureRequest) -> Answers:
    """The venue's answer of that name: in the documented form, and as recorded where those lie beside the checkout."""
    return partial(answer_of, request.param, "dhan")


def test_recorded_days_are_read_whole(venue: FakeDhan, tmp_path: Path, recorded: Answers) -> None:
    body = recorded("historical_daily_TCS_2022_unix")["body"]
    venue.fail(Fault(200, body))
    candles = one(source_at(venue, tmp_path), "2022-01-09T18:30", "2022-02-08T18:30", Timeframe.D1, "TCS")
    assert list(candles["close"]) == body["close"]
    assert candles.open_time[0] == india("2022-01-10")
    assert list(faults(candles)) == [None] * len(candles)


def test_the_documents_own_days_are_refused(venue: FakeDhan, tmp_path: Path, recorded: Answers) -> None:
    venue.fail(Fault(200, recorded("historical_daily_docsample_TCS_2022")["body"]))
    (end,) = source_at(venue, tmp_path).fetch(asking("2022-01-09T18:30", "2022-02-08T18:30", Timeframe.D1), NOW)
    assert "count from 1980" in str(end.error)


def test_recorded_minutes_lose_their_print_before_the_opening(
    venue: FakeDhan, tmp_path: Path, recorded: Answers
) -> None:
    body = recorded("intraday_docsample_head")["body"]
    venue.fail(Fault(200, body))
    candles = one(source_at(venue, tmp_path), "2022-02-08T18:30", "2022-02-09T18:30", Timeframe.m1, "TCS")
    assert list(candles["close"]) == body["close"][1:]
    assert len(read_candles({name: body[name] for name in (*CANDLE_COLUMNS, "timestamp")})) == 5


@pytest.mark.parametrize(
    ("name", "transient"),
    [("err_400_90days", False), ("err_400_failed_shape", False), ("err_400_missing", False),
     ("err_401_invalid_auth", False), ("err_404_gateway", False), ("err_429_rate_limit", True),
     ("err_902_no_data_subscription", False), ("ok_empty_arrays", True)],
)  # fmt: skip
def test_recorded_refusals_are_told_apart(
    venue: FakeDhan, tmp_path: Path, name: str, transient: bool, recorded: Answers
) -> None:
    answer = recorded(name)
    venue.fail(Fault(answer["status"], answer["body"]), times=99)
    assert error_of(source_at(venue, tmp_path)).transient is transient


def test_the_venue_on_loopback_speaks_the_contract(venue: FakeDhan) -> None:
    whole = {"securityId": "2885", "exchangeSegment": "NSE_EQ", "instrument": "EQUITY"}
    whole |= {"interval": "60", "fromDate": "2024-06-13 00:00:00", "toDate": "2024-06-14 23:00:00"}

    def ask(path: str = "/charts/intraday", token: str = venue.token, **said: Any) -> httpx.Response:
        headers = {"client-id": venue.client_id, "access-token": token}
        return httpx.post(f"{venue.base_url}{path}", json=whole | said, headers=headers)

    columns = ask().json()
    assert {len(values) for values in columns.values()} == {7 + 2}
    # The forming hour of 10:15 is there.
    assert columns["timestamp"][-1] == int(datetime(2024, 6, 14, 4, 45, tzinfo=UTC).timestamp())
    assert ask(securityId="999").json() == ask(fromDate="2024-06-15", toDate="2024-06-16").json() == fake.EMPTY.body
    assert "90 days" in ask(fromDate="2024-01-01 00:00:00").json()["errorMessage"]
    assert ask(interval="30").json()["errorCode"] == "DH-905"
    assert ask(instrument="INDEX").status_code == 400
    assert ask(token="old").status_code == 401
    assert ask("/charts/nope").json()["error"] == "Not Found"
    days = ask("/charts/historical", fromDate="2024-06-11", toDate="2024-06-13").json()
    assert len(days["timestamp"]) == 2
