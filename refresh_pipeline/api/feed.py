"""What changed, for everybody who waits for it: one follower of the change feed, the tails, and those who listen.

The follower runs in a thread of its own; whoever listens is called in the event loop, once for
each commit that was seen.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import duckdb
import numpy as np

from refresh_pipeline.api.reading import BETWEEN_OPENINGS, alone
from refresh_pipeline.api.tails import Tails
from refresh_pipeline.duckdb_connection import end_idle_instances
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.streaming.push import Pushed
from refresh_pipeline.warehouse.connection import FilePlace, WarehouseBusy, WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.follower import LOOK_EVERY, PATIENCE, Follower
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.versions import Change, Changes

Listener = Callable[[Changes], None]
PushListener = Callable[[Pushed, Sequence[Series]], None]
# Candles that are read in one opening of the file: a fifth of a second.
ROWS_AN_OPENING = 60_000

log = logging.getLogger("refresh_pipeline.api")


@dataclass(frozen=True, slots=True)
class Version:
    """The newest change of some assets of a series; 0 and None where nothing is stored."""

    number: int = 0
    changed_at: datetime | None = None
    # The open time of the newest candle that a live run pushed and the file does not tell of yet.
    pushed: np.datetime64 | None = None


@dataclass(slots=True)
class Feed:
    """The newest change of each asset and series, and who is told of the next."""

    database: str
    tails: Tails
    epoch: str = ""
    version: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    _changes: dict[tuple[str, str, str, str], Change] = field(default_factory=dict)
    # The newest version of any series, by market, asset and timeframe.
    _newest: dict[tuple[str, str, str], int] = field(default_factory=dict)
    # Changed series whose tails are read in the next openings.
    _unread: dict[tuple[str, Series], datetime | None] = field(default_factory=dict)
    _listeners: set[Listener] = field(default_factory=set)
    _push_listeners: list[PushListener] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    # What is left to be done with what was read, once the file is closed: writers need not wait for it.
    _finish: Callable[[], None] | None = None
    _follower: Follower = field(init=False)

    def __post_init__(self) -> None:
        self._follower = Follower(self.database, self.take)

    @property
    def is_current(self) -> bool:
        """Whether the file is as it was read last, which costs two looks at it; nobody looks so at a lake."""
        place = place_of(self.database)
        as_read = isinstance(place, FilePlace) and place.signature() == self._follower.signature
        # In this order: the signature counts as read before the tails are brought forward.
        return as_read and self._finish is None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to follow, in a thread."""
        self.loop = loop
        self._thread = threading.Thread(target=self._follow, name="change feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call the listener in the event loop with what changes from now on; gives what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def newest(self, market: str, series: Series, assets: Iterable[Table]) -> Version:
        """The newest change of a series in any of these assets."""
        assets = list(assets)
        pushed = self.tails.pushed_until(market, series) if Table.raw_candles in assets else None
        keys = [(market, asset.value, series.instrument, series.timeframe.value) for asset in assets]
        changes = [change for key in keys if (change := self._changes.get(key)) is not None]
        if not changes:
            return Version(pushed=pushed)
        newest = max(changes, key=lambda change: change.version)
        return Version(newest.version, newest.changed_at, pushed)

    def newest_of(self, market: str, asset: Table, timeframe: Timeframe) -> int:
        """The number of the newest change of any series of a timeframe; 0 where nothing is stored."""
        return self._newest.get((market, asset.value, timeframe.value), 0)

    async def wait_beyond(self, version: int, seconds: float) -> None:
        """Return once a version above this one was seen, or after so many seconds."""
        if self.version > version or seconds <= 0:
            return
        changed = asyncio.Event()
        stop = self.listen(lambda _: changed.set())
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            stop()

    def listen_to_pushes(self, listener: PushListener) -> None:
        """Call the listener in the event loop with candles that live runs push, and how many of them are news."""
        self._push_listeners.append(listener)

    def take_pushed(self, pushed: Pushed) -> None:
        """Bring tails forward by candles that are not in the file yet; tell who listens. In the event loop."""
        fetched_at = instant(datetime.now(UTC))
        taken: list[Series] = []
        for number, series in enumerate(pushed.series):
            row = {name: values[number] for name, values in pushed.candles.items()}
            row |= {"open_time": pushed.open_time[number], "source": pushed.sources[number], "fetched_at": fetched_at}
            if self.tails.push(pushed.market, series, pushed.before[number], row):
                taken.append(series)
        for listener in self._push_listeners if taken else ():
            listener(pushed, taken)

    def take(self, connection: duckdb.DuckDBPyConnection, read: Changes) -> None:
        """Read the tails that changed, in the opening that read the changes."""
        if self._is_another(read):
            self.tails.forget()
            self._unread = {}
        self._finish = partial(self._bring_forward, self._read_tails(connection, _of_raw(read.changes)), read)

    def _is_another(self, read: Changes) -> bool:
        """Whether what was read is of another file than what is known."""
        return read.reset or bool(self.epoch and read.epoch != self.epoch)

    def _bring_forward(self, bring_tails_forward: Callable[[], None], read: Changes) -> None:
        """Bring tails and versions forward; then tell who listens."""
        if self._is_another(read):
            self._changes, self._newest = {}, {}
        bring_tails_forward()
        self._changes |= {(c.market, c.asset, c.instrument, c.timeframe): c for c in read.changes}
        for change in read.changes:
            key = change.market, change.asset, change.timeframe
            self._newest[key] = max(change.version, self._newest.get(key, 0))
        self.epoch, self.version = read.epoch, read.version
        if self.loop is not None and not self._stop.is_set():
            self.loop.call_soon_threadsafe(self._tell, read)

    def _read_tails(
        self, connection: duckdb.DuckDBPyConnection, changed: Mapping[tuple[str, Series], datetime | None]
    ) -> Callable[[], None]:
        """Read tails, and give what brings them forward; those that are read from their beginning, some at a time."""
        known = {key: since for key, since in changed.items() if self.tails.get(*key) is not None}
        self._unread |= {key: since for key, since in changed.items() if key not in known}
        some = list(self._unread)[: self.tails.most(ROWS_AN_OPENING)]
        bring_forward = self.tails.read(connection, known | {key: self._unread[key] for key in some})
        self._unread = {key: since for key, since in self._unread.items() if key not in some}
        return bring_forward

    def _look(self) -> None:
        # What failed the last time is done first, or nothing is.
        self._complete()
        with alone(self.database, PATIENCE):
            self._follower.look()
        self._complete()

    def _complete(self) -> None:
        if self._finish is not None:
            self._finish()
            self._finish = None

    def _read_the_rest(self) -> None:
        was_much = bool(self._unread)
        while self._unread and not self._stop.wait(BETWEEN_OPENINGS):
            with (
                alone(self.database, PATIENCE),
                connect(self.database, read_only=True, patience=PATIENCE) as connection,
            ):
                bring_forward = self._read_tails(connection, {})
            bring_forward()
        if was_much:
            end_idle_instances()

    def _tell(self, read: Changes) -> None:
        for listener in list(self._listeners):
            listener(read)

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            try:
                self._look()
                self._read_the_rest()
                # A file without any change is read as well.
                self.epoch, self.version = self._follower.epoch or "", self._follower.version
            except (WarehouseBusy, WarehouseUnreadable) as error:
                log.info("the feed waits: %s", error)
            except Exception:
                # A fault of ours in one look must not end all news.
                log.exception("the feed could not read what changed")


def _of_raw(changes: Sequence[Change]) -> dict[tuple[str, Series], datetime | None]:
    return {
        (change.market, Series(change.instrument, Timeframe(change.timeframe))): change.since
        for change in changes
        if change.asset == Table.raw_candles
    }
