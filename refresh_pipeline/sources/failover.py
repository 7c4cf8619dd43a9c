"""Several sources in order of preference: the next one serves a series when the one before it fails or is behind.

Who serves is decided anew at each fetch, series by series; that a preferred source's candles stay where two sources
have the same one is the warehouse's part. Each fetch also asks the next source for a few candles of one series that was
served already, another one each time: a second opinion.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import TIME_UNIT, BulkFile, Candles, Times, instant
from refresh_pipeline.market.freshness import allowed_delay
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import (
    Fetched,
    PermanentError,
    Provisional,
    Reissuing,
    Request,
    Source,
    SourceError,
    TransientError,
)
from refresh_pipeline.sources.fetching import base_timeframe, fetch

log = logging.getLogger(__name__)

# So many candles that the source before has given are asked for again, to be compared.
OVERLAP = 5


@dataclass(frozen=True, slots=True)
class Member:
    """A source, and the market as that source sees it."""

    source: Source
    market: Market

    def serves(self, timeframe: Timeframe) -> bool:
        """Whether it has the timeframe or one to make it from."""
        return base_timeframe(self.source, timeframe) is not None


@dataclass(slots=True)
class _Wish:
    """What is still wanted of a series, and what has been said to it so far."""

    request: Request
    # The newest candle that came, and those that came last.
    newest: np.datetime64 | None = None
    tail: Times = field(default_factory=lambda: np.array([], dtype=TIME_UNIT))
    # Some source answered, if late; else the errors of all.
    is_answered: bool = False
    errors: list[SourceError] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    # Everything is there: only a second opinion is wanted.
    is_sample: bool = False

    def rest(self) -> Request:
        """What to ask the next source for: from a few candles before the newest on."""
        if self.newest is None:
            return self.request
        since = max(self.request.since, self.newest - (OVERLAP - 1) * length_of(self.request.series.timeframe))
        until = self.newest + np.timedelta64(1, "us") if self.is_sample else self.request.until
        return replace(self.request, since=since, until=until)

    def observe(self, candles: Candles) -> None:
        if len(candles):
            self.newest = candles.open_time.max()
            self.tail = candles.open_time[-OVERLAP:]

    def end(self, seconds: float = 0.0) -> Fetched:
        """What closes the series when nobody is left to ask."""
        error = None
        if self.errors and not self.is_answered:
            kind = TransientError if any(each.transient for each in self.errors) else PermanentError
            error = self.errors[0] if len(self.errors) == 1 else kind("; ".join(self.reasons))
        failover_reason = "" if error else "; ".join(self.reasons)
        return Fetched(
            self.request.series, Candles.none(), error=error, seconds=seconds, failover_reason=failover_reason
        )


class PreferredSources:
    """A source of sources, the preferred one first; it serves every timeframe that any of them does."""

    def __init__(self, market: Market, members: Sequence[Member]) -> None:
        """The sources of one market.

        Raises:
            MarketError: two of them would store under one name.
        """
        names = [member.source.kind for member in members]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise MarketError(f"market {market.name!r}: source: found {', '.join(repeated)} twice; allowed: each once")
        self._market = market
        self._members = members
        # The series to ask the next source about as well; where nobody sets it, another one each minute.
        self.sample: Series | None = None
        self.kind = members[0].source.kind
        self.native_timeframes = tuple(each for each in Timeframe if any(member.serves(each) for member in members))

    @property
    def order(self) -> tuple[str, ...]:
        """The sources' names, the preferred one first."""
        return tuple(member.source.kind for member in self._members)

    @property
    def members(self) -> Sequence[Member]:
        """The sources, the preferred one first, each with the market as it sees it."""
        return self._members

    @property
    def primary(self) -> Source:
        """The preferred source."""
        return self._members[0].source

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """See Source; the chunks say who served them, and the last one of a series who did not and why."""
        wishes = {request.series: _Wish(request) for request in requests}
        sample = self.sample or _sample(requests, now)
        open_wishes = list(wishes)
        for number, member in enumerate(self._members):
            is_last = number == len(self._members) - 1
            still_open = {series for series in open_wishes if not member.serves(series.timeframe)}
            asked = [wishes[series].rest() for series in open_wishes if series not in still_open]
            for fetched in fetch(member.source, member.market, asked, now) if asked else ():
                wish = wishes[fetched.series]
                yield from self._passed_on(member, wish, fetched)
                if fetched.last and self._is_open(member, wish, fetched, now):
                    still_open.add(fetched.series)
                elif fetched.last and not is_last and fetched.series == sample and not wish.is_sample:
                    wish.is_sample = True
                    still_open.add(fetched.series)
                elif fetched.last:
                    yield wish.end(fetched.seconds)
            open_wishes = [series for series in open_wishes if series in still_open]
        yield from (wishes[series].end() for series in open_wishes)

    def reissued(self, files: Mapping[Series, Sequence[BulkFile]]) -> dict[Series, list[BulkFile]]:
        """See Reissuing: what any of the sources says of its own files."""
        found: dict[Series, list[BulkFile]] = {}
        for member in self._members:
            if isinstance(member.source, Reissuing):
                found |= member.source.reissued(files)
        return found

    def _passed_on(self, member: Member, wish: _Wish, fetched: Fetched) -> Iterator[Fetched]:
        candles = fetched.candles
        if wish.is_sample:
            candles = replace(candles.where(np.isin(candles.open_time, wish.tail)), malformed=())
        else:
            wish.observe(candles)
        if len(candles) or candles.malformed or fetched.adjustments:
            yield replace(fetched, candles=candles, last=False, error=None, source=member.source.kind)

    def _is_open(self, member: Member, wish: _Wish, fetched: Fetched, now: datetime) -> bool:
        """Whether the next source has to be asked; why is noted."""
        if wish.is_sample:
            if fetched.error:
                log.info("%s: no second opinion: %s", fetched.series, fetched.error)
            return False
        error = fetched.error
        reason = str(error) if error else self._behind(wish, now)
        if error:
            wish.errors.append(error)
        wish.is_answered = wish.is_answered or error is None
        if reason:
            wish.reasons.append(f"{member.source.kind}: {reason.removeprefix(f'{fetched.series}: ')}")
        return bool(reason)

    def _behind(self, wish: _Wish, now: datetime) -> str:
        series = wish.request.series
        calendar = self._market.calendar_of(series.instrument)
        end = min(wish.request.until, instant(now - allowed_delay(self._market.timeframes)))
        if not calendar.knows(end):
            return ""
        expected = calendar.last_closed(series.timeframe, end)
        if expected < wish.request.since or (wish.newest is not None and wish.newest >= expected):
            return ""
        return f"has no candle of {_shown(expected)}, its newest is {_shown(wish.newest)}"


def order_of(source: Source) -> tuple[str, ...]:
    """The names under which a source stores candles, the preferred one first."""
    return source.order if isinstance(source, PreferredSources) else (source.kind,)


def preferred_to(source: Source, number: int) -> tuple[str, ...]:
    """The names of candles that stay whatever source `number` of several says.

    They are those of the sources before it, and of their streams: only a stream's own venue corrects it.
    """
    members = source.members if isinstance(source, PreferredSources) else ()
    return tuple(name for member in members[:number] for name in (member.source.kind, *provisional_of(member.source)))


def provisional_of(source: Source) -> Sequence[str]:
    """The names of the candles that a stream makes beside the preferred source, which corrects them."""
    preferred = primary_of(source)
    return preferred.provisional if isinstance(preferred, Provisional) else ()


def primary_of(source: Source) -> Source:
    """The preferred one of several sources; a single source is itself."""
    return source.primary if isinstance(source, PreferredSources) else source


def _sample(requests: Sequence[Request], now: datetime) -> Series | None:
    """Whose turn it is: another series each minute."""
    return requests[int(now.timestamp() // 60) % len(requests)].series if requests else None


def _shown(moment: np.datetime64 | None) -> str:
    return "none at all" if moment is None else str(moment.astype("datetime64[s]"))
