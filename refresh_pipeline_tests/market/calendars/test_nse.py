"""The calendar of India's National Stock Exchange: by hand, against the library it was made from, and real candles."""

import warnings
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.calendars.nse_sessions import CORRECTIONS, FIRST_DAY, LAST_DAY
from refresh_pipeline.market.calendars.overlay import Overlay
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import Candles, Times
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.market.calendars.nse_from_library import library_sessions

NSE = CALENDARS["nse"]
INDIA = np.timedelta64(330, "m")
MINUTE = np.timedelta64(1, "m")
# A plain week (Monday's holiday), Muhurat on a Friday and on a Sunday, and a Saturday in two parts.
HOLIDAY, MUHURAT, SUNDAY_MUHURAT, IN_TWO_PARTS = "2026-01-26", "2024-11-01", "2023-11-12", "2024-03-02"


def ist(*texts: str) -> Times:
    """Instants of India's clock, in UTC."""
    return np.subtract(np.array(texts, dtype="datetime64[us]"), INDIA)


def shown(times: Times) -> list[str]:
    """Instants in UTC by India's clock, to the minute."""
    return [str(time)[:16].replace("T", " ") for time in times + INDIA]


def of_day(timeframe: Timeframe, day: str) -> list[str]:
    """The bars expected on a day, by India's clock."""
    midnight = ist(day)[0]
    return [text[11:] for text in shown(NSE.open_times(timeframe, midnight, midnight + np.timedelta64(1, "D")))]


# ---- sessions


def test_a_day_is_open_from_09_15_to_15_30():
    edges = ist("2026-11-27T09:14", "2026-11-27T09:15", "2026-11-27T15:29", "2026-11-27T15:30")
    assert NSE.is_open(edges).tolist() == [False, True, True, False]
    assert len(of_day(Timeframe.m1, "2026-11-27")) == 375


@pytest.mark.parametrize("day", [HOLIDAY, "2026-11-28", "2026-11-29", "2022-10-26", "2024-01-22"])
def test_holidays_and_plain_weekends_have_no_session(day: str):
    assert of_day(Timeframe.m1, day) == of_day(Timeframe.D1, day) == []


@pytest.mark.parametrize(
    ("day", "first", "last", "minutes"),
    [
        (MUHURAT, "18:00", "18:59", 60),
        ("2025-10-21", "13:45", "14:44", 60),
        (SUNDAY_MUHURAT, "18:15", "19:14", 60),
        ("2019-10-27", "18:15", "19:14", 60),
        ("2020-02-01", "09:15", "15:29", 375),
        ("2024-01-20", "09:15", "15:29", 375),
        ("2025-02-01", "09:15", "15:29", 375),
        ("2026-02-01", "09:15", "15:29", 375),
        (IN_TWO_PARTS, "09:15", "12:29", 105),
        ("2024-05-18", "09:15", "12:29", 105),
        ("2021-02-24", "09:15", "16:59", 145 + 75),
    ],
)
def test_special_sessions_have_their_own_hours(day: str, first: str, last: str, minutes: int):
    expected = of_day(Timeframe.m1, day)
    assert (expected[0], expected[-1], len(expected)) == (first, last, minutes)
    assert of_day(Timeframe.D1, day) == ["00:00"]


def test_the_exchange_opened_later_until_2010():
    assert of_day(Timeframe.m1, "2009-12-31")[0] == "09:55"
    assert of_day(Timeframe.m1, "2010-10-15")[0] == "09:00"
    assert of_day(Timeframe.m1, "2010-10-18")[0] == "09:15"


# ---- bars


@pytest.mark.parametrize(
    ("timeframe", "opens", "last_end"),
    [
        ("H1", ["09:15", "10:15", "11:15", "12:15", "13:15", "14:15", "15:15"], "15:30"),
        ("H2", ["09:15", "11:15", "13:15", "15:15"], "15:30"),
        ("H3", ["09:15", "12:15", "15:15"], "15:30"),
        ("H4", ["09:15", "13:15"], "15:30"),
        ("H6", ["09:15", "15:15"], "15:30"),
        ("H8", ["09:15"], "15:30"),
        ("D1", ["00:00"], "15:30"),
    ],
)
def test_bars_hang_on_the_opening_and_the_last_one_is_short(timeframe: str, opens: list[str], last_end: str):
    assert of_day(Timeframe(timeframe), "2026-11-27") == opens
    last = ist(f"2026-11-27T{opens[-1]}")
    assert shown(NSE.closes(Timeframe(timeframe), last)) == [f"2026-11-27 {last_end}"]


def test_minutes_divide_the_session_without_a_rest():
    assert len(of_day(Timeframe.m5, "2026-11-27")) == 75
    assert len(of_day(Timeframe.m15, "2026-11-27")) == 25
    assert of_day(Timeframe.m30, "2026-11-27")[-1] == "15:15"
    assert shown(NSE.closes(Timeframe.m30, ist("2026-11-27T15:15"))) == ["2026-11-27 15:30"]


def test_bars_of_a_special_session_hang_on_its_own_opening():
    assert of_day(Timeframe.H1, "2025-10-21") == ["13:45"]
    assert shown(NSE.closes(Timeframe.D1, ist("2025-10-21"))) == ["2025-10-21 14:45"]


def test_a_day_in_two_parts_has_no_bar_between_them():
    opens = NSE.open_times(Timeframe.H1, *ist("2024-03-02", "2024-03-03"))
    assert shown(opens) == ["2024-03-02 09:15", "2024-03-02 11:15", "2024-03-02 12:15"]
    assert shown(NSE.closes(Timeframe.H1, opens)) == ["2024-03-02 10:00", "2024-03-02 12:15", "2024-03-02 12:30"]
    assert shown(NSE.closes(Timeframe.H4, opens[:1])) == ["2024-03-02 12:30"]


def test_a_day_is_stamped_midnight_in_india_as_dhan_does():
    assert NSE.open_times(Timeframe.D1, *ist("2022-01-10", "2022-01-11")).tolist() == ist("2022-01-10").tolist()
    assert str(ist("2022-01-10")[0])[:16] == "2022-01-09T18:30"


def test_weeks_begin_on_monday_and_hold_the_weekends_session():
    assert shown(NSE.open_times(Timeframe.W1, *ist("2023-11-06", "2023-11-14"))) == [
        "2023-11-06 00:00",
        "2023-11-13 00:00",
    ]
    assert shown(NSE.floor(Timeframe.W1, ist("2023-11-12T18:30"))) == ["2023-11-06 00:00"]
    assert shown(NSE.open_times(Timeframe.MN1, *ist("2026-09-02", "2026-12-01"))) == [
        "2026-10-01 00:00",
        "2026-11-01 00:00",
    ]


@pytest.mark.parametrize("timeframe", Timeframe)
def test_every_minute_of_trading_of_a_special_month_lies_in_one_expected_bar(timeframe: Timeframe):
    for month in ("2021-02", "2023-11", "2024-03", "2024-11", "2010-01"):
        since, until = ist(f"{month}-01", f"{month}-28")
        every = np.arange(since, until, MINUTE)
        trading = every[NSE.is_open(every)]
        opened = NSE.floor(timeframe, trading)
        assert (opened <= trading).all()
        assert (trading < NSE.closes(timeframe, opened)).all()
        np.testing.assert_array_equal(NSE.floor(timeframe, opened), opened)
        expected = NSE.open_times(timeframe, opened[0], opened[-1] + MINUTE)
        np.testing.assert_array_equal(np.unique(opened), expected)
        assert NSE.has_bar(timeframe, expected).all()
        assert NSE.count(timeframe, expected[:1], expected[-1])[0] == len(expected)


def test_the_last_closed_bar_and_the_next_close_jump_over_what_is_closed():
    friday_evening = ist("2026-01-23T20:00")[0]
    assert shown(np.array([NSE.last_closed(Timeframe.H1, friday_evening)])) == ["2026-01-23 15:15"]
    assert shown(np.array([NSE.last_closed(Timeframe.D1, friday_evening)])) == ["2026-01-23 00:00"]
    # Monday is Republic Day.
    assert shown(np.array([NSE.next_close(Timeframe.m1, friday_evening)])) == ["2026-01-27 09:16"]
    assert shown(np.array([NSE.next_close(Timeframe.D1, friday_evening)])) == ["2026-01-27 15:30"]


def test_the_day_as_a_key_of_the_session_holds_all_of_its_candles_and_no_others():
    minutes = NSE.open_times(Timeframe.m1, *ist("2024-10-28", "2024-11-09"))
    keys, counts = np.unique(NSE.floor(Timeframe.D1, minutes), return_counts=True)
    np.testing.assert_array_equal(keys, NSE.open_times(Timeframe.D1, *ist("2024-10-28", "2024-11-09")))
    assert counts.tolist() == [375] * 4 + [60] + [375] * 5


def test_a_candle_outside_the_session_keeps_its_own_day_and_is_no_expected_bar():
    early = ist("2026-11-27T00:05", "2026-11-27T09:07", "2026-11-27T15:40")
    for timeframe in Timeframe:
        floored = NSE.floor(timeframe, early)
        assert (NSE.floor(Timeframe.D1, floored) == ist("2026-11-27")).all() or timeframe > Timeframe.D1
        np.testing.assert_array_equal(NSE.floor(timeframe, floored), floored)
    assert not NSE.has_bar(Timeframe.m1, early).any()


def test_hours_resampled_from_minutes_make_the_same_day():
    minutes = NSE.open_times(Timeframe.m1, *ist("2024-03-01", "2024-03-06"))
    prices = 100 + np.arange(len(minutes)) % 50
    candles = Candles.of(minutes, open=prices, high=prices + 1, low=prices - 1, close=prices, volume=prices)
    direct = resample(candles, Timeframe.D1, NSE)
    for timeframe in (Timeframe.m30, Timeframe.H1, Timeframe.H4, Timeframe.H8):
        by_way = resample(resample(candles, timeframe, NSE), Timeframe.D1, NSE)
        np.testing.assert_array_equal(by_way.open_time, direct.open_time)
        np.testing.assert_array_equal(by_way["volume"], direct["volume"])


# ---- what is not known


@pytest.mark.parametrize("timeframe", Timeframe)
def test_past_its_last_day_the_grid_goes_on_and_nothing_is_known(timeframe: Timeframe):
    # A Tuesday, which is a holiday that the table does not know.
    begin, now, later = ist("2026-12-21", "2027-01-26T10:00", "2027-02-08")
    assert not NSE.is_known(np.array([now]))[0]
    assert NSE.known_end(now) == ist("2027-01-01")[0]
    opened = NSE.last_closed(timeframe, now)
    assert NSE.closes(timeframe, np.array([opened]))[0] <= now < NSE.next_close(timeframe, now)
    grid = NSE.open_times(timeframe, begin, later)
    assert len(grid) == NSE.count(timeframe, np.array([begin]), later - np.timedelta64(1, "us"))[0]
    assert NSE.has_bar(timeframe, grid).all()
    assert NSE.allows(timeframe, ist("2027-01-23T10:07")).all()
    assert not NSE.allows(timeframe, ist("2026-12-25T10:07")).any()


def test_past_its_last_day_sessions_have_regular_hours_on_weekdays():
    days = NSE.open_times(Timeframe.D1, *ist("2026-12-30", "2027-01-06"))
    assert shown(days) == ["2026-12-30 00:00", "2026-12-31 00:00", "2027-01-01 00:00", "2027-01-04 00:00",
                           "2027-01-05 00:00"]  # fmt: skip
    assert shown(NSE.open_times(Timeframe.H4, *ist("2027-01-04", "2027-01-05"))) == [
        "2027-01-04 09:15",
        "2027-01-04 13:15",
    ]


def test_up_to_its_last_minute_it_knows():
    end = ist("2027-01-01")[0]
    assert shown(np.array([NSE.last_closed(Timeframe.m1, end)])) == ["2026-12-31 15:29"]
    assert shown(NSE.closes(Timeframe.MN1, NSE.open_times(Timeframe.MN1, ist("2026-12-01")[0], end))) == [
        "2027-01-01 00:00"
    ]
    assert NSE.is_known(ist("2026-12-31T23:59", "2027-01-01")).tolist() == [True, False]


def test_before_its_first_day_nothing_is_expected():
    assert len(NSE.open_times(Timeframe.m1, *ist("1999-06-01", FIRST_DAY))) == 0
    assert not NSE.has_bar(Timeframe.D1, ist("1999-06-01")).any()
    assert NSE.count(Timeframe.D1, ist("1990-01-01"), ist("2000-01-09")[0])[0] == 5
    assert shown(NSE.floor(Timeframe.H1, ist("1999-06-01T11:00"))) == ["1999-06-01 10:55"]


# ---- what a market's YAML adds


def test_a_year_is_added_by_a_markets_yaml():
    overlay = Overlay(
        closed=(date(2027, 1, 26),),
        sessions=((date(2027, 11, 7), ((18 * 60, 19 * 60),)),),
        early_closes=((date(2027, 2, 1), 12 * 60),),
        known_until=date(2027, 12, 31),
    )
    nse = NSE.with_overlay(overlay)
    assert nse.warning(ist("2027-06-01")[0]) is None
    assert "ends in 31 days: no sessions are known after 2027-12-31" in str(nse.warning(ist("2027-12-01")[0]))
    assert nse.is_known(ist("2027-12-31T23:00", "2028-01-01")).tolist() == [True, False]
    assert nse.is_open(ist("2027-01-26T10:00", "2027-01-27T10:00")).tolist() == [False, True]
    sunday = nse.open_times(Timeframe.m15, *ist("2027-11-07", "2027-11-08"))
    assert shown(sunday) == ["2027-11-07 18:00", "2027-11-07 18:15", "2027-11-07 18:30", "2027-11-07 18:45"]
    short = nse.open_times(Timeframe.H1, *ist("2027-02-01", "2027-02-02"))
    assert shown(nse.closes(Timeframe.H1, short)) == ["2027-02-01 10:15", "2027-02-01 11:15", "2027-02-01 12:00"]
    # The table before is as it was.
    np.testing.assert_array_equal(
        nse.open_times(Timeframe.m30, *ist("2020-01-01", "2027-01-01")),
        NSE.open_times(Timeframe.m30, *ist("2020-01-01", "2027-01-01")),
    )


# ---- the library that the table was made from


def test_the_table_is_the_librarys_but_for_its_corrections():
    library = library_sessions(FIRST_DAY, LAST_DAY)
    days = NSE.open_times(Timeframe.D1, *ist(FIRST_DAY, "2027-01-01"))
    ours = {}
    for day, end in zip(days, NSE.closes(Timeframe.D1, days), strict=True):
        text = str((day + INDIA).astype("datetime64[D]"))
        first = NSE.open_times(Timeframe.m1, day, end)[0]
        ours[text] = f"{str(first + INDIA)[11:16]}-{str(end + INDIA)[11:16]}"
    assert {day: hours for day, hours in ours.items() if library.get(day) != hours}.keys() <= CORRECTIONS.keys()
    assert library.keys() <= ours.keys()


def test_the_library_knows_no_session_on_a_weekend_and_so_needs_our_corrections():
    weekends = [day for day in CORRECTIONS if np.datetime64(day).astype(int) % 7 in (2, 3)]
    assert len(weekends) == 10
    assert not set(weekends) & library_sessions("2019-01-01", LAST_DAY).keys()


def test_past_its_curated_years_the_library_takes_republic_day_for_a_session_and_ours_knows_nothing():
    assert "2027-01-26" in library_sessions("2027-01-01", "2027-02-01")
    assert not NSE.is_known(ist("2027-01-26T10:00")).any()


def test_the_other_library_has_no_muhurat_session():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415

        sessions = {str(day.date()) for day in exchange_calendars.get_calendar("XBOM").sessions}
    for day in ("2017-10-19", "2018-11-07", "2021-11-04", "2022-10-24", MUHURAT, "2025-10-21"):
        assert day not in sessions
        assert len(of_day(Timeframe.m1, day)) == 60


# ---- real candles


@pytest.mark.parametrize(("name", "strays"), [("nse_NIFTY50_1m", {"09:07", "09:08", "15:30", "15:31"}),
                                              ("nse_YESBANK_1m", {"15:30", "15:39", "15:40"})])  # fmt: skip
def test_real_sessions_begin_and_end_where_the_calendar_says(name: str, strays: set[str], candle_folder: Path):
    path = candle_folder / f"{name}.parquet"
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select epoch_us(time::timestamptz) as t from read_parquet(?) order by t", [str(path)]
        )
        times = rows.fetchnumpy()["t"].astype("datetime64[us]")
    expected = NSE.open_times(Timeframe.m1, times[0], times[-1])
    outside = np.setdiff1d(times, expected)
    # Prints before the opening and after the closing, which are stored and flagged.
    assert {text[11:] for text in shown(outside)} <= strays
    assert len(np.setdiff1d(expected, times)) == 0
    assert NSE.is_open(times).sum() == len(expected)


def test_a_year_of_minutes_takes_milliseconds():
    year = ist("2025-01-01", "2026-01-01")
    opens = NSE.open_times(Timeframe.m1, *year)
    np.testing.assert_array_equal(NSE.closes(Timeframe.m1, opens), opens + length_of(Timeframe.m1))
    assert len(opens) == 248 * 375 + 60
