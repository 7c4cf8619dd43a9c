"""Fetching series from a source: native timeframes as they are, longer ones resampled, answers as they arrive."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Candles, Times, faults, instant
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.resampling import resample_counted
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Fetched, PermanentError, Request, Source, SourceError, failed

log = logging.getLogger(__name__)

# No venue's clock is an hour behind: a candle that has not come by then has not traded.
LATEST_ARRIVAL = np.timedelta64(3600, "s")


def require_served(market: Market, source: Source) -> None:
    """See that every timeframe of a market comes from its source or can be made from what comes.

    Raises:
        MarketError: one cannot.
    """
    for timeframe in market.timeframes:
        if base_timeframe(source, timeframe) is None:
            raise MarketError(
                f"market {market.name!r}: timeframes: found {timeframe}, which {source.kind} does not serve and which "
                f"none of its own divides; allowed: {', '.join(sorted(source.native_timeframes))} and multiples of them"
            )


def base_timeframe(source: Source, timeframe: Timeframe) -> Timeframe | None:
    """What to ask a source for: the timeframe itself, or the longest that divides it; None when there is none."""
    if timeframe in source.native_timeframes:
        return timeframe
    return max((native for native in source.native_timeframes if native.divides(timeframe)), default=None)


def derived_timeframes(source: Source, market: Market) -> dict[Timeframe, list[Timeframe]]:
    """The timeframes of a market that are made from another of its timeframes, by the one that they are made from."""
    derived: dict[Timeframe, list[Timeframe]] = {}
    for timeframe in market.timeframes:
        base = base_timeframe(source, timeframe)
        if base is not None and base is not timeframe and base in market.timeframes:
            derived.setdefault(base, []).append(timeframe)
    return derived


def fetch(source: Source, market: Market, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
    """Closed candles for each request, at whatever timeframe, in chunks as they arrive.

    Several series that hang on one series of the source share a single question for it.

    Args:
        source: the market's, from `open_source`.
        market: whose calendar says where bars begin.
        requests: each series at most once; all of them at timeframes of the market.
        now: what the machine's clock says.
    """
    wanted: dict[Series, list[_Wanted]] = {}
    for request in requests:
        each = _wanted(source, market.calendar_of(request.series.instrument), request, instant(now))
        wanted.setdefault(each.base.series, []).append(each)
    questions = [_covering(those) for those in wanted.values()]
    for fetched in _without_surprises(source, questions, now):
        for each in wanted[fetched.series]:
            yield from each.answers(fetched)


def _without_surprises(source: Source, questions: Sequence[Request], now: datetime) -> Iterator[Fetched]:
    """The answers of a source; what it raises, which it should not, ends the series that are not answered yet."""
    unanswered = {question.series: question for question in questions}
    try:
        for fetched in source.fetch(questions, now):
            if fetched.last:
                unanswered.pop(fetched.series, None)
            yield fetched
    except SourceError as error:
        yield from (failed(question, error) for question in unanswered.values())
    except Exception as error:
        log.exception("%s: unexpected error", source.kind)
        text = f"unexpected error, please report it: {type(error).__name__}: {excerpt(str(error))}"
        yield from (failed(question, PermanentError(text)) for question in unanswered.values())


@dataclass(slots=True)
class _Wanted:
    """One request, and the question to the source that answers it as it stands."""

    request: Request
    base: Request

    def answers(self, fetched: Fetched) -> Iterator[Fetched]:
        candles = fetched.candles.between(self.request.since, self.request.until)
        yield replace(fetched, series=self.request.series, candles=candles)


@dataclass(slots=True)
class _Resampled(_Wanted):
    """One request whose bars are made from shorter ones, which may arrive in any number of chunks."""

    calendar: Calendar
    now: np.datetime64
    # Base candles of the bars that are not complete yet.
    pending: Candles = field(default_factory=Candles.none)
    # The newest base candle that came, be it good or bad.
    newest: Times = field(default_factory=lambda: np.array([], dtype=TIME_UNIT))

    def answers(self, fetched: Fetched) -> Iterator[Fetched]:
        if len(fetched.candles):
            self.newest = np.append(self.newest, fetched.candles.open_time).max(keepdims=True)
        parts = [part for part in (self.pending, _good(fetched.candles)) if len(part)]
        candles = Candles.concatenated(parts).sorted()
        ends = self._ends(candles)
        is_end = fetched.last and fetched.error is None
        complete = ends <= self._known(ends, is_end)
        self.pending = replace(candles.where(~complete), malformed=())
        base = self.base.series.timeframe
        bars = resample_counted(candles.where(complete), self.request.series.timeframe, base, self.calendar)
        bars = bars.between(self.request.since, self.request.until)
        bars = replace(bars, malformed=fetched.candles.malformed)
        if fetched.last or len(bars) or bars.malformed or fetched.adjustments:
            yield replace(fetched, series=self.request.series, candles=bars, error=self._own(fetched.error))

    def _own(self, error: SourceError | None) -> SourceError | None:
        # The same reason for many series is told once, so the one that was asked for must not stand in it.
        if error is None:
            return None
        return type(error)(f"{self.request.series}: {str(error).removeprefix(f'{self.base.series}: ')}")

    def _ends(self, candles: Candles) -> np.ndarray:
        timeframe = self.request.series.timeframe
        return self.calendar.closes(timeframe, self.calendar.floor(timeframe, candles.open_time))

    def _known(self, ends: np.ndarray, is_end: bool) -> np.datetime64:
        """Up to which instant bars are complete: the end of the newest base candle, or where no more can come."""
        if len(ends) == 0:
            return self.now
        timeframe = self.base.series.timeframe
        known = self.calendar.closes(timeframe, self.newest)[0]
        if is_end and len(self.calendar.open_times(timeframe, known, ends[-1])) == 0:
            known = max(known, ends[-1])
        if is_end:
            known = max(known, self.now - LATEST_ARRIVAL)
        return min(known, self.now)


def _wanted(source: Source, calendar: Calendar, request: Request, now: np.datetime64) -> _Wanted:
    timeframe = request.series.timeframe
    base = base_timeframe(source, timeframe)
    if base is None or base is timeframe:
        return _Wanted(request, request)
    since = calendar.floor(timeframe, np.array([request.since], dtype=TIME_UNIT))
    last = calendar.floor(timeframe, np.array([request.until - np.timedelta64(1, "us")], dtype=TIME_UNIT))
    until = calendar.closes(timeframe, last)
    base_series = Series(request.series.instrument, base)
    return _Resampled(request, Request(base_series, since[0], until[0]), calendar, now)


def _covering(wanted: Sequence[_Wanted]) -> Request:
    """One question for everything that hangs on one series of the source."""
    since = min(each.base.since for each in wanted)
    return Request(wanted[0].base.series, since, max(each.base.until for each in wanted))


def _good(candles: Candles) -> Candles:
    """The candles that do not contradict themselves: a longer bar is made of these, and counts them."""
    return candles.where(np.array([reason is None for reason in faults(candles)], dtype=bool))
