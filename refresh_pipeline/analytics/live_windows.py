"""The newest values of many series in memory, one row appended at a time. What is computed of them is not here."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import TIME_UNIT, Floats, Times

Members = NDArray[np.int64]


class Windows:
    """Columns of numbers, the newest at least `keep` rows of each series, and how many rows each series has in all."""

    def __init__(
        self,
        names: Sequence[str],
        series: int,
        keep: int,
        *,
        with_times: bool = False,
        classes: NDArray[np.object_] | None = None,
    ) -> None:
        """Empty windows of so many series, and the asset class of each; None where no series has one."""
        self._classes = classes
        # Room for a quarter more: moving all series' rows takes some 20 ms, and memory is resident whether used or not.
        self._keep, self._capacity = keep, keep + max(keep // 4, 1)
        self._columns = {name: np.full((series, self._capacity), np.nan) for name in names}
        self._times = np.zeros((series, self._capacity if with_times else 0), dtype=TIME_UNIT)
        # The place of each series' newest row.
        self._newest = np.full(series, -1)
        self.count = np.zeros(series, dtype=np.int64)

    def fill(self, member: int, columns: Mapping[str, Floats], count: int, times: Times | None = None) -> None:
        """Replace a series' rows by the newest of these, of `count` in all."""
        rows = min(len(next(iter(columns.values()))), self._keep)
        for name, values in columns.items():
            self._columns[name][member, :rows] = values[len(values) - rows :]
        if times is not None:
            self._times[member, :rows] = times[len(times) - rows :]
        self._newest[member], self.count[member] = rows - 1, count

    def append(self, members: Members, columns: Mapping[str, Floats], times: Times | None = None) -> None:
        """One more row of these series."""
        for member in members[self._newest[members] + 1 >= self._capacity].tolist():
            self._make_room(member)
        self._newest[members] += 1
        self.count[members] += 1
        self.put(members, columns)
        if times is not None:
            self._times[members, self._newest[members]] = times

    def put(self, members: Members, columns: Mapping[str, Floats]) -> None:
        """The values of the newest row of these series."""
        for name, values in columns.items():
            self._columns[name][members, self._newest[members]] = values

    def held(self, members: Members) -> NDArray[np.int64]:
        """How many rows of each of these series are here."""
        return self._newest[members] + 1

    def latest(self, name: str, members: Members) -> Floats:
        """The newest value of each of these series."""
        return self._columns[name][members, self._newest[members]]

    def last(self, name: str, members: Members, rows: int, back: int = 0) -> Floats:
        """The last rows of each of these series, up to the one `back` rows before the newest: an array a series."""
        newest = self._newest[members] - back
        if len(members) and (newest == newest[0]).all():
            begin = max(newest[0] + 1 - rows, 0)
            return self._columns[name][members, begin : newest[0] + 1]
        return self._columns[name][members[:, None], newest[:, None] - np.arange(rows - 1, -1, -1)]

    def between(self, name: str, member: int, begin: int, end: int) -> Floats:
        """The rows of one series from number `begin` to `end` (excluded), counted from its first one of all."""
        offset = int(self._newest[member]) + 1 - int(self.count[member])
        return self._columns[name][member, begin + offset : end + offset]

    def bars(self, members: Members, rows: int) -> Bars:
        """The last rows of each of these series behind one another."""
        columns = {name: self.last(name, members, rows).ravel() for name in self._columns}
        starts = np.arange(len(members) + 1) * rows
        times = np.zeros(starts[-1], dtype=TIME_UNIT)
        if self._times.shape[1]:
            places = self._newest[members][:, None] - np.arange(rows - 1, -1, -1)
            times = self._times[members[:, None], places].ravel()
        return Bars(times, columns, starts, before=self.count[members] - rows, classes=self.classes(members))

    def classes(self, members: Members) -> NDArray[np.object_] | None:
        """The asset class of each of these series; None where no series has one."""
        return None if self._classes is None else self._classes[members]

    def whole(self, members: Members) -> Bars:
        """All rows of series that are short enough to be here from their first row on."""
        pairs = [(member, slice(0, int(self._newest[member]) + 1)) for member in members.tolist()]
        starts = np.cumsum([0, *self.held(members)])
        nothing = np.empty(0)
        columns = {
            name: np.concatenate([nothing, *(values[pair] for pair in pairs)]) for name, values in self._columns.items()
        }
        times = np.concatenate([np.empty(0, TIME_UNIT), *(self._times[pair] for pair in pairs)])
        return Bars(times, columns, starts, classes=self.classes(members))

    def times(self, members: Members, back: int = 0) -> Times:
        """The open time of the row `back` rows before the newest of each of these series."""
        return self._times[members, self._newest[members] - back]

    def _make_room(self, member: int) -> None:
        begin = int(self._newest[member]) + 1 - self._keep
        for values in (*self._columns.values(), self._times):
            if values.shape[1]:
                values[member, : self._keep] = values[member, begin : begin + self._keep]
        self._newest[member] = self._keep - 1
