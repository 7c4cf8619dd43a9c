"""Candles as arrays, and what makes one bad. Nothing here knows where they come from or where they go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.datetime64]
Floats = NDArray[np.float64]

TIME_UNIT = "datetime64[us]"
PRICE_COLUMNS: tuple[str, ...] = ("open", "high", "low", "close")
CANDLE_COLUMNS: tuple[str, ...] = (*PRICE_COLUMNS, "volume")
QUOTE_COLUMNS = tuple(f"{side}_{price}" for side in ("bid", "ask") for price in PRICE_COLUMNS)
# Of candles that were made from shorter ones; NaN or missing for the source's native ones.
RESAMPLED_COLUMNS = ("base_bars", "complete")

# The reason is kept with the candle in rejected_candles; the first that holds is the one given.
NOT_A_NUMBER = "a price is missing, infinite or not a number"
NOT_POSITIVE = "a price is zero or negative"
HIGH_BELOW_LOW = "high is below low"
HIGH_TOO_LOW = "high is below open or close"
LOW_TOO_HIGH = "low is above open or close"
BAD_VOLUME = "volume is negative or infinite"
PLACEHOLDER = "all prices are 1.0: the venue's placeholder for no candle"
MALFORMED = "malformed row"

# Where the other candles lie far from 1.0, one of ones is a placeholder whatever its volume says; where they hug 1.0
# (a stable pair) it is a quiet candle, again whatever the volume; in between only a volume makes it believable.
PLACEHOLDER_DISTANCE = 0.05
PEG_DISTANCE = 0.005


def instant(moment: datetime | str | np.datetime64) -> np.datetime64:
    """One instant as datetime64[us] in UTC; a naive one is taken as UTC.

    >>> instant(datetime.fromisoformat("2024-01-01T05:30+05:30"))
    np.datetime64('2024-01-01T00:00:00.000000')
    """
    if isinstance(moment, datetime):
        moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return np.array([moment], dtype=TIME_UNIT)[0]


def iso_utc(moment: datetime | np.datetime64) -> str:
    """One instant as ISO 8601 in UTC, to the second.

    >>> iso_utc(datetime.fromisoformat("2024-01-01T05:30:07.5+05:30"))
    '2024-01-01T00:00:07Z'
    """
    return f"{instant(moment).astype('datetime64[s]')}Z"


def parse_instant(text: str) -> datetime:
    """An instant from ISO 8601; without an offset it is UTC.

    Raises:
        ValueError: it is not ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    # An offset may lead out of the years 1 to 9999.
    except (ValueError, OverflowError) as error:
        raise ValueError(f"found {text!r}, allowed: ISO 8601, for instance 2026-01-31T12:00Z") from error


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that could not be read as a candle at all: its text, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles of one series as equally long arrays, in any order.

    `open_time` is datetime64[us], UTC, the inclusive left edge; `columns` maps names of CANDLE_COLUMNS (and of
    QUOTE_COLUMNS for quotes with two sides) to float64 arrays, NaN where the source gave nothing.
    """

    open_time: Times
    columns: Mapping[str, Floats]
    malformed: Sequence[Malformed] = field(default=())

    def __post_init__(self) -> None:
        """Raise ValueError for arrays of other than one dimension, as of a price that is a list."""
        shapes = {name: values.shape for name, values in self.columns.items() if values.ndim != 1}
        if self.open_time.ndim != 1 or shapes:
            raise ValueError(f"candles are arrays of one dimension; found {shapes or self.open_time.shape}")

    @classmethod
    def of(cls, open_time: object, malformed: Sequence[Malformed] = (), **columns: object) -> "Candles":
        """Candles from anything array-like; a missing volume becomes NaN.

        >>> Candles.of(["2024-01-01T00:00"], open=[1], high=[2], low=[1], close=[2]).columns["volume"]
        array([nan])
        """
        times = np.asarray(open_time, dtype=TIME_UNIT)
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
        arrays.setdefault("volume", np.full(len(times), np.nan))
        wrong = {name: len(values) for name, values in arrays.items() if len(values) != len(times)}
        if wrong or missing_columns(arrays):
            raise ValueError(
                f"candles need {', '.join(PRICE_COLUMNS)} as long as open_time ({len(times)} rows); "
                f"missing {missing_columns(arrays) or 'none'}, of another length {wrong or 'none'}"
            )
        return cls(times, arrays, tuple(malformed))

    @classmethod
    def none(cls) -> "Candles":
        """No candles at all."""
        return cls.of([], open=[], high=[], low=[], close=[], volume=[])

    @classmethod
    def concatenated(cls, parts: Sequence["Candles"]) -> "Candles":
        """Several stretches of one series behind one another."""
        if not parts:
            return cls.none()
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        malformed = [row for part in parts for row in part.malformed]
        return cls(np.concatenate([part.open_time for part in parts]), columns, tuple(malformed))

    def __len__(self) -> int:
        return len(self.open_time)

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    def where(self, keep: NDArray[np.bool_]) -> "Candles":
        """The candles for which the mask holds; malformed rows stay."""
        return Candles(self.open_time[keep], {name: v[keep] for name, v in self.columns.items()}, self.malformed)

    def between(self, since: np.datetime64, until: np.datetime64) -> "Candles":
        """The candles that open at or after `since` and before `until`."""
        return self.where((self.open_time >= since) & (self.open_time < until))

    def sorted(self) -> "Candles":
        """In order of open_time; of several with the same one, the last given wins.

        >>> twice = Candles.of(["2024-01-02", "2024-01-01", "2024-01-02"], open=[1, 2, 3], high=[1, 2, 3],
        ...                    low=[1, 2, 3], close=[1, 2, 3])
        >>> twice.sorted()["close"]
        array([2., 3.])
        """
        if (self.open_time[1:] > self.open_time[:-1]).all():
            return self
        backwards = self.open_time[::-1]
        _, first = np.unique(backwards, return_index=True)
        order = len(backwards) - 1 - first
        return Candles(
            self.open_time[order], {name: values[order] for name, values in self.columns.items()}, self.malformed
        )


@dataclass(frozen=True, slots=True)
class BulkFile:
    """A venue's file of a whole stretch: all candles from `since` to `until` (excluded), and its content's SHA-256."""

    path: str
    sha256: str
    since: np.datetime64
    until: np.datetime64


def missing_columns(columns: Mapping[str, object]) -> list[str]:
    """The price columns that are not there."""
    return [name for name in PRICE_COLUMNS if name not in columns]


def faults(candles: Candles, series_no: NDArray[np.int32] | None = None) -> NDArray[np.object_]:
    """Why each candle must not be stored: one reason a row, None where its numbers agree with themselves.

    Off the grid or outside a session is no fault here; a check reports those. Where candles of several series lie
    behind one another, `series_no` tells them apart.

    >>> list(faults(Candles.of(["2024-01-01"] * 3, open=[5, 5, 5], high=[6, 4, 6], low=[4, 6, 4], close=[5, 5, -1])))
    [None, 'high is below low', 'a price is zero or negative']
    """
    open_, high, low, close, volume = (candles[name] for name in CANDLE_COLUMNS)
    prices = np.stack([open_, high, low, close])
    series_no = np.zeros(len(candles), dtype=np.int32) if series_no is None else series_no
    with np.errstate(invalid="ignore"):
        reasons = {
            NOT_A_NUMBER: ~np.isfinite(prices).all(axis=0),
            NOT_POSITIVE: (prices <= 0).any(axis=0),
            HIGH_BELOW_LOW: high < low,
            HIGH_TOO_LOW: high < np.maximum(open_, close),
            LOW_TOO_HIGH: low > np.minimum(open_, close),
            BAD_VOLUME: (volume < 0) | np.isinf(volume),
            PLACEHOLDER: _placeholders(prices, volume, series_no),
        }
    result = np.full(len(candles), None, dtype=object)
    for reason, holds in reversed(reasons.items()):
        result[holds] = reason
    return result


def _placeholders(prices: NDArray[np.float64], volume: Floats, series_no: NDArray[np.int32]) -> NDArray[np.bool_]:
    ones = (prices == 1.0).all(axis=0)
    if not ones.any():
        return ones
    distance = np.abs(prices[3] - 1.0)
    others = ~ones & np.isfinite(distance)
    far = _mostly(distance > PLACEHOLDER_DISTANCE, others, series_no)
    pegged = _mostly(distance <= PEG_DISTANCE, others, series_no)
    return ones & ~pegged & (far | ~(volume > 1))


def _mostly(holds: NDArray[np.bool_], among: NDArray[np.bool_], series_no: NDArray[np.int32]) -> NDArray[np.bool_]:
    series_count = int(series_no.max()) + 1
    yes = np.bincount(series_no[among & holds], minlength=series_count)
    no = np.bincount(series_no[among & ~holds], minlength=series_count)
    return (yes > no)[series_no]
