"""The grid of a market, and that a range of it, as Dagster reads our tags, holds what was asked for."""

from itertools import product

import dagster as dg
import pytest

from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START, range_tags
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.partitions import grid, whole

MARKET = parse_market(
    """
    name: shop
    source: {kind: demo}
    calendar: crypto
    instruments: [ZEC/USD, BTC/USD, SPX500, M.M]
    timeframes: [D1, m1, H4, MN1]
    history: 1d
    """,
    file="shop.yaml",
)


def span(market: Market, tags: dict[str, str]) -> set[str]:
    """The partitions that Dagster finds between the first and the last of the tags."""
    keys = dg.PartitionKeyRange(tags[RANGE_START], tags[RANGE_END])
    return {str(key) for key in grid(market).get_partition_keys_in_range(keys)}


def test_the_grid_is_instruments_by_timeframes_in_the_order_of_importance() -> None:
    dimensions = {each.name: each.partitions_def.get_partition_keys() for each in grid(MARKET).partitions_defs}
    assert dimensions == {
        "instrument": ["ZEC/USD", "BTC/USD", "SPX500", "M.M"],
        "timeframe": ["m1", "H4", "D1", "MN1"],
    }


def test_the_partitions_are_the_series_by_their_keys() -> None:
    assert {str(key) for key in grid(MARKET).get_partition_keys()} == {series.key for series in MARKET.series}


def test_the_whole_is_everything() -> None:
    assert span(MARKET, dict(whole(MARKET))) == {series.key for series in MARKET.series}


@pytest.mark.parametrize("series", MARKET.series, ids=str)
def test_one_series_is_a_range_of_itself(series: Series) -> None:
    assert span(MARKET, dict(range_tags(MARKET, [series.instrument], [series.timeframe]))) == {series.key}


@pytest.mark.parametrize(
    ("instruments", "timeframes"),
    [
        (["ZEC/USD", "BTC/USD"], [Timeframe.m1, Timeframe.H4]),
        (["M.M", "SPX500"], [Timeframe.MN1]),
        (["BTC/USD"], [Timeframe.D1, Timeframe.m1]),
    ],
)
def test_a_range_is_the_product_of_both_dimensions(instruments: list[str], timeframes: list[Timeframe]) -> None:
    between = [each for each in MARKET.timeframes if min(timeframes) <= each <= max(timeframes)]
    wanted = {Series(*pair).key for pair in product(instruments, between)}
    assert span(MARKET, dict(range_tags(MARKET, instruments, timeframes))) == wanted


def test_a_range_over_others_holds_these_as_well() -> None:
    found = span(MARKET, dict(range_tags(MARKET, ["ZEC/USD", "SPX500"], [Timeframe.m1])))
    assert found == {"ZEC/USD|m1", "BTC/USD|m1", "SPX500|m1"}


@pytest.mark.parametrize(
    ("instruments", "timeframes", "runs"),
    [
        (4, 4, 4),
        (4, 1, 1),
        (1, 4, 1),
        (4, 2, 2),
    ],
)
def test_a_backfill_of_the_web_ui_makes_as_many_runs_as_its_shorter_dimension_has_keys(
    instruments: int, timeframes: int, runs: int
) -> None:
    # Dagster splits a backfill into ranges along one dimension, and takes the one with fewer keys.
    chosen = product(list(MARKET.instruments)[:instruments], MARKET.timeframes[:timeframes])
    keys = {Series(instrument, timeframe).key for instrument, timeframe in chosen}
    ranges = grid(MARKET).subset_with_partition_keys(keys).get_partition_key_ranges(grid(MARKET))
    assert len(ranges) == runs
