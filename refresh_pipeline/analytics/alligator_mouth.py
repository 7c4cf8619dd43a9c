"""The alligator's mouth and the water around it: where its lines point, what they do, where the bar is among them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.rolling import shifted, simple_moving_average
from refresh_pipeline.analytics.ties import above, averages_tie, prices_tie
from refresh_pipeline.market.candles import Floats

# Lines this many mean bar ranges apart and moving count as certain.
RANGE_PERIODS, CERTAIN = 13, 5

DIRECTIONS = np.array(["sell", "neither", "buy"], dtype=object)
PHASES = np.array(["sleeping", "opening", "open", "closing"], dtype=object)
SLEEPING, OPENING, OPEN, CLOSING = range(len(PHASES))
POSITIONS = np.array(["below", "in", "above"], dtype=object)
WATERS = np.array(["sleeping", "switching", "entering", "eating", "throwing", "poping", "splashing"], dtype=object)
ASLEEP, SWITCHING, ENTERING, EATING, THROWING, POPING, SPLASHING = range(len(WATERS))


def mouth(bars: Bars) -> Sequence[Values]:
    """Direction, phase, the bar's position, the water's state, and confidence, of each row with a row before it."""
    tie = averages_tie(_price(bars))
    direction, phase, position = _direction(bars, tie), _phase(bars, tie), _position(bars, tie)
    water = _water(bars, direction, phase, position)
    texts = [DIRECTIONS[direction + 1], PHASES[phase], POSITIONS[position + 1], WATERS[water]]
    return [*texts, _confidence(bars, direction)]


def _price(bars: Bars) -> Floats:
    return (bars["high"] + bars["low"]) / 2


def _direction(bars: Bars, tie: Floats) -> NDArray[np.int8]:
    """1 where the lines stand and move upwards in order, -1 where downwards, else 0."""
    jaw, teeth, lips = bars["jaw"], bars["teeth"], bars["lips"]
    before = [shifted(line, 1) for line in (jaw, teeth, lips)]
    up, down = above(lips, teeth, tie) & above(teeth, jaw, tie), above(teeth, lips, tie) & above(jaw, teeth, tie)
    for line, earlier in zip((jaw, teeth, lips), before, strict=True):
        up &= above(line, earlier, tie)
        down &= above(earlier, line, tie)
    return up.astype(np.int8) - down.astype(np.int8)


def _phase(bars: Bars, tie: Floats) -> NDArray[np.int8]:
    width = (np.abs(bars["jaw"] - bars["teeth"]) + np.abs(bars["teeth"] - bars["lips"])) / 2
    before = shifted(width, 1)
    # A mouth is shut where its lines are a tie as prices: the original's threshold is 1e-8, whatever the price is.
    shut = prices_tie(_price(bars))
    rises, falls, is_open = above(width, before, tie), above(before, width, tie), width > shut
    phase = np.where(is_open, OPEN, SLEEPING)
    phase[rises] = np.where(before[rises] <= shut[rises], OPENING, OPEN)
    phase[falls] = np.where(is_open[falls], CLOSING, SLEEPING)
    return phase.astype(np.int8)


def _position(bars: Bars, tie: Floats) -> NDArray[np.int8]:
    """1 where the bar is above all lines, -1 where below, else 0."""
    jaw, teeth, lips = bars["jaw"], bars["teeth"], bars["lips"]
    over = above(bars["low"], np.maximum(np.maximum(jaw, teeth), lips), tie)
    under = above(np.minimum(np.minimum(jaw, teeth), lips), bars["high"], tie)
    return over.astype(np.int8) - under.astype(np.int8)


def _confidence(bars: Bars, direction: NDArray[np.int8]) -> Floats:
    """How far the lines are apart and how fast they move, in mean bar ranges: 0 to 1, halved without a direction."""
    lines = [bars["jaw"], bars["teeth"], bars["lips"]]
    moved = sum((np.abs(line - shifted(line, 1)) for line in lines), np.zeros(len(bars)))
    apart = np.abs(lines[1] - lines[0]) + np.abs(lines[2] - lines[1])
    certain = CERTAIN * simple_moving_average(bars["high"] - bars["low"], RANGE_PERIODS)
    share = np.divide(moved + apart, certain, out=np.zeros(len(bars)), where=certain > 0)
    return np.minimum(share, 1) * np.where(direction == 0, 0.5, 1)


def _water(bars: Bars, direction: NDArray, phase: NDArray, position: NDArray) -> NDArray[np.int8]:
    moved = position != np.roll(position, 1)
    mixing = (position == 0) & ((phase == CLOSING) | (phase == OPENING))
    water = np.select([phase == SLEEPING, mixing, moved], [ASLEEP, SWITCHING, ENTERING], EATING).astype(np.int8)
    # A buying mouth is a selling one upside down.
    for side, edge in ((-1, bars["high"]), (1, bars["low"])):
        rows = np.flatnonzero(direction == side)
        water[rows] = _in_mouth(
            rows, water, phase, -side * position, [-side * v for v in (edge, bars["jaw"], bars["lips"])]
        )
    return water


def _in_mouth(
    rows: NDArray[np.int64], water: NDArray, phase: NDArray, position: NDArray, prices: Sequence[Floats]
) -> NDArray:
    """What a selling mouth makes of its bars; the prices are the bar's edge towards the mouth, the jaw and the lips."""
    edge, jaw, lips = (values[rows] for values in prices)
    edge_before, lips_before = prices[0][rows - 1], prices[2][rows - 1]
    tie = averages_tie(np.abs(edge))
    outside = above(lips, edge, tie) & (position[rows] == -1)
    inside = above(edge, lips, tie) & (position[rows] == 0)
    cases = {
        SWITCHING: outside & (phase[rows] == OPENING),
        POPING: outside & above(edge_before, lips_before, tie),
        SPLASHING: outside,
        THROWING: inside & above(jaw, edge, tie),
        ENTERING: inside & above(lips_before, edge_before, tie),
        EATING: inside,
    }
    return np.select(list(cases.values()), list(cases), water[rows])
