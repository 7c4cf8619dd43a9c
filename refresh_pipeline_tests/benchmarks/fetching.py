"""Fetching alone: many series' newest candles, and the same answers by a bare loop; by the clock and by the cores.

The bare loop asks the same questions with the same client, so many at once, and reads the JSON: what ours takes beyond
it is limits, retries, arrays, validation of shape, and the way from one thread to the other.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from refresh_pipeline.market.candles import instant
from refresh_pipeline.sources import Request, Source
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline_tests.benchmarks import bare
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE, market_at, venue

CANDLES = 10
DESIGN = "design: at most 1.3 of the bare loop"

Taken = tuple[float, float]


def measure(size: Size, folder: Path) -> Findings:
    """Wall time and processor time of one fetch of all series."""
    with venue() as there:
        market = market_at(there.base_url, size.series, size.stored)
        source = open_source(market, folder / "limits")
        since = instant(BEGIN - MINUTE * CANDLES)
        requests = [Request(each, since, instant(BEGIN)) for each in market.series]
        urls = bare.urls_of(there.base_url, requests)
        _ours(source, requests)
        rounds = [
            (_taken(lambda: _ours(source, requests)), _taken(lambda: bare.fetch(urls))) for _ in range(size.rounds)
        ]
    found = [_compared("wall time", rounds, 0, size), _compared("processor time", rounds, 1, size)]
    return {f"fetch of {size.series} series, {CANDLES} candles each, against a bare client loop": found}


def _compared(what: str, rounds: Sequence[tuple[Taken, Taken]], kind: int, size: Size) -> Comparison:
    found = Comparison(what, [ours[kind] for ours, _ in rounds], [bare_[kind] for _, bare_ in rounds])
    each = [f"{median(values) / size.series * 1e6:,.0f}" for values in (found.ours, found.bare)]
    return Comparison(what, found.ours, found.bare, f"{each[0]} us a request, bare {each[1]}; {DESIGN}")


def _taken(fetch: Callable[[], int]) -> Taken:
    began, spent = time.perf_counter(), time.process_time()
    rows = fetch()
    taken = time.perf_counter() - began, time.process_time() - spent
    assert rows > 0
    return taken


def _ours(source: Source, requests: Sequence[Request]) -> int:
    got = list(source.fetch(requests, BEGIN))
    assert [str(each.error) for each in got if each.error] == []
    return sum(len(each.candles) for each in got)
