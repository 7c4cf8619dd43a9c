"""Histories to compute on: simulated markets, series stacked into Bars and cut again, golden files read."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Floats

OWN_GOLDEN = Path(__file__).resolve().parents[1] / "golden"

FIRST = np.datetime64("2024-01-01T00:00", "us")
QUARTER = np.timedelta64(15 * 60 * 1_000_000, "us")
INDICATORS = indicators(["all"], CALENDARS["crypto"])

History = Mapping[str, Floats]


@dataclass(frozen=True)
class Market:
    """How a simulated market behaves."""

    bars: int
    # Standard deviation of one bar's log return.
    volatility: float = 0.01
    price: float = 100.0
    # Prices are multiples of it; 0 for any price.
    tick: float = 0.0
    # The market stands still for so many bars in every thousand.
    halted: int = 0
    seed: int = 0
    # The share of bars without a volume.
    unknown_volumes: float = 0.1


def history(market: Market) -> History:
    """The candles of a simulated market."""
    random = np.random.default_rng(market.seed)
    moving = np.arange(market.bars) % 1000 >= market.halted
    returns = market.volatility * moving * random.standard_normal(market.bars)
    close = _on_grid(market.price * np.exp(np.cumsum(returns - returns**2 / 2)), market.tick)
    open_ = np.concatenate([close[:1], close[:-1]])
    wick = 1 + market.volatility / 2 * moving * random.random(market.bars)
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    high = np.maximum(_on_grid(top * wick, market.tick), top)
    low = np.minimum(_on_grid(bottom / wick, market.tick), bottom)
    volume = np.where(
        random.random(market.bars) < market.unknown_volumes, np.nan, random.integers(0, 1000, market.bars)
    )
    return dict(zip(CANDLE_COLUMNS, (open_, high, low, close, volume), strict=True))


def _on_grid(prices: Floats, tick: float) -> Floats:
    return np.maximum(np.round(prices / tick), 1) * tick if tick else prices


def flat(price: float, bars: int) -> History:
    """A market that never moves."""
    return {name: np.full(bars, price) for name in CANDLE_COLUMNS}


def rows_of(market: History, rows: slice) -> History:
    """A stretch of a history."""
    return {name: values[rows] for name, values in market.items()}


def stacked(histories: Sequence[History]) -> Bars:
    """Several series behind one another, read-only as the warehouse hands them over."""
    lengths = [len(each["close"]) for each in histories]
    columns = {name: np.concatenate([np.empty(0), *(each[name] for each in histories)]) for name in CANDLE_COLUMNS}
    for values in columns.values():
        values.setflags(write=False)
    times = np.concatenate([np.empty(0, TIME_UNIT), *(FIRST + np.arange(n) * QUARTER for n in lengths)])
    return Bars(times, columns, np.cumsum([0, *lengths]).astype(np.int64))


def tails(whole: Bars, cuts: Sequence[int], first: Sequence[int], states: Mapping[str, Values]) -> Bars:
    """What is left of each series after so many bars, as a refresh from a checkpoint there has it.

    `first` counts each series' bars up to the first one wanted; `states` are those at every row of the whole.
    """
    kept = np.flatnonzero(whole.position >= np.repeat(cuts, whole.lengths))
    before = np.array(cuts, dtype=np.int64)
    starts = np.cumsum([0, *(whole.lengths - before)])
    at = whole.starts[:-1] + before - 1
    known = {name: np.append(values, np.nan).astype(np.float64)[at] for name, values in states.items()}
    columns = {name: values[kept] for name, values in whole.columns.items()}
    begin = starts[:-1] + np.array(first, dtype=np.int64) - before
    bars = Bars(whole.open_time[kept], columns, starts, before=before, states=known, first=begin)
    return replace(bars, earlier_volumes=volumes_before(whole, cuts))


def volumes_before(whole: Bars, cuts: Sequence[int]) -> Floats:
    """The 49 volumes of each series before its cut, one row a series; NaN where there are fewer."""
    volumes = np.full((len(cuts), 49), np.nan)
    for row, rows, cut in zip(volumes, whole.slices, cuts, strict=True):
        if known := min(cut, 49):
            row[-known:] = whole["volume"][rows][cut - known : cut]
    return volumes


def computed_alone(computation: Computation, market: History) -> Mapping[str, Values]:
    """The columns of one series."""
    return computation.compute(stacked([market]))


def differing(actual: Values, expected: Values, relative: float) -> NDArray[np.int64]:
    """The rows in which two columns differ by more than that share of what was expected; null equals null alone."""
    if expected.dtype == object:
        return np.flatnonzero(np.array([a != b for a, b in zip(actual, expected, strict=True)], dtype=bool))
    both_null = np.isnan(actual) & np.isnan(expected)
    return np.flatnonzero(~(both_null | (np.abs(actual - expected) <= relative * np.abs(expected))))


def read_csv(path: Path) -> dict[str, list[str]]:
    """A file's columns as text."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, ([*cells] for cells in zip(*rows, strict=True)), strict=True))


def numbers(cells: Sequence[str]) -> Floats:
    """A column of numbers; NaN where the cell is empty."""
    return np.array([float(cell) if cell else np.nan for cell in cells])
