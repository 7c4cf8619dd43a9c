"""`refresh once --market crypto` against a venue that does what venues do, over real HTTP on the loopback."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from refresh_pipeline_tests.fakes import binance as fake
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, command

# In the middle of a minute and of an hour: a candle of both is forming.
NOW = datetime(2024, 6, 1, 12, 30, 30, tzinfo=UTC)
MINUTES, HOURS = 30 * 60, 48
YAML = """
name: crypto
source: {{kind: binance, base_url: "{base_url}"}}
calendar: crypto
instruments: [{instruments}]
timeframes: [m1, H1]
history: {{m1: 30h, H1: 2d}}
indicators: {{compute: [sma_10, mfi]}}
exports: {{default: {{layers: candles, formats: csv}}}}
"""
INSTRUMENTS = [symbol.replace("USDT", "/USDT") for symbol in fake.SYMBOLS[:8]]


@dataclass
class Exchange:
    """A world whose market is served by the fake venue."""

    world: World
    venue: FakeBinance

    def once(self, *arguments: str) -> Any:
        """Refresh, at the time that it is at the venue."""
        assert self.venue.now is not None
        return command("once", "--market", "crypto", "--now", self.venue.now.isoformat(), *arguments)

    def outcomes(self) -> dict[str, str]:
        """What came of each series of candles that is not as usual."""
        rows = self.world.query(
            "select instrument || '|' || timeframe, reason from crypto.outcomes "
            "where asset = 'raw_candles' and outcome = 'failed'"
        )
        return dict(rows)

    def counts(self) -> dict[tuple[str, str], int]:
        """Candles by instrument and timeframe."""
        rows = self.world.query("select instrument, timeframe, count(*) from crypto.raw_candles group by all")
        return {(instrument, timeframe): count for instrument, timeframe, count in rows}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    with FakeBinance(now=NOW) as venue:
        yaml = YAML.format(base_url=venue.base_url, instruments=", ".join(INSTRUMENTS))
        world = World.founded(tmp_path / "world", yaml, "crypto")
        with inside(world.root):
            yield Exchange(world, venue)


def test_a_venue_with_all_its_faults_is_refreshed_in_full_but_for_what_it_does_not_have(exchange: Exchange) -> None:
    venue = exchange.venue
    venue.symbols.remove("ADAUSDT")
    venue.fail(fake.TOO_MANY_REQUESTS, path="klines", symbol="BTCUSDT")
    venue.fail(fake.BUSY, path="klines", symbol="ETHUSDT")
    venue.fail(fake.BAD_GATEWAY, path="klines", symbol="SOLUSDT")
    venue.fail(fake.DROPPED, path="klines", symbol="XRPUSDT", times=2)
    venue.fail(fake.BACKEND_TIMEOUT, path="klines", symbol="BNBUSDT")
    venue.replace("DOGEUSDT", "1m", "2024-06-01T12:00", ["nonsense"])
    venue.correct("TRXUSDT", "1m", "2024-06-01T12:00", high="0.00000001")

    result = exchange.once()

    assert result.exit_code == 1
    assert set(exchange.outcomes()) == {"ADA/USDT|m1", "ADA/USDT|H1"}
    assert all("Invalid symbol" in reason and "`symbol`" in reason for reason in exchange.outcomes().values())
    assert "failed: raw_candles of ADA/USDT m1, ADA/USDT H1: " in " ".join(result.stdout.split())
    counts = exchange.counts()
    short = {("DOGE/USDT", "m1"): 1, ("TRX/USDT", "m1"): 1}
    for instrument in INSTRUMENTS:
        for timeframe, expected in (("m1", MINUTES), ("H1", HOURS)):
            missing = short.get((instrument, timeframe), 0)
            assert counts.get((instrument, timeframe), 0) == (0 if "ADA" in instrument else expected - missing)
    assert exchange.world.query(
        "select instrument, open_time::varchar, reason, received from crypto.rejected_candles order by 1"
    ) == [
        ("DOGE/USDT", None, "malformed row: a kline is a list of 12 fields", '["nonsense"]'),
        ("TRX/USDT", "2024-06-01 12:00:00", "high is below low", None),
    ]


def test_more_candles_than_one_answer_holds_come_in_several_and_the_forming_one_stays_out(exchange: Exchange) -> None:
    exchange.once("-i", "ETH/USDT,BTC/USDT")
    assert set(exchange.counts().values()) == {MINUTES, HOURS}
    newest = exchange.world.query(
        "select timeframe, max(open_time)::varchar from crypto.raw_candles group by 1 order by 1"
    )
    assert newest == [("H1", "2024-06-01 11:00:00"), ("m1", "2024-06-01 12:29:00")]
    assert all(int(asked.query.get("limit", 0)) <= 1000 for asked in exchange.venue.asked)
    # The important ones first.
    assert exchange.venue.pages[0][0] == "BTCUSDT"


def test_the_next_refresh_sees_what_closed_what_was_corrected_and_what_was_listed(exchange: Exchange) -> None:
    some = ("-i", "BTC/USDT,ETH/USDT,ADA/USDT", "-t", "m1")
    exchange.venue.symbols.remove("ADAUSDT")
    assert exchange.once(*some).exit_code == 1
    before = dict(exchange.world.query("select open_time, close from crypto.raw_candles where instrument = 'BTC/USDT'"))
    asked = len(exchange.venue.pages)

    exchange.venue.now = NOW + timedelta(minutes=5)
    exchange.venue.symbols.add("ADAUSDT")
    exchange.venue.correct("BTCUSDT", "1m", "2024-06-01T12:27", close="99999.00000000", high="99999.00000000")
    assert exchange.once(*some).exit_code == 0

    after = dict(exchange.world.query("select open_time, close from crypto.raw_candles where instrument = 'BTC/USDT'"))
    corrected = datetime(2024, 6, 1, 12, 27)  # noqa: DTZ001 (as DuckDB gives it)
    assert {at for at in before if before[at] != after[at]} == {corrected}
    assert len(after) == len(before) + 5
    assert exchange.world.query("select instrument, open_time, close from crypto.raw_candle_revisions") == [
        ("BTC/USDT", corrected, before[corrected])
    ]
    assert exchange.counts()[("ADA/USDT", "m1")] == MINUTES
    # One request each for what was known, two for what was new.
    assert len(exchange.venue.pages) - asked == 1 + 1 + 2
    computed = exchange.world.query("select median from crypto.enhanced_candles where open_time = '2024-06-01 12:27' "
                                    "and instrument = 'BTC/USDT'")  # fmt: skip
    low = exchange.world.query("select low from crypto.raw_candles where open_time = '2024-06-01 12:27' "
                               "and instrument = 'BTC/USDT'")  # fmt: skip
    assert computed[0][0] == pytest.approx((99999 + low[0][0]) / 2)


def test_a_venue_that_refuses_everything_is_told_in_words_and_costs_nothing(exchange: Exchange) -> None:
    some = ("-i", "BTC/USDT,ETH/USDT", "-t", "H1")
    exchange.once(*some)
    before = exchange.counts()
    exchange.venue.fail(fake.WRONG_PLACE, times=99)
    result = exchange.once(*some)
    assert result.exit_code == 1
    assert "Binance does not serve this place" in " ".join(result.stdout.split())
    assert "Traceback" not in result.output
    assert exchange.counts() == before
    exchange.venue.heal()
    assert exchange.once(*some).exit_code == 0
