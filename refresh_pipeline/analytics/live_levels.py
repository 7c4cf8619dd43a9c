"""Support and resistance of many series, one new bar at a time.

Levels change where a swing is confirmed, and where the oldest one leaves the window: for these series alone the
package's own formula is evaluated. All others keep what they had.
"""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.evaluation import Part, RowFormula, Rows
from refresh_pipeline.analytics.levels import LEVEL_BARS, SWING, is_swing
from refresh_pipeline.analytics.live_windows import Members, Windows
from refresh_pipeline.market.candles import Floats

_SWING_BARS = 2 * SWING + 1


class LiveLevels:
    """The levels of one market's series at their newest bars."""

    def __init__(self, part: Part[RowFormula], series: int, windows: Windows) -> None:
        """`windows` holds the candles of all series; none has levels yet."""
        self.names = part.names
        self._formula, self._windows = part.formula, windows
        self._values = np.full((len(self.names), series), np.nan)
        self._is_known = np.zeros(series, dtype=bool)

    def forget(self, members: Members) -> None:
        """Evaluate these series at their next bar: their candles are others."""
        self._is_known[members] = False

    def step(self, members: Members) -> Floats:
        """The levels at a new bar of these series: an array of columns x series."""
        changed = ~self._is_known[members]
        # The swing that the new bar confirms, and the one that the window has just left.
        for back in (0, LEVEL_BARS - SWING):
            changed |= self._has_swing(members, back)
        due = members[changed]
        if len(due):
            bars = self._windows.bars(due, self._formula.reach + 2)
            rows = Rows(bars, bars.starts[1:] - 1)
            self._values[:, due] = np.array(self._formula.compute(rows), dtype=np.float64)
            self._is_known[due] = True
        return self._values[:, members]

    def _has_swing(self, members: Members, back: int) -> NDArray[np.bool_]:
        high, low = (self._windows.last(name, members, _SWING_BARS, back=back) for name in ("high", "low"))
        return is_swing(high) | is_swing(-low)
