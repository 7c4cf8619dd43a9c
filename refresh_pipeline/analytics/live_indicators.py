"""Indicators of many series, one new bar at a time: bit for bit what computing each series from its first bar gives.

A handle of TA-Lib's streams that is opened where a block's stretch begins gives what the function of arrays gives for
the stretch up to each further bar. So a block formula of TA-Lib is a handle a series, opened anew at each block's
beginning. A recursive formula goes on from its states, and a row formula reads the last bars. A block formula that is
none of TA-Lib's, or has no case here, is computed over its block's stretch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics import charting, denominators, derived, hilbert, levels
from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.evaluation import (
    BLOCK_BARS,
    BlockFormula,
    Part,
    RecursiveFormula,
    RowFormula,
    Rows,
    evaluate_recursive,
    finite,
    grouped,
    of_kind,
    outputs_of,
)
from refresh_pipeline.analytics.live_handles import Handles, Update, places
from refresh_pipeline.analytics.live_levels import LiveLevels
from refresh_pipeline.analytics.live_windows import Members, Windows
from refresh_pipeline.analytics.null_masks import MASK_BARS, MOVE, MOVING_BARS, Nulls, moved, nulls_of
from refresh_pipeline.analytics.registry import LAST_BAR
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, bare
from refresh_pipeline.market.candles import Floats

# A mask of a window is computed over one of so many bars.
_MASK_STEPS = (4, 8, 16, 24, 32, 48, MASK_BARS)


@lru_cache(maxsize=1)
def _streams() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """The stream of each function of TA-Lib."""
    stream = import_module("talib.stream")
    return {bare(name): getattr(stream, name) for name in FUNCTIONS if hasattr(stream, name)}


def _stream(name: str) -> Callable[..., Any]:
    return _streams()[bare(name)]


@dataclass(slots=True)
class _Call:
    """One distinct call: where its stretch begins, what it takes, and the rows that each of its outputs fills."""

    before: int
    takes: Sequence[str]
    formula: BlockFormula
    fills: Sequence[Sequence[int]]
    # The function without its nulls, where those are, and its stream if the value goes on from a handle.
    function: Callable[..., Any] = field(init=False)
    mask: Callable[..., Any] | None = field(init=False)
    nulls: Nulls = field(init=False)
    talib: Callable[..., Any] | None = field(init=False)

    def __post_init__(self) -> None:
        self.function, self.mask = denominators.without_nulls(self.formula.function)
        self.nulls = nulls_of(self.mask, self.formula.arguments)
        name = bare("MFI") if denominators.is_money_flow(self.function) else self.function
        is_computed = self.nulls is Nulls.stretch or self.formula.leaves_out
        self.talib = None if is_computed else _streams().get(name)

    def over_stretch(self, windows: Windows, member: int) -> Sequence[Floats]:
        """The function's values at one series' newest bar, computed over its block's stretch."""
        count = int(windows.count[member])
        start = max((count - 1) // BLOCK_BARS * BLOCK_BARS - self.before, 0)
        arrays = [_taken(windows, name, member, start, count) for name in self.takes]
        return [values[-1:] for values in outputs_of(self.formula, arrays, count - 1 - start)]


def _taken(windows: Windows, name: str, member: int, begin: int, end: int) -> Floats:
    if name == "volume_or_0":
        return np.nan_to_num(windows.between("volume", member, begin, end))
    return np.ascontiguousarray(windows.between(name, member, begin, end))


@dataclass(slots=True)
class _Cycle:
    """The Hilbert transform of each series: its handles, and where the sine stands against the one ahead."""

    updates: list[tuple[Update, ...] | None]
    phase: Floats
    above: NDArray[np.bool_]
    since: NDArray[np.int64]

    @classmethod
    def empty(cls, series: int) -> "_Cycle":
        return cls(
            [None] * series, np.full(series, np.nan), np.zeros(series, dtype=bool), np.zeros(series, dtype=np.int64)
        )

    def begin_block(self, member: int, close: Floats) -> None:
        names = ("HT_DCPHASE", "HT_DCPERIOD", "HT_TRENDLINE")
        self.updates[member] = (
            *(_stream(name)(close).update for name in names),
            _stream("WMA")(close, 4).update,
        )
        phase = bare("HT_DCPHASE")(close)[-hilbert.REACH - 2 :]
        above = np.sin(np.radians(phase)) > np.sin(np.radians(phase + 45))
        crossed = np.flatnonzero(above[1:] != above[:-1])
        self.phase[member], self.above[member] = phase[-1], above[-1]
        self.since[member] = len(above) - 2 - crossed[-1] if len(crossed) else 10 * hilbert.REACH

    def step(self, members: Members, close: Sequence[float]) -> tuple[Floats, ...]:
        """What `hilbert.cycle` gives at the new bar of these series."""
        results = np.array(
            [
                [update(price) for update in self.updates[member] or ()]
                for member, price in zip(members.tolist(), close, strict=True)
            ]
        ).reshape(-1, 4)
        phase, period, line, price = results.T
        sine, lead = np.sin(np.radians(phase)), np.sin(np.radians(phase + 45))
        above = sine > lead
        crossed = above != self.above[members]
        self.since[members] = np.where(crossed, 0, self.since[members] + 1)
        trend = hilbert.trend_mode(
            (phase - self.phase[members], period, line, price), crossed, self.since[members]
        ).astype(np.float64)
        self.phase[members], self.above[members] = phase, above
        return phase, sine, lead, trend


@dataclass(slots=True)
class _Strength:
    """The last values of the RSI that STOCHRSI compares, of each series."""

    updates: list[Update | None]
    values: Floats

    @classmethod
    def empty(cls, series: int) -> "_Strength":
        return cls([None] * series, np.full((series, MASK_BARS), np.nan))

    def begin_block(self, member: int, close: Floats, periods: int) -> None:
        self.updates[member] = _stream("RSI")(close, periods).update
        self.values[member] = bare("RSI")(close, periods)[-MASK_BARS:]

    def apply(self, call: _Call, outputs: Floats, members: Members, closes: Sequence[float]) -> None:
        """Write null into the outputs of STOCHRSI where the RSI was the same on all bars of a window."""
        now = [self.updates[member](close) for member, close in zip(members.tolist(), closes, strict=True)]  # pyright: ignore[reportOptionalCall]
        self.values[members] = np.concatenate([self.values[members][:, 1:], np.array(now)[:, None]], axis=1)
        _, *settings = (int(str(value)) for value in call.formula.arguments)
        for number, mask in enumerate(denominators.flat_strength(self.values[members], *settings)):
            outputs[mask, number] = np.nan


def _handles_of(calls: Sequence[_Call], series: int) -> list[Handles]:
    """The handles of all calls of TA-Lib, those together that take the same and give as many values."""
    groups: dict[tuple[tuple[str, ...], int, bool], list[int]] = {}
    for number, call in enumerate(calls):
        if call.talib is not None:
            key = (tuple(call.takes), len(call.fills), denominators.is_money_flow(call.function))
            groups.setdefault(key, []).append(number)
    return [Handles(takes, outputs, numbers, series) for (takes, outputs, _), numbers in groups.items()]


def _opened(call: _Call, arrays: Sequence[Floats]) -> Update:
    assert call.talib is not None
    return call.talib(*denominators.scaled(call.function, arrays), *call.formula.arguments).update


class LiveIndicators:
    """One market's indicators, continued a bar at a time. Which series are long enough for it is the caller's part."""

    def __init__(self, computation: Computation, series: int, windows: Windows) -> None:
        """`windows` holds the candles of all series; a bar is appended there before it is computed here."""
        self._windows, self._series = windows, series
        parts: Sequence[Part] = [part for part in computation.parts if isinstance(part, Part)]
        self._blocks, self._rows = of_kind(parts, BlockFormula), of_kind(parts, RowFormula)
        recursive = of_kind(parts, RecursiveFormula)
        self._zones = [part for part in recursive if part.formula.compute is levels.zones]
        self._recursive = [part for part in recursive if part not in self._zones]
        self._all_recursive = recursive
        self.chosen = [column.name for column in computation.columns]
        self._calls = [
            _Call(before, takes, formula, fills)
            for before, takes, calls in grouped(self._blocks)
            for formula, fills in calls
        ]
        self._handles = _handles_of(self._calls, series)
        self._places = [places([self._calls[number].fills for number in each.calls]) for each in self._handles]
        self._rest = [call for call in self._calls if call.talib is None]
        self._names = [name for part in self._blocks for name in part.names]
        self._levels = [
            LiveLevels(part, series, windows)
            for part in self._rows
            if part.formula.compute is derived.support_and_resistance
        ]
        self._rows = [part for part in self._rows if part.formula.compute is not derived.support_and_resistance]
        # Parts that read far back have bars of their own: the others would be computed over all of these.
        reaches = {part.formula.reach for part in self._rows}
        usual = max([0, *(each for each in reaches if each <= BLOCK_BARS)])
        self._row_bars = {each: max(each, usual) + 2 for each in sorted(reaches)} or {0: 1}
        self.longest_stretch = max([*self._row_bars.values(), *(call.before for call in self._calls)])
        self.states = {state: np.full(series, np.nan) for state in computation.states}
        self._memory: dict[str, Floats] = {}
        self._cycle = _Cycle.empty(series)
        self._ranks = np.full((series, derived.WINDOW), np.nan)
        self._ranges: list[Update | None] = [None] * series
        # Of each series: the handles of the dominant cycle's period and of the average over it.
        self._cycle_averages: list[tuple[Update, Update] | None] = [None] * series
        self._strengths = {
            number: _Strength.empty(series) for number, call in enumerate(self._calls) if call.nulls is Nulls.strength
        }

    # ---- begin

    def load(self, members: Members, bars: Bars) -> None:
        """Take over the recursions of these series, whose bars run from a checkpoint to the newest one."""
        memory: dict[str, Floats] = {}
        columns = {**bars.columns, "volume_or_0": np.nan_to_num(bars["volume"])}
        bars = replace(bars, columns=columns, with_states=True, memory=memory)
        last = bars.starts[1:] - 1
        for live in self._levels:
            live.forget(members)
        states = evaluate_recursive(self._all_recursive, Rows(bars, last))
        for name, values in states.items():
            self.states[name][members] = values[last]
        self._remember(members, memory)

    def _remember(self, members: Members, memory: Mapping[str, Floats]) -> None:
        for state, values in memory.items():
            self._memory.setdefault(state, np.full((4, self._series), np.nan))[:, members] = values

    def begin_block(self, member: int) -> None:
        """Open the handles of one series for the block that its next bar lies in."""
        count = int(self._windows.count[member])
        block, windows = count // BLOCK_BARS * BLOCK_BARS, self._windows
        take = partial(_taken, windows)
        cache: dict[tuple[str, int], Floats] = {}

        def taken(name: str, before: int) -> Floats:
            start = max(block - before, 0)
            if (name, start) not in cache:
                cache[name, start] = take(name, member, start, count)
            return cache[name, start]

        for handles in self._handles:
            calls = [self._calls[number] for number in handles.calls]
            handles.begin(member, [_opened(call, [taken(name, call.before) for name in call.takes]) for call in calls])
        for call in self._rest:
            self._begin_rest(call, [taken(name, call.before) for name in call.takes], member)
        for number, strength in self._strengths.items():
            call = self._calls[number]
            strength.begin_block(member, taken("close", call.before), int(str(call.formula.arguments[0])))

    def _begin_rest(self, call: _Call, arrays: Sequence[Floats], member: int) -> None:
        """Begin a block of what is made of several handles."""
        formula = call.formula
        if formula.function is hilbert.cycle:
            self._cycle.begin_block(member, arrays[0])
        elif formula.function is derived.volatility_rank:
            self._ranges[member] = _stream("ATR")(*arrays, *formula.arguments).update
            self._ranks[member] = bare("ATR")(*arrays, *formula.arguments)[-derived.WINDOW :]
        elif formula.function is derived.cycle_average:
            longest = float(str(formula.arguments[1]))
            periods = np.nan_to_num(bare("HT_DCPERIOD")(arrays[0]), nan=longest)
            average = _stream("MAVP")(arrays[0], periods, *formula.arguments)
            self._cycle_averages[member] = (_stream("HT_DCPERIOD")(arrays[0]).update, average.update)

    # ---- go on

    def step(self, members: Members) -> dict[str, Values]:
        """The chosen columns at the newest bar of these series, one value a series."""
        windows = self._windows
        now = {name: windows.latest(name, members) for name in ("open", "high", "low", "close", "volume")}
        now["volume_or_0"] = np.nan_to_num(now["volume"])
        matrix = self._step_blocks(members, now)
        columns: dict[str, Values] = dict(zip(self._names, matrix, strict=True))
        columns.update(self._step_recursive(members, now))
        for live in self._levels:
            columns.update(zip(live.names, live.step(members), strict=True))
        held = {count: windows.bars(members, count) for count in {*self._row_bars.values()}}
        for part in self._rows:
            bars = held[self._row_bars[part.formula.reach]]
            rows = Rows(bars, bars.starts[1:] - 1, columns)
            columns.update(zip(part.names, part.formula.compute(rows), strict=True))
        return {name: finite(columns[name]) for name in self.chosen}

    def _step_blocks(self, members: Members, now: Mapping[str, Floats]) -> Floats:
        matrix = np.empty((len(self._names), len(members)))
        lists = {name: values.tolist() for name, values in now.items()}
        masks = _Masks(self._windows, members)
        for handles, (rows, outputs) in zip(self._handles, self._places, strict=True):
            values = self._from_handles(handles, members, lists, masks)
            matrix[rows] = values.reshape(len(members), -1)[:, outputs].T
        cycle: tuple[Floats, ...] | None = None
        for call in self._rest:
            if call.formula.function is hilbert.cycle:
                outputs = cycle = cycle or self._cycle.step(members, lists["close"])
            else:
                outputs = self._rest_values(call, members, lists)
            for numbers, output in zip(call.fills, outputs, strict=True):
                matrix[numbers] = output
        self._null_missing(members, matrix)
        return matrix

    def _rest_values(self, call: _Call, members: Members, lists: Mapping[str, list[float]]) -> Sequence[Floats]:
        """What a call gives that does not go on from one handle."""
        function = call.formula.function
        if function is derived.volatility_rank:
            return [self._rank(members, lists)]
        if function is derived.cycle_average:
            return [self._cycle_average(call, members, lists["close"])]
        if function is derived.fibonacci:
            highs, lows = (self._windows.last(name, members, derived.WINDOW) for name in ("high", "low"))
            return derived.retracements(highs.max(axis=1), lows.min(axis=1))
        return self._ichimoku(call, members) if function is charting.ichimoku else self._over_stretches(call, members)

    def _ichimoku(self, call: _Call, members: Members) -> Sequence[Floats]:
        conversion, base, span = (int(str(each)) for each in call.formula.arguments)
        rows = base + max(conversion, base, span)
        if int(self._windows.held(members).min(initial=rows)) < rows:
            return self._over_stretches(call, members)
        high, low = (self._windows.last(name, members, rows) for name in ("high", "low"))
        return charting.ichimoku_of_last(high, low, conversion, base, span)

    def _from_handles(
        self, handles: Handles, members: Members, lists: Mapping[str, list[float]], masks: "_Masks"
    ) -> Floats:
        """The values of handles with null for 0/0: series x calls x outputs."""
        if denominators.is_money_flow(self._calls[handles.calls[0]].function):
            [*_, volume] = handles.takes
            lists = {**lists, volume: [each * denominators.FLOW_SCALE for each in lists[volume]]}
        values = handles.step(members, lists)
        for place, number in enumerate(handles.calls):
            call, outputs = self._calls[number], values[:, place]
            if call.formula.counts_rows:
                block = (self._windows.count[members] - 1) // BLOCK_BARS * BLOCK_BARS
                outputs += np.maximum(block - call.before, 0)[:, None]
            if number in self._strengths:
                self._strengths[number].apply(call, outputs, members, lists["close"])
            masks.apply(call, outputs)
        return values

    def _over_stretches(self, call: _Call, members: Members) -> Sequence[Floats]:
        results = [call.over_stretch(self._windows, member) for member in members.tolist()]
        if call.formula.counts_rows:
            block = (self._windows.count[members] - 1) // BLOCK_BARS * BLOCK_BARS
            first = np.maximum(block - call.before, 0)
            results = [[output + begin for output in outputs] for outputs, begin in zip(results, first, strict=True)]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    def _rank(self, members: Members, lists: Mapping[str, list[float]]) -> Floats:
        bars = zip(members.tolist(), lists["high"], lists["low"], lists["close"], strict=True)
        ranges = np.array([self._ranges[member](*bar) for member, *bar in bars])  # pyright: ignore[reportOptionalCall]
        window = np.concatenate([self._ranks[members][:, 1:], ranges[:, None]], axis=1)
        self._ranks[members] = window
        return derived.rank_of_last(window)

    def _cycle_average(self, call: _Call, members: Members, closes: Sequence[float]) -> Floats:
        longest = float(str(call.formula.arguments[1]))
        values = []
        for member, close in zip(members.tolist(), closes, strict=True):
            handles = self._cycle_averages[member]
            assert handles is not None
            period, average = handles
            cycle = period(close)
            values.append(average(close, longest if np.isnan(cycle) else cycle))
        return np.array(values)

    def _null_missing(self, members: Members, matrix: Floats) -> None:
        number, filled = self._windows.count[members] - 1, 0
        unknown = np.isnan(self._windows.last("volume", members, MASK_BARS)).any()
        for part in self._blocks:
            outputs, formula = matrix[filled : filled + len(part.columns)], part.formula
            if formula.undefined:
                outputs[:, number < formula.undefined] = np.nan
            if formula.needs_volume_of and (unknown or formula.needs_volume_of > MASK_BARS):
                volumes = self._windows.last("volume", members, formula.needs_volume_of)
                outputs[:, np.isnan(volumes).any(axis=1)] = np.nan
            filled += len(part.columns)

    def _step_recursive(self, members: Members, now: Mapping[str, Floats]) -> dict[str, Values]:
        states = {name: values[members] for name, values in self.states.items()}
        memory = {state: values[:, members] for state, values in self._memory.items()}
        times, starts = self._windows.times(members), np.arange(len(members) + 1)
        before = self._windows.count[members] - 1
        bars = Bars(
            times,
            now,
            starts,
            before=before,
            states=states,
            with_states=True,
            memory=memory,
            classes=self._windows.classes(members),
        )
        rows = Rows(bars, starts[:-1])
        later = evaluate_recursive(self._recursive, rows)
        for part in self._zones:
            results = self._zone_values(members, now, states)
            later |= dict(zip(part.states, results, strict=True))
            rows.columns.update(zip(part.names, results, strict=True))
        for name, values in later.items():
            self.states[name][members] = values
        self._remember(members, memory)
        return rows.columns

    def _zone_values(self, members: Members, now: Mapping[str, Floats], states: Mapping[str, Floats]) -> list[Floats]:
        """What `levels.zones` gives at the newest bar: the values of the zone that it begins, or of the last one."""
        last_close = states[LAST_BAR.states[0]]
        change = (now["close"] - last_close) / last_close
        moved = levels.has_moved(change)
        windows = self._windows.last("volume", members[moved], levels.ZONE_BARS)[:, ::-1]
        moved[moved] = levels.is_busy(now["volume"][moved], windows)
        values = [now["high"], now["low"], now["volume"], np.abs(change) * 100]
        results = []
        for side, falls in (("supply", True), ("demand", False)):
            begins = moved & ((change < 0) == falls)
            names = [name for name in levels.ZONE_STATES if name.startswith(side)]
            results += [np.where(begins, value, states[name]) for value, name in zip(values, names, strict=True)]
        return results


class _Masks:
    """Where 0/0 is null at the newest bar: of windows for all series at once, of averages only where a market halts."""

    def __init__(self, windows: Windows, members: Members) -> None:
        self._windows, self._members = windows, members
        high, low, close = (windows.last(name, members, MASK_BARS + MOVING_BARS) for name in ("high", "low", "close"))
        moving = moved(high, low, close)
        bars = np.where(moving, np.arange(moving.shape[1]), -1)
        since = np.arange(moving.shape[1]) - np.maximum.accumulate(bars, axis=1)
        recent = since[:, MOVING_BARS - 1 :] < MOVING_BARS
        # The series that did not move in their last bars, and those that did not throughout the bars before.
        self._halted, self._once_halted = (np.flatnonzero(~each) for each in (recent[:, -1], recent.all(axis=1)))
        self._columns: dict[tuple[str, int], Floats] = {}

    def apply(self, call: _Call, outputs: Floats) -> None:
        """Write null for 0/0 into a call's outputs: an array of series x outputs."""
        if call.mask is None:
            return
        if call.nulls is Nulls.window:
            self._null_by_window(call, call.mask, outputs)
            return
        if call.nulls is Nulls.volume:
            rows = np.flatnonzero(~self._was_traded(call))
        else:
            rows = self._halted if call.nulls is Nulls.halt else self._once_halted
        for row in rows.tolist():
            exact = call.over_stretch(self._windows, int(self._members[row]))
            outputs[row] = [values[0] for values in exact]

    def _was_traded(self, call: _Call) -> NDArray[np.bool_]:
        """Whether volume worth mentioning was traded in the last bars."""
        held = int(self._windows.held(self._members).min(initial=MASK_BARS))
        rows = min(call.before + BLOCK_BARS, held)
        volume = np.nan_to_num(self._windows.last("volume", self._members, rows))
        return volume[:, -MOVING_BARS:].max(axis=1) > MOVE * volume.max(axis=1)

    def _null_by_window(self, call: _Call, mask: Callable[..., Any], outputs: Floats) -> None:
        """The mask of the last bars of all series behind one another: as few as its window reaches back."""
        reach = sum(value for value in call.formula.arguments if isinstance(value, int)) + 2
        rows = next((bars for bars in _MASK_STEPS if bars >= reach), MASK_BARS)
        masks = mask(*(self._column(name, rows) for name in call.takes), *call.formula.arguments)
        several = masks if isinstance(masks, tuple) else (masks,) * outputs.shape[1]
        for number, one in enumerate(several):
            outputs[one[rows - 1 :: rows], number] = np.nan

    def _column(self, name: str, rows: int) -> Floats:
        if (name, rows) not in self._columns:
            values = self._windows.last(name.removesuffix("_or_0"), self._members, rows).ravel()
            self._columns[name, rows] = np.nan_to_num(values) if name == "volume_or_0" else values
        return self._columns[name, rows]
