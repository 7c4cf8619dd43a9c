"""The calendars of exchanges: by what the exchanges announced, and against the library behind the tables."""

import warnings
from datetime import date

import numpy as np
import pytest

from refresh_pipeline.market.calendar_spec import CalendarSpec
from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.calendars.exchange import ALIASES, CODES
from refresh_pipeline.market.calendars.registry import calendar_named
from refresh_pipeline.market.calendars.session_table import local_to_utc
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.timeframe import Timeframe

MINUTE = np.timedelta64(1, "m")


def _moved(times: Times, length: np.timedelta64) -> Times:
    return (times + length).astype(TIME_UNIT)


def hours_of(calendar: Calendar, day: str) -> str:
    """The sessions of a trading day by its minutes, on the exchange's clock."""
    midnight: Times = np.array([day], dtype=TIME_UNIT)
    since = local_to_utc(calendar.zone, _moved(midnight, getattr(calendar, "day_begins", np.timedelta64(0, "us"))))[0]
    until = local_to_utc(calendar.zone, _moved(midnight, getattr(calendar, "day_ends", np.timedelta64(1, "D"))))[0]
    opens = calendar.open_times(Timeframe.m1, since, until)
    edges = np.flatnonzero(np.diff(opens) > MINUTE)
    zone = np.timedelta64(0, "us") if not len(opens) else midnight[0] - local_to_utc(calendar.zone, midnight)[0]
    firsts, lasts = opens[[0, *(edges + 1)]] if len(opens) else [], opens[[*edges, -1]] + MINUTE if len(opens) else []
    return " ".join(
        f"{str(first + zone)[11:16]}-{str(last + zone)[11:16]}" for first, last in zip(firsts, lasts, strict=True)
    )


# As the exchanges announced or printed them.
ANNOUNCED = [
    ("XNYS", "2026-11-25", "09:30-16:00"),
    ("XNYS", "2026-11-26", ""),  # Thanksgiving
    ("XNYS", "2026-11-27", "09:30-13:00"),
    ("XNYS", "2024-07-03", "09:30-13:00"),
    ("XNYS", "2025-01-09", ""),  # day of mourning
    ("XNYS", "2001-09-12", ""),
    ("XNYS", "2012-10-29", ""),  # hurricane
    ("XNYS", "2022-06-20", ""),  # Juneteenth, kept on Monday
    ("XLON", "2024-12-24", "08:00-12:30"),
    ("XLON", "2023-05-08", ""),  # coronation
    ("XETR", "2026-05-01", ""),
    ("XETR", "2026-05-25", "09:00-17:30"),  # Whit Monday is a trading day since 2022
    ("XTKS", "2024-11-01", "09:00-11:30 12:30-15:00"),
    ("XTKS", "2024-11-05", "09:00-11:30 12:30-15:30"),
    ("XTKS", "2020-10-01", ""),  # the day the system failed
    ("XHKG", "2026-11-27", "09:30-12:00 13:00-16:00"),
    ("XHKG", "2024-02-09", "09:30-12:00"),  # eve of the lunar new year
    ("XHKG", "2024-02-12", ""),
    ("XSHG", "2026-11-27", "09:30-11:30 13:00-15:00"),
    ("XSHG", "2026-10-01", ""),
    ("XTSE", "2025-12-24", "09:30-13:00"),
    ("XASX", "2024-12-24", "10:00-14:10"),
    ("XTAE", "2026-01-04", "09:59-15:40"),  # the last Sunday
    ("XTAE", "2026-01-11", ""),
    ("XTAE", "2026-01-16", "09:59-13:50"),  # Fridays since
    ("XSAU", "2026-11-22", "10:00-15:00"),  # a Sunday
    ("XBOM", "2025-10-21", "13:45-14:45"),  # Muhurat
    ("XBOM", "2026-02-01", "09:15-15:30"),  # budget, on a Sunday
    ("CMES", "2026-11-23", "17:00-16:00"),
    ("CMES", "2026-11-26", "17:00-12:00"),
    ("CMES", "2026-06-19", "17:00-12:00"),  # Juneteenth
    ("CMES", "2026-04-03", ""),  # Good Friday
    ("IEPA", "2026-11-24", "20:00-18:00"),
]


@pytest.mark.parametrize(("code", "day", "hours"), ANNOUNCED)
def test_the_sessions_are_those_that_the_exchange_announced(code: str, day: str, hours: str) -> None:
    assert hours_of(calendar_named(code), day) == hours


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-11-25", "04:00-20:00"), ("2026-11-27", "04:00-17:00"), ("2026-11-26", "")]
)
def test_extended_hours_reach_from_4_to_20_and_after_an_early_close_to_17(day: str, hours: str) -> None:
    assert hours_of(calendar_named("XNYS", "extended"), day) == hours


@pytest.mark.parametrize("code", ["XNYS", "XTKS", "XHKG", "XLON"])
def test_the_tables_are_those_of_the_library(code: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415

        schedule = exchange_calendars.get_calendar(code, start="2024-01-01", end="2026-06-29").schedule
    calendar = calendar_named(code)
    days = calendar.open_times(Timeframe.D1, np.datetime64("2024-01-01", "us"), np.datetime64("2026-06-29T12:00", "us"))
    opens = schedule["open"].dt.tz_localize(None).to_numpy().astype(TIME_UNIT)
    closes = schedule["close"].dt.tz_localize(None).to_numpy().astype(TIME_UNIT)
    assert len(days) == len(opens)
    np.testing.assert_array_equal(calendar.closes(Timeframe.D1, days), closes)
    assert calendar.is_open(opens).all()
    assert not calendar.is_open(opens - MINUTE).any()
    assert not calendar.is_open(closes).any()


@pytest.mark.parametrize("code", CODES)
def test_every_table_holds_together(code: str) -> None:
    calendar = calendar_named(code)
    since, until = np.datetime64("2025-03-01", "us"), np.datetime64("2025-04-15", "us")
    for timeframe in (Timeframe.m30, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1):
        grid = calendar.open_times(timeframe, since, until)
        assert len(grid) > 3
        np.testing.assert_array_equal(calendar.floor(timeframe, grid), grid)
        ends = calendar.closes(timeframe, grid)
        assert (ends > grid).all()
        assert (ends[:-1] <= grid[1:]).all()
        assert (ends - grid <= length_of(timeframe) + np.timedelta64(1, "h")).all()
        edges = np.array([since, until])
        assert np.diff(calendar.bar_index(timeframe, edges))[0] == len(grid)
    assert 0.05 < calendar.open_share < 0.75
    assert str(calendar.last_known)[:4] in ("2025", "2026", "2027", "2028")
    days = calendar.open_times(Timeframe.D1, np.datetime64("2019-01-01", "us"), np.datetime64("2020-01-01", "us"))
    assert code == "XSAU" or 235 <= len(days) <= 262


def test_hourly_bars_begin_with_the_session_and_leave_out_the_break() -> None:
    tokyo, zone = calendar_named("XTKS"), np.timedelta64(9, "h")
    day = np.datetime64("2026-11-25T15:00", "us")
    opens = tokyo.open_times(Timeframe.H1, day, day + np.timedelta64(1, "D")) + zone
    assert [str(each)[11:16] for each in opens] == ["09:00", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"]
    closes = tokyo.closes(Timeframe.H1, opens - zone) + zone
    assert [str(each)[11:16] for each in closes] == ["10:00", "11:00", "11:30", "13:00", "14:00", "15:00", "15:30"]


def test_days_of_futures_begin_on_the_evening_before_also_where_the_clocks_change() -> None:
    globex = calendar_named("CMES")
    opens = globex.open_times(Timeframe.D1, np.datetime64("2026-03-05", "us"), np.datetime64("2026-03-12", "us"))
    assert [str(each)[:16] for each in opens] == [
        "2026-03-05T23:00", "2026-03-08T22:00", "2026-03-09T22:00", "2026-03-10T22:00", "2026-03-11T22:00",
    ]  # fmt: skip
    weeks = globex.open_times(Timeframe.W1, np.datetime64("2026-03-01", "us"), np.datetime64("2026-03-12", "us"))
    assert [str(each)[:16] for each in weeks] == ["2026-03-01T23:00", "2026-03-08T22:00"]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_same_calendar(alias: str) -> None:
    assert calendar_named(alias) is calendar_named(ALIASES[alias])


def market(calendar: str):
    return parse_market(
        f"{{name: m, source: {{kind: demo}}, calendar: {calendar}, instruments: [A], timeframes: [H1], history: 1d}}",
        "m",
    )


def test_a_markets_yaml_names_a_code_and_adds_days_to_it() -> None:
    assert market("XNYS").calendar is calendar_named("XNYS")
    assert market("nasdaq").calendar is calendar_named("XNYS")
    assert market("{name: XNAS, hours: extended}").calendar is calendar_named("XNYS", "extended")
    added = market(
        "{name: XNYS, closed: [2028-03-01], early_closes: {2028-03-02: '13:00'}, known_until: 2028-12-31}"
    ).calendar
    assert [hours_of(added, f"2028-03-0{day}") for day in (1, 2, 3)] == ["", "09:30-13:00", "09:30-16:00"]
    assert added.knows(np.datetime64("2028-12-31T23:00", "us"))
    assert added.fingerprint != calendar_named("XNYS").fingerprint != calendar_named("XNYS", "extended").fingerprint


def test_sessions_of_a_yaml_may_open_on_the_evening_before() -> None:
    spec = CalendarSpec(name="CMES", sessions={date(2026, 11, 24): "17:00-10:00"})  # type: ignore[arg-type]
    assert hours_of(spec.calendar, "2026-11-24") == "17:00-10:00"


@pytest.mark.parametrize(
    ("calendar", "message"),
    [
        ("XLOM", "found 'XLOM'; allowed: crypto, fx, nse, or an exchange's code such as XNYS; did you mean 'XLON'?"),
        ("{name: XLON, hours: extended}", "XLON has no extended hours; allowed: regular; XNYS has them"),
        ("{name: XNYS, hours: all}", "calendar.hours: found 'all'"),
    ],
)
def test_a_code_or_hours_that_do_not_exist_are_refused(calendar: str, message: str) -> None:
    with pytest.raises(MarketError) as caught:
        market(calendar)
    assert message in str(caught.value)


def test_past_the_known_end_nothing_is_expected_and_it_is_said() -> None:
    calendar = calendar_named("XHKG")
    assert "the calendar XHKG ends in" in str(calendar.warning(np.datetime64("2027-12-01", "us")))
    assert not calendar.is_known(np.array(["2028-01-03T02:00"], dtype=TIME_UNIT)).any()


def test_minutes_and_deadlines_of_schedules_follow_the_opening() -> None:
    new_york, tokyo, globex = (calendar_named(code) for code in ("XNYS", "XTKS", "CMES"))
    assert new_york.close_minutes(Timeframe.H1) == "0,30"
    assert new_york.close_minutes(Timeframe.m30) == "0,30"
    assert (new_york.hourly_deadlines, new_york.daily_deadlines) == ("45 10-16 * * 1-5", "0 18 * * 1-5")
    assert tokyo.close_minutes(Timeframe.H1) == "0,30"
    assert (globex.hourly_deadlines, globex.daily_deadlines) == ("", "0 18 * * 1-5")
    assert calendar_named("XSAU").daily_deadlines == "0 17 * * 0,1,2,3,4"
