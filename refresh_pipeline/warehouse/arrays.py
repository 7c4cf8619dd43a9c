"""Numpy arrays into DuckDB and back, never row by row; NULL in DuckDB is NaN, NaT or None in an array."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT, instant
from refresh_pipeline.market.series import Series

Arrays = Mapping[str, NDArray]
# Before every candle, and still a timestamp to DuckDB.
BEGINNING = np.datetime64("0001-01-01", "us")
# After every candle.
END = np.datetime64("9999-12-31", "us")


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, arrays: Arrays) -> Iterator[None]:
    """The arrays as a view of that name while the block runs; NaN, NaT and None become NULL."""
    # DuckDB 1.5 reads the numbers under a mask.
    connection.register(name, {column: plain(values) for column, values in arrays.items()})
    try:
        yield
    finally:
        # DuckDB refuses this in a transaction that failed, and the failure is the error to report.
        with suppress(duckdb.Error):
            connection.unregister(name)


def numbered(series: Sequence[Series], **columns: NDArray) -> dict[str, NDArray]:
    """One row a series: its number in the batch, its names, and the given columns; joins rows to names."""
    return {
        "series_no": np.arange(len(series), dtype=np.int32),
        "instrument": texts(one.instrument for one in series),
        "timeframe": texts(one.timeframe.value for one in series),
        **columns,
    }


def texts(values: Iterable[str | None]) -> NDArray[np.object_]:
    """Texts as an array. A lone surrogate, which a venue's JSON may hold and DuckDB rejects, becomes a ?.

    >>> texts(["a", None, chr(0xD800)]).tolist()
    ['a', None, '?']
    """
    encodable = [
        text if text is None or text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in values
    ]
    return np.array(encodable, dtype=object)


def arrays_of(connection: duckdb.DuckDBPyConnection, statement: str, parameters: object = None) -> dict[str, NDArray]:
    """A query's answer as plain arrays: NaN, NaT or None for NULL."""
    answer = connection.execute(statement, parameters).fetchnumpy()
    return {name: plain(values) for name, values in answer.items()}


def timestamp(moment: datetime | str | np.datetime64) -> datetime:
    """One instant as DuckDB stores it: UTC without a zone.

    >>> timestamp("2024-01-01T05:30")
    datetime.datetime(2024, 1, 1, 5, 30)
    """
    return instant(moment).astype(datetime)


def days_before(last: np.datetime64, kept: timedelta | None) -> np.datetime64:
    """The instant from which rows are kept, counted back from the last one in whole days; BEGINNING for all rows."""
    return BEGINNING if kept is None else (last - np.timedelta64(kept)).astype("datetime64[D]").astype(TIME_UNIT)


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
