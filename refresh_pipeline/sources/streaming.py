"""Closed candles as venues push them: the protocol beside `Source`. Nothing here stores or computes anything.

A stream never proves that a candle did not exist: who listens asks REST for what has not come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe


@dataclass(frozen=True, slots=True)
class ClosedCandle:
    """One candle that is taken for closed: open time (datetime64[us], UTC), then CANDLE_COLUMNS in order.

    `source` is the name written beside it; empty, that of the stream.
    """

    series: Series
    open_time: np.datetime64
    values: tuple[float, ...]
    source: str = ""


class Listener(Protocol):
    """Who listens to a stream. Every method is called in the event loop and returns at once."""

    def opened(self, series: Sequence[Series]) -> None:
        """A connection for these series is open; what closed before it is for REST to fetch."""
        ...

    def ended(self, series: Sequence[Series], reason: str) -> None:
        """A connection has ended, or could not be opened; the stream tries again by itself."""
        ...

    def closed(self, candle: ClosedCandle) -> None:
        """A candle has closed. It may come late, twice or out of order."""
        ...

    def told_time(self, seconds: float) -> None:
        """When the venue sent a message, in seconds since 1970 by its clock."""
        ...


class Streaming(Protocol):
    """A venue that pushes closed candles."""

    # The name written beside each candle: that of the source, or one of its own where REST may correct its candles.
    kind: str

    @property
    def streamed_timeframes(self) -> Sequence[Timeframe]:
        """The timeframes whose closed candles it pushes."""
        ...

    async def listen(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """Push the closed candles of these series to the listener until canceled, over any number of connections.

        A connection without any message for `silence` seconds is closed and opened anew.
        """
        ...
