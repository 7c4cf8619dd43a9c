"""A listener that remembers, and a stream that listens for it in a thread, as a live run does."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from refresh_pipeline.market.series import Series
from refresh_pipeline.sources.streaming import ClosedCandle, Streaming


class Heard:
    """A listener that remembers everything; its venues tell no time at which a message was sent."""

    def __init__(self) -> None:
        self.candles: list[ClosedCandle] = []
        self.reasons: list[str] = []
        self.opens: list[list[Series]] = []

    def opened(self, series: Sequence[Series]) -> None:
        """See Listener."""
        self.opens.append(list(series))

    def ended(self, series: Sequence[Series], reason: str) -> None:
        """See Listener."""
        self.reasons.append(reason)

    def closed(self, candle: ClosedCandle) -> None:
        """See Listener."""
        self.candles.append(candle)

    def told_time(self, seconds: float) -> None:
        """See Listener."""
        raise AssertionError("this venue tells no times of messages")

    def of(self, series: Series) -> list[ClosedCandle]:
        """The candles of a series."""
        return [candle for candle in self.candles if candle.series == series]

    def wait_until(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        """Return once something is so."""
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, (self.candles, self.reasons)
            time.sleep(0.02)


@contextmanager
def listening(stream: Streaming, series: Sequence[Series], heard: Heard, silence: float = 30.0) -> Iterator[Heard]:
    """Let a stream listen in a thread until the block ends; then it is cancelled."""
    loop, tasks = asyncio.new_event_loop(), []

    async def listen() -> None:
        tasks.append(asyncio.current_task())
        await stream.listen(series, heard, silence)

    def work() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(listen())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield heard
    finally:
        loop.call_soon_threadsafe(tasks[0].cancel)
        thread.join(20)
        loop.close()
    assert not thread.is_alive()
