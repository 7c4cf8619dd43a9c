"""What every handler needs: settings, markets, the reader, the feed. There is one for each process."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection

from refresh_pipeline.api.access import keys_of
from refresh_pipeline.api.answers import AnswerCache
from refresh_pipeline.api.counters import Requests
from refresh_pipeline.api.dagster_client import DagsterClient
from refresh_pipeline.api.expected import Expected
from refresh_pipeline.api.feed import Feed
from refresh_pipeline.api.frames import Column, Names
from refresh_pipeline.api.guard import Guard
from refresh_pipeline.api.known import KnownRequests
from refresh_pipeline.api.login import Keys
from refresh_pipeline.api.news import Hub
from refresh_pipeline.api.reading import Reader
from refresh_pipeline.api.reports import Reports
from refresh_pipeline.api.series_status import Standings
from refresh_pipeline.api.snapshots import NoSnapshots, Snapshots
from refresh_pipeline.api.stored_snapshots import StoredSnapshots
from refresh_pipeline.api.tails import Tails
from refresh_pipeline.market.apis import Collection
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.settings import Settings
from refresh_pipeline.streaming.push import subscribe
from refresh_pipeline.warehouse.signals import SeriesSignals

log = logging.getLogger("refresh_pipeline.api")


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Service:
    """The parts that handlers share."""

    settings: Settings
    markets: Sequence[Market]
    keys: Keys
    reader: Reader
    feed: Feed
    dagster: DagsterClient
    now: Callable[[], datetime] = field(default=_clock)
    started_at: datetime = field(default_factory=_clock)
    requests: Requests = field(default_factory=Requests)
    reports: Reports = field(default_factory=Reports)
    standings: Standings = field(default_factory=Standings)
    # What was asked before, the answers that are kept, the candles that are expected, and the columns of layers.
    known: KnownRequests = field(default_factory=KnownRequests)
    answers: AnswerCache = field(default_factory=AnswerCache)
    expected: Expected = field(default_factory=Expected)
    # The newest signals of instruments on a timeframe of a market, with epoch and version of the feed.
    signals: dict[tuple[str, Timeframe, tuple[str, ...]], tuple[tuple[str, int], Sequence[SeriesSignals]]] = field(
        default_factory=dict
    )
    columns: dict[tuple[str, Layer, Names], Sequence[Column]] = field(default_factory=dict)
    # Everybody who listens, and what API snapshots there are.
    hub: Hub = field(default_factory=Hub)
    snapshots: Snapshots = field(default_factory=NoSnapshots)
    # One command at a time asks whether its key was used before.
    launching: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Open streams by kind.
    listeners: Counter[str] = field(default_factory=Counter)
    # Set by the app that stands behind it.
    guard: Guard = field(init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        settings: Settings,
        markets: Sequence[Market],
        now: Callable[[], datetime] = _clock,
        collections: Sequence[Collection] = (),
    ) -> "Service":
        """The service of these settings, markets and collections of APIs."""
        feed = Feed(settings.warehouse, Tails(markets, settings.api_tail))
        reader, dagster = Reader(settings.warehouse), DagsterClient(settings)
        service = cls(settings, markets, keys_of(settings), reader, feed, dagster, now, now())
        service.snapshots = StoredSnapshots(settings, collections, reader, dagster)
        return service

    async def start(self) -> None:
        """Begin what runs beside the requests."""
        self.feed.start(asyncio.get_running_loop())
        self.in_background(subscribe(self.settings.live_dir, self.feed.take_pushed))

    async def close(self) -> None:
        """End the threads, the connections and what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self.feed.close)
        await asyncio.to_thread(self.reader.close)
        await self.dagster.close()

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something after the answer; what goes wrong is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what a command asked for afterwards failed: %s", error)


def service_of(request: HTTPConnection) -> Service:
    """The service that a request is answered by."""
    return request.app.state.service
