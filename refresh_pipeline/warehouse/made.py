"""What was computed of some series and is not written yet: rows, checkpoints, and of which candles they are.

Computed a few series at a time and written together: memory asks for the one, the cost of a transaction for the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendar import length_of
from refresh_pipeline.market.candles import Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.staging import Arrays


@dataclass(frozen=True, slots=True)
class Stale:
    """Series that have work left: the first candle that changed, and the mark of its latest change."""

    series: Sequence[Series]
    since: Times
    marks: NDArray[np.object_]
    candle_count: NDArray[np.int64]
    first_open_time: Times
    last_open_time: Times

    def take(self, chosen: NDArray[np.bool_]) -> "Stale":
        """Some of them."""
        return Stale(
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

    def __add__(self, more: "Stale") -> "Stale":
        """Both, one behind the other."""
        return Stale(
            [*self.series, *more.series],
            np.concatenate([self.since, more.since]),
            np.concatenate([self.marks, more.marks]),
            np.concatenate([self.candle_count, more.candle_count]),
            np.concatenate([self.first_open_time, more.first_open_time]),
            np.concatenate([self.last_open_time, more.last_open_time]),
        )


@dataclass(frozen=True, slots=True)
class Made:
    """Computed rows of some series, to be put in place of what is stored of them.

    `since` is the first row to replace of each series, `until` the first candle that is left for later (NaT for none);
    `rows` and `checkpoints` are by column, with the number of the series in `series_no`; `begun` says from when on
    checkpoints are replaced.
    """

    stale: Stale
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

    def __add__(self, more: "Made") -> "Made":
        """Both, one behind the other; no series may be in both."""
        count = len(self.stale.series)
        return Made(
            self.stale + more.stale,
            np.concatenate([self.since, more.since]),
            np.concatenate([self.until, more.until]),
            _joined(self.rows, more.rows, count),
            _joined(self.checkpoints, more.checkpoints, count),
            np.concatenate([self.begun, more.begun]),
        )


def _joined(one: Arrays, more: Arrays, count: int) -> Mapping[str, NDArray]:
    numbered = {**more, "series_no": more["series_no"] + np.int32(count)} if more else {}
    return {name: np.concatenate([values, numbered[name]]) for name, values in one.items()}
