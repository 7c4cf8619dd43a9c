"""The computed tables of a live market in memory: one set of live tables a timeframe, loaded from the warehouse."""

from collections.abc import Iterable, Sequence

import numpy as np

from refresh_pipeline.analytics.live import LiveRows, LiveTables
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.streaming import ClosedCandle
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.live import LiveStore, Wave
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.stored_values import stored_values

# Series that are loaded at once: their bars since the last checkpoint are in memory meanwhile.
LOADED_AT_ONCE = 50


class Engine:
    """Turns candles into waves of rows to write. Not to be used by two threads at once."""

    def __init__(self, market: Market, series: Sequence[Series], store: LiveStore) -> None:
        """These series, none of them loaded."""
        self._store = store
        members: dict[Timeframe, list[Series]] = {}
        for each in series:
            members.setdefault(each.timeframe, []).append(each)
        computation = computations(market)[Table.indicators]
        self._tables = {
            timeframe: LiveTables(computation, len(part), market.classes_of(part))
            for timeframe, part in members.items()
        }
        self._number = {each: number for part in members.values() for number, each in enumerate(part)}

    def load(self, series: Iterable[Series]) -> dict[Series, np.datetime64]:
        """Load what is stored of these series; gives those that are loaded, with their newest candle's open time."""
        wanted: dict[Timeframe, list[Series]] = {}
        for each in series:
            wanted.setdefault(each.timeframe, []).append(each)
        newest: dict[Series, np.datetime64] = {}
        for timeframe, members in wanted.items():
            for begin in range(0, len(members), LOADED_AT_ONCE):
                newest |= self._load(self._tables[timeframe], members[begin : begin + LOADED_AT_ONCE])
        return newest

    def _load(self, tables: LiveTables, series: Sequence[Series]) -> dict[Series, np.datetime64]:
        loaded = self._store.load(series, tables.begins)
        if not loaded.series:
            return {}
        members = np.array([self._number[each] for each in loaded.series])
        tables.load(members, loaded.enhanced, loaded.indicators)
        return dict(zip(loaded.series, tables.newest(members), strict=True))

    def forget(self, series: Iterable[Series]) -> None:
        """Take these series for not loaded: others have written them."""
        for each in series:
            self._tables[each.timeframe].forget(np.array([self._number[each]]))

    def compute(self, candles: Sequence[ClosedCandle]) -> list[Wave]:
        """Append one candle to each of some loaded series; gives a wave a timeframe."""
        parts: dict[Timeframe, list[ClosedCandle]] = {}
        for candle in candles:
            parts.setdefault(candle.series.timeframe, []).append(candle)
        return [self._wave(self._tables[timeframe], part) for timeframe, part in parts.items()]

    def _wave(self, tables: LiveTables, candles: Sequence[ClosedCandle]) -> Wave:
        candles = sorted(candles, key=lambda candle: self._number[candle.series])
        members = np.array([self._number[candle.series] for candle in candles])
        times = np.array([candle.open_time for candle in candles], dtype=TIME_UNIT)
        columns = dict(zip(CANDLE_COLUMNS, np.array([candle.values for candle in candles]).T, strict=True))
        count, last = tables.count[members], tables.newest(members)
        rows = tables.step(members, times, columns)
        due = tables.at_checkpoint(members)
        at = np.searchsorted(members, due)
        checkpoints = {}
        if len(due):
            enhanced, indicators = tables.states(due)
            checkpoints = {Table.enhanced_candles: (at, enhanced), Table.indicators: (at, indicators)}
        series = [candle.series for candle in candles]
        flags = _flags(tables, rows, members)
        enhanced = stored_values(Table.enhanced_candles, rows.enhanced)
        indicators = stored_values(Table.indicators, rows.indicators)
        sources = [candle.source for candle in candles]
        return Wave(series, times, columns, enhanced, indicators, flags, count, last, checkpoints, sources)

    def open_blocks(self, candles: Iterable[ClosedCandle]) -> None:
        """Get ready for the blocks that begin after these candles; takes 2 ms a series, once in 512 bars."""
        parts: dict[Timeframe, list[int]] = {}
        for candle in candles:
            parts.setdefault(candle.series.timeframe, []).append(self._number[candle.series])
        for timeframe, members in parts.items():
            self._tables[timeframe].open_blocks(np.array(members))


def _flags(tables: LiveTables, rows: LiveRows, members: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The flags of earlier bars, with the numbers of their series in the wave and the bars' open times."""
    return [
        (name, np.searchsorted(members, flagged), tables.newest(flagged, back)) for name, back, flagged in rows.flags
    ]
