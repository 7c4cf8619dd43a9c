"""From a market to its source, and a fetch that makes the timeframes which the source lacks.

What a source serves itself passes straight through; nothing is stored here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from refresh_pipeline.market.calendar import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.resample import resample
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request, Secrets, Source, SourceError

# No venue's clock is an hour behind: a candle that has not come by then has not traded.
LATEST_ARRIVAL = np.timedelta64(3600, "s")


# Imported when they are opened: a simulated market needs no HTTP client, whose import takes longer than its candles.
def _demo(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.demo import DemoSource  # noqa: PLC0415

    return DemoSource(market)


def _files(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.files import FilesSource  # noqa: PLC0415

    return FilesSource(market)


def _binance(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.binance import BinanceSource  # noqa: PLC0415

    return BinanceSource(market, limits_dir)


def _oanda(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.oanda import OandaSource  # noqa: PLC0415

    return OandaSource(market, limits_dir, secrets)


def _fxcm(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.fxcm import FxcmSource  # noqa: PLC0415

    return FxcmSource(market, limits_dir)


def _http(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.json_api import JsonApiSource  # noqa: PLC0415

    return JsonApiSource(market, limits_dir, secrets)


def _exchange(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.any_exchange import CcxtSource  # noqa: PLC0415

    return CcxtSource(market, limits_dir)


def _dhan(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    from refresh_pipeline.sources.dhan import DhanSource  # noqa: PLC0415

    return DhanSource(market, limits_dir, secrets)


SOURCES: dict[str, Callable[[Market, Path, Secrets], Source]] = {
    "demo": _demo,
    "binance": _binance,
    "oanda": _oanda,
    "fxcm": _fxcm,
    "dhan": _dhan,
    "files": _files,
    "http": _http,
    "ccxt": _exchange,
}


def no_secrets(name: str) -> str | None:
    """For who only wants to know whether a market's YAML is right, and for sources that need no account."""
    return None


def open_source(market: Market, limits_dir: Path, secrets: Secrets = no_secrets) -> Source:
    """The source that a market's YAML names, or all of those that it lists, as one.

    A credential that is missing is no fault here: what it is needed for fails, when it is asked for.

    Args:
        market: its source, and the timeframes that the source has to serve.
        limits_dir: where the limits of venues are shared between processes.
        secrets: credentials by the names of their settings.

    Raises:
        MarketError: there is no such source, it does not know an option, or it cannot serve a timeframe.
    """
    if market.fallbacks:
        # It fetches as this module does.
        from refresh_pipeline.sources.preferring import Member, PreferredSources  # noqa: PLC0415

        sighted = [market.served_by(number) for number in range(len(market.fallbacks) + 1)]
        source: Source = PreferredSources(
            market, [Member(_opened(each, limits_dir, secrets), each) for each in sighted]
        )
    else:
        source = _opened(market, limits_dir, secrets)
    require_served(market, source)
    return source


def _opened(market: Market, limits_dir: Path, secrets: Secrets) -> Source:
    if market.source.kind not in SOURCES:
        raise MarketError(
            f"market {market.name!r}: source.kind: found {market.source.kind!r}; allowed: {', '.join(SOURCES)}"
        )
    return SOURCES[market.source.kind](market, limits_dir, secrets)


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
    for fetched in source.fetch(questions, now):
        for each in wanted[fetched.series]:
            yield from each.answers(fetched)


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

    def answers(self, fetched: Fetched) -> Iterator[Fetched]:
        parts = [part for part in (self.pending, _poisoned(fetched.candles)) if len(part)]
        candles = Candles.concatenated(parts).sorted()
        ends = self._ends(candles)
        is_end = fetched.last and fetched.error is None
        complete = ends <= self._known(candles, ends, is_end)
        self.pending = replace(candles.where(~complete), malformed=())
        bars = resample(candles.where(complete), self.request.series.timeframe, self.calendar)
        bars = bars.between(self.request.since, self.request.until)
        bars = replace(bars, malformed=fetched.candles.malformed)
        if fetched.last or len(bars) or bars.malformed:
            yield replace(fetched, series=self.request.series, candles=bars, error=self._own(fetched.error))

    def _own(self, error: SourceError | None) -> SourceError | None:
        # The same reason for many series is told once, so the one that was asked for must not stand in it.
        if error is None:
            return None
        return type(error)(f"{self.request.series}: {str(error).removeprefix(f'{self.base.series}: ')}")

    def _ends(self, candles: Candles) -> np.ndarray:
        timeframe = self.request.series.timeframe
        return self.calendar.closes(timeframe, self.calendar.floor(timeframe, candles.open_time))

    def _known(self, candles: Candles, ends: np.ndarray, is_end: bool) -> np.datetime64:
        """Up to which instant bars are complete: the end of the newest base candle, or where no more can come."""
        if len(candles) == 0:
            return self.now
        timeframe = self.base.series.timeframe
        known = self.calendar.closes(timeframe, candles.open_time[-1:])[0]
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


def _poisoned(candles: Candles) -> Candles:
    """Bad candles as NaN: a longer bar made from one is rejected as well, instead of hiding it."""
    is_bad = np.array([reason is not None for reason in faults(candles)], dtype=bool)
    return replace(candles, columns={name: np.where(is_bad, np.nan, v) for name, v in candles.columns.items()})
