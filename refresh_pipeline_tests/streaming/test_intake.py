"""The order in which candles are computed: each once, none before the one before it."""

import numpy as np
import pytest

from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.streaming import ClosedCandle
from refresh_pipeline.streaming.intake import Intake, good

A, B = (Series(name, Timeframe.m1) for name in ("A", "B"))
YAML = "{name: x, source: {kind: demo}, calendar: %s, instruments: [A, B], timeframes: [m1], history: 1d}"


def at(minute):
    return np.datetime64(f"2024-06-03T12:{minute:02}", "us")


def candle(series, minute, close=1.5):
    return ClosedCandle(series, at(minute), (1.0, 2.0, 1.0, close, 10.0))


@pytest.fixture
def intake():
    intake = Intake(parse_market(YAML % "crypto", "x.yaml"))
    for series in (A, B):
        intake.begin(series, at(0))
    return intake


def minutes(candles):
    return [(one.series.instrument, int(one.open_time.astype("datetime64[m]").astype(int) % 60)) for one in candles]


def test_a_candle_told_twice_is_nothing(intake):
    assert intake.offer(candle(A, 1))
    assert not intake.offer(candle(A, 1, close=1.9))
    assert minutes(intake.ready()) == [("A", 1)]
    assert not intake.offer(candle(A, 1))
    assert intake.repeated == 2


def test_a_candle_waits_for_the_one_before_it(intake):
    intake.offer(candle(A, 2))
    intake.offer(candle(B, 1))
    assert minutes(intake.ready()) == [("B", 1)]
    assert intake.behind(at(2)) == [A]
    intake.offer(candle(A, 1))
    assert minutes(intake.ready()) == [("A", 1)]
    assert minutes(intake.ready()) == [("A", 2)]


def test_rest_proves_that_a_candle_does_not_exist(intake):
    intake.offer(candle(A, 4))
    intake.know(A, at(3))
    assert intake.ready() == []
    intake.know(A, at(4))
    assert minutes(intake.ready()) == [("A", 4)]


def test_the_bar_after_a_rejected_candle_is_next(intake):
    intake.offer(candle(A, 1, close=5.0))
    [wrong] = intake.ready()
    assert good([wrong]) == {wrong: "high is below open or close"}
    intake.reject([wrong])
    intake.offer(candle(A, 2))
    assert minutes(intake.ready()) == [("A", 2)]


def test_what_waits_goes_on_waiting_while_a_series_is_read_anew(intake):
    intake.leave([A])
    intake.offer(candle(A, 1))
    intake.offer(candle(A, 2))
    assert intake.ready() == []
    intake.begin(A, at(1))
    assert minutes(intake.ready()) == [("A", 2)]


def test_a_calendar_says_which_bar_is_next():
    intake = Intake(parse_market(YAML % "fx", "x.yaml"))
    friday, sunday = np.datetime64("2024-06-07T20:59", "us"), np.datetime64("2024-06-09T21:00", "us")
    intake.begin(A, friday)
    assert intake.next_bar(A) == sunday
