"""A warehouse whose inner tables were damaged: the deep check finds it, and computing anew mends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, World, command

ROW = "instrument = 'BTC/USD' and timeframe = 'm15' and open_time = '2026-06-01 03:00'"
OF_SERIES = "instrument = 'BTC/USD' and timeframe = 'm15'"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.founded(tmp_path_factory.mktemp("deep") / "world", FEW_INDICATORS)
    with inside(world.root):
        assert world.run().success
    return world


@pytest.fixture
def world(original: World, tmp_path: Path) -> Iterator[World]:
    copy = original.copied(tmp_path / "copy")
    with inside(copy.root):
        yield copy


def faults(world: World) -> list[tuple[str, str]]:
    found = world.warehouse.deep_faults(world.market, world.market.series)
    assert all(str(fault.series) == "BTC/USD m15" for _, fault in found)
    return [(table.value, fault.what) for table, fault in found]


@pytest.mark.parametrize(
    ("damage", "table", "what"),
    [
        (f"update bazaar.enhanced_candles set median = median * 1.0001 where {ROW}", "enhanced_candles", "median: 1"),
        (f"update bazaar.indicators set sma_10 = null where {ROW}", "indicators", "sma_10: 1 values differ"),
        (f"delete from bazaar.indicators where {ROW}", "indicators", "95 rows, 96 are expected"),
        (
            f"insert into bazaar.enhanced_candles select * from bazaar.enhanced_candles where {ROW}",
            "enhanced_candles",
            "97 rows, 96 are expected",
        ),
        (f"delete from bazaar.series where {OF_SERIES}", "series", "no candles noted, 96 are stored"),
        (f"update bazaar.series set candle_count = 7 where {OF_SERIES}", "series", "7 candles noted, 96 are stored"),
    ],
)
def test_what_was_damaged_is_found_and_mended(world: World, damage: str, table: str, what: str) -> None:
    before = world.query(f"select * from bazaar.{table} order by all")
    assert faults(world) == []
    world.change(damage)
    [(found, text)] = faults(world)
    assert (found, text.startswith(what)) == (table, True)
    world.change("update bazaar.checkpoints set candles = candles + 1")
    result = command("recompute", "--instrument", "BTC/USD", "--timeframe", "m15")
    assert result.exit_code == 0, result.output
    assert "bazaar.indicators: 96 rows of 1 series computed anew" in result.output
    assert faults(world) == []
    assert world.query(f"select * from bazaar.{table} order by all") == before


def test_one_table_of_one_series_is_computed_anew(world: World) -> None:
    world.change("update bazaar.indicators set sma_10 = 0")
    words = ["recompute", "--table", "indicators", "--instrument", "BTC/USD", "--timeframe", "m15"]
    assert command(*words).output == "bazaar.indicators: 96 rows of 1 series computed anew\n"
    left = world.query("select distinct instrument, timeframe from bazaar.indicators where sma_10 = 0")
    assert len(left) == len(world.market.series) - 1
    assert command("recompute", "--table", "raw_candles").exit_code == 2


def test_the_command_ends_with_1_where_something_differs(world: World) -> None:
    good = command("check", "--deep")
    assert (good.exit_code, "Every inner table is what the stored candles give." in good.output) == (0, True)
    world.change(f"update bazaar.indicators set sma_10 = 1 where {ROW}")
    bad = command("check", "--deep")
    assert bad.exit_code == 1
    assert "bazaar.indicators of BTC/USD m15 at 2026-06-01T03:00:00: sma_10: 1 values differ" in bad.output
    assert Table.indicators in world.warehouse.deep_faults(world.market, world.market.series)[0]
