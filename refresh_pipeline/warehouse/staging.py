"""Arrays into DuckDB and out of it: registered as they are, never row by row, NULL on one side and NaN on the other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.series import Series

Arrays = Mapping[str, NDArray]


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, arrays: Arrays) -> Iterator[None]:
    """The arrays as a view of that name, for as long as the block runs."""
    # DuckDB 1.5 reads the numbers under a mask, so masks must not get this far.
    connection.register(name, {column: plain(values) for column, values in arrays.items()})
    try:
        yield
    finally:
        # In a transaction that failed even this is refused, and the failure is what matters.
        with suppress(duckdb.Error):
            connection.unregister(name)


def numbered(series: Sequence[Series], **more: NDArray) -> dict[str, NDArray]:
    """Series by their number in a batch, to join rows to names: one row a series, and whatever else is given."""
    return {
        "series_no": np.arange(len(series), dtype=np.int32),
        "instrument": np.array([each.instrument for each in series], dtype=object),
        "timeframe": np.array([each.timeframe.value for each in series], dtype=object),
        **more,
    }


def arrays_of(connection: duckdb.DuckDBPyConnection, statement: str, parameters: object = None) -> dict[str, NDArray]:
    """A query's answer as plain arrays: NaN, NaT or None for NULL."""
    answer = connection.execute(statement, parameters).fetchnumpy()
    return {name: plain(values) for name, values in answer.items()}


def plain(values: NDArray) -> NDArray:
    """An array without a mask: NaN, NaT or None where it was masked."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    if values.dtype == object:
        # filled(None) would take numpy's own filler, a question mark.
        filled = np.where(np.ma.getmaskarray(values), None, values.data)
    elif values.dtype.kind == "M":
        filled = values.filled(np.datetime64("NaT", "us"))
    elif np.ma.is_masked(values):
        filled = values.astype(np.float64).filled(np.nan)
    else:
        filled = values.data
    return np.asarray(filled)


def text_or_null(column: str) -> str:
    """SQL for a number that is NULL where the array holds NaN."""
    return f'case when isnan("{column}") then null else "{column}" end'
