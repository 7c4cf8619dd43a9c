"""Fetch candles of a batch of series, and store them as they arrive. No Dagster.

Export files are `export`'s and `upload`'s part.

Every step takes a batch of series and gives an `Attempt` for each; one series' failure is an answer, not an exception.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import TIME_UNIT, Candles, instant, iso_utc
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.time_bounds import CLOCK_SKEW
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.sources import Fetched, PermanentError, Request, Source, SourceError
from refresh_pipeline.sources.failover import PreferredSources, order_of, preferred_to, primary_of, provisional_of
from refresh_pipeline.sources.fetching import derived_timeframes, fetch
from refresh_pipeline.sources.origins import origins
from refresh_pipeline.warehouse.gaps import Stretches
from refresh_pipeline.warehouse.ingest import Stored
from refresh_pipeline.warehouse.outcomes import Attempt, SeriesStats
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

log = logging.getLogger("refresh_pipeline")

# A killed refresh loses what was not stored yet: at most this many candles, or this many seconds of a slow venue. More
# than a row group of DuckDB's (122,880 rows) is written once, not to its log first: a fifth of the time of 50,000.
ROWS_AT_ONCE = 250_000
SECONDS_AT_ONCE = 2.0
# A correction is followed back with questions for twice as many candles each time, for at most so many at once: the
# whole history of most series, and minutes of a slow venue.
FOLLOWED_BACK_AT_MOST = 500_000
# A stream's provisional candles are asked for again for so long: their source may have been away for longer than a
# refresh reads back, over a long weekend. A question for some days costs no more requests than one for an hour.
CORRECTED_WITHIN = timedelta(days=5)


# ---- raw candles


def requests_for(
    market: Market,
    series_stats: Mapping[Series, SeriesStats],
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Request]:
    """Which stretch to ask for, per series: from a few candles before the newest stored one, or the whole history.

    With `since` from there on, whatever is stored: that is how earlier history is filled.
    """
    end = min(instant(until), instant(now)) if until else instant(now)
    return [Request(series, _start(market, series, held, now, since), end) for series, held in series_stats.items()]


def requests_for_gaps(series_stats: Mapping[Series, SeriesStats], gaps: Stretches) -> list[Request]:
    """One request for each series that has a gap to fill."""
    return [Request(series, *gaps[series]) for series in series_stats if series in gaps]


def _with_bases(
    market: Market, source: Source, requests: Sequence[Request], series_stats: Mapping[Series, SeriesStats]
) -> list[Request]:
    """The requests; what is asked for to make longer candles reaches the stored base series as well.

    It costs no question: both hang on the same one. The base goes back no further than it is stored.
    """
    since = {request.series: request.since for request in requests}
    for base, longer in derived_timeframes(primary_of(source), market).items():
        for request in requests:
            series = Series(request.series.instrument, base)
            first = series_stats[series].first_open_time if series in since else None
            if request.series.timeframe in longer and first is not None:
                since[series] = min(since[series], max(request.since, first))
    return [replace(request, since=since[request.series]) for request in requests]


def _start(market: Market, series: Series, held: SeriesStats, now: datetime, since: datetime | None) -> np.datetime64:
    if since is not None:
        wanted = instant(since)
    elif held.last_open_time is None or held.first_open_time is None or held.first_open_time > instant(now):
        wanted = instant(now - market.history[series.timeframe])
    else:
        # A late correction comes within the newest few candles; they are read again each time. Candles of the future,
        # which a clock that was ahead has let in, do not keep those of now from being asked for.
        newest = min(held.last_open_time, instant(now))
        wanted = newest - length_of(series.timeframe) * (market.reread_of(series.timeframe) - 1)
    return bar_start(market, series, wanted)


def bar_start(market: Market, series: Series, wanted: np.datetime64) -> np.datetime64:
    """The open time of the bar that an instant lies in, on the calendar of the series' instrument."""
    times = np.array([wanted], dtype=TIME_UNIT)
    return market.calendar_of(series.instrument).floor(series.timeframe, times)[0]


def refresh_candles(
    warehouse: Warehouse,
    market: Market,
    source: Source,
    batch: Sequence[Series],
    now: datetime,
    *,
    gaps: Stretches,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[Series, Attempt]:
    """Fetch the gaps where there are any, else the candles from `since` to `until`, else the newest ones."""
    held = warehouse.series_stats(market, batch)
    requests = requests_for_gaps(held, gaps) if gaps else requests_for(market, held, now, since, until)
    if not gaps and since is None and (names := provisional_of(source)):
        oldest = warehouse.oldest_from(market, batch, names, now - CORRECTED_WITHIN)
        requests = [replace(each, since=min(each.since, oldest.get(each.series, each.since))) for each in requests]
    requests = _with_bases(market, source, requests, held)
    return fetch_candles(warehouse, market, source, requests, now)


def fetch_candles(
    warehouse: Warehouse,
    market: Market,
    source: Source,
    requests: Sequence[Request],
    now: datetime,
    *,
    watch: Callable[[Sequence[Fetched]], None] | None = None,
) -> dict[Series, Attempt]:
    """Ask the source for every series and store what arrives, as it arrives.

    `watch` is told what has just been stored; without it the progress is told in series.
    """
    tallies = {request.series: _Tally(request.since) for request in requests}
    for series, changed in _changed_origins(warehouse, market, source, list(tallies), now).items():
        tallies[series].error = PermanentError(changed)
    asked = [request for request in requests if tallies[request.series].error is None]
    if isinstance(source, PreferredSources) and asked:
        source.sample = warehouse.take_cross_check_turn(market, [request.series for request in asked], now)
    work = _Work(warehouse, market, source, now, tallies)
    work.ask(asked, watch or _series_counted(len(asked)))
    answered = [each for each in asked if tallies[each.series].error is None and each.since < each.until]
    work.follow_corrections()
    with warehouse.session(market.name):
        warehouse.record_empty_ranges(market, {each.series: (each.since, each.until) for each in answered}, now)
        missed = work.missed()
        if not missed:
            return work.finished()
    work.ask(missed, _unwatched)
    with warehouse.session(market.name):
        return work.finished()


def _changed_origins(
    warehouse: Warehouse, market: Market, source: Source, batch: Sequence[Series], now: datetime
) -> dict[Series, str]:
    """What to say of the series whose stored candles come from another venue or symbol than the YAML names."""
    changed = warehouse.settle_origins(market, origins(source, market, batch), now)
    return {series: _origin_changed(market, series.instrument, words) for series, words in changed.items()}


def _origin_changed(market: Market, instrument: str, words: str) -> str:
    options = f"--market {market.name}"
    return (
        f"the stored candles come from {words}. To fetch them anew, run `refresh forget {options} --instrument "
        f"{instrument}`; to keep them, run `refresh rename {options} {instrument} {instrument}`; or restore the YAML"
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What every question of one fetch needs, and what has come of them."""

    warehouse: Warehouse
    market: Market
    source: Source
    now: datetime
    tallies: Mapping[Series, "_Tally"]
    # When `now` was, by the clock that no correction of the time moves.
    began: float = field(default_factory=time.monotonic)

    @property
    def moment(self) -> datetime:
        """The instant that it is by now: a slow venue's candles are stored minutes after the run began."""
        return self.now + timedelta(seconds=time.monotonic() - self.began)

    def ask(self, requests: Sequence[Request], watch: Callable[[Sequence[Fetched]], None]) -> None:
        """Ask the source and store what arrives, as it arrives."""
        for request in requests:
            self.tallies[request.series].newest = None
        # The preferred source's first: what another one says of the same candles is held against them.
        order = order_of(self.source)
        for chunks in _bundled(fetch(self.source, self.market, requests, self.now)):
            for number, name in enumerate(order):
                self._store([chunk for chunk in chunks if (chunk.source or self.source.kind) == name], name, number)
            for chunk in chunks:
                self.tallies[chunk.series].hear(chunk)
                if chunk.error is not None:
                    log.info("%s %s: %s", self.market.name, chunk.series, chunk.error)
            watch(chunks)

    def _store(self, chunks: Sequence[Fetched], name: str, number: int) -> None:
        files = [(chunk.series, chunk.file) for chunk in chunks if chunk.file]
        arrivals = _joined(chunks)
        preferred = preferred_to(self.source, number)
        stored = self.warehouse.store_candles(
            self.market,
            arrivals,
            name,
            self.moment,
            preferred=preferred,
            files=files,
            derived=derived_timeframes(primary_of(self.source), self.market),
            # What another source gives is a part: it is asked for what the preferred one did not have.
            answered=self._answered(arrivals, {series for series, _ in files}) if number == 0 else {},
        )
        if number == 0 and (told := [each for chunk in chunks for each in chunk.adjustments]):
            # Another source's prices may follow other splits and dividends.
            count = self.warehouse.store_adjustments(self.market, told, name, self.now)
            if count:
                log.info("%s: %d splits and dividends are new or changed", self.market.name, count)
        for series, counts in stored.items():
            if series in self.tallies:
                self.tallies[series].count(counts, name)
            elif counts.added or counts.revised:
                log.info("%s %s: made again from its base: %d rows", self.market.name, series, counts.revised)

    def _answered(self, arrivals: Mapping[Series, Candles], from_files: Set[Series]) -> dict[Series, np.datetime64]:
        """From when on the candles of each series follow one another: since the newest that came before them.

        A venue's bulk files may lack candles that the venue has, and a malformed row may be any candle.
        """
        answered: dict[Series, np.datetime64] = {}
        for series, candles in arrivals.items():
            tally, times = self.tallies[series], candles.open_time[~np.isnat(candles.open_time)]
            if series in from_files or candles.malformed or not len(times):
                tally.newest = None
                continue
            answered[series] = times.min() if tally.newest is None else tally.newest
            tally.newest = max(times.max(), answered[series])
        return answered

    def missed(self) -> list[Request]:
        """Questions for stored candles that an earlier answer lacked."""
        answered = [series for series, tally in self.tallies.items() if tally.error is None]
        missed = self.warehouse.missed_candles_to_ask_for(self.market, answered, self.now)
        return [Request(series, *stretch) for series, stretch in missed.items()]

    def finished(self) -> dict[Series, Attempt]:
        """What became of each series, once all has been asked; the gaps are written down."""
        self._withdraw_unfinished()
        self.warehouse.write_gaps(self.market, self.now)
        held = self.warehouse.series_stats(self.market, list(self.tallies))
        return {series: tally.attempt(series, held[series], self.source.kind) for series, tally in self.tallies.items()}

    def _withdraw_unfinished(self) -> None:
        """Withdraw the newest candle of a series where it was made while the clock was ahead, and has not closed."""
        held = self.warehouse.series_stats(self.market, list(self.tallies))
        doubted = _not_closed(self.market, held, self.now)
        if not doubted:
            return
        derived = derived_timeframes(primary_of(self.source), self.market)
        for series, count in self.warehouse.withdraw_unfinished(self.market, doubted, derived, self.now).items():
            log.warning("%s %s: a candle that has not closed is withdrawn", self.market.name, series)
            self.tallies[series].stored += Stored(withdrawn=count)

    def follow_corrections(self) -> None:
        """Ask for ever longer stretches before the oldest corrected candle, until one agrees with its source."""
        candles = self.market.reread
        while earlier := self._earlier_stretches(candles := candles * 2):
            self.ask(earlier, _unwatched)

    def _earlier_stretches(self, candles: int) -> list[Request]:
        reaching = [series for series, tally in self.tallies.items() if tally.reaches_further_back]
        held = self.warehouse.series_stats(self.market, reaching) if reaching else {}
        requests: list[Request] = []
        for series, stats in held.items():
            tally, first = self.tallies[series], stats.first_open_time
            if first is None or first >= tally.asked_since:
                continue
            if candles > FOLLOWED_BACK_AT_MOST:
                tally.followed_back_short_of = first
                continue
            since = max(
                bar_start(self.market, series, tally.asked_since - length_of(series.timeframe) * candles), first
            )
            requests.append(Request(series, since, tally.asked_since))
            tally.go_back_to(since)
        return requests


def _not_closed(market: Market, held: Mapping[Series, SeriesStats], now: datetime) -> dict[Series, np.datetime64]:
    """The newest candle of the series where it is the bar in which `now` lies, by its opening time."""
    moment, latest = np.array([instant(now)], dtype=TIME_UNIT), instant(now + CLOCK_SKEW)
    doubted: dict[Series, np.datetime64] = {}
    for (calendar, timeframe), some in market.by_calendar(held).items():
        opens = calendar.floor(timeframe, moment)
        if calendar.closes(timeframe, opens)[0] > latest:
            doubted |= {each: opens[0] for each in some if held[each].last_open_time == opens[0]}
    return doubted


def _unwatched(_: Sequence[Fetched]) -> None:
    """Questions that nobody asked for do not count as progress."""


@dataclass(slots=True)
class _Tally:
    """What one series' fetch has come to so far."""

    # From where on the source was asked; in the latest question if a correction is followed back.
    asked_since: np.datetime64
    stored: Stored = field(default_factory=Stored)
    seconds: float = 0.0
    error: SourceError | None = None
    served_by: list[str] = field(default_factory=list)
    failover_reason: str = ""
    # Why there are no candles.
    remark: str = ""
    # The newest candle that the latest question has brought.
    newest: np.datetime64 | None = None
    # What the latest question has come to.
    latest: Stored = field(default_factory=Stored)
    followed_back_to: np.datetime64 | None = None
    followed_back_short_of: np.datetime64 | None = None

    @property
    def reaches_further_back(self) -> bool:
        """Whether the oldest candles of the latest answer were corrected, so that older ones may be as well."""
        if self.error is not None:
            return False
        compared = self.latest.first_revised is not None or self.latest.first_agreed is not None
        # A stretch without candles, a weekend for instance, says nothing about those before it.
        return self.latest.reaches_further_back or (self.followed_back_to is not None and not compared)

    def go_back_to(self, since: np.datetime64) -> None:
        """Expect the answer to a question for older candles."""
        self.asked_since, self.followed_back_to, self.latest = since, since, Stored()

    def count(self, stored: Stored, source: str) -> None:
        self.stored += stored
        self.latest += stored
        if (stored.added or stored.revised) and source not in self.served_by:
            self.served_by.append(source)

    def hear(self, chunk: Fetched) -> None:
        self.seconds += chunk.seconds
        self.error = chunk.error or self.error
        self.failover_reason = chunk.failover_reason or self.failover_reason
        self.remark = chunk.remark or self.remark

    def _reasons(self, series: Series) -> list[str]:
        if self.error:
            return [str(self.error).removeprefix(f"{series}: ")]
        if self.stored.rejected and not self.stored.accepted:
            return [f"the answer has no valid candle; {self._rejections()}"]
        return []

    def _rejections(self) -> str:
        return f"{self.stored.rejected} rejected: {self.stored.rejection}"

    def attempt(self, series: Series, held: SeriesStats, asked: str) -> Attempt:
        metadata: dict[str, object] = {"rows_rejected": self.stored.rejected}
        metadata |= {"source": ", ".join(self.served_by) or asked}
        metadata |= {"failover_reason": self.failover_reason} if self.failover_reason else {}
        metadata |= {"rows_withdrawn": self.stored.withdrawn} if self.stored.withdrawn else {}
        metadata |= self._followed_back()
        return Attempt.of(
            # Series with the same reason are reported in one line, so the reason must not name the series.
            reasons=self._reasons(series),
            remark=self._rejections() if self.stored.rejected else None if held.candle_count else self.remark or None,
            transient=self.error is not None and self.error.transient,
            changed=bool(self.stored.added or self.stored.revised or self.stored.withdrawn),
            has_data=held.candle_count > 0,
            rows_added=self.stored.added,
            rows_revised=self.stored.revised,
            seconds=self.seconds,
            metadata=metadata,
        )

    def _followed_back(self) -> dict[str, object]:
        if self.followed_back_to is None:
            return {}
        since = iso_utc(self.followed_back_to)
        if self.followed_back_short_of is None:
            return {"correction": f"A correction was followed back to {since}."}
        first = iso_utc(self.followed_back_short_of)
        return {
            "correction": f"A correction was followed back to {since} and may reach further: the limit of "
            f"{FOLLOWED_BACK_AT_MOST:,} candles is reached. Run `refresh once --since {first}` for the rest."
        }


def _series_counted(total: int) -> Callable[[Sequence[Fetched]], None]:
    finished = 0

    def watch(chunks: Sequence[Fetched]) -> None:
        nonlocal finished
        finished += sum(chunk.last for chunk in chunks)
        advance(Table.raw_candles, finished, total)

    return watch


def _bundled(answers: Iterator[Fetched]) -> Iterator[list[Fetched]]:
    chunks: list[Fetched] = []
    rows, began = 0, time.monotonic()
    for answer in answers:
        chunks.append(answer)
        rows += len(answer.candles)
        if rows >= ROWS_AT_ONCE or time.monotonic() - began >= SECONDS_AT_ONCE:
            yield chunks
            chunks, rows, began = [], 0, time.monotonic()
    if chunks:
        yield chunks


def _joined(chunks: Iterable[Fetched]) -> dict[Series, Candles]:
    parts: dict[Series, list[Candles]] = {}
    for chunk in chunks:
        if len(chunk.candles) or chunk.candles.malformed:
            parts.setdefault(chunk.series, []).append(chunk.candles)
    return {series: Candles.concatenated(some) for series, some in parts.items()}
