"""Columns in less memory, and exactly as they were: repeated values as codes, decimals and minutes as whole numbers.

Of whole numbers the steps from one to the next are kept, which are small; steps that are all the same take nothing.

Which columns are kept, and for how long, is `tails`' part.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT

# Digits behind the point that prices have at most, and how many values a first look takes.
MOST_DIGITS, FIRST_LOOK = 9, 8
LARGEST, LARGEST_STEP, LARGEST_SMALL_STEP = (np.iinfo(kind).max for kind in (np.int32, np.int16, np.int8))


@dataclass(frozen=True, slots=True)
class Codes:
    """An array of few distinct values: the values, and the number of each row's."""

    values: NDArray
    codes: NDArray

    @classmethod
    def of(cls, array: NDArray) -> "Codes":
        """The codes of an array."""
        if len(array) and (array == array[0]).all():
            return _of_one_value(array[:1], len(array))
        if array.dtype.kind == "O":
            distinct = {value: number for number, value in enumerate(dict.fromkeys(array.tolist()))}
            codes = np.array([distinct[value] for value in array.tolist()], dtype=np.int64)
            values = np.array(list(distinct), dtype=object)
        else:
            values, codes = np.unique(array, return_inverse=True)
        if len(values) == 1:
            # Not a number, in each row.
            return _of_one_value(values, len(array))
        return cls(values, codes.astype(np.min_scalar_type(max(len(values), 1))))

    @property
    def array(self) -> NDArray:
        """The array."""
        return self.values[self.codes] if len(self.values) else self.values


def _of_one_value(value: NDArray, length: int) -> Codes:
    """One value in all rows; series share the column of whoever had it first."""
    known = value[0] if value.dtype.kind == "O" else value.tobytes()
    return _kept_codes(value.dtype, known, length)


@lru_cache(maxsize=4096)
def _kept_codes(kind: np.dtype, value: Hashable, length: int) -> Codes:
    values = np.frombuffer(value, kind) if isinstance(value, bytes) else np.array([value], dtype=object)
    return Codes(values, np.broadcast_to(np.uint8(0), (length,)))


@lru_cache(maxsize=4096)
def _even_steps(first: int, step: int, length: int) -> "Steps":
    """Steps that are all the same; series of one timeframe share them."""
    return Steps(first, np.broadcast_to(np.int16(step), (length,)))


@dataclass(frozen=True, slots=True)
class Steps:
    """Whole numbers as the first one and the steps from each to the next, in one byte or two.

    >>> steps = Steps.of(np.array([108512, 108500, 108507], dtype=np.int32))
    >>> steps.steps.tolist(), steps.array.tolist()
    ([-12, 7], [108512, 108500, 108507])
    """

    first: int
    steps: NDArray[np.signedinteger]

    @classmethod
    def of(cls, numbers: NDArray[np.int32]) -> "Steps | NDArray[np.int32]":
        """The steps of an array of four bytes a number; the array itself where two bytes do not hold one of them."""
        steps = np.diff(numbers.astype(np.int64))
        if not len(steps) or (largest := np.abs(steps).max()) > LARGEST_STEP:
            return numbers
        if (steps == steps[0]).all():
            return _even_steps(int(numbers[0]), int(steps[0]), len(steps))
        return cls(int(numbers[0]), steps.astype(np.int8 if largest <= LARGEST_SMALL_STEP else np.int16))

    @property
    def array(self) -> NDArray[np.int32]:
        """The array."""
        numbers = np.empty(len(self.steps) + 1, dtype=np.int32)
        numbers[0] = self.first
        np.cumsum(self.steps, dtype=np.int32, out=numbers[1:])
        numbers[1:] += np.int32(self.first)
        return numbers


Whole = Steps | NDArray[np.int32]


def _numbers(whole: Whole) -> NDArray[np.int32]:
    return whole.array if isinstance(whole, Steps) else whole


@dataclass(frozen=True, slots=True)
class Decimals:
    """Numbers with few digits behind the point, each times ten to the power of `digits`.

    >>> Decimals.of(np.array([1.08512, 1.085])), Decimals.of(np.array([1 / 3])) is None
    (Decimals(whole=Steps(first=108512, steps=array([-12], dtype=int16)), digits=5), True)
    """

    whole: Whole
    digits: int

    @classmethod
    def of(cls, array: NDArray) -> "Decimals | None":
        """The decimals of an array; None where four bytes do not hold one of its numbers exactly."""
        for digits in range(_digits(array[:FIRST_LOOK]), MOST_DIGITS + 1):
            if (whole := _scaled(array, digits)) is not None:
                return cls(Steps.of(whole), digits)
        return None

    @property
    def array(self) -> NDArray:
        """The array."""
        return _numbers(self.whole) / 10.0**self.digits


def _digits(array: NDArray) -> int:
    """Digits behind the point that some numbers have, as Python writes them; none where it takes an exponent."""
    texts = [repr(value).removesuffix(".0") for value in array.tolist()]
    return max((len(text.partition(".")[2]) for text in texts if "e" not in text), default=0)


def _scaled(array: NDArray, digits: int) -> NDArray[np.int32] | None:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(array * 10.0**digits)
    # Unknown numbers, those that are too large and -0.0 are none of these.
    if not (np.abs(scaled) <= LARGEST).all() or np.signbit(array[array == 0]).any():
        return None
    return scaled.astype(np.int32) if np.array_equal(scaled / 10.0**digits, array) else None


@dataclass(frozen=True, slots=True)
class Minutes:
    """Times on whole minutes, in minutes since 1970, until the year 6053."""

    minutes: Whole

    @classmethod
    def of(cls, array: NDArray) -> "Minutes | None":
        """The minutes of an array; None where one of its times is none."""
        minutes = array.astype("datetime64[m]")
        if np.isnat(array).any() or not np.array_equal(minutes, array):
            return None
        numbers = minutes.astype(np.int64)
        return cls(Steps.of(numbers.astype(np.int32))) if (np.abs(numbers) <= LARGEST).all() else None

    @property
    def array(self) -> NDArray:
        """The array."""
        return _numbers(self.minutes).astype("datetime64[m]").astype(TIME_UNIT)


Packed = NDArray | Codes | Decimals | Minutes
BY_KIND: dict[str, Callable[[NDArray], Decimals | Minutes | None]] = {"f": Decimals.of, "M": Minutes.of}


def packed(array: NDArray, *, repeats: bool) -> Packed:
    """An array in as little memory as holds it exactly; `repeats` where few of its values are distinct."""
    if repeats:
        return Codes.of(array)
    pack = BY_KIND.get(array.dtype.kind)
    found = pack(array) if pack else None
    return np.array(array) if found is None else found


def unpacked(column: Packed) -> NDArray:
    """The array that was packed."""
    return column if isinstance(column, np.ndarray) else column.array
