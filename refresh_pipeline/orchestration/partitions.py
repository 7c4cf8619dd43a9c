"""The grid of a market's partitions, and the range of a run. Time is no partition: history lies inside a series."""

from collections.abc import Mapping, Sequence

import dagster as dg

from refresh_pipeline.instance.run_retention import RANGE_END, RANGE_START
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe


def grid(market: Market) -> dg.MultiPartitionsDefinition:
    """Instrument x timeframe, both in the market's order: important instruments and short timeframes first."""
    return dg.MultiPartitionsDefinition(
        {
            "instrument": dg.StaticPartitionsDefinition(list(market.instruments)),
            "timeframe": dg.StaticPartitionsDefinition([timeframe.value for timeframe in market.timeframes]),
        }
    )


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


def whole(market: Market) -> Mapping[str, str]:
    """The tags of one run of every partition."""
    return range_tags(market, list(market.instruments), market.timeframes)
