"""When a value became known: the bar that must close before a flag with a repaint is set.

Every other column is known when its own bar closes. That the same is told in SQL is the warehouse's matter.
"""

from collections.abc import Mapping

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Computation
from refresh_pipeline.market.candles import TIME_UNIT, Times

SUFFIX = "_known_at"


def later_known(computation: Computation) -> dict[str, int]:
    """The columns that are known later than their own bar, and how many bars later.

    A flag that waits for k bars may change until then and never afterwards: its repaint is its delay.
    """
    return {column.name: column.repaint for column in computation.columns if column.repaint}


def known_at(computation: Computation, bars: Bars) -> Mapping[str, Times]:
    """For each column that is known later, the open time of the bar at whose close it is; NaT where none has closed.

    `<column>_known_at`, one row a candle, UTC. A decision at the close of bar t may use what is known at t or before.
    """
    return {f"{name}{SUFFIX}": _opened(bars, later) for name, later in later_known(computation).items()}


def _opened(bars: Bars, later: int) -> Times:
    """The open time of the bar so many bars later in the same series.

    >>> bars = Bars(np.arange(3).astype(TIME_UNIT), {}, np.array([0, 3]))
    >>> _opened(bars, later=2).astype(str).tolist()
    ['1970-01-01T00:00:00.000002', 'NaT', 'NaT']
    """
    times = np.full(len(bars), np.datetime64("NaT"), dtype=TIME_UNIT)
    rows = np.flatnonzero(bars.remaining >= later)
    times[rows] = bars.open_time[rows + later]
    return times
