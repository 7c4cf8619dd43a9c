"""Warm-up of recursive averages: the bars until the start of the history no longer shows."""

from math import ceil, log1p

# How many e-foldings of its seed's weight a recursion needs before the tail equals the whole to 1e-9 relative.
# A level: the seed may be wrong by ten times the present price, and exp(-23) = 1e-10.
LEVEL = 23
# A difference of two levels near its zero, or a ratio of averages that die away together: the recursions have to agree
# to the last bit (exp(-37) = 2**-53), and still so after a market has stood still for some hundred bars. Beyond that an
# RSI that keeps its last value cannot be known from the tail, and a line may be off by 1e-15 of the price.
LAST_BIT = 50


def bars_to_forget(weight: float, e_foldings: float) -> int:
    """How many bars it takes until a seed's share has shrunk by exp(-e_foldings); `weight` is the newest value's.

    >>> bars_to_forget(weight=2 / 201, e_foldings=LEVEL)
    2300
    """
    return ceil(e_foldings / -log1p(-weight))
