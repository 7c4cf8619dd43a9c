"""Arrays into DuckDB and out of it: registered as they are, never row by row, NULL on one side and NaN on the other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.series import Series

Arrays = Mapping[str, NDArray]


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, arrays: Arrays) -> Iterator[None]:
    """The arrays as a view of that name, for as long as the block runs; NaN, NaT and None become NULL."""
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
        "instrument": texts(each.instrument for each in series),
        "timeframe": texts(each.timeframe.value for each in series),
        **more,
    }


def texts(values: Iterable[str | None]) -> NDArray[np.object_]:
    """Texts as an array; half a surrogate, which a venue's JSON may hold and DuckDB chokes on, becomes a ?.

    >>> texts(["a", None, chr(0xD800)]).tolist()
    ['a', None, '?']
    """
    encodable = [None if each is None else each.encode("utf-8", "replace").decode("utf-8") for each in values]
    return np.array(encodable, dtype=object)


def arrays_of(connection: duckdb.DuckDBPyConnection, statement: str, parameters: object = None) -> dict[str, NDArray]:
    """A query's answer as plain arrays: NaN, NaT or None for NULL."""
    answer = connection.execute(statement, parameters).fetchnumpy()
    return {name: plain(values) for name, values in answer.items()}


def plain(values: Any) -> NDArray:
    """An array without a mask: NaN, NaT or None where it was masked; whole numbers with a mask become float64."""
    if not np.ma.is_masked(values):
        return np.asarray(values)
    if values.dtype == object:
        # filled(None) would take numpy's own filler, a question mark.
        return np.array(values.tolist(), dtype=object)
    if values.dtype.kind == "M":
        return values.filled(np.datetime64("NaT"))
    return values.astype(np.float64).filled(np.nan)
