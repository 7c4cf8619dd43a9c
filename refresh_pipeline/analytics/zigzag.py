"""ZigZag as it is known at each bar: the last turning point that later bars confirmed, by a percentage.

A turning point is known once the price has turned by the percentage. The row of that bar is the first to show it, and
no row changes later. The search for the extreme of the leg under way is a recursion with states.
"""

from collections.abc import Sequence
from math import isnan

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Values

# The leg's direction (0 before the first), its extreme and the bars since; then the last turning point and its age.
STATES = ("side", "extreme", "extreme_age", "low", "low_age", "turn", "turn_age")

State = tuple[float, ...]


def states(percent: float) -> tuple[str, ...]:
    """The states of `zigzag`."""
    return tuple(f"zigzag_{percent:g}_{name}" for name in STATES)


def zigzag(bars: Bars, percent: float) -> Sequence[Values]:
    """The last turning point: its price, 1 for a low and -1 for a high, its age in bars; then the states."""
    result = np.full((3 + len(STATES), len(bars)), np.nan)
    missing = np.full(len(bars.lengths), np.nan)
    known = [bars.states.get(name, missing).astype(np.float64) for name in states(percent)]
    for number, rows in enumerate(bars.slices):
        state = tuple(float(each[number]) for each in known) if bars.earlier[number] else (np.nan,) * len(STATES)
        _follow(bars["high"][rows].tolist(), bars["low"][rows].tolist(), percent / 100, state, result[:, rows])
    return list(result)


def _follow(highs: list[float], lows: list[float], turn: float, state: State, result: np.ndarray) -> None:
    row = 0
    # Of fewer rows than 32, writing each takes less time than writing the changes.
    while row < len(highs) and (len(highs) - row < 32 or not abs(state[0]) > 0):
        state = _step(state, highs[row], lows[row], turn)
        result[:, row] = _shown(state)
        row += 1
    if row < len(highs):
        _follow_legs(highs[row:], lows[row:], turn, state, result[:, row:])


def _shown(state: State) -> State:
    """A row of the result: the last turning point's price, side and age, then the state."""
    side, *_, price, age = state
    return (price, np.nan if isnan(price) else side, age, *state)


def _follow_legs(highs: list[float], lows: list[float], turn: float, state: State, result: np.ndarray) -> None:
    """Rows from a state with a leg on: `_step`'s decisions, but only rows with a new extreme are written down."""
    side, extreme, age, _, _, price, turn_age = state
    # Rows count from the first one here; an extreme is as many rows before it as its age says.
    at, turned_at = -1 - age, -1 - turn_age
    events = [(0.0, side, extreme, at, price, turned_at)]
    limit = extreme * (1 - turn) if side > 0 else extreme * (1 + turn)
    for row, (high, low) in enumerate(zip(highs, lows, strict=True)):
        if side > 0:
            if high > extreme:
                extreme = high
            elif low <= limit:
                side, extreme, price, turned_at = -1.0, low, extreme, at
            else:
                continue
        elif low < extreme:
            extreme = low
        elif high >= limit:
            side, extreme, price, turned_at = 1.0, high, extreme, at
        else:
            continue
        at, limit = float(row), extreme * (1 - turn) if side > 0 else extreme * (1 + turn)
        events.append((at, side, extreme, at, price, turned_at))
    _write(np.array(events), result)


def _write(events: np.ndarray, result: np.ndarray) -> None:
    """The rows of the result, each as the last event has left it."""
    rows = np.arange(result.shape[1])
    lasting = np.diff(np.append(events[:, 0], len(rows))).astype(np.int64)
    side, extreme, at, price, turned_at = (np.repeat(values, lasting) for values in events.T[1:])
    known = np.where(np.isnan(price), np.nan, side)
    none = np.full(len(rows), np.nan)
    turn_age = rows - turned_at
    result[:] = price, known, turn_age, side, extreme, rows - at, none, none, price, turn_age


def _step(state: State, high: float, low: float, turn: float) -> State:
    side, extreme, age, lowest, low_age, price, turn_age = state
    age, low_age, turn_age = age + 1, low_age + 1, turn_age + 1
    if isnan(side):
        return (0.0, high, 0.0, low, 0.0, np.nan, np.nan)
    if side == 0:
        extreme, age = (high, 0.0) if high > extreme else (extreme, age)
        lowest, low_age = (low, 0.0) if low < lowest else (lowest, low_age)
        if low <= extreme * (1 - turn) and age > 0:
            return (-1.0, low, 0.0, np.nan, np.nan, extreme, age)
        if high >= lowest * (1 + turn) and low_age > 0:
            return (1.0, high, 0.0, np.nan, np.nan, lowest, low_age)
        return (0.0, extreme, age, lowest, low_age, np.nan, np.nan)
    if side > 0:
        if high > extreme:
            return (side, high, 0.0, np.nan, np.nan, price, turn_age)
        if low <= extreme * (1 - turn):
            return (-1.0, low, 0.0, np.nan, np.nan, extreme, age)
    else:
        if low < extreme:
            return (side, low, 0.0, np.nan, np.nan, price, turn_age)
        if high >= extreme * (1 + turn):
            return (1.0, high, 0.0, np.nan, np.nan, extreme, age)
    return (side, extreme, age, np.nan, np.nan, price, turn_age)
