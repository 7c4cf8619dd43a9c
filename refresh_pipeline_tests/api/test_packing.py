"""Packed columns come back bit by bit, whatever is in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refresh_pipeline.api.packing import Codes, Decimals, Minutes, Steps, packed, unpacked

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
DECIMALS = st.builds(lambda whole, digits: whole / 10**digits, st.integers(-(2**33), 2**33), st.integers(0, 10))


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.one_of(FLOATS, DECIMALS, st.sampled_from([0.0, -0.0])), max_size=20), repeats=st.booleans())
def test_numbers_come_back_bit_by_bit(values: list[float], repeats: bool) -> None:
    array = np.array(values, dtype=np.float64)
    # Codes take 0.0 and -0.0 for one value, as columns that repeat have neither.
    if repeats and (array == 0).any():
        return
    found = unpacked(packed(array, repeats=repeats))
    np.testing.assert_array_equal(found, array)
    known = ~np.isnan(array)
    assert found[known].tobytes() == array[known].tobytes()


@settings(max_examples=100, deadline=None)
@given(seconds=st.lists(st.one_of(st.integers(-(10**10), 10**10), st.integers(-(10**8), 10**8).map(lambda m: m * 60))))
def test_times_come_back(seconds: list[int]) -> None:
    array = np.array(seconds, dtype=np.int64).astype("datetime64[s]").astype("datetime64[us]")
    found = unpacked(packed(array, repeats=False))
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize(
    ("array", "kind", "size"),
    [
        (np.round(np.linspace(1.07, 1.09, 1000) ** 2, 5), Decimals, 1),
        (np.round(np.linspace(1.07, 2.09, 1000) ** 2, 5), Decimals, 2),
        (np.arange(1000.0) ** 2 * 100, Decimals, 4),
        (np.arange(1000.0), Decimals, 0),
        (np.linspace(0, 1, 1000) / 3, np.ndarray, 8),
        (np.array([1.5, np.nan] * 500), np.ndarray, 8),
        (np.datetime64("2026-01-01", "us") + np.arange(1000) * np.timedelta64(5, "m"), Minutes, 0),
        (np.datetime64("2026-01-01", "us") + np.arange(1000) ** 2 * np.timedelta64(1, "m"), Minutes, 2),
        (np.datetime64("2026-01-01", "us") + np.arange(1000) * np.timedelta64(5, "s"), np.ndarray, 8),
        (np.array([np.datetime64("NaT", "us")] * 1000), np.ndarray, 8),
    ],
)
def test_what_is_regular_takes_a_quarter_of_the_memory(array: NDArray, kind: type, size: int) -> None:
    """`size`: the bytes of a row; 0 where all steps are the same."""
    found = packed(array, repeats=False)
    assert isinstance(found, kind)
    held = found if isinstance(found, np.ndarray) else getattr(found, "whole" if kind is Decimals else "minutes")
    steps = held.steps if isinstance(held, Steps) else held
    assert sum(length for length in steps.strides if length) == size
    np.testing.assert_array_equal(unpacked(found), array)


def test_a_column_of_one_value_takes_none() -> None:
    for array in (np.array(["demo"] * 1000, dtype=object), np.full(1000, np.datetime64("2026-01-01", "us"))):
        found = packed(array, repeats=True)
        assert isinstance(found, Codes)
        assert (found.codes.strides, found.array.tolist()) == ((0,), array.tolist())
        assert packed(array.copy(), repeats=True) is found
    mixed = np.array(["demo", None, "binance", "demo"], dtype=object)
    assert unpacked(packed(mixed, repeats=True)).tolist() == mixed.tolist()
