"""The newest signals of every series as rows, and whether the timeframes of an instrument agree."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from refresh_pipeline.market.candles import instant, iso_utc
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.signals import SignalAlert, SignalKind
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.monitoring.notification_policy import Problem
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.signals import SeriesSignals, Signal, newest_signals

SIDES = {"buy": 1, "sell": -1}
# A signal is news for so many bars after it became known, and a while for the refresh and the next look.
RECENT_BARS, RECENT = 3, timedelta(minutes=15)
# Seconds to wait for the warehouse's lock.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class SignalFilter:
    """Which signals are wanted; None leaves a choice open. `since` is about when a signal became known."""

    kind: str | None = None
    direction: str | None = None
    since: datetime | None = None

    def fits(self, signal: Signal) -> bool:
        """Whether a signal is wanted."""
        return (
            self.kind in (None, signal.kind)
            and self.direction in (None, signal.direction)
            and (self.since is None or (signal.known_at is not None and signal.known_at >= self.since))
        )

    @property
    def is_open(self) -> bool:
        """Whether every signal is wanted."""
        return self == SignalFilter()


def stored_signals(
    settings: Settings, chosen: Iterable[tuple[Market, Sequence[Series]]]
) -> list[tuple[Market, SeriesSignals]]:
    """The newest signals of these series; none before the first refresh."""
    if not place_of(settings.warehouse).exists:
        return []
    with connect(settings.warehouse, read_only=True, patience=PATIENCE) as connection:
        return [
            (market, state)
            for market, series in chosen
            for timeframe, names in by_timeframe(series).items()
            for state in newest_signals(connection, market, timeframe, names)
        ]


def signal_events(settings: Settings, markets: Sequence[Market], now: datetime) -> list[Problem]:
    """The signals that alerts are wanted on and that became known within the last bars; none while a writer works."""
    wanted = [market for market in markets if market.alerts.signals]
    if not wanted:
        return []
    chosen = [(market, _series_of_alerts(market)) for market in wanted]
    try:
        states = stored_signals(settings, chosen)
    except (WarehouseBusy, WarehouseUnreadable):
        # The next look finds them.
        return []
    return [event for market, state in states for event in _events(market, state, now)]


def _series_of_alerts(market: Market) -> list[Series]:
    return [one for one in market.series if any(_is_about(alert, one) for alert in market.alerts.signals)]


def _is_about(alert: SignalAlert, series: Series) -> bool:
    return (not alert.instruments or series.instrument in alert.instruments) and (
        not alert.timeframes or series.timeframe in alert.timeframes
    )


def _events(market: Market, state: SeriesSignals, now: datetime) -> Iterator[Problem]:
    series = state.series
    bar = timedelta(minutes=series.timeframe.minutes)
    for signal in state.newest.values():
        if signal.known_at is None or signal.known_at + bar * RECENT_BARS + RECENT < timestamp(now):
            continue
        if any(
            alert.kind == signal.kind and alert.direction in (None, signal.direction) and _is_about(alert, series)
            for alert in market.alerts.signals
        ):
            text = f"bar of {_iso(signal.open_time)}, known since the bar of {_iso(signal.known_at)} closed; "
            yield Problem(
                scope=market.name,
                kind=f"signal {signal.kind} {signal.direction}",
                item=f"{series.instrument} {series.timeframe} {_iso(signal.open_time)}",
                text=f"{text}close {state.close:g}, zone {state.zone}, mouth {state.mouth_direction}",
                is_event=True,
            )


def by_timeframe(series: Iterable[Series]) -> dict[Timeframe, list[str]]:
    """The instruments of the series, by timeframe."""
    instruments: dict[Timeframe, list[str]] = {}
    for one in series:
        instruments.setdefault(one.timeframe, []).append(one.instrument)
    return instruments


def signal_rows(states: Iterable[tuple[Market, SeriesSignals]], wanted: SignalFilter) -> list[dict[str, Any]]:
    """A row for each series that has a wanted signal, or for each series where every signal is wanted."""
    rows = [_row(market, state, wanted) for market, state in states]
    return rows if wanted.is_open else [row for row in rows if any(row[kind] for kind in SignalKind)]


def coherence_rows(states: Iterable[tuple[Market, SeriesSignals]]) -> list[dict[str, Any]]:
    """The mouth's direction of each instrument on every timeframe; `score` is 1 where all buy, -1 where all sell."""
    directions: dict[tuple[str, str], dict[str, str | None]] = {}
    for market, state in states:
        series = state.series
        directions.setdefault((market.name, series.instrument), {})[series.timeframe.value] = state.mouth_direction
    return [
        {"market": market, "instrument": instrument, "score": _score(by_frame), "directions": by_frame}
        for (market, instrument), by_frame in directions.items()
    ]


def _score(directions: Mapping[str, str | None]) -> float:
    """The mean of the directions.

    >>> _score({"H1": "buy", "H4": "neither", "D1": "buy", "W1": "sell"})
    0.25
    """
    return round(sum(SIDES.get(direction or "", 0) for direction in directions.values()) / len(directions), 6)


def _row(market: Market, state: SeriesSignals, wanted: SignalFilter) -> dict[str, Any]:
    newest = {kind: signal for kind, signal in state.newest.items() if wanted.fits(signal)}
    return {
        "market": market.name,
        "instrument": state.series.instrument,
        "timeframe": state.series.timeframe.value,
        "open_time": _iso(state.open_time),
        "close": state.close,
        "mouth_direction": state.mouth_direction,
        "mouth_phase": state.mouth_phase,
        "zone": state.zone,
    } | {kind.value: _signal(newest.get(kind)) for kind in SignalKind}


def _signal(signal: Signal | None) -> dict[str, Any] | None:
    if signal is None:
        return None
    return {
        "direction": signal.direction,
        "open_time": _iso(signal.open_time),
        "known_at": None if signal.known_at is None else _iso(signal.known_at),
    }


def _iso(moment: datetime) -> str:
    return iso_utc(instant(moment))
