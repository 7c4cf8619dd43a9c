import numpy as np

from refresh_pipeline.analytics.warm_up import LAST_BIT, bars_to_forget


def test_after_the_bars_to_forget_a_seed_weighs_less_than_rounding():
    bars = bars_to_forget(1 / 13, LAST_BIT)
    assert (12 / 13) ** bars <= np.exp(-LAST_BIT) < (12 / 13) ** (bars - 1)
