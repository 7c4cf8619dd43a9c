"""`files` on candles as their origins published them: newest first, with outages, some contradicting themselves."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, command

COINS = """
name: coins
source: {kind: files, directory: candles}
calendar: crypto
instruments: [BTC/USD, ETH/USD, LTC/USD, SPY]
timeframes: [m1, H1, D1]
history: 20y
indicators: {compute: [sma_10, mfi]}
exports: {default: {layers: candles, formats: csv}}
"""
EURO = """
name: euro
source: {kind: files, directory: candles}
calendar: fx
instruments: [EUR/USD]
timeframes: [H1]
history: 20y
indicators: {compute: [sma_10, mfi]}
exports: {default: {layers: candles, formats: csv}}
two_sided: true
"""
FILES = {
    "BTC-USD_H1": "coinbase_BTCUSD_1h",
    "BTC-USD_m1": "coinbase_BTCUSD_1m_201804",
    "ETH-USD_m1": "coinbase_ETHUSD_1m_201804",
    "LTC-USD_m1": "coinbase_LTCUSD_1m_201804",
    "SPY_D1": "yahoo_SPY_1d",
    "EUR-USD_H1": "oanda_EURUSD_1h",
}


# Of each file a stretch with what the tests look for: the outage, the contradictions, the hole.
COINS_STRETCH = "time >= '2018-04-04' and time < '2018-04-06'"
STRETCHES = {
    "coinbase_BTCUSD_1h": "time >= '2018-03-25' and time < '2018-04-20' or time >= '2019-10-05'",
    "coinbase_BTCUSD_1m_201804": COINS_STRETCH,
    "coinbase_ETHUSD_1m_201804": COINS_STRETCH,
    "coinbase_LTCUSD_1m_201804": COINS_STRETCH,
    "yahoo_SPY_1d": "time >= '2014-10-01' and time < '2015-10-01'",
    "oanda_EURUSD_1h": "time >= '2016-10-01' and time < '2017-02-01'",
}


@pytest.fixture
def world(candle_folder: Path, tmp_path: Path) -> Iterator[World]:
    world = World.founded(tmp_path / "world", COINS, "coins")
    (world.root / "markets" / "euro.yaml").write_text(EURO)
    shutil.rmtree(world.root / "candles")
    (world.root / "candles").mkdir()
    for stem, origin in FILES.items():
        published, file = candle_folder / f"{origin}.parquet", world.root / "candles" / f"{stem}.parquet"
        duckdb.execute(f"copy (from '{published}' where {STRETCHES[origin]}) to '{file}' (format parquet)")
    with inside(world.root):
        yield world


def in_file(stem: str, what: str, where: str = "true") -> object:
    file = f"candles/{stem}.parquet"
    return duckdb.execute(f"select {what} from '{file}' where {where}").fetchall()[0][0]


def test_real_candles_come_out_whole_in_order_and_without_those_that_contradict_themselves(world: World) -> None:
    now = ("--now", "2019-10-18T00:00Z")
    result = command("once", *now)
    assert result.exit_code == 0, result.output
    _whole_but_for_contradictions(world)
    _oldest_first(world)
    _outage_shows_in_completeness(world)

    before = world.fingerprints()
    assert command("once", *now).exit_code == 0
    after = world.fingerprints()
    changed = {"coins.outcomes", "coins.check_results", "coins.confirmed_gaps"}
    assert {name for name in after if after[name] != before[name]} == changed


def _whole_but_for_contradictions(world: World) -> None:
    wrong = "high < greatest(open, close) or low > least(open, close)"
    counts = world.counts()
    for stem in FILES.keys() - {"EUR-USD_H1"}:
        key = "|".join(stem.replace("-", "/").rsplit("_", 1))
        assert counts[key] == in_file(stem, "count(*)", f"not ({wrong})")
    assert len(counts) == 5
    rejected = world.query("select instrument, timeframe, count(*) from coins.rejected_candles group by all")
    assert rejected == [("SPY", "D1", 2)]
    status = {
        (row[0], row[1]): row[2]
        for row in world.query("select instrument, timeframe, outcome from coins.outcomes where asset = 'raw_candles'")
    }
    assert status["SPY", "m1"] == "no data"
    assert status["LTC/USD", "m1"] == "updated"


def _oldest_first(world: World) -> None:
    assert in_file("BTC-USD_H1", "first(time) > last(time)") is True
    exported = [row[0] for row in world.query("select open_time from 'data/exports/coins/candles/BTC-USD_H1.csv'")]
    assert exported == sorted(exported)
    assert len(exported) == world.counts()["BTC/USD|H1"]


def _outage_shows_in_completeness(world: World) -> None:
    rows = world.query(
        "select instrument, count(*) / (date_diff('minute', min(open_time), max(open_time)) + 1) "
        "from coins.raw_candles where timeframe = 'm1' group by 1 order by 1"
    )
    assert all(0.8 < share < 0.999 for _, share in rows)
    gaps = world.query(
        "select max(open_time - before) >= interval 6 hour from (select instrument, open_time, lag(open_time) over "
        "(partition by instrument order by open_time) as before from coins.raw_candles where timeframe = 'm1') "
        "group by instrument"
    )
    assert gaps == [(True,)] * 3


def test_real_quotes_keep_both_sides_and_their_hole(world: World) -> None:
    stretch = ("--since", "2016-11-01", "--until", "2017-01-01", "--now", "2017-01-02T00:00Z")
    result = command("once", "-m", "euro", *stretch)
    assert result.exit_code == 0, result.output
    inside_stretch = "time::timestamptz >= '2016-11-01 00:00+00' and time::timestamptz < '2017-01-01 00:00+00'"
    assert world.query("select count(*), count(bid_close), count(ask_close) from euro.raw_candles") == [
        (in_file("EUR-USD_H1", "count(*)", inside_stretch),) * 3
    ]
    assert world.query(
        "select count(*) from euro.raw_candles where open_time between '2016-12-10' and '2016-12-15'"
    ) == [(0,)]
    assert world.query("select count(*) from euro.enhanced_candles where not bid_close < ask_close") == [(0,)]
