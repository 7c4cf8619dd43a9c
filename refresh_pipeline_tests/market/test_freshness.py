"""How complete, how old, how far behind: against calendars with nights, weekends and changes of the clocks."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.freshness import bars_behind, behind, completeness, data_age
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

CRYPTO, FX = CryptoCalendar(), FxCalendar()
# A Friday afternoon in New York, the Saturday after it, and the Monday after that.
FRIDAY = datetime(2026, 5, 29, 20, 30, tzinfo=UTC)
SATURDAY = FRIDAY + timedelta(days=1)
MONDAY = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)


def times(*texts: str) -> Times:
    return np.array(texts, dtype=TIME_UNIT)


def test_a_series_with_every_closed_candle_is_complete() -> None:
    firsts = times("2026-06-01T00:00", "2026-06-01T06:00")
    shares = completeness(CRYPTO, Timeframe.H1, firsts, np.array([12, 6]), MONDAY)
    assert shares.tolist() == [1.0, 1.0]


def test_what_is_missing_inside_and_at_the_end_lowers_completeness() -> None:
    firsts = times("2026-06-01T00:00", "2026-06-01T00:00")
    shares = completeness(CRYPTO, Timeframe.H1, firsts, np.array([9, 3]), MONDAY)
    assert shares.tolist() == [0.75, 0.25]


def test_a_candle_that_is_still_forming_is_not_expected() -> None:
    first = times("2026-06-01T11:00")
    assert completeness(CRYPTO, Timeframe.H1, first, np.array([1]), MONDAY).tolist() == [1.0]


def test_a_weekend_is_nothing_to_expect() -> None:
    first = times("2026-05-29T12:00")
    # Friday 12:00 to 21:00 UTC, and Sunday 21:00 to Monday 12:00.
    assert completeness(FX, Timeframe.H1, first, np.array([9 + 15]), MONDAY).tolist() == [1.0]
    assert completeness(FX, Timeframe.H1, first, np.array([9]), SATURDAY).tolist() == [1.0]


def test_candles_outside_the_sessions_make_up_for_none_that_is_missing() -> None:
    first = times("2026-06-01T00:00")
    assert completeness(CRYPTO, Timeframe.H1, first, np.array([50]), MONDAY).tolist() == [1.0]


def test_a_series_that_begins_after_the_last_closed_candle_is_no_division_by_nothing() -> None:
    first = times("2026-06-01T12:00")
    assert completeness(CRYPTO, Timeframe.H1, first, np.array([1]), MONDAY).tolist() == [1.0]


def test_age_counts_from_the_close_of_the_newest_candle() -> None:
    lasts = times("2026-06-01T11:00", "2026-06-01T09:00")
    assert data_age(CRYPTO, Timeframe.H1, lasts, MONDAY).tolist() == [30.0, 7230.0]


def test_the_age_of_a_week_goes_by_its_real_end() -> None:
    # The week ends on Sunday 17:00 New York, 21:00 UTC in summer.
    last = times("2026-05-24T21:00")
    assert data_age(FX, Timeframe.W1, last, MONDAY).tolist() == [15 * 3600 + 30]


@pytest.mark.parametrize(
    ("last", "behind"), [("2026-06-01T11:00", 0), ("2026-06-01T10:00", 1), ("2026-05-31T11:00", 24)]
)
def test_bars_behind_are_those_that_closed_since(last: str, behind: int) -> None:
    assert bars_behind(CRYPTO, Timeframe.H1, times(last), MONDAY).tolist() == [behind]


def test_over_a_weekend_nothing_falls_behind() -> None:
    last = times("2026-05-29T20:00")
    assert bars_behind(FX, Timeframe.H1, last, SATURDAY).tolist() == [0]
    assert bars_behind(FX, Timeframe.H1, last, MONDAY).tolist() == [15]


def test_a_newest_candle_off_the_grid_is_behind_those_that_closed_after_it() -> None:
    assert bars_behind(CRYPTO, Timeframe.H1, times("2026-06-01T10:30"), MONDAY).tolist() == [1]
    # Another broker's candle on a Saturday.
    assert bars_behind(FX, Timeframe.H1, times("2026-05-30T10:00"), SATURDAY).tolist() == [0]
    assert bars_behind(FX, Timeframe.H1, times("2026-05-30T10:00"), MONDAY).tolist() == [15]


def test_a_newest_candle_that_is_newer_than_the_clock_is_not_behind() -> None:
    assert bars_behind(CRYPTO, Timeframe.H1, times("2026-06-01T15:00"), MONDAY).tolist() == [0]


def test_an_hour_that_clocks_repeat_is_expected_twice() -> None:
    autumn = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
    first = times("2026-11-01T22:00")
    assert completeness(FX, Timeframe.H1, first, np.array([14]), autumn).tolist() == [1.0]


# ---- which series are behind

PAIR = parse_market(
    "{name: pair, source: {kind: demo}, calendar: crypto, instruments: [A, B], timeframes: [m1], history: 1d}", "m"
)
A, B = PAIR.series


@dataclass(frozen=True)
class Report:
    """What is known of a series."""

    series: Series
    last_open_time: np.datetime64 | None
    answered_at: np.datetime64 | None


def late(newest: str | None, answered: str | None, of_the_other: str = "2026-06-01T11:57") -> list[str]:
    """The series behind at 12:00:30: one with this newest candle and last answer, and another."""
    newest_time, answered_at = (
        None if each is None else np.datetime64(f"2026-06-01T{each}") for each in (newest, answered)
    )
    reports = [Report(A, newest_time, answered_at), Report(B, np.datetime64(of_the_other), answered_at)]
    return [each.series.instrument for each in behind(PAIR, reports, MONDAY)]


def test_two_ticks_late_is_not_behind() -> None:
    assert late("11:57", "11:58") == []


@pytest.mark.parametrize(("newest", "answered", "expected"), [
    ("11:45", "12:00:05", []),           # asked for it and had nothing, while it had the other's
    ("11:45", "11:57:30", ["A"]),        # not asked since the candle closed
    ("11:45", None, ["A"]),              # never asked, or the source failed
    ("10:59", "12:00:05", []),           # the first candle that lacks closed at 11:01
    ("10:58", "12:00:05", ["A"]),        # nothing for an hour
    (None, "12:00:05", ["A"]),           # nothing ever
    ("11:45", "15:00:05", ["A"]),        # an answer of a clock that was ahead
])  # fmt: skip
def test_a_quiet_instrument_is_not_behind_for_an_hour_where_its_source_answered(
    newest: str | None, answered: str | None, expected: list[str]
) -> None:
    assert late(newest, answered) == expected


def test_a_source_that_has_nothing_for_anybody_is_behind_at_once() -> None:
    assert late("11:45", "12:00:05", of_the_other="2026-06-01T11:56") == ["A", "B"]
