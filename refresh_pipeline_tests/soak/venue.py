"""Binance in miniature as a process of its own, some of whose answers are faults: it can be killed and come again.

Run as `python -m refresh_pipeline_tests.soak.venue PORT SEED SHARE`; it ends when its standard input does. Its candles
are a function of symbol, interval and time alone, so whoever asks for the truth later needs none of its state.
"""

import random
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes import binance
from refresh_pipeline_tests.fakes.binance_stream import StreamFaults, StreamingBinance
from refresh_pipeline_tests.fakes.http_server import Fault

FAULTS = (
    binance.too_many_requests(retry_after=2),
    binance.INTERNAL_ERROR,
    binance.BUSY,
    binance.BAD_GATEWAY,
    binance.NOT_JSON,
    binance.DROPPED,
    binance.slow(3),
)


class UnreliableBinance(StreamingBinance):
    """The venue, a share of whose answers are faults, drawn from a seed; so are closes that it streams."""

    def __init__(self, port: int, seed: int, share: float) -> None:
        super().__init__(lambda: datetime.now(UTC), symbols=binance.SYMBOLS, port=port)
        self._random = random.Random(seed)
        self._share = share

    def _prepare(self, closes: int) -> None:
        """See StreamingBinance; each minute has faults of its own, and a connection may be cut or silent for it."""
        super()._prepare(closes)
        drawn = StreamFaults(
            late={name: self._random.uniform(0.1, 3.0) for name in self._drawn()}, missing=self._drawn()
        )
        drawn.twice, drawn.out_of_order, drawn.forming = self._drawn(), self._drawn(), self._drawn()
        drawn.stalled = self._random.random() < self._share
        self.faults = drawn
        if self._random.random() < self._share:
            self.cut()

    def _drawn(self) -> set[str]:
        return {name for name in binance.SYMBOLS if self._random.random() < self._share}

    def _next_fault(self, request: web.Request, said: Mapping[str, Any]) -> Fault | None:
        # Nobody reads it here, and it would grow for an hour.
        self.asked.clear()
        return self._random.choice(FAULTS) if self._random.random() < self._share else None


if __name__ == "__main__":
    with UnreliableBinance(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])) as venue:
        print(venue.base_url, flush=True)
        sys.stdin.read()
