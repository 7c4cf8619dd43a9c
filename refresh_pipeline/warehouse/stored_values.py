"""Computed values as the tables store them: no infinity, and of indicators ten digits behind the first one.

Whatever writes or computes rows (refreshes, live mode, reads of rows that are not stored) passes them through here, so
that all of them agree to the bit. Checkpoints keep full precision: nothing is computed from a rounded value.
"""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Floats
from refresh_pipeline.warehouse.arrays import Arrays
from refresh_pipeline.warehouse.schema import Table

# Of a value's digits, those behind the first: the error is 5e-11 of the value at most. The other five are noise of the
# arithmetic, which no compression takes out.
DIGITS = 10
# Columns of enhanced candles stay as computed: levels equal the candle's price that they are taken from.
ROUNDED = frozenset({Table.indicators})
# Rows at once: so many fit into a processor's cache, at half the time.
ROWS = 4096
# By the binary exponent of a number: the power of ten that brings it above 10**DIGITS. Powers below one are inexact, so
# that going back multiplies by their inverse.
_POWERS = [min(DIGITS - int(np.floor((exponent - 1023) * np.log10(2))), 300) for exponent in range(2048)]
# NaN has the greatest exponent, and needs no scale.
_POWERS[-1] = 0
_SCALES = np.array([float(f"1e{power}") for power in _POWERS])
_MULTIPLIERS = np.array([float(f"1e{max(-power, 0)}") for power in _POWERS])
_DIVISORS = np.array([float(f"1e{max(power, 0)}") for power in _POWERS])


def stored_values(table: Table, rows: Arrays) -> dict[str, NDArray]:
    """The columns of a computed table as they are stored, by name; keys and texts pass as they are."""
    numbers = [name for name, values in rows.items() if values.dtype == np.float64]
    digits = rounded if table in ROUNDED else (lambda values: values)
    stored = dict(rows)
    # Of few rows, all columns at once: a call for each takes longer than its numbers do.
    at_once = max(ROWS // max(max((len(rows[name]) for name in numbers), default=ROWS), 1), 1)
    if at_once == 1:
        return stored | {name: digits(finite(rows[name])) for name in numbers}
    for first in range(0, len(numbers), at_once):
        names = numbers[first : first + at_once]
        together = digits(finite(np.concatenate([rows[name] for name in names])))
        stored |= dict(zip(names, np.split(together, len(names)), strict=True))
    return stored


def finite(values: Floats) -> Floats:
    """The values with NaN in place of infinities, which DuckDB would store."""
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values


def rounded(values: Floats) -> Floats:
    """The values with at least DIGITS decimal digits behind their first one; a whole number below 10**10 stays.

    >>> rounded(np.array([1 / 3, -65432.109876543210, 2e-9 / 7, 0.0, np.nan])).tolist()
    [0.33333333333, -65432.109877, 2.8571428571e-10, 0.0, nan]
    """
    result = np.empty_like(values)
    bits = np.ascontiguousarray(values).view(np.int64)
    for first in range(0, len(values), ROWS):
        part = slice(first, first + ROWS)
        exponents = (bits[part] >> 52) & 0x7FF
        out, scales = result[part], _SCALES.take(exponents, mode="clip")
        np.rint(np.multiply(values[part], scales, out=out), out=out)
        # Of numbers that are brought up, as nearly all are, the divisor is the scale.
        if (scales < 1).any():
            out *= _MULTIPLIERS[exponents]
            scales = _DIVISORS[exponents]
        out /= scales
    return result
