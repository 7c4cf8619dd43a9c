"""The alligator's mouth and the water around it: where its lines point, what they do, where the bar is among them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.rolling import shifted, simple_moving_average
from refresh_pipeline.market.candles import Floats

# A mouth narrower than this, in price, is shut: the original's threshold.
SHUT = 1e-8
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
    direction, phase, position = _direction(bars), _phase(bars), _position(bars)
    water = _water(bars, direction, phase, position)
    texts = [DIRECTIONS[direction + 1], PHASES[phase], POSITIONS[position + 1], WATERS[water]]
    return [*texts, _confidence(bars, direction)]


def _direction(bars: Bars) -> NDArray[np.int8]:
    """1 where the lines stand and move upwards in order, -1 where downwards, else 0."""
    jaw, teeth, lips = bars["jaw"], bars["teeth"], bars["lips"]
    before = [shifted(line, 1) for line in (jaw, teeth, lips)]
    up, down = (lips > teeth) & (teeth > jaw), (lips < teeth) & (teeth < jaw)
    for line, earlier in zip((jaw, teeth, lips), before, strict=True):
        up &= line > earlier
        down &= line < earlier
    return up.astype(np.int8) - down.astype(np.int8)


def _phase(bars: Bars) -> NDArray[np.int8]:
    width = (np.abs(bars["jaw"] - bars["teeth"]) + np.abs(bars["teeth"] - bars["lips"])) / 2
    before = shifted(width, 1)
    rises, falls = width > before, width < before
    phase = np.where(width > SHUT, OPEN, SLEEPING)
    phase[rises] = np.where(before[rises] < SHUT, OPENING, OPEN)
    phase[falls] = np.where(width[falls] < SHUT, SLEEPING, CLOSING)
    return phase.astype(np.int8)


def _position(bars: Bars) -> NDArray[np.int8]:
    """1 where the bar is above all lines, -1 where below, else 0."""
    jaw, teeth, lips = bars["jaw"], bars["teeth"], bars["lips"]
    above = bars["low"] > np.maximum(np.maximum(jaw, teeth), lips)
    below = bars["high"] < np.minimum(np.minimum(jaw, teeth), lips)
    return above.astype(np.int8) - below.astype(np.int8)


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
    outside = (edge < lips) & (position[rows] == -1)
    inside = (edge > lips) & (position[rows] == 0)
    cases = {
        SWITCHING: outside & (phase[rows] == OPENING),
        POPING: outside & (edge_before > lips_before),
        SPLASHING: outside,
        THROWING: inside & (edge < jaw),
        ENTERING: inside & (edge_before < lips_before),
        EATING: inside,
    }
    return np.select(list(cases.values()), list(cases), water[rows])
