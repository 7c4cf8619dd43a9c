"""Computed rows and checkpoints waiting to be written, with the version of the candles they were computed from.

Series are computed a few at a time, which saves memory, and written together, which saves transactions. Reading and
writing is `incremental`'s part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import Times
from refresh_pipeline.market.series import Series


@dataclass(frozen=True, slots=True)
class PendingRecompute:
    """Series that are queued to be computed again: the first changed candle, and the version of the latest change."""

    series: Sequence[Series]
    since: Times
    versions: NDArray[np.object_]
    candle_count: NDArray[np.int64]
    first_open_time: Times
    last_open_time: Times

    def take(self, chosen: NDArray[np.bool_]) -> "PendingRecompute":
        """The series where `chosen` is true."""
        return PendingRecompute(
            [series for series, taken in zip(self.series, chosen, strict=True) if taken],
            self.since[chosen],
            self.versions[chosen],
            self.candle_count[chosen],
            self.first_open_time[chosen],
            self.last_open_time[chosen],
        )

    @property
    def lengths(self) -> NDArray[np.timedelta64]:
        """The nominal length of part series' bars."""
        return np.array([length_of(series.timeframe) for series in self.series], dtype="timedelta64[us]")

    @classmethod
    def concat(cls, parts: Sequence["PendingRecompute"]) -> "PendingRecompute":
        """The series of all parts, in order."""
        return cls(
            series=[series for part in parts for series in part.series],
            since=np.concatenate([part.since for part in parts]),
            versions=np.concatenate([part.versions for part in parts]),
            candle_count=np.concatenate([part.candle_count for part in parts]),
            first_open_time=np.concatenate([part.first_open_time for part in parts]),
            last_open_time=np.concatenate([part.last_open_time for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class ComputedBatch:
    """Computed rows of several series, which replace their stored rows.

    `since` is the first row to replace of part series, `until` the first candle that is left for later (NaT for none).
    `rows` and `checkpoints` are by column, with the number of the series in `series_no`. Values are as they are stored.
    Checkpoints are replaced from `begun` on.
    """

    pending: PendingRecompute
    since: Times
    until: Times
    rows: dict[str, NDArray]
    checkpoints: dict[str, NDArray]
    begun: Times

    def __len__(self) -> int:
        return len(self.rows["series_no"])

    @property
    def is_whole(self) -> bool:
        """Whether every series is computed up to its newest candle."""
        return bool(np.isnat(self.until).all())

    @classmethod
    def concat(cls, parts: Sequence["ComputedBatch"]) -> "ComputedBatch":
        """All parts as one, rows in order of time, as ticks append them; no series may be in two parts.

        The parts lose their rows column by column: hundreds of megabytes must not be in memory twice.
        """
        first = np.cumsum([0, *(len(part.pending.series) for part in parts[:-1])], dtype=np.int32)
        return cls(
            pending=PendingRecompute.concat([part.pending for part in parts]),
            since=np.concatenate([part.since for part in parts]),
            until=np.concatenate([part.until for part in parts]),
            rows=_in_order_of_time([part.rows for part in parts], first),
            checkpoints=_in_order_of_time([part.checkpoints for part in parts], first),
            begun=np.concatenate([part.begun for part in parts]),
        )


def _in_order_of_time(parts: Sequence[dict[str, NDArray]], first: NDArray[np.int32]) -> dict[str, NDArray]:
    """The rows of all parts, taken out of them; DuckDB's own sorting would carry hundreds of columns along."""
    if not parts[0]:
        return {}
    series_no = np.concatenate([part["series_no"] + number for part, number in zip(parts, first, strict=True)])
    order = np.lexsort((series_no, np.concatenate([part["open_time"] for part in parts])))
    names = [name for name in parts[0] if name != "series_no"]
    columns = {name: np.concatenate([part.pop(name) for part in parts])[order] for name in names}
    return {"series_no": series_no[order], **columns}
