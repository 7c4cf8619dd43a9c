"""Histories fed to live tables one bar at a time, and what computing the whole gives of the same bars."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.live import LiveTables
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline_tests.analytics.sample_bars import History, rows_of, stacked, volumes_before

Table = Mapping[str, Values]


def head(table: Computation, histories: Sequence[History], cuts: Sequence[int], begins: int) -> Bars:
    """The first bars of each series, from a checkpoint where they are many."""
    whole = stacked([rows_of(each, slice(0, cut)) for each, cut in zip(histories, cuts, strict=True)])
    _, states = table.compute_with_states(replace(whole, first=whole.starts[1:]))
    block = max(table.block, 128)
    before = [
        max((cut // block * block - table.warm_up - table.repaint) // 128 * 128, 0) if cut >= begins else 0
        for cut in cuts
    ]
    kept = whole.position >= np.repeat(before, whole.lengths)
    starts = np.cumsum([0, *(whole.lengths - before)])
    at = np.maximum(whole.starts[:-1] + before - 1, 0)
    known = {name: values[at].astype(np.float64) for name, values in states.items()}
    columns = {name: values[kept] for name, values in whole.columns.items()}
    bars = Bars(whole.open_time[kept], columns, starts, before=np.array(before, dtype=np.int64), states=known)
    return replace(bars, earlier_volumes=volumes_before(whole, before))


def begun(indicators: Computation, histories: Sequence[History], cuts: Sequence[int]) -> LiveTables:
    """Live tables of these series after so many bars of each."""
    live = LiveTables(indicators, len(histories))
    everyone = np.arange(len(histories))
    live.load(
        everyone,
        head(ENHANCED_CANDLES, histories, cuts, live.begins),
        head(indicators, histories, cuts, live.begins),
    )
    return live


def fed(live: LiveTables, histories: Sequence[History], cuts: Sequence[int], steps: int) -> list[tuple[Table, Table]]:
    """The tables' rows from each cut on, a bar at a time, with the flags that later bars set; one pair a series."""
    bars = [stacked([each]) for each in histories]
    tables: list[tuple[dict[str, list], dict[str, list]]] = [({}, {}) for _ in histories]
    everyone, flags = np.arange(len(histories)), []
    for step in range(steps):
        now = {
            name: np.array([one[name][cut + step] for one, cut in zip(bars, cuts, strict=True)])
            for name in CANDLE_COLUMNS
        }
        times = np.array([one.open_time[cut + step] for one, cut in zip(bars, cuts, strict=True)])
        rows = live.step(everyone, times, now)
        for member, pair in enumerate(tables):
            for table, columns in zip(pair, (rows.enhanced, rows.indicators), strict=True):
                for name, values in columns.items():
                    table.setdefault(name, []).append(values[member])
        flags += [(name, step - back, member) for name, back, members in rows.flags for member in members.tolist()]
        live.open_blocks(everyone)
    for name, row, member in flags:
        if row >= 0:
            tables[member][0][name][row] = 1.0
    return [tuple({name: np.array(values) for name, values in table.items()} for table in pair) for pair in tables]  # type: ignore[misc]


def different(live: Table, whole: Table, cut: int, steps: int) -> dict[str, int]:
    """The columns of which a bit differs from the whole history's, with the number of rows."""
    differences = {}
    for name, values in live.items():
        expected = whole[name][cut : cut + steps]
        if expected.dtype == object:
            differs = np.array([a != b for a, b in zip(values, expected, strict=True)])
        else:
            numbers = values.astype(np.float64)
            differs = ~((numbers == expected) | (np.isnan(numbers) & np.isnan(expected)))
        if differs.any():
            differences[name] = int(differs.sum())
    return differences
