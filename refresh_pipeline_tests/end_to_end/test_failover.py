"""A market with two sources: who serves, what stays, what is compared, from the venue to the check."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresh_pipeline_tests.fakes import binance as fake
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, metadata_of, verdicts_of

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
KEY = "BTC/USD|m15"
YAML = """
name: bazaar
source:
  - {{kind: binance, base_url: "{base_url}", symbols: {{BTC/USD: BTCUSDT}}}}
  - {{kind: files, directory: candles}}
calendar: crypto
instruments: [BTC/USD]
timeframes: [m15]
history: 3h
max_deviation_percent: {allowed}
indicators: {{compute: [sma_10, mfi]}}
exports: {{default: {{layers: candles, formats: csv}}}}
"""


@pytest.fixture
def venue() -> Iterator[FakeBinance]:
    with FakeBinance(now=NOW) as server:
        yield server


@pytest.fixture
def world(venue: FakeBinance, tmp_path: Path) -> Iterator[World]:
    world = World.founded(tmp_path / "world", YAML.format(base_url=venue.base_url, allowed=5))
    copy_of_the_venue(world, venue)
    with inside(world.root):
        yield world


def copy_of_the_venue(world: World, venue: FakeBinance, factor: float = 1.001) -> None:
    """Files with the venue's candles, a little dearer."""
    lines = ["open_time,open,high,low,close,volume"]
    for step in range(20):
        at = NOW.replace(second=0) - timedelta(hours=4) + timedelta(minutes=15) * step
        row = venue.candle("BTCUSDT", "15m", at.isoformat()[:16])
        prices = [f"{float(price) * factor:.8f}" for price in row[1:5]]
        lines.append(",".join([f"{at:%Y-%m-%dT%H:%M}Z", *prices, "1"]))
    world.candle_file(KEY).write_text("\n".join(lines) + "\n")


def sources(world: World) -> list[tuple]:
    return world.query("select source, count(*) from bazaar.raw_candles group by 1 order by 1")


def test_who_served_is_beside_each_candle_and_a_preferred_sources_candles_stay(
    world: World, venue: FakeBinance
) -> None:
    assert world.run(now=NOW).success
    assert sources(world) == [("binance", 12)]
    # The venue refuses, and two more candles close: the files have them.
    venue.fail(fake.WRONG_PLACE, times=99)
    later = NOW + timedelta(minutes=30)
    result = world.run(now=later)
    assert result.success
    assert sources(world) == [("binance", 12), ("files", 2)]
    said = metadata_of(result, "raw_candles")[KEY]
    assert (said["source"], said["rows_added"], said["rows_revised"]) == ("files", 2, 0)
    assert "Binance does not serve this place" in said["failover_reason"]
    assert world.query("select distinct source from bazaar.cross_checks") == [("files",)]
    # It is back: its own candles take the place of the others, which stay on record.
    venue.heal()
    venue.now = later
    assert world.run(now=later).success
    assert sources(world) == [("binance", 14)]
    assert world.query("select source, count(*) from bazaar.raw_candle_revisions group by 1") == [("files", 2)]


def test_sources_that_agree_are_compared_and_pass(world: World) -> None:
    result = world.run(now=NOW)
    assert verdicts_of(result)["sources_agree"] is True
    (evaluation,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "sources_agree"]
    assert evaluation.metadata["examined"].value == 5


@pytest.mark.parametrize(("allowed", "factor", "passes"), [(5, 1.04, True), (5, 1.06, False), (2, 1.04, False)])
def test_sources_that_are_further_apart_than_the_yaml_allows_are_reported(
    world: World, venue: FakeBinance, allowed: float, factor: float, passes: bool
) -> None:
    yaml = YAML.format(base_url=venue.base_url, allowed=allowed)
    (world.root / "markets" / "bazaar.yaml").write_text(yaml)
    copy_of_the_venue(world, venue, factor)
    result = world.run(now=NOW)
    assert verdicts_of(result)["sources_agree"] is passes
    if not passes:
        (found,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "sources_agree"]
        assert "by binance" in str(found.metadata["first_faults"])
        assert "by files" in str(found.metadata["first_faults"])


def test_what_a_source_says_differently_replaces_nothing(world: World, venue: FakeBinance) -> None:
    world.run(now=NOW)
    before = world.query("select open_time, close from bazaar.raw_candles order by 1")
    copy_of_the_venue(world, venue, 1.5)
    for minute in range(3):
        world.run(now=NOW + timedelta(minutes=minute))
    assert world.query("select open_time, close from bazaar.raw_candles order by 1") == before
    # What it said before is not kept beside what it says now.
    assert world.query("select count(*), count(distinct open_time) from bazaar.cross_checks") == [(5, 5)]
