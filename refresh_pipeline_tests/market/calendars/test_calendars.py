"""When markets are open and when bars begin: by hand, by brute force, and against real candles."""

import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.base import Calendar, length_of, zone_offsets
from refresh_pipeline.market.calendars.overlay import Overlay
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import Times, instant
from refresh_pipeline.market.timeframe import Timeframe

CRYPTO, FX = CALENDARS["crypto"], CALENDARS["fx"]
METALS = FX.classes["metal"]
NEW_YORK = ZoneInfo("America/New_York")
MINUTE = np.timedelta64(1, "m")

timeframes = st.sampled_from(list(Timeframe))
OVERLAY = Overlay(
    closed=(date(2024, 3, 12), date(2024, 11, 4)),
    sessions=((date(2024, 3, 13), ((17 * 60 + 40, 18 * 60 + 5), (18 * 60 + 20, 19 * 60 + 1))),),
    early_closes=((date(2024, 3, 14), 12 * 60 + 17), (date(2024, 11, 5), 13 * 60)),
)
calendars = st.sampled_from([CRYPTO, FX, METALS, *(each.with_overlay(OVERLAY) for each in (CRYPTO, FX, METALS))])
# Any minute from 1971 to 2059, and more often than by chance one within days of a change of New York's clocks:
# 2024-03-10 07:00, 2024-11-03 06:00, 1974-01-06 07:00 UTC.
minutes = st.one_of(
    st.integers(525_600, 47_000_000),
    st.builds(
        lambda change, away: change + away,
        st.sampled_from([28_500_900, 28_843_560, 2_111_460]),
        st.integers(-5000, 5000),
    ),
)


def at(text: str) -> np.datetime64:
    return np.datetime64(text, "us")


def shown(times: Times) -> list[str]:
    return [str(time)[5:16].replace("T", " ") for time in times]


def moment(minute: int) -> np.datetime64:
    return np.datetime64(minute, "m").astype("datetime64[us]")


def opens(calendar: Calendar, timeframe: str, start: str, end: str) -> list[str]:
    return shown(calendar.open_times(Timeframe(timeframe), at(start), at(end)))


# An index CFD on Friday 2024-06-14 at 20:45 UTC, as its broker printed it; the weekly bar by its trading week's begin.
NEWEST = {
    "W1": "06-09 21:00", "D1": "06-13 21:00", "H8": "06-14 13:00", "H6": "06-14 15:00", "H4": "06-14 17:00",
    "H3": "06-14 18:00", "H2": "06-14 19:00", "H1": "06-14 20:00", "m30": "06-14 20:30", "m15": "06-14 20:30",
    "m5": "06-14 20:40", "m1": "06-14 20:44",
}  # fmt: skip
LAST_CLOSED = {
    "MN1": "04-30 21:00", "W1": "06-02 21:00", "D1": "06-12 21:00", "H8": "06-14 05:00", "H6": "06-14 09:00",
    "H4": "06-14 13:00", "H3": "06-14 15:00", "H2": "06-14 17:00", "H1": "06-14 19:00", "m30": "06-14 20:00",
    "m15": "06-14 20:30", "m5": "06-14 20:40", "m1": "06-14 20:44",
}  # fmt: skip


@pytest.mark.parametrize(("timeframe", "expected"), NEWEST.items())
def test_the_newest_bar_on_a_friday_evening_is_the_one_the_broker_printed(timeframe: str, expected: str):
    just_before = at("2024-06-14T20:45") - np.timedelta64(1, "us")
    assert shown(FX.floor(Timeframe(timeframe), np.array([just_before]))) == [expected]


@pytest.mark.parametrize(("timeframe", "expected"), LAST_CLOSED.items())
def test_the_last_closed_bar_is_another_question(timeframe: str, expected: str):
    now = at("2024-06-14T20:45")
    found = FX.last_closed(Timeframe(timeframe), now)
    assert shown(np.array([found])) == [expected]
    assert FX.closes(Timeframe(timeframe), np.array([found]))[0] <= now


def test_crypto_days_weeks_and_months_begin_at_midnight_utc_on_monday_and_on_the_first():
    assert opens(CRYPTO, "H8", "2024-02-28T12:00", "2024-03-01") == [
        "02-28 16:00", "02-29 00:00", "02-29 08:00", "02-29 16:00",
    ]  # fmt: skip
    assert opens(CRYPTO, "D1", "2024-02-28", "2024-03-02") == ["02-28 00:00", "02-29 00:00", "03-01 00:00"]
    assert opens(CRYPTO, "W1", "2024-12-20", "2025-01-10") == ["12-23 00:00", "12-30 00:00", "01-06 00:00"]
    assert opens(CRYPTO, "MN1", "2024-01-02", "2024-05-01") == ["02-01 00:00", "03-01 00:00", "04-01 00:00"]


def test_a_month_ends_with_its_last_day_whatever_its_length():
    months = CRYPTO.open_times(Timeframe.MN1, at("2023-12-01"), at("2025-01-01"))
    ends = CRYPTO.closes(Timeframe.MN1, months)
    assert (ends[:-1] == months[1:]).all()
    assert [int(days) for days in (ends - months).astype("timedelta64[D]").astype(int)][1:4] == [31, 29, 31]


def test_fx_days_begin_an_hour_earlier_in_utc_while_new_york_has_summer_time():
    spring = ["03-06 22:00", "03-07 22:00", "03-10 21:00", "03-11 21:00"]
    autumn = ["10-30 21:00", "10-31 21:00", "11-03 22:00", "11-04 22:00"]
    assert opens(FX, "D1", "2024-03-06T12:00", "2024-03-12T12:00") == spring
    assert opens(FX, "D1", "2024-10-30T12:00", "2024-11-05T12:00") == autumn


def test_fx_weeks_begin_on_sunday_evening_in_new_york():
    assert opens(FX, "W1", "2024-02-28", "2024-03-20") == ["03-03 22:00", "03-10 21:00", "03-17 21:00"]


def test_bars_of_hours_hang_on_the_day_and_move_with_it():
    assert opens(FX, "H4", "2024-03-08T10:00", "2024-03-11T06:00") == [
        "03-08 10:00", "03-08 14:00", "03-08 18:00", "03-10 21:00", "03-11 01:00", "03-11 05:00",
    ]  # fmt: skip
    assert opens(FX, "H6", "2024-11-01T09:00", "2024-11-04T05:00") == [
        "11-01 09:00", "11-01 15:00", "11-03 22:00", "11-04 04:00",
    ]  # fmt: skip


def test_the_last_bar_before_a_change_of_the_clocks_ends_with_the_session():
    for timeframe, opened in (("H1", "2024-03-08T21:00"), ("H4", "2024-03-08T18:00"), ("D1", "2024-03-07T22:00")):
        assert FX.closes(Timeframe(timeframe), np.array([at(opened)]))[0] == at("2024-03-08T22:00")


def test_a_bar_that_begins_right_before_the_end_of_the_question_is_in_the_answer():
    # Its predecessors in the question began at 22:00: steps of half a day from there jump over it.
    assert opens(FX, "D1", "2024-03-05", "2024-03-12T21:30")[-1] == "03-12 21:00"
    assert opens(FX, "D1", "2024-03-05", "2024-03-12T21:00")[-1] == "03-11 21:00"


def test_a_week_is_open_from_sunday_to_friday_17_00_new_york():
    edges = ["2024-01-07T21:59", "2024-01-07T22:00", "2024-01-12T21:59", "2024-01-12T22:00"]
    edges += ["2024-07-07T20:59", "2024-07-07T21:00", "2024-07-12T20:59", "2024-07-12T21:00"]
    assert FX.is_open(np.array(edges, dtype="datetime64[us]")).tolist() == [False, True, True, False] * 2
    assert CRYPTO.is_open(np.array(edges, dtype="datetime64[us]")).all()


def test_what_follows_a_friday_close_is_sunday_evening():
    saturday = at("2024-06-15T12:00")
    assert FX.next_close(Timeframe.m1, saturday) == at("2024-06-16T21:01")
    assert FX.next_close(Timeframe.H4, saturday) == at("2024-06-17T01:00")
    assert FX.next_close(Timeframe.D1, saturday) == at("2024-06-17T21:00")
    assert FX.last_closed(Timeframe.m1, saturday) == at("2024-06-14T20:59")
    assert FX.last_closed(Timeframe.D1, saturday) == at("2024-06-13T21:00")


def test_a_bar_counts_as_closed_in_the_very_instant_it_ends():
    assert CRYPTO.last_closed(Timeframe.H1, at("2024-01-01T10:00")) == at("2024-01-01T09:00")
    assert CRYPTO.last_closed(Timeframe.H1, at("2024-01-01T09:59:59.999999")) == at("2024-01-01T08:00")
    assert CRYPTO.next_close(Timeframe.H1, at("2024-01-01T10:00")) == at("2024-01-01T11:00")


def test_a_bar_off_the_grid_ends_its_length_after_it_began():
    late = np.array([at("2024-01-01T09:15"), at("2024-01-01T09:50")])
    assert shown(CRYPTO.closes(Timeframe.H1, late)) == ["01-01 10:15", "01-01 10:50"]
    # Days that another broker counts from midnight UTC.
    assert shown(FX.closes(Timeframe.D1, np.array([at("2024-01-02T00:00")]))) == ["01-03 00:00"]


def test_no_time_passes_between_an_end_and_itself():
    assert len(CRYPTO.open_times(Timeframe.m1, at("2024-01-01"), at("2024-01-01"))) == 0
    assert len(FX.open_times(Timeframe.m1, at("2024-01-02"), at("2024-01-01"))) == 0
    assert opens(FX, "H1", "2024-06-15", "2024-06-16") == []


def test_the_trading_days_of_christmas_and_new_year_are_closed():
    # The day dated 25 December begins on the 24th at 17:00 New York.
    assert opens(FX, "D1", "2018-12-20T23:00", "2019-01-04") == [
        "12-23 22:00", "12-25 22:00", "12-26 22:00", "12-27 22:00", "12-30 22:00", "01-01 22:00", "01-02 22:00",
        "01-03 22:00",
    ]  # fmt: skip
    # After the holiday the market opens at 19:00 New York.
    edges = ["2018-12-24T21:59", "2018-12-24T22:00", "2018-12-25T23:59", "2018-12-26T00:00"]
    assert FX.is_open(np.array(edges, dtype="datetime64[us]")).tolist() == [True, False, False, True]
    assert FX.last_closed(Timeframe.H1, at("2018-12-25T12:00")) == at("2018-12-24T21:00")
    assert FX.next_close(Timeframe.H1, at("2018-12-25T12:00")) == at("2018-12-26T01:00")
    assert CRYPTO.is_open(np.array(edges, dtype="datetime64[us]")).all()


def test_metals_and_index_cfds_rest_from_17_00_to_18_00_new_york():
    edges = np.array(["2024-06-10T20:59", "2024-06-10T21:00", "2024-06-10T21:59", "2024-06-10T22:00"], "datetime64[us]")
    assert METALS.is_open(edges).tolist() == [True, False, False, True]
    assert FX.classes["index"].is_open(edges).tolist() == [True, False, False, True]
    assert opens(METALS, "H1", "2024-06-10T19:00", "2024-06-11T00:00") == ["06-10 19:00", "06-10 20:00", "06-10 22:00",
                                                                          "06-10 23:00"]  # fmt: skip
    assert METALS.last_closed(Timeframe.m1, at("2024-06-10T21:30")) == at("2024-06-10T20:59")
    assert METALS.next_close(Timeframe.m1, at("2024-06-10T21:30")) == at("2024-06-10T22:01")


@pytest.mark.parametrize("timeframe", [t for t in Timeframe if t > Timeframe.H1])
def test_what_is_longer_than_the_rest_is_expected_of_metals_as_of_currencies(timeframe: Timeframe):
    # Between Good Friday and Memorial Day.
    assert opens(METALS, timeframe, "2024-03-31", "2024-05-09") == opens(FX, timeframe, "2024-03-31", "2024-05-09")


@settings(max_examples=150, deadline=None)
@given(calendar=calendars, timeframe=timeframes, minute=minutes, seconds=st.integers(0, 59), days=st.integers(0, 400))
def test_counting_bars_gives_as_many_as_listing_them(calendar, timeframe, minute, seconds, days):
    first = moment(minute) + np.timedelta64(seconds, "s")
    last = first + np.timedelta64(days * 1440 + minute % 1440, "m")
    listed = calendar.open_times(timeframe, first, last + np.timedelta64(1, "us"))
    assert calendar.count(timeframe, np.array([first]), last)[0] == len(listed)


def test_an_everlasting_calendar_warns_of_nothing_and_one_of_a_table_in_time():
    nse = CALENDARS["nse"]
    assert CRYPTO.warning(at("2099-01-01")) is None
    assert nse.warning(at("2026-11-01T12:00")) is None
    assert "the calendar nse ends in 59 days: no sessions are known after 2026-12-31" in str(
        nse.warning(at("2026-11-02T12:00"))
    )
    assert "the calendar nse has ended" in str(nse.warning(at("2027-01-01")))


def on_the_grid(calendar: Calendar, timeframe: Timeframe, start: np.datetime64, end: np.datetime64) -> Times:
    """The expected bars by brute force: every bar in which a minute of the market lies."""
    before = (start - length_of(timeframe) * 2).astype("datetime64[m]")
    # A month may begin on a Saturday, or with a holiday: its first minute of trading comes up to five days later.
    after = end + np.timedelta64(5, "D")
    every = np.arange(before, after, MINUTE).astype("datetime64[us]")
    grid = np.unique(calendar.floor(timeframe, every[calendar.is_open(every)]))
    return grid[(grid >= start) & (grid < end)]


@settings(max_examples=150, deadline=None)
@given(calendar=calendars, timeframe=timeframes, minute=minutes, seconds=st.integers(0, 59), days=st.integers(0, 40))
def test_the_expected_bars_are_those_with_a_minute_of_trading(calendar, timeframe, minute, seconds, days):
    start = moment(minute) + np.timedelta64(seconds, "s")
    end = start + np.timedelta64(days * 1440 + minute % 1440, "m")
    expected = on_the_grid(calendar, timeframe, start, end)
    np.testing.assert_array_equal(calendar.open_times(timeframe, start, end), expected)


@settings(max_examples=150, deadline=None)
@given(calendar=calendars, timeframe=timeframes, minute=minutes, part=st.floats(0, 1), days=st.integers(1, 40))
def test_a_question_asked_in_two_parts_has_the_same_answer(calendar, timeframe, minute, part, days):
    start, end = moment(minute), moment(minute + days * 1440)
    middle = moment(minute + int(part * days * 1440))
    halves = [calendar.open_times(timeframe, start, middle), calendar.open_times(timeframe, middle, end)]
    np.testing.assert_array_equal(np.concatenate(halves), calendar.open_times(timeframe, start, end))


@settings(max_examples=200, deadline=None)
@given(calendar=calendars, timeframe=timeframes, minute=minutes)
def test_every_minute_of_trading_lies_in_exactly_one_bar(calendar, timeframe, minute):
    now = np.array([moment(minute)])
    if not calendar.is_open(now)[0]:
        return
    opened = calendar.floor(timeframe, now)
    closed = calendar.closes(timeframe, opened)
    assert opened[0] <= now[0] < closed[0]
    assert calendar.floor(timeframe, opened)[0] == opened[0]
    assert calendar.floor(timeframe, closed)[0] == closed[0]


@settings(max_examples=150, deadline=None)
@given(calendar=calendars, timeframe=timeframes, minute=minutes, seconds=st.integers(0, 59))
def test_the_last_closed_bar_and_the_next_close_enclose_now(calendar, timeframe, minute, seconds):
    now = moment(minute) + np.timedelta64(seconds, "s")
    around = calendar.open_times(timeframe, now - length_of(timeframe) * 4 - np.timedelta64(5, "D"),
                                 now + length_of(timeframe) * 4 + np.timedelta64(5, "D"))  # fmt: skip
    ends = calendar.closes(timeframe, around)
    assert calendar.last_closed(timeframe, now) == around[ends <= now][-1]
    assert calendar.next_close(timeframe, now) == ends[ends > now][0]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Asia/Kolkata", "Africa/Casablanca", "UTC"])
def test_a_zones_clock_is_the_one_of_the_zone_database(zone: str):
    hours = np.arange(0, 80 * 8766, 37)
    found = zone_offsets(zone, hours.astype("datetime64[h]").astype("datetime64[us]"))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    expected = [(epoch + timedelta(hours=int(hour))).astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    np.testing.assert_array_equal(found, np.array(expected, dtype="timedelta64[us]"))


def test_before_1970_the_clock_is_that_of_its_first_day():
    assert zone_offsets("America/New_York", np.array([at("1950-07-01")]))[0] == np.timedelta64(-5, "h")
    assert opens(FX, "D1", "1962-01-01T12:00", "1962-01-02T12:00") == ["01-01 22:00"]


def times_in(path: Path) -> Times:
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select epoch_us(time::timestamptz) as t from read_parquet(?) order by t", [str(path)]
        )
        return rows.fetchnumpy()["t"].astype("datetime64[us]")


def in_new_york(times: Times) -> list[datetime]:
    return [datetime.fromisoformat(f"{time}+00:00").astimezone(NEW_YORK) for time in times]


def test_from_2010_no_real_candle_of_euro_dollar_lies_outside_the_sessions(candle_folder: Path):
    times = times_in(candle_folder / "oanda_EURUSD_1h.parquet")
    outside = times[~FX.is_open(times)]
    # A few hours of the first Christmases and New Years traded; since then those days are closed as a whole.
    assert {(day.month, (day + timedelta(hours=7)).day) for day in in_new_york(outside)} <= {(12, 25), (1, 1)}
    assert len(outside) < 50
    assert outside.max() < at("2010-01-01")


def test_real_gold_of_2014_lies_inside_its_sessions_with_their_shorter_break(candle_folder: Path):
    times = times_in(candle_folder / "oanda_XAUUSD_1m_201405.parquet")
    assert METALS.is_open(times).all()
    assert len(np.setdiff1d(METALS.open_times(Timeframe.m1, times[0], times[-1]), times)) / len(times) < 0.01


def test_real_weeks_of_euro_dollar_begin_and_end_where_the_calendar_says(candle_folder: Path):
    times = times_in(candle_folder / "oanda_EURUSD_1h.parquet")
    weekends = np.flatnonzero(np.diff(times) > np.timedelta64(40, "h"))
    last, first = in_new_york(times[weekends]), in_new_york(times[weekends + 1])
    at_the_edges = [a.strftime("%a %H") == "Fri 16" and b.strftime("%a %H") == "Sun 17" for a, b in
                    zip(last, first, strict=True)]  # fmt: skip
    assert len(at_the_edges) > 600
    # The rest are Christmas, New Year and the hole of December 2016.
    assert sum(at_the_edges) / len(at_the_edges) > 0.97


def test_real_euro_dollar_lacks_hardly_more_than_the_days_around_holidays(candle_folder: Path):
    times = times_in(candle_folder / "oanda_EURUSD_1h.parquet")
    expected = FX.open_times(Timeframe.H1, times[0], times[-1] + MINUTE)
    missing = np.setdiff1d(expected, times)
    holidays = [day for day in in_new_york(missing) if (day.month, day.day) in
                {(12, 24), (12, 25), (12, 26), (12, 31), (1, 1), (1, 2)}]  # fmt: skip
    hole = (missing >= at("2016-12-09")) & (missing < at("2016-12-17"))
    assert len(missing) / len(expected) < 0.005
    # The hours beside the closed days are no longer expected; what is left are holes of 2012 and 2018.
    assert len(holidays) < 60
    assert len(missing) - len(holidays) - hole.sum() < 110


def test_real_gold_rests_before_18_00_new_york_every_day(candle_folder: Path):
    times = times_in(candle_folder / "oanda_XAUUSD_1m_201405.parquet")
    expected = FX.open_times(Timeframe.m1, times[0], times[-1] + MINUTE)
    missing = in_new_york(np.setdiff1d(expected, times))
    # In 2014 from 17:15.
    resting = [time for time in missing if time.hour == 17 and time.minute >= 15]
    assert len(resting) == 45 * 11
    assert (len(missing) - len(resting)) / len(expected) < 0.01


def test_metals_and_indices_keep_the_holidays_of_the_futures_exchange():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415

        futures = exchange_calendars.get_calendar("CMES", start="2007-01-01", end="2027-12-31")
        shut, early = ([np.datetime64(day.date()) for day in days] for days in (futures.sessions, futures.early_closes))
    days = np.arange("2007-01-04", "2027-12-31", dtype="datetime64[D]")
    days = days[np.is_busday(days)]
    noon, afternoon = ((days + np.timedelta64(hour, "h")).astype("datetime64[us]") for hour in (16, 19))
    # On two days of mourning shares did not trade, gold did.
    mourning = {date(2018, 12, 5), date(2025, 1, 9)}
    assert set(days[~METALS.is_open(noon)].tolist()) == set(days[~np.isin(days, shut)].tolist()) - mourning
    # Juneteenth came later than the library's rules.
    ours = set(days[METALS.is_open(noon) & ~METALS.is_open(afternoon)].tolist())
    juneteenth = {date(2022, 6, 20), *(date(year, 6, 19) for year in range(2023, 2027)), date(2027, 6, 18)}
    assert ours == set(days[np.isin(days, early)].tolist()) | juneteenth


@pytest.mark.parametrize("text", ["2026-04-03T15:00", "2026-11-26T20:00", "2026-12-24T19:00", "2026-06-19T18:00"])
def test_on_us_holidays_no_bar_of_gold_is_expected_and_one_that_comes_is_allowed(text: str):
    hours = np.array([at(text)])
    for timeframe in (Timeframe.m1, Timeframe.H1):
        assert not METALS.has_bar(timeframe, hours)[0]
        assert METALS.allows(timeframe, hours)[0]
        assert FX.has_bar(timeframe, hours)[0]
    assert not METALS.allows(Timeframe.m1, np.array([at("2026-12-25T15:00"), at("2026-06-20T15:00")])).any()


def test_an_instant_may_come_as_a_text_or_a_moment_of_any_zone():
    moment_of_text = instant("2024-06-14T20:45")
    moment_of_zone = instant(datetime(2024, 6, 14, 16, 45, tzinfo=NEW_YORK))
    assert FX.last_closed(Timeframe.H4, moment_of_text) == FX.last_closed(Timeframe.H4, moment_of_zone)
