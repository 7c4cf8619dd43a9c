"""Adjusted candles in the rows of an export: columns beside the raw ones that they are made from. Reads nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.adjustments import Factors, adjusted
from refresh_pipeline.market.series import Series

_PREFIX = "adjusted_"
Rows = Mapping[str, NDArray]


def adjusted_name(column: str) -> str:
    """The name of a column of candles once it follows splits and dividends.

    >>> adjusted_name("close")
    'adjusted_close'
    """
    return _PREFIX + column


def raw_columns(columns: Sequence[str]) -> list[str]:
    """The stored columns that these are made from.

    >>> raw_columns(["open_time", "close", "adjusted_close"])
    ['open_time', 'close']
    """
    return list(dict.fromkeys(name.removeprefix(_PREFIX) for name in columns))


@dataclass(frozen=True, slots=True)
class RowAdjuster:
    """Makes the columns that are asked for out of rows with raw ones; series without factors stay as they are."""

    columns: Sequence[str]
    factors: Mapping[Series, Factors]

    def of_one(self, series: Series, rows: Rows) -> Rows:
        """The rows of one series."""
        found = self._asked(rows)
        self._adjust(found, series, slice(None))
        return found

    def of_each(self, batch: Sequence[Series], rows: Rows) -> Rows:
        """The rows of several series in the batch's order; `series_no` is the place in the batch."""
        found = self._asked(rows)
        starts = np.searchsorted(rows["series_no"], np.arange(len(batch) + 1))
        for number, series in enumerate(batch):
            self._adjust(found, series, slice(starts[number], starts[number + 1]))
        return {"series_no": rows["series_no"], **found}

    def _asked(self, rows: Rows) -> dict[str, NDArray]:
        return {
            name: rows[name] if name in rows else rows[name.removeprefix(_PREFIX)].astype(np.float64)
            for name in self.columns
        }

    def _adjust(self, found: Mapping[str, NDArray], series: Series, part: slice) -> None:
        factors = self.factors.get(series)
        if factors is None:
            return
        raw = {name.removeprefix(_PREFIX): found[name][part] for name in found if name.startswith(_PREFIX)}
        for name, values in adjusted(found["open_time"][part], raw, factors).items():
            found[adjusted_name(name)][part] = values
