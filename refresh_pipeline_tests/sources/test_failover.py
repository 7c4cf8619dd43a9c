"""Several sources in order: who serves a series, from when on, and what is said of those that did not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError
from refresh_pipeline.sources.failover import OVERLAP, Member, PreferredSources, order_of
from refresh_pipeline.sources.registry import open_source

NOW = datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)
SINCE = "2024-06-01T11:00"
MINUTE = np.timedelta64(1, "m")


def market(timeframes: str = "m1", more: str = "") -> Market:
    text = f"""
        name: it
        source: [{{kind: demo, seed: 1}}, {{kind: files, directory: nowhere, symbols: {{BTC/USD: XBT}}}}]
        calendar: crypto
        instruments: {{BTC/USD: {{symbol: BITCOIN}}, ETH/USD: {{}}, SOL/USD: {{}}}}
        timeframes: [{timeframes}]
        history: 1d
        {more}
    """
    return parse_market(text, "it.yaml")


@dataclass
class Venue:
    """A candle a minute of every instrument but those it lacks, up to `newest`, at a price of its own."""

    kind: str
    price: float = 100.0
    newest: str = "2024-06-01T11:59"
    lacks: Sequence[str] = ()
    error: SourceError | None = None
    native_timeframes: Sequence[Timeframe] = (Timeframe.m1,)
    asked: list[Request] = field(default_factory=list)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        for request in requests:
            self.asked.append(request)
            if request.series.instrument in self.lacks:
                yield Fetched(request.series, Candles.none(), error=self.error)
                continue
            opens = np.arange(request.since, min(request.until, instant(self.newest) + MINUTE), MINUTE)
            flat = np.full(len(opens), self.price)
            yield Fetched(request.series, Candles.of(opens, open=flat, high=flat, low=flat, close=flat), seconds=0.5)

    def spans(self) -> list[str]:
        return [f"{r.series.instrument[:3]} {str(r.since)[11:16]}-{str(r.until)[11:16]}" for r in self.asked]


ALL = ["BTC/USD", "ETH/USD", "SOL/USD"]


def served(*venues: Venue, names: Sequence[str] = ALL, since: str = SINCE) -> dict[str, list[Fetched]]:
    """What came for each instrument, each ended exactly once and at the end."""
    it = market()
    source = PreferredSources(it, [Member(venue, it) for venue in venues])
    requests = [Request(Series(name, Timeframe.m1), instant(since), instant(NOW)) for name in names]
    got: dict[str, list[Fetched]] = {name: [] for name in names}
    for each in source.fetch(requests, NOW):
        got[each.series.instrument].append(each)
    assert all([each.last for each in some].count(True) == 1 and some[-1].last for some in got.values())
    return got


def servers(chunks: Sequence[Fetched]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in chunks:
        if len(each.candles):
            found.setdefault(each.source, []).extend(str(at)[11:16] for at in each.candles.open_time)
    return found


def test_the_preferred_source_serves_all_and_the_next_is_asked_for_a_few_candles_of_one_series() -> None:
    first, second = Venue("first"), Venue("second", price=101.0)
    got = served(first, second)
    assert all(len(servers(chunks)["first"]) == 60 for chunks in got.values())
    sampled = [name for name, chunks in got.items() if "second" in servers(chunks)]
    assert len(sampled) == len(second.asked) == 1
    assert servers(got[sampled[0]])["second"] == ["11:55", "11:56", "11:57", "11:58", "11:59"]
    assert [chunks[-1].failover_reason for chunks in got.values()] == ["", "", ""]


def test_each_minute_another_series_gets_a_second_opinion() -> None:
    it, second = market(), Venue("second")
    source = PreferredSources(it, [Member(Venue("first"), it), Member(second, it)])
    requests = [Request(Series(name, Timeframe.m1), instant(SINCE), instant(NOW)) for name in ALL]
    for minute in range(3):
        list(source.fetch(requests, NOW.replace(minute=minute)))
    assert sorted(each.series.instrument for each in second.asked) == ALL


def test_the_series_whose_turn_it_is_gets_the_second_opinion() -> None:
    it, second = market(), Venue("second")
    source = PreferredSources(it, [Member(Venue("first"), it), Member(second, it)])
    requests = [Request(Series(name, Timeframe.m1), instant(SINCE), instant(NOW)) for name in ALL]
    for name in ("SOL/USD", "SOL/USD", "BTC/USD"):
        source.sample = Series(name, Timeframe.m1)
        list(source.fetch(requests, NOW))
    assert [each.series.instrument for each in second.asked] == ["SOL/USD", "SOL/USD", "BTC/USD"]


@pytest.mark.parametrize("error", [PermanentError("unknown symbol"), TransientError("no answer")])
def test_a_series_that_the_first_fails_is_served_by_the_next_and_says_why(error: SourceError) -> None:
    got = served(Venue("first", lacks=["ETH/USD"], error=error), Venue("second"))
    assert servers(got["ETH/USD"]) == {"second": [f"11:{minute:02}" for minute in range(60)]}
    assert (got["ETH/USD"][-1].error, got["ETH/USD"][-1].failover_reason) == (None, f"first: {error}")
    assert len(servers(got["BTC/USD"])["first"]) == 60


def test_a_source_that_is_behind_by_the_calendar_is_helped_out_from_a_few_candles_before_its_end() -> None:
    second = Venue("second")
    got = served(Venue("first", newest="2024-06-01T11:40"), second, names=["BTC/USD"])
    assert second.spans() == ["BTC 11:36-12:00"]
    assert servers(got["BTC/USD"])["second"][OVERLAP:] == [f"11:{minute}" for minute in range(41, 60)]
    assert got["BTC/USD"][-1].failover_reason == (
        "first: has no candle of 2024-06-01T11:57:00, its newest is 2024-06-01T11:40:00"
    )


def test_two_ticks_late_is_not_behind() -> None:
    second = Venue("second")
    served(Venue("first", newest="2024-06-01T11:57"), second, names=["BTC/USD"])
    assert second.spans() == ["BTC 11:53-11:57"]


def test_a_closed_market_is_not_behind() -> None:
    it = parse_market(
        "{name: it, source: [{kind: demo}, {kind: files, directory: x}], calendar: fx, instruments: [EUR/USD], "
        "timeframes: [m1], history: 1d}",
        "it.yaml",
    )
    second = Venue("second")
    source = PreferredSources(it, [Member(Venue("first", newest="2024-05-31T20:59"), it), Member(second, it)])
    request = Request(Series("EUR/USD", Timeframe.m1), instant("2024-05-31T20:50"), instant(NOW))
    (chunk, *_, end) = source.fetch([request], NOW)
    assert len(chunk.candles) == 10
    assert end.failover_reason == ""


def test_where_all_fail_the_error_names_each_and_may_be_worth_asking_again() -> None:
    lacking = ["BTC/USD"]
    first = Venue("first", lacks=lacking, error=PermanentError("BTC/USD m1: unknown symbol"))
    second = Venue("second", lacks=lacking, error=TransientError("BTC/USD m1: no answer"))
    end = served(first, second)["BTC/USD"][-1]
    assert str(end.error) == "first: unknown symbol; second: no answer"
    assert isinstance(end.error, TransientError)


def test_where_one_answers_late_and_the_other_fails_the_series_has_not_failed() -> None:
    second = Venue("second", lacks=["BTC/USD"], error=TransientError("no answer"))
    end = served(Venue("first", newest="2024-06-01T11:40"), second, names=["BTC/USD"])["BTC/USD"][-1]
    assert end.error is None
    assert "first: has no candle" in end.failover_reason


def test_a_second_opinion_that_fails_is_nobodys_failure() -> None:
    end = served(Venue("first"), Venue("second", lacks=ALL, error=TransientError("no answer")), names=["BTC/USD"])
    assert (end["BTC/USD"][-1].error, end["BTC/USD"][-1].failover_reason) == (None, "")


def test_a_timeframe_that_only_the_next_one_has_is_served_by_it() -> None:
    it = market("m1, H1")
    hourly = Venue("first", native_timeframes=[Timeframe.H1])
    source = PreferredSources(it, [Member(hourly, it), Member(Venue("second"), it)])
    assert {Timeframe.m1, Timeframe.H1} <= set(source.native_timeframes)
    chunks = list(source.fetch([Request(Series("BTC/USD", Timeframe.m1), instant(SINCE), instant(NOW))], NOW))
    assert {each.source for each in chunks if len(each.candles)} == {"second"}
    assert hourly.asked == []


def test_a_list_in_the_yaml_opens_all_with_names_of_their_own(tmp_path: Path) -> None:
    it = market()
    assert order_of(open_source(it, tmp_path)) == ("demo", "files")
    symbols = [it.for_source(number).symbol("BTC/USD", str) for number in (0, 1)]
    assert symbols == ["BITCOIN", "XBT"]
    assert it.for_source(1).symbol("ETH/USD", str) == "ETH/USD"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[]", r"source: found \[\]; allowed: a mapping with kind"),
        ("[{kind: demo}, {kind: demo}]", "source: found demo twice"),
        ("[{kind: demo}, {kind: nowhere}]", "source.kind: found 'nowhere'; allowed: demo"),
        ("[{kind: demo}, {seed: 1}]", "source.1.kind: missing"),
        ("{kind: demo, symbols: {DOGE: X}}", "symbols: 'DOGE' is no instrument"),
    ],
)
def test_a_list_that_cannot_be_is_refused_with_what_is_allowed(tmp_path: Path, source: str, said: str) -> None:
    text = f"{{name: it, source: {source}, calendar: crypto, instruments: [A], timeframes: [m1], history: 1d}}"
    with pytest.raises(MarketError, match=said):
        open_source(parse_market(text, "it.yaml"), tmp_path)
