"""Both computed tables of a market, one new bar of some of its series at a time, kept in memory between bars.

Every value equals computing the series from its first bar, to the last bit: a handle of TA-Lib or a state is a cache of
what the package computes, never another formula. Reading, writing and waiting for bars are not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.evaluation import BLOCK_BARS
from refresh_pipeline.analytics.live_enhanced import HEIGHT_BARS, Flag, LiveEnhanced
from refresh_pipeline.analytics.live_indicators import LiveIndicators
from refresh_pipeline.analytics.live_windows import Members, Windows
from refresh_pipeline.analytics.recursive import CHECKPOINT_BARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats, Times

# Bars until every column of the enhanced candles goes on by itself: the tide's jaw, then the peaks of the ao.
_ENHANCED_BEGINS = 640 + HEIGHT_BARS


@dataclass(frozen=True, slots=True)
class LiveRows:
    """The newest bar of some series, computed: a value a series in each column; flags are of earlier bars."""

    members: Members
    enhanced: Mapping[str, Values]
    indicators: Mapping[str, Values]
    flags: list[Flag]


class LiveTables:
    """The computed tables of one market and one timeframe, continued a bar at a time.

    A series too short to go on by itself is computed from its first bar at each step, which takes little: it is short.
    """

    def __init__(self, indicators: Computation, series: int, classes: NDArray[np.object_] | None = None) -> None:
        """So many series, none of them loaded, and the asset class of each; None where no series has one."""
        self._computation, self._series = indicators, series
        longest = LiveIndicators(indicators, 0, Windows(CANDLE_COLUMNS, 0, 1)).longest_stretch
        # The first block before which every stretch is whole.
        begins = max(longest, _ENHANCED_BEGINS)
        self.begins = -(-begins // BLOCK_BARS) * BLOCK_BARS
        kept = max(longest + BLOCK_BARS, self.begins) + 1
        self._windows = Windows(CANDLE_COLUMNS, series, kept, with_times=True, classes=classes)
        self._indicators = LiveIndicators(indicators, series, self._windows)
        self._enhanced = LiveEnhanced(series, self._windows)
        self.is_loaded = np.zeros(series, dtype=bool)
        self._is_short = np.ones(series, dtype=bool)

    @property
    def count(self) -> np.ndarray:
        """How many bars each series has so far."""
        return self._windows.count

    def newest(self, members: Members, back: int = 0) -> Times:
        """The open time of the bar `back` bars before the newest one of these series."""
        return self._windows.times(members, back)

    def load(self, members: Members, enhanced: Bars, indicators: Bars) -> None:
        """Begin or begin anew with these series; each table's bars run from a checkpoint of it to the newest bar.

        The bars of a series with fewer than `begins` begin with its first one.
        """
        for number, member in enumerate(members.tolist()):
            bars = max(enhanced, indicators, key=lambda table: table.lengths[number])
            rows = bars.slices[number]
            count = int(bars.earlier[number]) + rows.stop - rows.start
            columns = {name: bars[name][rows] for name in CANDLE_COLUMNS}
            self._windows.fill(member, columns, count, bars.open_time[rows])
            self._is_short[member] = count < self.begins
            self.is_loaded[member] = True
        self._begin(members[~self._is_short[members]], members, enhanced, indicators)

    def forget(self, members: Members) -> None:
        """Take these series for not loaded."""
        self.is_loaded[members] = False

    def step(self, members: Members, times: Times, bars: Mapping[str, Floats]) -> LiveRows:
        """Append one bar to each of these series, and compute it."""
        self._windows.append(members, bars, times)
        going = ~self._is_short[members]
        parts = [part for part in (members[going], members[~going]) if len(part)]
        computed = [self._short(part) if self._is_short[part[0]] else self._going(part) for part in parts]
        rows = computed[0] if len(computed) == 1 else _merged(members, computed)
        self._grow_up(members[~going])
        return rows

    def open_blocks(self, members: Members) -> None:
        """Open the handles of the block that begins with the next bar, of the series of these whose block is full."""
        due = (self._windows.count[members] % BLOCK_BARS == 0) & ~self._is_short[members]
        for member in members[due].tolist():
            self._indicators.begin_block(member)

    def states(self, members: Members) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """The states of the enhanced candles and of the indicators at the newest bar, as a checkpoint stores them."""
        short = members[self._is_short[members]]
        tables: list[dict[str, Floats]] = []
        for live, table in ((self._enhanced, ENHANCED_CANDLES), (self._indicators, self._computation)):
            states = {name: np.array(values[members]) for name, values in live.states.items()}
            if len(short):
                bars = self._windows.whole(short)
                _, known = table.compute_with_states(replace(bars, first=bars.starts[1:] - 1))
                for name, values in states.items():
                    values[self._is_short[members]] = known[name][bars.starts[1:] - 1]
            tables.append(states)
        return tables[0], tables[1]

    def at_checkpoint(self, members: Members) -> Members:
        """The series of these whose newest bar is followed by a checkpoint."""
        return members[self._windows.count[members] % CHECKPOINT_BARS == 0]

    def _begin(self, going: Members, members: Members, enhanced: Bars, indicators: Bars) -> None:
        if not len(going):
            return
        chosen = np.isin(members, going)
        self._enhanced.load(going, _series_of(enhanced, chosen))
        self._indicators.load(going, _series_of(indicators, chosen))
        for member in going.tolist():
            self._indicators.begin_block(member)

    def _going(self, members: Members) -> LiveRows:
        columns, flags = self._enhanced.step(members)
        return LiveRows(members, columns, self._indicators.step(members), flags)

    def _short(self, members: Members) -> LiveRows:
        """The newest bars of short series, computed from their first ones."""
        bars = self._windows.whole(members)
        last = bars.starts[1:] - 1
        enhanced = ENHANCED_CANDLES.compute(bars)
        indicators = self._computation.compute(replace(bars, first=last))
        flags: list[Flag] = []
        for column in (column for column in ENHANCED_CANDLES.columns if column.repaint):
            at = last - column.repaint
            is_set = (at >= bars.starts[:-1]) & (enhanced[column.name][np.maximum(at, 0)] == 1)
            if is_set.any():
                flags.append((column.name, column.repaint, members[is_set]))
        columns = {name: values[last] for name, values in enhanced.items()}
        return LiveRows(members, columns, indicators, flags)

    def _grow_up(self, members: Members) -> None:
        grown = members[self._windows.count[members] >= self.begins]
        if len(grown):
            bars = self._windows.whole(grown)
            self._is_short[grown] = False
            self._begin(grown, grown, bars, bars)


def _series_of(bars: Bars, chosen: np.ndarray) -> Bars:
    """The bars of some of the series."""
    if chosen.all():
        return bars
    rows = np.repeat(chosen, bars.lengths)
    starts = np.cumsum([0, *bars.lengths[chosen]])
    columns = {name: values[rows] for name, values in bars.columns.items()}
    states = {name: values[chosen] for name, values in bars.states.items()}
    volumes = None if bars.earlier_volumes is None else bars.earlier_volumes[chosen]
    return Bars(
        bars.open_time[rows],
        columns,
        starts,
        before=bars.earlier[chosen],
        states=states,
        earlier_volumes=volumes,
        classes=None if bars.classes is None else bars.classes[chosen],
    )


def _merged(members: Members, parts: list[LiveRows]) -> LiveRows:
    """Several groups of series as one, in the order of `members`."""
    order = np.argsort(np.concatenate([part.members for part in parts]), kind="stable")
    order = order[np.argsort(np.argsort(members, kind="stable"), kind="stable")]
    enhanced = _joined([part.enhanced for part in parts], order)
    indicators = _joined([part.indicators for part in parts], order)
    return LiveRows(members, enhanced, indicators, [flag for part in parts for flag in part.flags])


def _joined(tables: list[Mapping[str, Values]], order: NDArray[np.int64]) -> dict[str, Values]:
    parts: dict[str, list[NDArray]] = {name: [table[name] for table in tables] for name in tables[0]}
    return {name: np.concatenate(values)[order] for name, values in parts.items()}
