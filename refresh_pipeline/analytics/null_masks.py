"""Where values are null for 0/0, known for many rows at once or without computing a mask at all.

Which denominators are 0 is in denominators.py. A mask of a window is the same wherever its arrays begin. A mask of an
average that remembers for ever is false where the market moved in the last bars.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics import denominators
from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import Floats

Mask = NDArray[np.bool_]
# Bars of which one at least has to move for a market that does not stand still, and how much of the price: an average
# that remembers for ever is then a million times what counts as 0.
MOVING_BARS, MOVE = 8, 1e-6
# Before so many bars a mask looks no further back.
MASK_BARS = 64


class Nulls(Enum):
    """How it is known where a call's values are null for 0/0."""

    never = "never"
    # From the last bars, of all series at once.
    window = "window"
    # Not where the market moved in the last bars, or throughout the bars before as well.
    halt = "halt"
    earlier_halt = "earlier halt"
    # From the last values of the RSI; not where volume was traded.
    strength = "strength"
    volume = "volume"
    # Only from the block's stretch.
    stretch = "stretch"


def nulls_of(mask: Callable[..., Any] | None, arguments: Sequence[object]) -> Nulls:
    """How the nulls of a call with these arguments are known; `mask` is its mask in denominators.py."""
    if mask is None:
        return Nulls.never
    periods = [value for value in arguments if isinstance(value, int)]
    if sum(periods) >= MASK_BARS:
        return Nulls.stretch
    if mask in denominators.OF_A_WINDOW:
        return Nulls.window
    if denominators.is_stochastic_rsi(mask):
        return Nulls.strength
    if denominators.is_volume_oscillator(mask):
        return Nulls.volume if min(periods[:2]) > 1 else Nulls.stretch
    # An average of one bar, or two of two bars, forgets a move too soon.
    forgets = min(periods) < 2 or periods.count(2) > 1
    if mask in denominators.NEEDS_A_HALT and not forgets:
        return Nulls.halt
    return Nulls.earlier_halt if mask in denominators.NEEDS_AN_EARLIER_HALT and not forgets else Nulls.stretch


def moved(high: Floats, low: Floats, close: Floats) -> Mask:
    """Whether the market moved at each bar but the first, along the last axis: by close, by range, by one side more."""
    up, down = np.diff(high), -np.diff(low)
    price = MOVE * close[..., 1:]
    by_close_and_range = (np.abs(np.diff(close)) > price) & ((high - low)[..., 1:] > price)
    return by_close_and_range & (up != down) & (np.maximum(up, down) > price)


@dataclass(frozen=True, slots=True)
class Movement:
    """Whether each row's market moved in the last MOVING_BARS bars of its series, up to and including the row."""

    moves: Mask

    @classmethod
    def of(cls, bars: Bars) -> "Movement":
        """That of every row."""
        if not len(bars):
            return cls(np.zeros(0, dtype=bool))
        here = np.append(False, moved(bars["high"], bars["low"], bars["close"]))
        rows, first = np.arange(len(bars)), np.repeat(bars.starts[:-1], bars.lengths)
        # A series' first row has no bar before it.
        last = np.maximum.accumulate(np.where(here & (rows > first), rows, -1))
        return cls((last > first) & (rows - last < MOVING_BARS))

    def throughout(self, begin: int, end: int, series: int) -> int:
        """Whether the market moved at all rows from `begin` to `end` (excluded): 0 if not, 1 if so, 2 before as well.

        `series` is the first row of the series here. At 1, masks of the kind `halt` are false at these rows, at 2 those
        of the kind `earlier_halt` as well.
        """
        if not self.moves[begin:end].all():
            return 0
        earlier = begin - MASK_BARS
        return 2 if earlier >= series and self.moves[earlier:begin].all() else 1


def window_masks(
    mask: Callable[..., Any], bars: Bars, takes: Sequence[str], arguments: Sequence[object], at: NDArray[np.int64]
) -> tuple[Mask, ...] | Mask:
    """A mask of a window at the wanted rows `at`: one for each output, or one for all."""
    reach = sum(value for value in arguments if isinstance(value, int)) + 2
    has_rows = bars.first_rows < bars.starts[1:]
    # No window of a wanted row may reach into the series before it.
    is_deep = not has_rows.any() or bool((bars.first_rows - bars.starts[:-1])[has_rows].min() >= reach)
    pieces = [slice(0, len(bars))] if is_deep else bars.slices
    parts = [mask(*(bars[name][piece] for name in takes), *arguments) for piece in pieces if piece.stop > piece.start]
    if not parts:
        return np.zeros(0, dtype=bool)
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(each)[at] for each in zip(*parts, strict=True))
    return np.concatenate(parts)[at]
