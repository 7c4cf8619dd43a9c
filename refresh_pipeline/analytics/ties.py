"""Ties: when two prices, or two sums or means of prices, count as equal. Which comparisons exist is not here.

Prices are multiples of a tick, but floats are not: 0.19162 - 0.19154 is not 8 * 0.00001. A comparison therefore takes
a `tie`, the greatest difference that is none: `prices_tie` where prices stand against prices, `averages_tie` where a
mean over a window takes part. The functions compare rows of one series or of several; NaN compares as False.
"""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Floats

# Parts of the price. A tenth of a tick, which a doji goes by, is 1e-8 of the price of Bitcoin at least.
PRICES = 1e-9
# Of averages true differences are finer: a 1,700th of a tick in the Accelerator, 6e-11 of the price of Bitcoin. What
# rounding leaves is below 1e-14.
AVERAGES = 1e-13
# Digits of a price that count, so that a mean of 34 or 5 bars of the same ticks gives the same digits.
DIGITS = 12
# Powers of ten to the last bit, from 10**0 on.
_POWERS = np.array([float(f"1e{exponent}") for exponent in range(300)])


def prices_tie(price: Floats) -> Floats:
    """The greatest difference that is a tie among prices, their halves and their doubles; `price` is that of the row.

    >>> bool(above(np.array([0.19162 - 0.19138]), np.array([3 * 0.00008]), prices_tie(np.array([0.19])))[0])
    False
    """
    return PRICES * price


def averages_tie(price: Floats) -> Floats:
    """The greatest difference that is a tie among means over windows of prices; `price` is that of the row."""
    return AVERAGES * price


def above(values: Floats, others: Floats, tie: Floats) -> NDArray[np.bool_]:
    """Whether each value is above the other one by more than a tie.

    >>> above(np.array([2.0, 1.0 + 1e-12, np.nan]), np.ones(3), prices_tie(np.ones(3)))
    array([ True, False, False])
    """
    return values - others > tie


def at_least(values: Floats, others: Floats, tie: Floats) -> NDArray[np.bool_]:
    """Whether each value is the other one or above it, a tie included.

    >>> at_least(np.array([0.5, 1.0 - 1e-12, np.nan]), np.ones(3), prices_tie(np.ones(3)))
    array([False,  True, False])
    """
    return values - others >= -tie


def side(values: Floats, others: Floats, tie: Floats) -> Floats:
    """1 where each value is above the other one, -1 where below, 0 in a tie; NaN where one is missing.

    >>> side(np.array([2.0, 1.0, 0.5, np.nan]), np.ones(4), prices_tie(np.ones(4)))
    array([ 1.,  0., -1., nan])
    """
    return np.sign(without_ties(values - others, tie))


def without_ties(differences: Floats, tie: Floats) -> Floats:
    """The differences, and 0 where all that is left of one is rounding.

    On a flat market two averages meet. What remains between them shows where the history began, not what the market
    did, and would set colours and crosses off.

    >>> without_ties(np.array([1e-3, 2e-16, np.nan]), averages_tie(np.ones(3)))
    array([0.001, 0.   ,   nan])
    """
    return np.where(np.abs(differences) < tie, 0.0, differences)


def snapped(values: Floats, price: Floats) -> Floats:
    """The values to the twelfth digit of their row's price: what is equal on ticks is then equal to the last bit.

    For comparisons with many rows at once, where a tie with one and not with the next would depend on the order.

    >>> snapped(np.array([(1.1 + 1.3) / 2, 1.2]), price=np.array([1.2, 1.2]))
    array([1.2, 1.2])
    """
    decimals = DIGITS - 1 - np.floor(np.log10(price)).astype(np.int64)
    scale = _POWERS[np.clip(decimals, 0, len(_POWERS) - 1)]
    return np.rint(values * scale) / scale
