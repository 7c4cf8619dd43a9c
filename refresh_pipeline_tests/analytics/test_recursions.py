import numpy as np
import pytest

from refresh_pipeline.analytics.recursions import (
    LAST_BIT,
    bars_to_forget,
    convergence_divergence,
    each_per_series,
    exponential_moving_average,
    per_series,
)
from refresh_pipeline_tests.analytics.histories import Market, history, stacked

VALUES = 100 + np.random.default_rng(3).standard_normal(120)


def test_ema_begins_with_a_mean_and_recurs_from_there():
    expected = VALUES[:10].mean()
    for value in VALUES[10:]:
        expected += 2 / 11 * (value - expected)
    assert exponential_moving_average(VALUES, periods=10)[-1] == pytest.approx(expected, rel=1e-13)


def test_each_series_begins_anew_and_series_without_bars_do_no_harm():
    histories = [history(Market(bars=n, seed=n)) for n in (40, 0, 3, 1, 50)]
    together = per_series(exponential_moving_average, stacked(histories), "close", periods=10)
    alone = [exponential_moving_average(each["close"], periods=10) for each in histories]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_no_series_at_all_give_no_rows():
    lines = each_per_series(convergence_divergence, 3, stacked([]), "close", fast=12, slow=26, signal=9)
    assert [len(line) for line in lines] == [0, 0, 0]


def test_after_the_bars_to_forget_a_seed_weighs_less_than_rounding():
    bars = bars_to_forget(1 / 13, LAST_BIT)
    assert (12 / 13) ** bars <= np.exp(-LAST_BIT) < (12 / 13) ** (bars - 1)
