import numpy as np
import pytest

from refresh_pipeline.analytics.rolling import (
    ROWS_AT_ONCE,
    rising,
    shifted,
    simple_moving_average,
    standard_deviation,
    windowed_sum,
)

RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize("periods", [1, 2, 3, 5, 20, 34, 200])
def test_a_windowed_sum_is_the_sum_of_its_window(periods):
    values = RANDOM.random(300)
    expected = [np.nan if i < periods - 1 else values[i - periods + 1 : i + 1].sum() for i in range(300)]
    np.testing.assert_allclose(windowed_sum(values, periods), expected, rtol=1e-14)


@pytest.mark.parametrize("function", [windowed_sum, simple_moving_average, standard_deviation])
@pytest.mark.parametrize("length", [0, 1, 19])
def test_a_series_shorter_than_the_window_has_no_value(function, length):
    result = function(np.ones(length), 20)
    assert len(result) == length
    assert np.isnan(result).all()


@pytest.mark.parametrize("function", [simple_moving_average, standard_deviation])
def test_a_value_is_the_same_to_the_last_bit_whatever_lies_before_its_window(function):
    values = 1e6 * RANDOM.random(2 * ROWS_AT_ONCE + 100)
    whole = function(values, 20)
    for start in (1, 77, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3):
        np.testing.assert_array_equal(function(values[start:], 20)[19:], whole[start + 19 :])


def test_one_missing_value_makes_only_the_windows_that_hold_it_missing():
    values = np.ones(100)
    values[50] = np.nan
    missing = np.isnan(simple_moving_average(values, 5))
    assert list(np.flatnonzero(missing)) == [0, 1, 2, 3, 50, 51, 52, 53, 54]


def test_a_deviation_keeps_its_digits_far_from_zero():
    values = 1e8 + RANDOM.random(200)
    exact = [np.std(values[i - 19 : i + 1] - 1e8) for i in range(19, 200)]
    np.testing.assert_allclose(standard_deviation(values, 20)[19:], exact, rtol=1e-12)


def test_equal_prices_deviate_by_exactly_nothing():
    for price in 100 * RANDOM.random(200):
        assert standard_deviation(np.full(20, price), 20)[-1] == 0.0


def test_a_shift_beyond_the_series_leaves_nothing():
    assert np.isnan(shifted(np.ones(3), bars=8)).all()


def test_nothing_rises_from_or_into_a_missing_value():
    assert list(rising(np.array([1.0, np.nan, 2.0, 3.0]), np.full(4, 1e-13))) == [False, False, False, True]
