"""What was computed of some series and is not written yet: rows, checkpoints, and of which candles they are.

Computed a few series at a time and written together: memory asks for the one, the cost of a transaction for the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import Arrays


@dataclass(frozen=True, slots=True)
class PendingRecompute:
    """Series that have work left: the first candle that changed, and the mark of its latest change."""

    series: Sequence[Series]
    since: Times
    marks: NDArray[np.object_]
    candle_count: NDArray[np.int64]
    first_open_time: Times
    last_open_time: Times

    def take(self, chosen: NDArray[np.bool_]) -> "PendingRecompute":
        """Some of them."""
        return PendingRecompute(
            [series for series, taken in zip(self.series, chosen, strict=True) if taken],
            self.since[chosen],
            self.marks[chosen],
            self.candle_count[chosen],
            self.first_open_time[chosen],
            self.last_open_time[chosen],
        )

    @property
    def lengths(self) -> NDArray[np.timedelta64]:
        """The nominal length of each series' bars."""
        return np.array([length_of(series.timeframe) for series in self.series], dtype="timedelta64[us]")

    @classmethod
    def joined(cls, parts: Sequence["PendingRecompute"]) -> "PendingRecompute":
        """All of them, one behind the other."""
        return cls(
            series=[series for each in parts for series in each.series],
            since=np.concatenate([each.since for each in parts]),
            marks=np.concatenate([each.marks for each in parts]),
            candle_count=np.concatenate([each.candle_count for each in parts]),
            first_open_time=np.concatenate([each.first_open_time for each in parts]),
            last_open_time=np.concatenate([each.last_open_time for each in parts]),
        )


@dataclass(frozen=True, slots=True)
class ComputedBatch:
    """Computed rows of some series, to be put in place of what is stored of them.

    `since` is the first row to replace of each series, `until` the first candle that is left for later (NaT for none);
    `rows` and `checkpoints` are by column, with the number of the series in `series_no`; `begun` says from when on
    checkpoints are replaced.
    """

    stale: PendingRecompute
    since: Times
    until: Times
    rows: Arrays
    checkpoints: Arrays
    begun: Times

    def __len__(self) -> int:
        return len(self.rows["series_no"])

    @property
    def is_whole(self) -> bool:
        """Whether nothing of any series is left for later."""
        return bool(np.isnat(self.until).all())

    @classmethod
    def joined(cls, parts: Sequence["ComputedBatch"]) -> "ComputedBatch":
        """All of them, rows in order of time, as ticks come; no series may be in two."""
        first = np.cumsum([0, *(len(each.stale.series) for each in parts[:-1])], dtype=np.int32)
        return cls(
            stale=PendingRecompute.joined([each.stale for each in parts]),
            since=np.concatenate([each.since for each in parts]),
            until=np.concatenate([each.until for each in parts]),
            rows=_in_order_of_time([each.rows for each in parts], first),
            checkpoints=_in_order_of_time([each.checkpoints for each in parts], first),
            begun=np.concatenate([each.begun for each in parts]),
        )


def _in_order_of_time(parts: Sequence[Arrays], first: NDArray[np.int32]) -> dict[str, NDArray]:
    """All rows; DuckDB would carry hundreds of columns through its own sorting."""
    if not parts[0]:
        return {}
    series_no = np.concatenate([each["series_no"] + number for each, number in zip(parts, first, strict=True)])
    order = np.lexsort((series_no, np.concatenate([each["open_time"] for each in parts])))
    columns = {name: np.concatenate([each[name] for each in parts])[order] for name in parts[0] if name != "series_no"}
    return {"series_no": series_no[order], **columns}
