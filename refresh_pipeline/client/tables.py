"""Arrays as data frames of pandas and polars, or as an Arrow table. Each library is imported where it is asked for."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.client.errors import ClientError
from refresh_pipeline.client.place import Columns
from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.warehouse.arrays import registered
from refresh_pipeline.warehouse.connection import CONFIG

if TYPE_CHECKING:
    import arro3.core
    import pandas as pd
    import polars as pl

Table_co = TypeVar("Table_co", covariant=True)
# The module that makes each kind of frame.
MODULES: Mapping[str, str] = {"pandas": "pandas", "polars": "polars", "arrow": "arro3.core"}


class Make(Protocol[Table_co]):
    """Makes a table of columns, with one of them as the index where the table has an index."""

    def __call__(self, columns: Columns, index: str | None) -> Table_co:
        """The table."""
        ...


def maker_of(frames: str) -> Make[Any]:
    """What makes tables of a kind.

    Raises:
        ClientError: the kind is unknown, or its library is missing.
    """
    if frames not in MODULES:
        raise ClientError(f"frames: found {frames!r}, allowed: {', '.join(MODULES)}")
    package = MODULES[frames].partition(".")[0]
    if find_spec(package) is None:
        raise ClientError(f"frames={frames!r} needs {package}; install it, or choose one of {', '.join(MODULES)}")
    return {"pandas": pandas_frame, "polars": polars_frame, "arrow": arrow_table}[frames]


def beside(candles: Columns, known: Columns, api: str) -> Columns:
    """Candles with the newest row of `known` that was fetched at their open time or before.

    Raises:
        ClientError: several rows were fetched at one instant.
    """
    fetched = known["fetched_at"]
    if len(np.unique(fetched)) != len(fetched):
        raise ClientError(f"api: a payload of {api!r} has several rows; join `snapshots` as you need them")
    rows = np.searchsorted(fetched, candles["open_time"], side="right") - 1
    prefix = api.rpartition(".")[2]
    later = {f"{prefix}_{name}": _taken(values, rows) for name, values in known.items() if name != "seen_at"}
    return {**candles, **later}


def _taken(values: NDArray, rows: NDArray) -> NDArray:
    """The values of these rows; null for -1."""
    if values.dtype.kind not in "MfO":
        values = values.astype(np.float64)
    missing = {"M": np.array("NaT", dtype="datetime64[us]"), "f": np.array(np.nan), "O": np.array(None)}
    return np.append(values, missing[values.dtype.kind])[rows]


def pandas_frame(columns: Columns, index: str | None) -> "pd.DataFrame":
    """A DataFrame; times are in UTC."""
    import pandas as pd  # noqa: PLC0415 (a second to import, and an extra)

    frame = pd.DataFrame(dict(columns))
    for name, values in columns.items():
        if values.dtype.kind == "M":
            frame[name] = frame[name].dt.tz_localize("UTC")
    return frame if index is None else frame.set_index(index)


def polars_frame(columns: Columns, index: str | None) -> "pl.DataFrame":
    """A DataFrame; times are in UTC, NaN is null."""
    import polars as pl  # noqa: PLC0415 (not everybody has it)

    frame = pl.DataFrame(
        {name: values.tolist() if values.dtype == object else values for name, values in columns.items()}
    )
    times = [pl.col(name).dt.replace_time_zone("UTC") for name, values in columns.items() if values.dtype.kind == "M"]
    return frame.with_columns(times).fill_nan(None)


def arrow_table(columns: Columns, index: str | None) -> "arro3.core.Table":
    """An Arrow table; times are in UTC without a zone, NaN is null."""
    import arro3.core  # noqa: PLC0415 (an extra)

    rows = {name: np.ascontiguousarray(values) for name, values in columns.items()}
    with open_duckdb(config=CONFIG) as connection, registered(connection, "rows", rows):
        return arro3.core.Table.from_arrow(connection.sql("select * from rows"))
