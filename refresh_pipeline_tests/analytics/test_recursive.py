import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.recursive import CHECKPOINT_BARS, Average, averages, smoothed
from refresh_pipeline_tests.analytics.sample_bars import Market, flat, history, rows_of, stacked

PERIODS = (5, 8, 13, 34, 55, 89, 144, 233, 377)
PRICES = history(Market(bars=1000))["close"]


def one_after_another(values, average):
    expected = np.full(len(values), np.nan)
    expected[average.begins] = values[: average.periods].mean()
    for i in range(average.begins + 1, len(values)):
        expected[i] = expected[i - 1] + average.weight * (values[i] - expected[i - 1])
    return expected


@pytest.mark.parametrize("average", [*map(smoothed, PERIODS), Average("ema", 20, 2 / 21, begins=19)], ids=str)
def test_an_average_begins_with_a_mean_and_recurs_from_there(average):
    bars = stacked([history(Market(bars=1000))])
    (computed,) = averages(bars, bars["close"], [average])
    np.testing.assert_allclose(computed, one_after_another(PRICES, average), rtol=1e-13)


def test_each_series_begins_anew_and_short_ones_do_no_harm():
    histories = [history(Market(bars=n, seed=n)) for n in (400, 0, 3, 1, 129, 900, 0)]
    bars = stacked(histories)
    together = averages(bars, bars["close"], [smoothed(13)])[0]
    for rows, each in zip(bars.slices, histories, strict=True):
        alone = averages(stacked([each]), each["close"], [smoothed(13)])[0]
        np.testing.assert_array_equal(together[rows], alone)


def test_no_series_at_all_give_no_rows():
    assert [len(line) for line in averages(stacked([]), np.empty(0), [smoothed(5), smoothed(8)])] == [0, 0]


@pytest.mark.parametrize("price", [0.1, 1 / 3, 60000.01])
def test_a_market_that_stands_still_has_averages_equal_to_its_price(price):
    bars = stacked([flat(price, 1000)])
    for periods in PERIODS:
        assert set(averages(bars, bars["close"], [smoothed(periods)])[0][periods:]) == {price}


def test_a_series_goes_on_from_a_state_as_if_it_had_been_computed_whole():
    whole = stacked([history(Market(bars=1000))])
    known = averages(whole, whole["close"], [smoothed(377)])[0]
    rest = stacked([rows_of(history(Market(bars=1000)), slice(3 * CHECKPOINT_BARS, None))])
    states = {"smma_377": known[[3 * CHECKPOINT_BARS - 1]]}
    tail = Bars(rest.open_time, rest.columns, rest.starts, before=np.array([3 * CHECKPOINT_BARS]), states=states)
    np.testing.assert_array_equal(averages(tail, tail["close"], [smoothed(377)])[0], known[3 * CHECKPOINT_BARS :])
