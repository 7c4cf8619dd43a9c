"""The live run: listens to a market's streams, has REST fill what they lack, computes and writes waves.

One thread holds the event loop (streams, timing), one computes and writes, one asks REST, one reports. So sockets are
drained while a wave is computed, and no connection ends because nobody reads it.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Candles, instant
from refresh_pipeline.market.live_spec import LiveSettings
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series, listing
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.compute import compute
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.redaction import clean
from refresh_pipeline.sources import Request, Source, SourceError
from refresh_pipeline.sources.streaming import ClosedCandle, Streaming
from refresh_pipeline.streaming.engine import Engine
from refresh_pipeline.streaming.intake import Intake, good
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.ingest import CLOCK_SKEW
from refresh_pipeline.warehouse.live import LiveStore, Wave
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

log = logging.getLogger("refresh_pipeline")

# A series that is further behind than so many bars is caught up by a refresh before live mode takes it over.
CAUGHT_UP_BARS = 30
# Bars of a series that are computed before they are written, at most: where computing takes longer than a bar, the next
# one is always ready.
BARS_AT_ONCE = 30
# Seconds between two waves of stragglers, and between two attempts to load series that others are writing.
BETWEEN_WAVES, BETWEEN_LOADS = 0.8, 1.0
# Seconds after a close at which a minute's report is made.
REPORT_AFTER = 2.2
# REST may lack a candle shortly after its close: what it does not have of older bars does not exist.
SETTLED = np.timedelta64(30, "s")
# Seconds after a close at which REST is asked again for what it did not have at first.
ASKED_AGAIN = (5.0, 15.0, 30.0)
# Seconds that waves may wait in memory for the warehouse's lock before a warning, and before the run fails.
WARNS_AFTER, WAITS_AT_MOST = 60.0, 600.0
# The shortest and the relative silence after which a connection is opened anew.
SHORTEST_SILENCE, SILENT_BARS = 5.0, 1.25
# A venue's clock may be off by so many seconds before a warning.
CLOCK_TOLERANCE = 0.5
POLL = 0.005
# A run whose time is over ends after a wave, or after so long without one.
LONGEST_LULL = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, and how much faster than the machine's clock it runs; tests shrink a minute to a second."""

    now: Callable[[], datetime]
    speed: float = 1.0

    def seconds_until(self, moment: np.datetime64) -> float:
        """Seconds of the machine's clock until an instant; negative after it."""
        return float((moment - instant(self.now())) / np.timedelta64(1, "s")) / self.speed


@dataclass(slots=True)
class Report:
    """What happened in one bar of the market's shortest timeframe.

    `readable` holds the seconds from the close at which each share of its candles could be read by others.
    """

    close: np.datetime64
    series: list[Series] = field(default_factory=list)
    readable: list[float] = field(default_factory=list)
    # Series whose candle came by REST, or after the first wave.
    filled: list[Series] = field(default_factory=list)
    late: list[Series] = field(default_factory=list)
    missing: list[Series] = field(default_factory=list)
    reconnects: int = 0
    reloaded: list[Series] = field(default_factory=list)
    clock_offset: float = 0.0

    def lateness(self, share: float) -> float | None:
        """Seconds after the close at which this share of the candles was readable; None without candles."""
        ordered = sorted(self.readable)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a live run works with."""

    warehouse: Warehouse
    source: Source
    stream: Streaming
    clock: Clock
    run_id: str = ""
    # Called in a thread of its own with each bar's report.
    report: Callable[[Report], None] = lambda report: None
    # Called with waves that are computed, before they are written.
    pushed: Callable[[Sequence[Wave]], None] = lambda waves: None


class LiveRun:
    """One market's live run; `end` may be called from any thread."""

    def __init__(self, market: Market, parts: Parts) -> None:
        """Nothing is loaded until `run`."""
        self._market, self._parts, self._clock = market, parts, parts.clock
        self._settings = market.live or LiveSettings()
        streamed = set(parts.stream.streamed_timeframes)
        self._series = [each for each in market.series if each.timeframe in streamed]
        self._store = LiveStore(parts.warehouse, market)
        self._engine = Engine(market, self._series, self._store)
        self._intake = Intake(market)
        self._worker, self._rest, self._reporter = (ThreadPoolExecutor(1, name) for name in ("live", "rest", "report"))
        self._reports: dict[np.datetime64, Report] = {}
        self._unwritten: list[Wave] = []
        self._busy_since: float | None = None
        self._to_load: set[Series] = set()
        # Why REST could not fetch a series the last time.
        self._errors: dict[Series, str] = {}
        self._reloaded: list[Series] = []
        self._asked: set[Series] = set()
        self._by_rest: set[tuple[Series, np.datetime64]] = set()
        self._reconnects, self._last_arrival = 0, 0.0
        # No candle that closes later is taken.
        self._accepted_until = np.datetime64("0001-01-01", "us")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = self._is_going = False
        self.offset, self._offset_told = 0.0, -math.inf
        # Seconds that each wave took to come together, to be computed, pushed and written.
        self.spent: dict[str, list[float]] = {}

    # ---- begin and end

    def run(self, until: datetime | None = None) -> None:
        """Go on until `end` is called, or until the first wave after `until`.

        Raises:
            WarehouseBusy: the warehouse was locked for ten minutes.
        """
        self._is_going = True
        try:
            asyncio.run(self._run(until))
        finally:
            self._is_going = False
            for pool in (self._worker, self._rest, self._reporter):
                pool.shutdown(cancel_futures=True)

    @property
    def is_going(self) -> bool:
        """Whether `run` has begun and not returned."""
        return self._is_going

    def end(self) -> None:
        """End after the present wave."""
        self._is_over = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._changed.set)

    async def _run(self, until: datetime | None) -> None:
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        await self._in_worker(self._begin)
        tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._watch_closes()),
            asyncio.create_task(self._reload()),
        ]
        waves = asyncio.create_task(self._write_waves(until))
        try:
            finished, _ = await asyncio.wait([*tasks, waves], return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            for task in (*tasks, waves):
                task.cancel()
            await asyncio.gather(*tasks, waves, return_exceptions=True)
        # A bar's report may still come due meanwhile.
        for report in list(self._reports.values()):
            await self._in(self._reporter, self._parts.report, report)

    def _begin(self) -> None:
        """Load every series; those that are far behind, or not computed, are refreshed first."""
        warehouse, market, now = self._parts.warehouse, self._market, self._clock.now()
        with warehouse.session(market.name):
            warehouse.prepare(market)
            stats = warehouse.series_stats(market, self._series)
        far = [
            each
            for each in self._series
            for last in [stats[each].last_open_time]
            if last is None or instant(now) - last > length_of(each.timeframe) * CAUGHT_UP_BARS
        ]
        if far:
            attempts = refresh_candles(warehouse, market, self._parts.source, far, now, gaps={})
            warehouse.record(market, Table.raw_candles, attempts, self._parts.run_id, now)
        self._compute_queued(self._series)
        self._take_over(self._engine.load(self._series))
        self._to_load = set(self._series) - set(self._intake.series)

    def _compute_queued(self, series: Sequence[Series]) -> None:
        queued = self._store.queued(series)
        for table in (Table.enhanced_candles, Table.indicators) if queued else ():
            attempts = compute(self._parts.warehouse, self._market, table, queued)
            self._parts.warehouse.record(self._market, table, attempts, self._parts.run_id, self._clock.now())

    def _take_over(self, newest: dict[Series, np.datetime64]) -> None:
        for series, last in newest.items():
            self._intake.begin(series, last)

    # ---- what the stream says: the protocol Listener

    def opened(self, series: Sequence[Series]) -> None:
        """See Listener; REST is asked for the bars that closed before, and for no series that lacks none."""
        self._ask_for_missing(series)

    def ended(self, series: Sequence[Series], reason: str) -> None:
        """See Listener."""
        self._reconnects += 1
        log.info("%s: a stream of %d series ended: %s", self._market.name, len(series), clean(reason))

    def closed(self, candle: ClosedCandle) -> None:
        """See Listener."""
        closes = candle.open_time + length_of(candle.series.timeframe)
        # Hundreds come at once: what the clock has passed once stays passed.
        if closes > self._accepted_until:
            self._accepted_until = instant(self._clock.now() + CLOCK_SKEW)
        if closes > self._accepted_until:
            log.warning("%s %s: a candle that closes later than now is ignored", self._market.name, candle.series)
            return
        if self._intake.offer(candle if candle.source else replace(candle, source=self._parts.stream.kind)):
            self._last_arrival = time.monotonic()
            self._changed.set()

    def told_time(self, seconds: float) -> None:
        """See Listener."""
        # A message that was late on its way looks like a slow clock: the quickest of a bar says most.
        self._offset_told = max(self._offset_told, seconds - self._clock.now().timestamp())

    def compare_clocks(self) -> None:
        """Warn once where the venue's clock is off this machine's, by the messages since the last bar."""
        offset, self._offset_told = self._offset_told, -math.inf
        if offset == -math.inf:
            return
        if abs(offset) > CLOCK_TOLERANCE * self._clock.speed >= abs(self.offset):
            log.warning("%s: the venue's clock is %.1f s off this machine's", self._market.name, offset)
        self.offset = offset

    async def _listen(self) -> None:
        shortest = min(each.timeframe.minutes for each in self._series) * 60 / self._clock.speed
        silence = max(shortest * SILENT_BARS, SHORTEST_SILENCE / self._clock.speed)
        await self._parts.stream.listen(self._series, self, silence)

    # ---- what REST fills

    async def _watch_closes(self) -> None:
        """Ask REST for what has not come shortly after each close, and again; report each bar."""
        shortest, calendar = min(each.timeframe for each in self._series), self._market.calendar
        while True:
            close = calendar.next_close(shortest, instant(self._clock.now()))
            await self._sleep_until(close, self._settings.rest_after)
            self._report_of(close)
            self._ask(self._intake.behind(close))
            asyncio.get_running_loop().call_later(
                max(REPORT_AFTER / self._clock.speed**0.5, self._settings.rest_after), self._send_report, close
            )
            for seconds in ASKED_AGAIN:
                asyncio.get_running_loop().call_later(seconds / self._clock.speed, self._ask_again, close)
            wait = (ASKED_AGAIN[-1] + BETWEEN_LOADS) / self._clock.speed
            asyncio.get_running_loop().call_later(wait, self._record_failures, close)

    def _ask_again(self, close: np.datetime64) -> None:
        self._ask(self._intake.behind(close))

    def _record_failures(self, close: np.datetime64) -> None:
        """Put on record which series REST could not fetch either; their candles stay, and checks say so."""
        failed = {
            each: Attempt(Outcome.failed, reason=self._errors[each], transient=True)
            for each in self._intake.behind(close)
            if each in self._errors
        }
        if failed and not self._is_over:
            record = self._parts.warehouse.record
            arguments = (self._market, Table.raw_candles, failed, self._parts.run_id, self._clock.now())
            asyncio.get_running_loop().run_in_executor(self._worker, record, *arguments)

    def _ask_for_missing(self, series: Iterable[Series]) -> None:
        """Ask for the bars of these series that have closed and not come: a venue may serve five series a second."""
        late = set(self._intake.behind(instant(self._clock.now())))
        self._ask(each for each in series if each in late)

    def _ask(self, series: Iterable[Series]) -> None:
        known = set(self._intake.series)
        wanted = [each for each in series if each in known and each not in self._asked]
        if not wanted or self._is_over:
            return
        self._asked.update(wanted)
        now = self._clock.now()
        requests = [Request(each, self._intake.next_bar(each), instant(now)) for each in wanted]
        requests = [request for request in requests if request.since < request.until]
        asyncio.get_running_loop().run_in_executor(self._rest, self._fetch, requests, wanted, now)

    def _fetch(self, requests: Sequence[Request], asked: Sequence[Series], now: datetime) -> None:
        assert self._loop is not None
        call = self._loop.call_soon_threadsafe
        since = {request.series: request.until for request in requests}
        with contextlib.suppress(RuntimeError):
            try:
                for fetched in self._parts.source.fetch(requests, now) if requests else ():
                    call(
                        self._filled,
                        fetched.series,
                        fetched.candles,
                        fetched.error,
                        fetched.last and since[fetched.series],
                        fetched.source or self._parts.source.kind,
                    )
            except SourceError as error:
                log.info("%s: REST: %s", self._market.name, error)
            finally:
                call(self._asked.difference_update, asked)

    def _filled(
        self, series: Series, candles: Candles, error: SourceError | None, last: np.datetime64 | bool, source: str
    ) -> None:
        for row, open_time in enumerate(candles.open_time):
            values = tuple(float(candles[name][row]) for name in ("open", "high", "low", "close", "volume"))
            if self._intake.offer(ClosedCandle(series, open_time, values, source)):
                self._by_rest.add((series, open_time))
                self._last_arrival = time.monotonic()
        if error is not None:
            log.info("%s: REST: %s", self._market.name, error)
            self._errors[series] = str(error).removeprefix(f"{series}: ")
        elif isinstance(last, np.datetime64):
            self._errors.pop(series, None)
            self._intake.know(series, (last - (SETTLED + length_of(series.timeframe))).astype(TIME_UNIT))
        self._changed.set()

    # ---- waves

    async def _write_waves(self, until: datetime | None) -> None:
        while not self._is_over:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1.0)
            self._changed.clear()
            if not self._intake.has_ready and not self._unwritten:
                if until is not None and self._clock.now() >= until + LONGEST_LULL:
                    return
                continue
            with self._timed("collect"):
                await self._collected()
            await self._advance()
            if self._intake.has_ready:
                self._changed.set()
            if until is not None and self._clock.now() >= until:
                return
            # Stragglers are taken together; a new bar's burst is not kept waiting.
            close = self._market.calendar.next_close(min(self._market.timeframes), instant(self._clock.now()))
            await asyncio.sleep(max(min(BETWEEN_WAVES / self._clock.speed, self._clock.seconds_until(close)), 0))

    async def _collected(self) -> None:
        """Wait until every candle has come, none has for a while, or the first has waited long enough."""
        begun = time.monotonic()
        while (passed := time.monotonic()) - begun < self._settings.latest:
            if passed - self._last_arrival > self._settings.quiet:
                return
            if self._intake.is_complete:
                return
            await asyncio.sleep(POLL)

    async def _advance(self) -> None:
        """Compute and write whatever is ready."""
        candles: list[ClosedCandle] = []
        newest: list[ClosedCandle] = []
        for _ in range(BARS_AT_ONCE):
            if self._is_over or not (ready := self._good(self._intake.ready())):
                break
            candles += ready
            with self._timed("compute"):
                waves = await self._in_worker(self._compute, newest, ready)
            with self._timed("push"):
                self._parts.pushed(waves)
            self._unwritten += waves
            newest = ready
        with self._timed("write"):
            conflicts = await self._in_worker(self._write) if self._unwritten else None
        if conflicts is not None:
            self._note([candle for candle in candles if candle.series not in conflicts])
        if conflicts:
            log.info("%s: others wrote %s: read anew", self._market.name, listing(sorted(conflicts, key=str)))
            self._intake.leave(conflicts)
            self._to_load |= conflicts
        # Where all series end a block it takes a second, which the rows of its last bar need not wait for.
        await self._in_worker(self._engine.open_blocks, newest)

    def _compute(self, before: Sequence[ClosedCandle], candles: Sequence[ClosedCandle]) -> list[Wave]:
        """The waves of these candles, which follow those of the bar before."""
        self._engine.open_blocks(before)
        return self._engine.compute(candles)

    def _good(self, candles: list[ClosedCandle]) -> list[ClosedCandle]:
        """The candles without those that contradict themselves, which are set aside in the warehouse."""
        if not candles:
            return []
        reasons = good(candles)
        wrong = [candle for candle, reason in reasons.items() if reason is not None]
        if not wrong:
            return candles
        self._intake.reject(wrong)
        asyncio.get_running_loop().run_in_executor(self._worker, self._set_aside, wrong)
        rest = [candle for candle, reason in reasons.items() if reason is None]
        return rest or self._good(self._intake.ready())

    def _set_aside(self, candles: Sequence[ClosedCandle]) -> None:
        names = ("open", "high", "low", "close", "volume")
        arrivals = {
            candle.series: Candles.of(
                [candle.open_time], **dict(zip(names, ([value] for value in candle.values), strict=True))
            )
            for candle in candles
        }
        self._parts.warehouse.store_candles(self._market, arrivals, self._parts.stream.kind, self._clock.now())

    def _write(self) -> set[Series] | None:
        """Write what is computed; gives the series that others have written, None while they hold the warehouse."""
        waves, begun = self._unwritten, time.monotonic()
        try:
            conflicts = self._store.write(waves, run_id=self._parts.run_id, now=self._clock.now())
        except WarehouseBusy as error:
            self._busy_since = self._busy_since or begun
            waited = time.monotonic() - self._busy_since
            level = logging.INFO if waited < WARNS_AFTER else logging.WARNING
            log.log(level, "%s: %d waves wait in memory for %.0f s: %s", self._market.name, len(waves), waited, error)
            if waited > WAITS_AT_MOST:
                raise
            return None
        self._unwritten, self._busy_since = [], None
        self._engine.forget(conflicts)
        return conflicts

    async def _reload(self) -> None:
        """Load what is not loaded: new series, and those that others have written."""
        attempts: dict[Series, int] = {}
        while True:
            await asyncio.sleep(BETWEEN_LOADS / self._clock.speed)
            if not self._to_load:
                continue
            wanted = sorted(self._to_load, key=str)
            # Whoever stored their candles computes them as well; where it was killed, nobody does.
            stuck = [each for each in wanted if attempts.setdefault(each, 0) % 10 == 9]
            attempts |= {each: attempts[each] + 1 for each in wanted}
            newest = await self._in_worker(self._load_anew, wanted, stuck)
            self._take_over(newest)
            self._to_load -= newest.keys()
            for each in newest:
                attempts.pop(each, None)
            if newest:
                self._reloaded += newest
                self._ask_for_missing(newest)

    def _load_anew(self, wanted: Sequence[Series], stuck: Sequence[Series]) -> dict[Series, np.datetime64]:
        try:
            if stuck:
                self._compute_queued(stuck)
            return self._engine.load(wanted)
        except WarehouseBusy as error:
            log.info("%s: %s", self._market.name, error)
            return {}

    # ---- reports

    def _note(self, candles: Sequence[ClosedCandle]) -> None:
        """Write down when candles became readable."""
        first_waves = {close: bool(report.series) for close, report in self._reports.items()}
        readable: dict[tuple[Calendar, Timeframe, np.datetime64], tuple[np.datetime64, float]] = {}
        for candle in candles:
            key = self._market.calendar_of(candle.series.instrument), candle.series.timeframe, candle.open_time
            if key not in readable:
                closes = key[0].closes(key[1], np.array([candle.open_time]))[0]
                readable[key] = closes, -self._clock.seconds_until(closes)
            close, seconds = readable[key]
            report = self._report_of(close)
            report.series.append(candle.series)
            report.readable.append(seconds)
            if (candle.series, candle.open_time) in self._by_rest:
                self._by_rest.discard((candle.series, candle.open_time))
                report.filled.append(candle.series)
            if first_waves.get(close):
                report.late.append(candle.series)

    def _report_of(self, close: np.datetime64) -> Report:
        return self._reports.setdefault(close, Report(close))

    def _send_report(self, close: np.datetime64) -> None:
        """Report a bar; candles of earlier bars that came after their report are told in another one."""
        now = self._report_of(close)
        now.missing = self._intake.behind(close)
        now.reconnects, self._reconnects = self._reconnects, 0
        now.reloaded, self._reloaded = self._reloaded, []
        self.compare_clocks()
        now.clock_offset = self.offset
        for moment in sorted(moment for moment in self._reports if moment <= close):
            report = self._reports.pop(moment)
            asyncio.get_running_loop().run_in_executor(self._reporter, self._parts.report, report)

    # ---- threads and time

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.spent.setdefault(part, []).append(time.monotonic() - begun)

    async def _in_worker(self, call: Callable, *arguments: object):
        return await self._in(self._worker, call, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, call: Callable, *arguments: object):
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)

    async def _sleep_until(self, moment: np.datetime64, seconds_after: float) -> None:
        await asyncio.sleep(max(self._clock.seconds_until(moment) + seconds_after, 0))
