"""The tags that make one run of a range of partitions, as Dagster names them."""

from collections.abc import Mapping, Sequence

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def range_tags(market: Market, instruments: Sequence[str], timeframes: Sequence[Timeframe]) -> Mapping[str, str]:
    """The tags that make one run of every partition between the first and the last of both lists.

    A range of a grid is the product of a range in each dimension, so it may hold more than was asked for.

    >>> from refresh_pipeline.market.model import parse_market
    >>> market = parse_market("{name: x, source: {kind: demo}, calendar: crypto, instruments: [A, B, C],"
    ...                       " timeframes: [m1, m5, H1], history: 1d}", file="x.yaml")
    >>> range_tags(market, ["C", "A"], [Timeframe.m1, Timeframe.m5])
    {'dagster/asset_partition_range_start': 'A|m1', 'dagster/asset_partition_range_end': 'C|m5'}
    """
    wanted = set(instruments)
    names = [name for name in market.instruments if name in wanted]
    first, last = Series(names[0], min(timeframes)), Series(names[-1], max(timeframes))
    return {RANGE_START: first.key, RANGE_END: last.key}
