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

# DuckDB compresses so many values of a column together: those of one series are alike, and take a third less.
STRETCH = 1024


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
    def concat(cls, parts: Sequence["ComputedBatch"], *, by_series: bool = False) -> "ComputedBatch":
        """All parts as one; no series may be in two parts.

        The parts lose their rows column by column: hundreds of megabytes must not be in memory twice.

        Args:
            parts: each with its rows series by series, those of a series in order of time.
            by_series: whether rows are series by series within stretches of time, as they compress best; otherwise
                they are in order of time, as ticks append them.
        """
        ranks = _ranks([series for part in parts for series in part.pending.series])
        first = np.cumsum([0, *(len(part.pending.series) for part in parts[:-1])], dtype=np.int32)
        return cls(
            pending=PendingRecompute.concat([part.pending for part in parts]),
            since=np.concatenate([part.since for part in parts]),
            until=np.concatenate([part.until for part in parts]),
            rows=_taken([part.rows for part in parts], first, ranks if by_series else None),
            checkpoints=_taken([part.checkpoints for part in parts], first),
            begun=np.concatenate([part.begun for part in parts]),
        )


def _ranks(series: Sequence[Series]) -> NDArray[np.int64]:
    """The place of each series where those of one instrument, whose values are alike, are together."""
    instruments = {name: number for number, name in enumerate(dict.fromkeys(each.instrument for each in series))}
    return np.array([instruments[each.instrument] for each in series], dtype=np.int64)


def _by_stretches(series_no: NDArray[np.int32], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order by stretches, then by series, of rows that come by series, each in order of time.

    The last stretch holds the newest STRETCH rows of every series, the one before it the rows before them.
    """
    lengths = np.bincount(series_no, minlength=len(ranks))
    after = np.cumsum(lengths)[series_no] - 1 - np.arange(len(series_no))
    return np.lexsort((ranks[series_no], -(after // STRETCH)))


def _taken(
    parts: Sequence[dict[str, NDArray]], first: NDArray[np.int32], ranks: NDArray[np.int64] | None = None
) -> dict[str, NDArray]:
    """The rows of all parts, taken out of them, in order of time, or by stretches where there are ranks.

    DuckDB's own sorting would carry hundreds of columns along.
    """
    if not parts[0]:
        return {}
    series_no = np.concatenate([part["series_no"] + number for part, number in zip(parts, first, strict=True)])
    if ranks is None:
        order = np.lexsort((series_no, np.concatenate([part["open_time"] for part in parts])))
    else:
        order = _by_stretches(series_no, ranks)
    names = [name for name in parts[0] if name != "series_no"]
    columns = {name: np.concatenate([part.pop(name) for part in parts])[order] for name in names}
    return {"series_no": series_no[order], **columns}
