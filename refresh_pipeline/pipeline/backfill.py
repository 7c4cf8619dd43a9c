"""Backfill of missing history: the ranges to fetch, and one request for each. No Dagster.

What is stored is not downloaded again, so a backfill that was killed goes on where it was when it is started again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, instant
from refresh_pipeline.market.gaps import Stretch, at_most
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.fetch import bar_start, fetch_candles
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.sources import Fetched, Reissuing, Request, Source
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.warehouse import Warehouse

CANDLES = "candles"

Plan = Mapping[Series, Sequence[Stretch]]


def missing(
    warehouse: Warehouse,
    market: Market,
    batch: Sequence[Series],
    now: datetime,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Plan:
    """Per series, the stretches in which the calendar expects closed candles and none is stored, oldest first.

    Args:
        warehouse: what is stored.
        market: whose calendar it is.
        batch: the series.
        now: candles that close later are not expected.
        since: from when on; without it as far back as the market's history goes.
        until: up to when, excluded; without it up to now.
    """
    end = min(instant(until), instant(now)) if until else instant(now)
    starts = {series: _start(market, series, now, since) for series in batch}
    gaps = warehouse.missing_between(market, starts, end, now)
    return {series: at_most(stretches) for series, stretches in gaps.items()}


def _start(market: Market, series: Series, now: datetime, since: datetime | None) -> np.datetime64:
    wanted = instant(since) if since else instant(now - market.history[series.timeframe])
    return bar_start(market, series, wanted)


def backfill(
    warehouse: Warehouse,
    market: Market,
    source: Source,
    batch: Sequence[Series],
    now: datetime,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[Series, Attempt]:
    """Ask for every stretch that is missing once and store what arrives, as it arrives; arguments as for `missing`.

    A series that fails is left at that; the others go on.
    """
    plan = missing(warehouse, market, batch, now, since=since, until=until)
    plan = _with_reissued(warehouse, market, source, plan, (since, until or now))
    progress = _Progress({series: sum(each.expected for each in some) for series, some in plan.items()})
    done = _untouched(warehouse, market, plan)
    for requests in _rounds(plan):
        due = [each for each in requests if done[each.series].outcome is not Outcome.failed]
        if not due:
            break
        watch = progress.round(market, {each.series: each for each in due})
        for series, attempt in fetch_candles(warehouse, market, source, due, now, watch=watch).items():
            done[series] = _both(done[series], attempt)
    return done


def _with_reissued(
    warehouse: Warehouse, market: Market, source: Source, plan: Plan, span: tuple[datetime | None, datetime]
) -> Plan:
    """The plan, and before it the stretches whose bulk files are no longer what was read of them."""
    if not isinstance(source, Reissuing):
        return plan
    since, until = instant(span[0] or datetime.fromtimestamp(0, UTC)), instant(span[1])
    changed = source.reissued(warehouse.archive_files(market, list(plan), since, until))
    again = {
        series: [Stretch(file.since, file.until, _count(market, series, file.since, file.until)) for file in files]
        for series, files in changed.items()
    }
    return {series: [*again.get(series, ()), *some] for series, some in plan.items()}


def _untouched(warehouse: Warehouse, market: Market, plan: Plan) -> dict[Series, Attempt]:
    held = warehouse.series_stats(market, list(plan))
    return {series: Attempt.of(changed=False, has_data=held[series].candle_count > 0) for series in plan}


def _rounds(plan: Plan) -> Iterator[list[Request]]:
    """The first stretch of every series, then the second of those that have one, and so on."""
    for number in range(max((len(some) for some in plan.values()), default=0)):
        yield [
            Request(series, some[number].since, some[number].until)
            for series, some in plan.items()
            if number < len(some)
        ]


def _both(one: Attempt, other: Attempt) -> Attempt:
    """Two attempts at one series as one: failed if the later did, else the better outcome of the two."""
    outcome = one.outcome if one.outcome is Outcome.updated and other.outcome is not Outcome.failed else other.outcome
    rejected = [int(str(attempt.metadata.get("rows_rejected", 0))) for attempt in (one, other)]
    return replace(
        other,
        outcome=outcome,
        reason=other.reason or (one.reason if one.outcome is not Outcome.failed else None),
        rows_added=one.rows_added + other.rows_added,
        rows_revised=one.rows_revised + other.rows_revised,
        seconds=one.seconds + other.seconds,
        metadata={**one.metadata, **other.metadata, "rows_rejected": sum(rejected)},
    )


@dataclass(slots=True)
class _Progress:
    """How many of the expected candles were asked for: what the source turns out not to have counts as done too."""

    expected: Mapping[Series, int]
    # Of stretches that are over, and of those at work.
    over: int = 0
    going: dict[Series, int] = field(default_factory=dict)

    def round(self, market: Market, due: Mapping[Series, Request]) -> Callable[[Sequence[Fetched]], None]:
        """Who is told what arrives for the requests of one round."""
        counts = {series: _count(market, series, each.since, each.until) for series, each in due.items()}

        def watch(chunks: Sequence[Fetched]) -> None:
            for chunk in chunks:
                request = due[chunk.series]
                if len(chunk.candles):
                    newest = chunk.candles.open_time.max() + np.timedelta64(1, "us")
                    self.going[chunk.series] = _count(market, chunk.series, request.since, newest)
                if chunk.last:
                    self.going.pop(chunk.series, None)
                    self.over += counts[chunk.series]
            total = sum(self.expected.values())
            # Where stretches were joined, what is stored between them comes again and was not counted.
            advance(CANDLES, min(self.over + sum(self.going.values()), total), total)

        return watch


def _count(market: Market, series: Series, since: np.datetime64, until: np.datetime64) -> int:
    both = np.array([since, until], dtype=TIME_UNIT)
    counts = market.calendar_of(series.instrument).count(series.timeframe, both, until)
    return int(counts[0] - counts[1])
