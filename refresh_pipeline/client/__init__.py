"""Candles and what is computed from them in Python: the same calls against a data folder and against an API.

A folder is read by DuckDB and held for one question only. A URL is asked as `/api/v1`. Nothing is written, and no
Dagster is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from refresh_pipeline.client.errors import ClientError as ClientError
from refresh_pipeline.client.folder import FolderPlace
from refresh_pipeline.client.place import Place, Question, moment_of, require_range
from refresh_pipeline.client.server import ServerPlace
from refresh_pipeline.client.tables import Make, beside, maker_of

if TYPE_CHECKING:
    import arro3.core
    import pandas as pd
    import polars as pl

# The table type that a client gives.
Table = TypeVar("Table")
Moment = datetime | str


@dataclass(frozen=True, slots=True)
class ChangeSet(Generic[Table]):
    """What changed after a version: one row per asset and series, and the version to ask about next.

    With `reset` the version asked about is of another history: everything that was read before is void.
    """

    epoch: str
    version: int
    changes: Table
    reset: bool


class Client(Generic[Table]):
    """Reads one data folder or one API; make one with `connect`.

    Instruments may be spelled `EUR/USD`, `EUR-USD`, `EURUSD` or `eur/usd`, timeframes `H1` or `1h`. Times are ISO 8601
    or datetimes; without a zone they are UTC. `market` is needed only where two markets hold the series. Rows come
    oldest first, with the open time as the index (pandas) or the first column.
    """

    def __init__(self, place: Place, make: Make[Table]) -> None:
        """A client of a place, which gives tables as `make` makes them."""
        self._place, self._make = place, make

    def candles(
        self,
        instrument: str,
        timeframe: str,
        *,
        market: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
        adjusted: bool = False,
    ) -> Table:
        """Raw candles that open from `since` up to `until` (excluded), all where neither is given.

        Args:
            instrument: in any spelling.
            timeframe: in any spelling.
            market: whose series it is.
            since: the first open time.
            until: the end, excluded.
            limit: rows at most: the first from `since`, the newest without it.
            columns: their names; all of the table without them.
            adjusted: whether prices of before a split or dividend are as if after it.

        Raises:
            ClientError: the series or a column is unknown, or the place does not answer.
        """
        bounds = moment_of("since", since), moment_of("until", until)
        return self._rows(
            Question("candles", instrument, timeframe, market, *bounds, limit, columns, adjusted=adjusted)
        )

    def enhanced(
        self,
        instrument: str,
        timeframe: str,
        *,
        market: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Table:
        """Enhanced candles: the candle columns and the Bill Williams columns. Arguments and errors as `candles`."""
        bounds = moment_of("since", since), moment_of("until", until)
        return self._rows(Question("enhanced", instrument, timeframe, market, *bounds, limit, columns))

    def indicators(
        self,
        instrument: str,
        timeframe: str,
        *,
        market: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Table:
        """Indicators, without the candle columns. Arguments and errors as `candles`."""
        bounds = moment_of("since", since), moment_of("until", until)
        return self._rows(Question("indicators", instrument, timeframe, market, *bounds, limit, columns))

    def as_of(
        self,
        instrument: str,
        timeframe: str,
        moment: Moment,
        *,
        market: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
    ) -> Table:
        """Candles as they were stored at `moment`: later candles are missing and later corrections undone."""
        bounds, then = (moment_of("since", since), moment_of("until", until)), moment_of("moment", moment)
        return self._rows(Question("candles", instrument, timeframe, market, *bounds, limit, None, then))

    def snapshots(
        self,
        api: str,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
    ) -> Table:
        """What an API answered over time: `fetched_at` (first seen), `seen_at` (last seen) and its columns.

        Args:
            api: as `refresh apis list` names it, or with its collection: `sentiment.fear_greed`.
            since: the first `fetched_at`.
            until: the end of `fetched_at`, excluded.
            limit: payloads at most: the first from `since`, the newest without it.

        Raises:
            ClientError: no payload of the API is stored, or the place does not answer.
        """
        bounds = moment_of("since", since), moment_of("until", until)
        require_range(*bounds, limit)
        rows = self._place.snapshots(api, *bounds, limit)
        return self._make(rows, "fetched_at")

    def candles_with(
        self,
        api: str,
        instrument: str,
        timeframe: str,
        *,
        market: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Table:
        """Raw candles beside what was known of an API when each opened: nothing that was fetched later.

        The API's columns are called `<api>_<column>`, with `<api>_fetched_at`; unknown before its first payload.
        Other arguments and errors as `candles`.

        Raises:
            ClientError: a payload of the API has several rows.
        """
        bounds = moment_of("since", since), moment_of("until", until)
        candles = self._place.rows(Question("candles", instrument, timeframe, market, *bounds, limit, columns))
        return self._make(beside(candles, self._place.snapshots(api, None, bounds[1], None), api), "open_time")

    def series(self, market: str | None = None) -> Table:
        """Every series: market, instrument, timeframe, candle_count, first_open_time, last_open_time, version."""
        return self._make(self._place.series(market), None)

    def gaps(self, market: str | None = None) -> Table:
        """Missing candles as of the last refresh: market, instrument, timeframe, first and last open time, candles."""
        return self._make(self._place.gaps(market), None)

    def changes(self, after: int = 0, *, epoch: str | None = None) -> ChangeSet[Table]:
        """The series that changed after a version, oldest change first; give back `version` and `epoch` next time."""
        epoch, version, rows, reset = self._place.changes(after, epoch)
        return ChangeSet(epoch, version, self._make(rows, None), reset)

    def _rows(self, question: Question) -> Table:
        return self._make(self._place.rows(question), "open_time")


@overload
def connect(
    place: str | Path, *, key: str | None = None, frames: Literal["pandas"] = "pandas"
) -> "Client[pd.DataFrame]": ...
@overload
def connect(place: str | Path, *, key: str | None = None, frames: Literal["polars"]) -> "Client[pl.DataFrame]": ...
@overload
def connect(place: str | Path, *, key: str | None = None, frames: Literal["arrow"]) -> "Client[arro3.core.Table]": ...
def connect(place: str | Path, *, key: str | None = None, frames: str = "pandas") -> Client[Any]:
    """A client of an API (`http://127.0.0.1:8080`), of a data folder, of a database file, or of a lake.

    >>> connect("nowhere")
    Traceback (most recent call last):
    refresh_pipeline.client.errors.ClientError: wanted a data folder or a URL, found 'nowhere'; ...

    Args:
        place: the URL of `refresh serve`, the folder of REFRESH_DATA_DIR, or a lake's REFRESH_WAREHOUSE.
        key: of the API, where it has one.
        frames: `pandas`, `polars` or `arrow`, which must be installed.

    Raises:
        ClientError: there is no such folder or lake, or the library of the frames is missing.
    """
    make = maker_of(frames)
    if str(place).startswith(("http://", "https://")):
        return Client(ServerPlace(str(place), key), make)
    return Client(FolderPlace(place), make)
