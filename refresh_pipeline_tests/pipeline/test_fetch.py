"""What each asset does with its series, without Dagster: over real files, a real warehouse, a real folder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import fetch
from refresh_pipeline.pipeline.progress import watched
from refresh_pipeline.sources import Fetched, Request, TransientError
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome, SeriesStats
from refresh_pipeline_tests.project_folder import FIRST, LATER, NOW, World
from refresh_pipeline_tests.step_helpers import BTC, ETH, SOL, computed, exported, fetched, outcomes, uploaded

# ---- which stretch is asked for


def request(world: World, held: SeriesStats, **asked: datetime) -> tuple[str, str]:
    only = fetch.requests_for(world.market, {BTC: held}, NOW, **asked)[0]
    return str(only.since.astype("datetime64[m]")), str(only.until.astype("datetime64[s]"))


def test_a_new_series_is_asked_for_its_whole_history(new_world: World) -> None:
    assert request(new_world, SeriesStats()) == ("2026-05-31T12:00", "2026-06-01T12:00:30")


def test_a_known_series_is_asked_for_its_newest_candles_again(new_world: World) -> None:
    held = SeriesStats(96, instant(FIRST), instant("2026-06-01T11:45"))
    since, _ = request(new_world, held)
    assert new_world.market.reread == 10
    assert since == "2026-06-01T09:30"


def test_since_goes_back_whatever_is_stored_to_the_candle_it_lies_in(new_world: World) -> None:
    held = SeriesStats(96, instant(FIRST), instant("2026-06-01T11:45"))
    assert request(new_world, held, since=FIRST + timedelta(minutes=20))[0] == "2026-05-30T12:15"


@pytest.mark.parametrize(("until", "end"), [(NOW - timedelta(hours=1), "11:00:30"), (LATER, "12:00:30")])
def test_until_ends_earlier_and_never_after_now(new_world: World, until: datetime, end: str) -> None:
    assert request(new_world, SeriesStats(), until=until)[1] == f"2026-06-01T{end}"


# ---- fetching


@dataclass
class Teller:
    """A venue that tells what it was given, in chunks, and can fall silent or go wrong in the middle."""

    answers: Iterable[Fetched]
    kind: str = "teller"
    native_timeframes: Sequence[Timeframe] = (Timeframe.m15, Timeframe.H1)
    asked: list[Request] = field(default_factory=list)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        self.asked += requests
        yield from self.answers


def some(first: str, count: int, price: float = 5.0) -> Candles:
    opens = np.datetime64(first) + np.arange(count) * np.timedelta64(15, "m")
    return Candles.of(opens, open=[price] * count, high=[price] * count, low=[price] * count, close=[price] * count)


def told(world: World, answers: Iterable[Fetched], batch: Sequence[Series] = (BTC, ETH)) -> dict[Series, Attempt]:
    market, warehouse = world.market, world.warehouse
    warehouse.prepare(market)
    requests = fetch.requests_for(market, warehouse.series_stats(market, batch), NOW)
    return fetch.fetch_candles(warehouse, market, Teller(answers), requests, NOW)


def test_each_series_comes_out_with_its_outcome_in_the_order_asked(new_world: World) -> None:
    new_world.candle_file("ETH/USD|m15").unlink()
    new_world.candle_file("SOL/USD|m15").write_text("nothing,of,use\n1,2,3\n")
    done = fetched(new_world)
    assert list(done) == [BTC, ETH, SOL]
    assert outcomes(done) == [Outcome.updated, Outcome.no_data, Outcome.failed]
    assert done[BTC].rows_added == 96
    assert "open" in str(done[SOL].reason)
    assert done[SOL].transient is False
    assert outcomes(fetched(new_world)) == [Outcome.unchanged, Outcome.no_data, Outcome.failed]


def test_what_arrived_before_a_failure_is_kept(new_world: World) -> None:
    parts = [
        Fetched(BTC, some("2026-06-01T00:00", 4), last=False, seconds=0.25),
        Fetched(ETH, some("2026-06-01T00:00", 2)),
        Fetched(BTC, some("2026-06-01T01:00", 3), error=TransientError("BTC/USD m15: gone"), seconds=0.5),
    ]
    done = told(new_world, parts)
    assert (done[BTC].outcome, done[BTC].reason, done[BTC].transient) == (Outcome.failed, "gone", True)
    assert (done[BTC].rows_added, done[BTC].seconds) == (7, 0.75)
    assert done[ETH].outcome is Outcome.updated
    assert new_world.counts() == {"BTC/USD|m15": 7, "ETH/USD|m15": 2}


def test_chunks_of_one_series_become_one_series(new_world: World) -> None:
    parts = [Fetched(BTC, some("2026-06-01T00:00", 4), last=False), Fetched(BTC, some("2026-06-01T00:45", 4, 6.0))]
    assert told(new_world, parts, [BTC])[BTC].rows_added == 7
    assert new_world.query("select close from bazaar.raw_candles where open_time = '2026-06-01 00:45'") == [(6.0,)]


def test_a_long_answer_is_stored_bit_by_bit(new_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 500
    monkeypatch.setattr(fetch, "ROWS_AT_ONCE", 2 * rows - 1)
    market, warehouse = new_world.market, new_world.warehouse
    warehouse.prepare(market)
    requests = fetch.requests_for(market, {BTC: SeriesStats()}, NOW, since=FIRST.replace(year=2020))
    stored: list[int] = []

    def answers() -> Iterator[Fetched]:
        yield Fetched(BTC, some("2021-01-01T00:00", rows), last=False)
        yield Fetched(BTC, some("2022-01-01T00:00", rows), last=False)
        stored.append(sum(new_world.counts().values()))
        yield Fetched(BTC, some("2026-01-01T00:00", 3))

    done = fetch.fetch_candles(warehouse, market, Teller(answers()), requests, NOW)
    assert stored == [2 * rows]
    assert done[BTC].rows_added == 2 * rows + 3


def test_the_reason_of_a_failure_names_no_series_for_many_may_share_it(new_world: World) -> None:
    done = told(
        new_world, [Fetched(each, Candles.none(), error=TransientError(f"{each}: HTTP 503")) for each in (BTC, ETH)]
    )
    assert {attempt.reason for attempt in done.values()} == {"HTTP 503"}


def test_progress_counts_series(new_world: World) -> None:
    seen: list[tuple[str, int, int]] = []
    with watched(lambda *step: seen.append(step)):
        fetched(new_world)
        computed(new_world)
        exported(new_world)
        uploaded(new_world)
    assert seen[0] == ("raw_candles", 3, 3)
    assert [step for step in seen if step[1] == step[2]][1:] == [
        ("enhanced_candles", 3, 3),
        ("indicators", 3, 3),
        ("exports", 3, 3),
        ("uploads", 6, 6),
    ]


# ---- computing


def test_only_what_changed_is_computed(new_world: World) -> None:
    fetched(new_world)
    assert {(a.outcome, a.rows_added) for a in computed(new_world).values()} == {(Outcome.updated, 96)}
    assert {(a.outcome, a.rows_added) for a in computed(new_world).values()} == {(Outcome.unchanged, 0)}
    fetched(new_world, LATER, [BTC])
    again = computed(new_world)
    assert (again[BTC].outcome, again[BTC].rows_added) == (Outcome.updated, 8)
    assert again[ETH].outcome is Outcome.unchanged


def test_a_series_without_candles_has_nothing_to_compute(new_world: World) -> None:
    new_world.candle_file("BTC/USD|m15").unlink()
    fetched(new_world)
    assert computed(new_world)[BTC].outcome is Outcome.no_data
