"""Candles from files as people have them: in any order, with repetitions, holes, odd columns, damage."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.candles import HIGH_TOO_LOW, LOW_TOO_HIGH, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request
from refresh_pipeline.sources.files import MOST_REPLACED, TWO_VALUES, FilesSource
from refresh_pipeline_tests.reference_data import CANDLE_FILES

NOW = datetime(2024, 6, 1, tzinfo=UTC)
LATE = datetime(2100, 1, 1, tzinfo=UTC)
HEADER = "time,open,high,low,close,volume\n"


def market(
    directory: Path | str, *, options: str = "", calendar: str = "crypto", instruments: str = "[A/B]", more: str = ""
) -> Market:
    return parse_market(
        f"{{name: mine, source: {{kind: files, directory: '{directory}'{options}}}, calendar: {calendar}, "
        f"instruments: {instruments}, timeframes: [H1], history: 1d{more}}}",
        "mine.yaml",
    )


def fetch(
    described: Market,
    instrument: str = "A/B",
    timeframe: Timeframe = Timeframe.H1,
    since: str = "1970-01-01",
    until: str = "2100-01-01",
    now: datetime = NOW,
) -> Fetched:
    """The one answer to the request for one series."""
    request = Request(Series(instrument, timeframe), instant(since), instant(until))
    (answer,) = FilesSource(described).fetch([request], now)
    assert answer.series == request.series
    assert answer.last
    return answer


def from_csv(tmp_path: Path, text: str | bytes, **how) -> Fetched:
    """What is read of a CSV file with this text."""
    (tmp_path / "A-B_H1.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {key: how.pop(key) for key in ("options", "calendar", "more") if key in how}
    return fetch(market(tmp_path, **options), **how)


def from_sql(tmp_path: Path, select: str, **how) -> Fetched:
    """What is read of a Parquet file with the rows of a query."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"copy ({select}) to '{tmp_path / 'A-B_H1.parquet'}'")
    options = {key: how.pop(key) for key in ("options", "calendar", "more") if key in how}
    return fetch(market(tmp_path, **options), **how)


def good(answer: Fetched) -> Candles:
    """The candles of an answer in which nothing went wrong."""
    assert answer.error is None
    assert answer.candles.malformed == ()
    return answer.candles


def opened(candles: Candles) -> list[str]:
    return [str(time)[:16] for time in candles.open_time]


def refusal(answer: Fetched) -> str:
    """Why an answer ends in an error for good."""
    assert isinstance(answer.error, PermanentError)
    assert len(answer.candles) == 0
    return str(answer.error)


def test_a_csv_file_is_read_into_candles(tmp_path: Path):
    found = good(from_csv(tmp_path, HEADER + "2024-01-01 00:00,1.5,2.5,1.25,2,100\n2024-01-01 01:00,2,2,2,2,0\n"))
    assert opened(found) == ["2024-01-01T00:00", "2024-01-01T01:00"]
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        "open": [1.5, 2], "high": [2.5, 2], "low": [1.25, 2], "close": [2, 2], "volume": [100, 0],
    }  # fmt: skip


def test_a_parquet_file_is_read_into_the_same(tmp_path: Path):
    rows = HEADER + "2024-01-01 00:00,1.5,2.5,1.25,2,100\n2024-01-01 01:00,2,2,2,2,\n"
    from_text = good(from_csv(tmp_path, rows))
    csv = tmp_path / "A-B_H1.csv"
    from_parquet = good(from_sql(tmp_path, f"select * from read_csv('{csv}')"))
    np.testing.assert_array_equal(from_text.open_time, from_parquet.open_time)
    for name, values in from_text.columns.items():
        np.testing.assert_array_equal(values, from_parquet[name])


def test_of_both_files_the_parquet_one_is_read(tmp_path: Path):
    from_csv(tmp_path, HEADER + "2024-01-01 00:00,1,1,1,1,1\n")
    found = good(
        from_sql(tmp_path, "select timestamp '2024-01-02' as time, 2 as open, 2 as high, 2 as low, 2 as close")
    )
    assert opened(found) == ["2024-01-02T00:00"]


ROW = "1,2,1,2"


@pytest.mark.parametrize(
    "header",
    [
        "time,open,high,low,close", "Date,Open,High,Low,Close", "OPEN_TIME,OPEN,HIGH,LOW,CLOSE",
        " Timestamp , Open , High , Low , Close ", '"datetime","open","high","low","close"',
        "\ufefftime,open,high,low,close",
    ],
)  # fmt: skip
def test_columns_go_by_any_of_their_names_in_any_case(tmp_path: Path, header: str):
    found = good(from_csv(tmp_path, f"{header}\n2024-01-01 05:00,{ROW}\n"))
    assert opened(found) == ["2024-01-01T05:00"]
    assert np.isnan(found["volume"]).all()


def test_columns_stand_in_any_order_among_others(tmp_path: Path):
    text = 'symbol,Close,adj close,Low,Volume,High,Open,Time,note\nX,4,9,1,7,5,2,2024-01-01,"a, b"\n'
    found = good(from_csv(tmp_path, text))
    assert {name: values[0] for name, values in found.columns.items()} == {
        "open": 2, "high": 5, "low": 1, "close": 4, "volume": 7,
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_understood(tmp_path: Path, delimiter: str):
    text = (HEADER + "2024-01-01,1,2,1,2,5\n").replace(",", delimiter)
    assert good(from_csv(tmp_path, text))["volume"].tolist() == [5]


def test_any_kind_of_line_end_is_understood_and_two_in_one_file(tmp_path: Path):
    text = HEADER + '2024-01-01,1,2,1,2,5\n2024-01-02,1,2,1,2,"6"\n'
    for line_end in ("\r\n", "\r"):
        assert good(from_csv(tmp_path, text.replace("\n", line_end)))["volume"].tolist() == [5, 6]
    assert good(from_csv(tmp_path, text.replace("5\n", "5\r\n")))["volume"].tolist() == [5, 6]


# All of them 2024-01-01 05:30 UTC, which DuckDB 1.5 and 2.0 read alike.
SAME_INSTANT = [
    "2024-01-01 05:30", "2024-01-01 05:30:00", "2024-01-01T05:30:00", "2024-01-01T05:30Z", "2024-01-01T05:30:00Z",
    "2024-01-01 05:30:00+00:00", "2024-01-01 11:00+05:30", "2024-01-01T11:00:00+0530", "2024-01-01 00:30:00-05",
    "2024-01-01 05:30:00.000000000", "2024-01-01T05:30:00.000Z", "2024-01-01 05:30:00 UTC", " 2024-01-01 05:30 ",
    "1704087000", "1704087000.0", "1704087000000", "1704087000000000", "1704087000000000000",
]  # fmt: skip


@pytest.mark.parametrize("text", SAME_INSTANT)
def test_a_time_may_be_written_in_many_ways(tmp_path: Path, text: str):
    assert opened(good(from_csv(tmp_path, f"{HEADER}{text},{ROW},1\n"))) == ["2024-01-01T05:30"]


@pytest.mark.parametrize(
    "time",
    [
        "timestamp '2024-01-01 05:30'", "timestamptz '2024-01-01 05:30:00+00'", "timestamp_ns '2024-01-01 05:30:00'",
        "timestamp_s '2024-01-01 05:30:00'", "timestamp_ms '2024-01-01 05:30:00'", "'2024-01-01 05:30'",
        "1704087000", "1704087000000", "1704087000000000", "1704087000::double", "'2024-01-01T11:00+05:30'",
    ],
)  # fmt: skip
def test_a_parquet_file_may_hold_times_of_any_type(tmp_path: Path, time: str):
    found = from_sql(
        tmp_path, f'select {time} as "Open_Time", 1.0 as "Open", 2::decimal(9, 2) as high, 1 as low, 2 as close'
    )
    assert opened(good(found)) == ["2024-01-01T05:30"]


def test_a_day_is_its_midnight(tmp_path: Path):
    assert opened(good(from_csv(tmp_path, f"date,open,high,low,close\n2024-01-01,{ROW}\n"))) == ["2024-01-01T00:00"]
    found = from_sql(tmp_path, "select date '2024-01-01' as date, 1 as open, 2 as high, 1 as low, 2 as close")
    assert opened(good(found)) == ["2024-01-01T00:00"]


def test_naive_times_are_those_of_the_markets_timezone(tmp_path: Path):
    text = f"{HEADER}2024-01-15 09:15,{ROW},1\n2024-01-15T09:15:00Z,{ROW},3\n1705310100,{ROW},3\n"
    found = good(from_csv(tmp_path, text, options=", timezone: Asia/Kolkata"))
    assert dict(zip(opened(found), found["volume"].tolist(), strict=True)) == {
        "2024-01-15T03:45": 1,
        "2024-01-15T09:15": 3,
    }
    select = "select timestamp '2024-01-15 09:15' as time, 1 as open, 2 as high, 1 as low, 2 as close"
    assert opened(good(from_sql(tmp_path, select, options=", timezone: Asia/Kolkata"))) == ["2024-01-15T03:45"]
    aware = select.replace("timestamp '2024-01-15 09:15'", "timestamptz '2024-01-15 09:15:00+00'")
    assert opened(good(from_sql(tmp_path, aware, options=", timezone: Asia/Kolkata"))) == ["2024-01-15T09:15"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_hours_that_the_clocks_skip_or_repeat_do_no_harm(tmp_path: Path, suffix: str):
    times = ["2024-03-10 01:30", "2024-03-10 02:30", "2024-03-10 03:30", "2024-11-03 00:30", "2024-11-03 01:30"]
    zone = {"options": ", timezone: America/New_York", "now": LATE}
    if suffix == "csv":
        found = from_csv(tmp_path, HEADER + "".join(f"{time},{ROW},1\n" for time in times), **zone)
    else:
        rows = ", ".join(f"(timestamp '{time}', 1, 2, 1, 2)" for time in times)
        found = from_sql(tmp_path, f"select * from (values {rows}) as t(time, open, high, low, close)", **zone)
    # 02:30 does not exist and counts as 03:30, 01:30 exists twice and counts as the second.
    assert opened(good(found)) == ["2024-03-10T06:30", "2024-03-10T07:30", "2024-11-03T04:30", "2024-11-03T06:30"]


def test_rows_in_any_order_with_repetitions_come_out_sorted_and_the_last_wins(tmp_path: Path):
    text = HEADER + f"2024-01-03,{ROW},1\n2024-01-01,{ROW},2\n2024-01-02,{ROW},3\n2024-01-01T00:00Z,{ROW},4\n"
    found = from_csv(tmp_path, text).candles
    assert opened(found) == ["2024-01-01T00:00", "2024-01-02T00:00", "2024-01-03T00:00"]
    assert found["volume"].tolist() == [4, 3, 1]
    [replaced] = found.malformed
    assert (replaced.text, replaced.reason) == ("2024-01-01T00:00:00.000000,1,2,1,2,2", TWO_VALUES)


@pytest.mark.parametrize(("order", "timeframe"), [(1, "H1"), (-1, "H1"), (1, "m15")])
def test_hours_that_occur_twice_are_both_kept(tmp_path: Path, order: int, timeframe: str):
    minutes = [0] if timeframe == "H1" else [0, 15, 30, 45]
    hours = [0, 1, 2, 2, 3, 4]
    lines = [
        f"2026-10-25 {hour:02}:{minute:02}:00,{100 + number},{101 + number},{99 + number},{100 + number},{number}\n"
        for number, (hour, minute) in enumerate((hour, minute) for hour in hours for minute in minutes)
    ]
    (tmp_path / f"A-B_{timeframe}.csv").write_text(HEADER + "".join(lines[::order]))
    described = market(tmp_path, options=", timezone: Europe/Berlin")
    found = good(fetch(described, timeframe=Timeframe(timeframe), now=LATE))
    assert found["volume"].tolist() == list(range(len(lines)))
    begins = np.datetime64("2026-10-24T22:00", "us")
    step = np.timedelta64(60 // len(minutes), "m")
    np.testing.assert_array_equal(found.open_time, begins + np.arange(len(lines)) * step)


@pytest.mark.parametrize("written", ["2017-12-28T00:00:00Z", "2017-12-28 00:00"])
def test_a_midnight_at_which_no_daily_bar_opens_is_a_date(tmp_path: Path, written: str):
    (tmp_path / "A-B_D1.csv").write_text(f"{HEADER}{written},{ROW},5\n")
    found = good(fetch(market(tmp_path, calendar="XNYS"), timeframe=Timeframe.D1, now=LATE))
    assert opened(found) == ["2017-12-28T05:00"]
    # Another time of day is what it says, and so is every midnight beside it.
    (tmp_path / "A-B_D1.csv").write_text(f"{HEADER}{written},{ROW},5\n2017-12-29T03:00Z,{ROW},5\n")
    found = good(fetch(market(tmp_path, calendar="XNYS"), timeframe=Timeframe.D1, now=LATE))
    assert opened(found)[1] == "2017-12-29T03:00"
    assert opened(found)[0] == "2017-12-28T00:00"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("calendar", "timeframe", "zone", "date", "expected"),
    [
        ("fx", "D1", "UTC", "2026-11-27", "2026-11-26T22:00"),
        ("fx", "D1", "America/New_York", "2026-07-01", "2026-06-30T21:00"),
        ("fx", "W1", "UTC", "2026-11-23", "2026-11-22T22:00"),
        ("fx", "W1", "UTC", "2026-11-22", "2026-11-22T22:00"),
        ("fx", "MN1", "UTC", "2026-11-01", "2026-10-31T21:00"),
        ("nse", "D1", "UTC", "2026-11-27", "2026-11-26T18:30"),
        ("nse", "D1", "Asia/Kolkata", "2026-11-27", "2026-11-26T18:30"),
        ("nse", "W1", "UTC", "2026-11-23", "2026-11-22T18:30"),
        ("crypto", "D1", "America/New_York", "2026-11-27", "2026-11-27T00:00"),
    ],
)
def test_a_date_alone_names_the_calendars_bar_of_that_day(
    tmp_path: Path, suffix: str, calendar: str, timeframe: str, zone: str, date: str, expected: str
):
    path = tmp_path / f"A-B_{timeframe}.{suffix}"
    if suffix == "csv":
        path.write_text(f"Date,Open,High,Low,Close\n{date},{ROW}\n")
    else:
        with duckdb.connect() as connection:
            connection.execute(
                f"copy (select date '{date}' as date, 1 as open, 2 as high, 1 as low, 2 as close) to '{path}'"
            )
    described = market(tmp_path, options=f", timezone: {zone}", calendar=calendar)
    found = good(fetch(described, timeframe=Timeframe(timeframe), now=LATE))
    assert opened(found) == [expected]
    assert described.calendar.has_bar(Timeframe(timeframe), found.open_time).all()
    # A refresh asks from the bar's beginning on.
    assert len(good(fetch(described, timeframe=Timeframe(timeframe), since=expected, now=LATE))) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_last_of_repeated_rows_wins_in_a_large_file_too(tmp_path: Path, suffix: str):
    path = tmp_path / f"A-B_m1.{suffix}"
    with duckdb.connect() as connection:
        connection.execute(
            "copy (select timestamp '2020-01-01' + interval 1 minute * (i % 1000) as time, 1 as open, 1 as high, "
            f"1 as low, 1 as close, i as volume from range(300000) as t(i)) to '{path}'"
        )
    found = fetch(market(tmp_path), timeframe=Timeframe.m1).candles
    assert found["volume"].tolist() == list(range(299_000, 300_000))
    assert len(found.malformed) == MOST_REPLACED


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_only_candles_of_the_stretch_are_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"A-B_H1.{suffix}"
    with duckdb.connect() as connection:
        connection.execute(
            "copy (select timestamp '2024-01-01' + interval 1 hour * i as time, 1 as open, 1 as high, 1 as low, "
            f"1 as close from range(200) as t(i)) to '{path}'"
        )
    found = good(fetch(market(tmp_path), since="2024-01-03T00:00", until="2024-01-03T03:00"))
    assert opened(found) == ["2024-01-03T00:00", "2024-01-03T01:00", "2024-01-03T02:00"]
    one = fetch(market(tmp_path), since="2024-01-02T23:59:59.999999", until="2024-01-03T00:00:00.000001")
    assert opened(good(one)) == ["2024-01-03T00:00"]
    behind = market(tmp_path, options=", timezone: Pacific/Honolulu")
    assert opened(good(fetch(behind, since="2024-01-03", until="2024-01-03T01:00"))) == ["2024-01-03T00:00"]
    ahead = fetch(
        market(tmp_path, options=", timezone: Pacific/Kiritimati"), since="2024-01-03", until="2024-01-03T02:00"
    )
    assert opened(good(ahead)) == ["2024-01-03T00:00", "2024-01-03T01:00"]
    assert len(good(fetch(market(tmp_path), since="2024-02-01")).open_time) == 0


def test_only_closed_candles_are_read(tmp_path: Path):
    text = HEADER + "".join(f"2024-01-01 {hour:02}:00,{ROW},1\n" for hour in range(24))
    at_noon = datetime(2024, 1, 1, 12, 0, tzinfo=UTC)
    assert opened(good(from_csv(tmp_path, text, now=at_noon)))[-1] == "2024-01-01T11:00"
    assert opened(good(from_csv(tmp_path, text, now=at_noon.replace(hour=11, minute=59))))[-1] == "2024-01-01T10:00"


def test_when_a_day_is_over_is_the_calendars_to_say(tmp_path: Path):
    (tmp_path / "A-B_D1.csv").write_text(HEADER + f"2024-06-12 21:00,{ROW},1\n2024-06-13 21:00,{ROW},1\n")
    fx = market(tmp_path, calendar="fx")
    early, late = datetime(2024, 6, 14, 20, 59, tzinfo=UTC), datetime(2024, 6, 14, 21, 0, tzinfo=UTC)
    assert opened(good(fetch(fx, timeframe=Timeframe.D1, now=early))) == ["2024-06-12T21:00"]
    assert opened(good(fetch(fx, timeframe=Timeframe.D1, now=late))) == ["2024-06-12T21:00", "2024-06-13T21:00"]


def test_candles_that_contradict_themselves_are_passed_on(tmp_path: Path):
    text = HEADER + "2024-01-01,5,4,6,5,1\n2024-01-02,-1,2,0,1,-5\n2024-01-03,,2,1,2,1\n2024-01-04,nan,inf,1,2,1\n"
    found = good(from_csv(tmp_path, text))
    assert len(found) == 4
    assert all(fault is not None for fault in faults(found))
    assert np.isnan(found["open"][2])


def test_what_cannot_be_read_is_told_and_the_rest_stays(tmp_path: Path):
    rows = [
        f"2024-01-01,{ROW},1",
        "2024-01-02,1,2,1,abc,1",
        f"someday,{ROW},1",
        f"2024-01-04,{ROW},many",
        "2024-01-05,1,2",
        f"2024-01-06,{ROW},1,6,7,8",
        '2024-01-07,"1,5",2,1,2,1',
        f"20240108,{ROW},1",
        f"20240109120000,{ROW},1",
        f"infinity,{ROW},1",
        f"2024-01-11,{ROW},1",
        "2024-01-12,1,2,1",
    ]
    answer = from_csv(tmp_path, HEADER + "\n".join(rows))
    assert answer.error is None
    assert opened(answer.candles)[0] == "2024-01-01T00:00"
    assert opened(answer.candles)[-1] == "2024-01-11T00:00"
    told = {row.text.split(",")[0]: row.reason for row in answer.candles.malformed}
    assert told == {
        "2024-01-02": "close is no number",
        "someday": "its time cannot be read",
        "2024-01-05": "Expected Number of Columns: 6 Found: 3",
        "2024-01-06": "Expected Number of Columns: 6 Found: 7",
        "2024-01-07": "open is no number",
        "20240108": "its time cannot be read",
        "20240109120000": "its time cannot be read",
        "infinity": "its time cannot be read",
        "2024-01-12": "Expected Number of Columns: 6 Found: 4",
    }
    assert "2024-01-02,1,2,1,abc,1" in {row.text for row in answer.candles.malformed}


def test_a_damaged_byte_costs_its_row_only(tmp_path: Path):
    rows = f"2024-01-01,{ROW},1\n2024-01-02,{ROW},?\n2024-01-03,{ROW},3\n"
    answer = from_csv(tmp_path, (HEADER + rows).encode().replace(b"?", b"\xff"))
    assert opened(answer.candles) == ["2024-01-01T00:00", "2024-01-03T00:00"]
    assert [row.text.split(",")[0] for row in answer.candles.malformed] == ["2024-01-02"]


def test_text_for_a_number_is_told_only_where_it_was_asked_for(tmp_path: Path):
    text = HEADER + f"2024-01-01,1,2,1,abc,1\n2024-01-05,{ROW},1\n"
    assert good(from_csv(tmp_path, text, since="2024-01-04"))["volume"].tolist() == [1]


def test_a_parquet_file_with_text_for_a_number_tells_it_as_well(tmp_path: Path):
    rows = "(timestamp '2024-01-01', '1'), (timestamp '2024-01-02', 'x'), (null, '1'), (timestamp '2024-01-04', null)"
    answer = from_sql(
        tmp_path, f"select time, p as open, p as high, p as low, p as close from (values {rows}) as t(time, p)"
    )
    assert opened(answer.candles) == ["2024-01-01T00:00", "2024-01-04T00:00"]
    assert [row.reason for row in answer.candles.malformed] == ["open is no number", "its time cannot be read"]


def test_one_damaged_file_says_nothing_about_the_next(tmp_path: Path):
    (tmp_path / "A_H1.csv").write_text(HEADER + f"2024-01-01,{ROW},1\n2024-01-02,1,2\n")
    (tmp_path / "B_H1.csv").write_bytes(os.urandom(200))
    (tmp_path / "C_H1.csv").write_text(HEADER + "2024-01-01,1\n2024-01-02,1\n")
    (tmp_path / "D_H1.csv").write_text(HEADER + f"2024-01-01,{ROW},1\n")
    source = FilesSource(market(tmp_path, instruments="[A, B, C, D, E]"))
    requests = [Request(Series(name, Timeframe.H1), instant("2024"), instant("2025")) for name in "EDCBAD"]
    answers = list(source.fetch(requests, NOW))
    assert [answer.series.instrument for answer in answers] == list("EDCBAD")
    assert [len(answer.candles) for answer in answers] == [0, 1, 0, 0, 1, 1]
    assert [len(answer.candles.malformed) for answer in answers] == [0, 0, 0, 0, 1, 0]
    assert [answer.error is None for answer in answers] == [True, True, False, False, True, True]
    assert all(answer.last and answer.seconds > 0 for answer in answers)


def test_a_missing_file_means_no_data(tmp_path: Path):
    answer = fetch(market(tmp_path))
    assert (len(answer.candles), answer.error) == (0, None)
    assert answer.remark.startswith("found no file SYMBOL_TIMEFRAME.csv")


def test_a_file_of_another_timeframe_is_not_used(tmp_path: Path):
    from_csv(tmp_path, f"{HEADER}2024-01-01,{ROW},1\n")
    assert len(good(fetch(market(tmp_path), timeframe=Timeframe.D1))) == 0


def test_a_file_with_a_header_only_means_no_data(tmp_path: Path):
    assert len(good(from_csv(tmp_path, HEADER))) == 0
    assert len(good(from_csv(tmp_path, HEADER.strip()))) == 0
    nothing = "select now() as time, 1 as open, 2 as high, 1 as low, 2 as close where false"
    assert len(good(from_sql(tmp_path, nothing))) == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", ["expected a first row that names the columns", "open, high, low, close", "found nothing"]),
        (b"\n\n", ["expected a first row that names the columns", "found nothing"]),
        (b"time,open,high,close\n", ["expected a first row that names the columns low;", "found time, open, "]),
        (b"day,open,high,low,close\n", ["columns open_time or time or timestamp or datetime or date;", "found day"]),
        (b"2024-01-01,1,2,1,2\n", ["names the columns open_time or time", "found 2024-01-01, 1, 2"]),
        (bytes(range(128, 256)) * 40, ["expected a readable file in UTF-8", "can't decode byte 0x80"]),
        (b"PK\x03\x04" + bytes(3000), ["expected a first row that names the columns"]),
        ("time,open,high,close\n".encode("utf-16"), ["names the columns low; found time, open, high, close"]),
        (b"time,open,high,low,close\nsomeday,1,2,1,2\n", ["none could be read", "'someday,1,2,1,2,'"]),
        (b"time,open,high,low,close\n2024-01-01,1\n", ["none could be read", "Expected Number of Columns: 5 Found: 2"]),
    ],
)  # fmt: skip
def test_a_csv_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: bytes, parts: list[str]):
    message = refusal(from_csv(tmp_path, text))
    assert str(tmp_path / "A-B_H1.csv") in message
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("content", [b"", b"PAR1", os.urandom(4000), b"PAR1" + bytes(100) + b"PAR1"])
def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "A-B_H1.parquet"
    path.write_bytes(content)
    assert f"{path}: expected a Parquet file, found: " in refusal(fetch(market(tmp_path)))


def test_a_parquet_file_without_a_column_is_refused(tmp_path: Path):
    message = refusal(from_sql(tmp_path, "select now() as time, 1 as open, 2 as high, 1 as close"))
    assert "expected a first row that names the columns low; found time, open, high, close" in message


def test_a_file_that_breaks_off_is_refused_or_read_as_far_as_it_goes(tmp_path: Path):
    whole = HEADER + "".join(f"2024-01-01 {hour:02}:00,1.25,2.5,1.25,2.5,10\n" for hour in range(24))
    torn = from_csv(tmp_path, whole[:-20])
    assert torn.error is None
    assert len(torn.candles) == 23
    assert len(torn.candles.malformed) == 1
    parquet = tmp_path / "A-B_H1.parquet"
    from_sql(tmp_path, "select now() as time, 1 as open, 2 as high, 1 as low, 2 as close")
    parquet.write_bytes(parquet.read_bytes()[:-30])
    assert "expected a Parquet file" in refusal(fetch(market(tmp_path)))


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path):
    (tmp_path / "A-B_H1.csv").mkdir()
    assert "A-B_H1.csv: expected a readable file" in refusal(fetch(market(tmp_path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path):
    path = tmp_path / "A-B_H1.csv"
    path.write_text(HEADER)
    path.chmod(0)
    assert "Permission denied" in refusal(fetch(market(tmp_path)))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path):
    message = refusal(fetch(market(tmp_path / "nowhere")))
    assert f"{tmp_path / 'nowhere'}: expected a directory with candles" in message


def test_a_symbol_names_the_file_instead_of_the_instrument(tmp_path: Path):
    (tmp_path / "EUR-USD.FX_H1.csv").write_text(HEADER + f"2024-01-01,{ROW},1\n")
    described = market(tmp_path, instruments="{EURO: {symbol: EUR/USD.FX}, YEN: {}}")
    assert len(good(fetch(described, "EURO"))) == 1
    assert len(good(fetch(described, "YEN"))) == 0


def test_odd_characters_in_a_path_mean_themselves(tmp_path: Path):
    odd = tmp_path / "it's [1] {x} 50% *"
    odd.mkdir()
    (tmp_path / "it's 1 {x} 50% *").mkdir()
    (odd / "M&M_H1.csv").write_text(HEADER + f"2024-01-01,{ROW},1\n")
    described = market(str(odd).replace("'", "''"), instruments="['M&M']")
    assert len(good(fetch(described, "M&M"))) == 1


def test_a_relative_directory_is_one_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "candles").mkdir()
    (tmp_path / "candles" / "A-B_H1.csv").write_text(HEADER + f"2024-01-01,{ROW},1\n")
    monkeypatch.chdir(tmp_path)
    assert len(good(fetch(market("candles")))) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert len(good(fetch(market("~/candles")))) == 1


def test_a_market_with_two_sides_gets_what_the_file_has_of_them(tmp_path: Path):
    text = "time,open,high,low,close,Bid_Open,ask_close\n2024-01-01,1,2,1,2,0.9,2.1\n"
    found = good(from_csv(tmp_path, text, more=", two_sided: true"))
    assert (found["bid_open"][0], found["ask_close"][0]) == (0.9, 2.1)
    assert np.isnan(found["ask_open"][0])
    assert "bid_open" not in good(from_csv(tmp_path, text)).columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{kind: files}", "market 'm': source: directory: missing; allowed keys: directory, timezone"),
        ("{kind: files, directory: 5}", "market 'm': source: directory: found 5; allowed: text"),
        ("{kind: files, directory: .., zone: UTC}", "source: zone: found 'UTC'; unknown key"),
        ("{kind: files, directory: .., timezone: Mars/Base}", "source: timezone: found 'Mars/Base'; allowed: a zone"),
        ("{kind: files, directory: .., timezone: America}", "source: timezone: found 'America'; allowed: a zone of"),
        ("{kind: files, directory: .., timezone: ../UTC}", "source: timezone: found '../UTC'; allowed: a zone of"),
        ("{kind: files, directory: .., timezone: 5}", "source: timezone: found 5; allowed: text"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told(options: str, message: str):
    text = f"{{name: m, source: {options}, calendar: crypto, instruments: [A], timeframes: [H1], history: 1d}}"
    with pytest.raises(MarketError) as caught:
        FilesSource(parse_market(text, "m.yaml"))
    assert message in str(caught.value)


def test_every_timeframe_is_its_own():
    source = FilesSource(market("."))
    assert source.kind == "files"
    assert set(source.native_timeframes) == set(Timeframe)


TIMEFRAMES = {"1m": Timeframe.m1, "1h": Timeframe.H1, "1d": Timeframe.D1}


@pytest.fixture
def published(tmp_path: Path, candle_folder: Path) -> Callable[[str], Candles]:
    """Reads a published file under the name that its series would have."""

    def read(name: str) -> Candles:
        path = candle_folder / f"{name}.parquet"
        timeframe = next(found for part, found in TIMEFRAMES.items() if f"_{part}" in name)
        (tmp_path / f"{name}_{timeframe}.parquet").symlink_to(path)
        return good(fetch(market(tmp_path, instruments=f"[{name}]"), name, timeframe, now=LATE))

    return read


def test_each_published_file_has_its_tests(candle_folder: Path):
    assert tuple(sorted(path.stem for path in candle_folder.glob("*.parquet"))) == CANDLE_FILES


@pytest.mark.parametrize("name", CANDLE_FILES)
def test_every_published_file_is_read_completely(name: str, published: Callable[[str], Candles], candle_folder: Path):
    found = published(name)
    with duckdb.connect() as connection:
        path = str(candle_folder / f"{name}.parquet")
        query = "select count(distinct epoch_us(time::timestamptz)), sum(close) from read_parquet(?)"
        ((count, total),) = connection.execute(query, [path]).fetchall()
    assert len(found) == count
    assert found["close"].sum() == pytest.approx(float(total))
    assert (np.diff(found.open_time) > np.timedelta64(0)).all()


def test_a_published_file_that_is_newest_first_comes_out_oldest_first(published: Callable[[str], Candles]):
    found = published("coinbase_BTCUSD_1h")
    assert opened(found)[0] < opened(found)[-1] == "2019-10-17T09:00"


def test_a_published_outage_stays_a_hole(published: Callable[[str], Candles]):
    gaps = {
        name: np.diff(published(f"coinbase_{name}_1m_201804").open_time).max()
        for name in ("BTCUSD", "ETHUSD", "LTCUSD")
    }
    assert all(np.timedelta64(6, "h") < gap < np.timedelta64(9, "h") for gap in gaps.values())


# Rows whose high or low contradicts open or close, as their origin published them.
PUBLISHED_FAULTS = {"yahoo_SPY_1d": 2, "yf_SSW_JO_1d_100x_error": 4, "yf_SSW_JO_1d_100x_error_fixed": 4}


@pytest.mark.parametrize("name", CANDLE_FILES)
def test_of_the_published_candles_only_those_that_contradict_themselves_are_rejected(
    name: str, published: Callable[[str], Candles]
):
    reasons = [reason for reason in faults(published(name)) if reason is not None]
    assert len(reasons) == PUBLISHED_FAULTS.get(name, 0)
    assert set(reasons) <= {HIGH_TOO_LOW, LOW_TOO_HIGH}


def test_the_two_contradictory_days_of_spy_are_passed_on_and_found(published: Callable[[str], Candles]):
    found = published("yahoo_SPY_1d")
    wrong = found.where(np.array([reason is not None for reason in faults(found)]))
    assert len(found) == 2519
    assert opened(wrong) == ["2015-03-05T00:00", "2015-03-30T00:00"]


@pytest.mark.parametrize("folder", ["c[1]", "c*", "c?", "volume=5"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_path_is_no_pattern_and_its_folders_are_no_columns(folder: str, ending: str, tmp_path: Path) -> None:
    for name, price in ((folder, 1), ("c1", 777)):
        (tmp_path / name).mkdir()
        with duckdb.connect() as connection:
            connection.sql(
                f"select '2024-01-01' as time, {price} as open, {price} as high, {price} as low, {price} as close"
            ).write_csv(str(tmp_path / "rows.csv"))
            rows = connection.read_csv(str(tmp_path / "rows.csv"))
            write = rows.write_parquet if ending == "parquet" else rows.write_csv
            write(str(tmp_path / f"rows.{ending}"))
        (tmp_path / f"rows.{ending}").rename(tmp_path / name / f"A-B_H1.{ending}")
    candles = fetch(market(tmp_path / folder)).candles
    assert candles.columns["open"].tolist() == [1.0]
    assert np.isnan(candles.columns["volume"]).all()


def test_a_symbol_with_an_asterisk_reads_its_own_file(tmp_path: Path) -> None:
    for name, price in (("BTC*", 1), ("BTCX", 777)):
        (tmp_path / f"{name}_H1.csv").write_text(f"{HEADER}2024-01-01,{price},{price},{price},{price},5\n")
    answer = fetch(market(tmp_path, instruments="{A/B: {symbol: 'BTC*'}}"))
    assert answer.candles.columns["open"].tolist() == [1.0]
