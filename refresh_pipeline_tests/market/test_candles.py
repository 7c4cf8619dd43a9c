"""Candles as arrays, and which of them contradict themselves."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresh_pipeline.market.candles import (
    BAD_VOLUME,
    HIGH_BELOW_LOW,
    HIGH_TOO_LOW,
    LOW_TOO_HIGH,
    NOT_A_NUMBER,
    NOT_POSITIVE,
    PLACEHOLDER,
    PRICE_COLUMNS,
    Candles,
    Malformed,
    faults,
    instant,
)

GOOD = (10.0, 12.0, 9.0, 11.0, 100.0)


def of(*rows: tuple[float, ...]) -> Candles:
    """Candles a minute apart from (open, high, low, close, volume)."""
    times = np.datetime64("2024-01-01T00:00", "us") + np.arange(len(rows)) * np.timedelta64(1, "m")
    open_, high, low, close, volume = zip(*rows, strict=True)
    return Candles.of(times, open=open_, high=high, low=low, close=close, volume=volume)


def fault_of(*row: float) -> str | None:
    """What is wrong with one candle among good ones."""
    return faults(of(GOOD, row, GOOD))[1]


def test_a_candle_that_agrees_with_itself_has_no_fault():
    assert list(faults(of(GOOD, (5, 5, 5, 5, 0), (1e-8, 2e-8, 1e-8, 1e-8, 1e12)))) == [None, None, None]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, NOT_A_NUMBER),
        (np.inf, NOT_A_NUMBER),
        (-np.inf, NOT_A_NUMBER),
        (0.0, NOT_POSITIVE),
        (-0.0, NOT_POSITIVE),
        (-5.0, NOT_POSITIVE),
    ],
)
def test_a_price_that_is_none_is_a_fault_wherever_it_stands(place: int, value: float, reason: str):
    row = list(GOOD)
    row[place] = value
    assert fault_of(*row) == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((10, 9, 11, 10, 1), HIGH_BELOW_LOW),
        ((10, 10, 9, 11, 1), HIGH_TOO_LOW),
        ((11, 10, 9, 10, 1), HIGH_TOO_LOW),
        ((10, 12, 11, 11, 1), LOW_TOO_HIGH),
        ((11, 12, 11, 10, 1), LOW_TOO_HIGH),
        ((10, 12, 9, 11, -1), BAD_VOLUME),
        ((10, 12, 9, 11, np.inf), BAD_VOLUME),
        ((10, 12, 9, 11, -np.inf), BAD_VOLUME),
    ],
)
def test_numbers_that_contradict_each_other_are_a_fault(row: tuple[float, ...], reason: str):
    assert fault_of(*row) == reason


def test_no_volume_is_no_fault():
    assert fault_of(10, 12, 9, 11, np.nan) is None
    assert fault_of(10, 12, 9, 11, 0) is None


@pytest.mark.parametrize("volume", [0, 1, 5_000, np.nan])
def test_ones_among_prices_far_from_one_are_the_brokers_placeholder(volume: float):
    assert fault_of(1, 1, 1, 1, volume) == PLACEHOLDER


@pytest.mark.parametrize("volume", [0, 1, 5_000, np.nan])
def test_a_stable_pair_keeps_its_quiet_candles_at_one(volume: float):
    pair = of((1.0001, 1.0002, 0.9999, 1.0, 900), (1, 1, 1, 1, volume), (1, 1.0001, 1, 1.0001, 40))
    assert list(faults(pair)) == [None, None, None]


def test_near_one_but_not_pegged_to_it_only_volume_makes_ones_believable():
    def among(volume: float) -> str | None:
        return faults(of((0.97, 0.98, 0.96, 0.97, 9), (1, 1, 1, 1, volume), (0.97, 0.98, 0.96, 0.98, 9)))[1]

    assert among(5_000) is None
    assert among(1) == among(0) == among(np.nan) == PLACEHOLDER


def test_ones_alone_are_believed_with_a_volume_only():
    assert list(faults(of((1, 1, 1, 1, 700), (1, 1, 1, 1, 1), (1, 1, 1, 1, np.nan)))) == [
        None,
        PLACEHOLDER,
        PLACEHOLDER,
    ]


def test_a_bad_neighbour_says_nothing_about_a_placeholder():
    bad = (np.nan, np.nan, np.nan, np.nan, 1)
    assert faults(of((1, 1, 1, 1, 700), bad))[0] is None
    assert faults(of((1, 1, 1, 1, 0), (1, 1.0001, 1, 1.0001, 40), bad, bad, bad))[0] is None


def test_one_series_says_nothing_about_anothers_placeholders():
    both = of((1, 1.0001, 1, 1.0001, 40), (1, 1, 1, 1, 0), GOOD, (1, 1, 1, 1, 5_000))
    assert list(faults(both, np.array([0, 0, 1, 1], dtype=np.int32))) == [None, None, None, PLACEHOLDER]


def test_no_candles_have_no_faults():
    assert len(faults(Candles.none())) == 0


prices = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(st.tuples(prices, prices, prices, prices, prices), max_size=20))
def test_a_candle_without_fault_is_always_coherent(rows: list[tuple[float, ...]]):
    candles = of(*rows) if rows else Candles.none()
    kept = candles.where(np.array([fault is None for fault in faults(candles)], dtype=bool))
    body_high, body_low = np.maximum(kept["open"], kept["close"]), np.minimum(kept["open"], kept["close"])
    assert (kept["high"] >= body_high).all()
    assert (kept["low"] <= body_low).all()
    assert (kept["low"] > 0).all()
    assert np.isfinite(kept["high"]).all()


def test_sorting_puts_the_oldest_first_and_keeps_the_last_of_each_time():
    times = ["2024-01-03", "2024-01-01", "2024-01-02", "2024-01-01", "2024-01-03"]
    values = np.arange(1.0, 6.0)
    candles = Candles.of(times, open=values, high=values, low=values, close=values).sorted()
    assert [str(day)[:10] for day in candles.open_time] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert list(candles["close"]) == [4, 3, 5]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_sorting_keeps_exactly_one_candle_per_time(minutes: list[int]):
    times = np.datetime64("2024-01-01", "us") + np.array(minutes, dtype="timedelta64[m]")
    values = np.arange(len(minutes), dtype=float)
    candles = Candles.of(times, open=values, high=values, low=values, close=values).sorted()
    last = dict(zip(times.tolist(), values.tolist(), strict=True))
    assert dict(zip(candles.open_time.tolist(), candles["open"].tolist(), strict=True)) == last
    assert candles.open_time.tolist() == sorted(last)


def test_malformed_rows_survive_whatever_happens_to_the_candles():
    row = Malformed("2024-01-01,x", "x is no number")
    one = Candles.of([], [row], open=[], high=[], low=[], close=[])
    both = Candles.concatenated([one, of(GOOD), one])
    assert both.sorted().where(np.array([False])).between(instant("2024"), instant("2025")).malformed == (row, row)


def test_between_takes_the_left_edge_and_leaves_the_right():
    candles = of(GOOD, GOOD, GOOD).between(instant("2024-01-01T00:00"), instant("2024-01-01T00:02"))
    assert [str(time)[11:16] for time in candles.open_time] == ["00:00", "00:01"]


def test_concatenating_nothing_gives_no_candles():
    assert len(Candles.concatenated([])) == 0
    assert set(Candles.none().columns) == {*PRICE_COLUMNS, "volume"}


@pytest.mark.parametrize(
    "columns",
    [
        {"open": [1], "high": [1], "low": [1]},
        {"open": [1], "high": [1], "low": [1], "close": [1, 2]},
        {"open": [1], "high": [1], "low": [1], "close": [1], "bid_open": [1, 2]},
    ],
)
def test_candles_with_a_missing_or_longer_column_are_refused(columns: dict[str, Any]):
    with pytest.raises(ValueError, match="as long as open_time"):
        Candles.of(["2024-01-01"], **columns)


def test_an_instant_is_in_utc_whatever_zone_it_came_in():
    expected = np.datetime64("2024-01-01T00:00:00", "us")
    assert instant(datetime.fromisoformat("2023-12-31T19:00-05:00")) == expected
    assert instant(datetime(2024, 1, 1, tzinfo=UTC)) == expected
    assert instant("2024-01-01") == expected
    assert instant(np.datetime64("2024-01-01", "ns")).dtype == np.dtype("datetime64[us]")
