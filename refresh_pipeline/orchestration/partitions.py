"""The grid of a market's partitions, and the range of a run. Time is no partition: history lies inside a series."""

from collections.abc import Mapping

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.partition_ranges import range_tags


def grid(market: Market) -> dg.MultiPartitionsDefinition:
    """Instrument x timeframe, both in the market's order: important instruments and short timeframes first."""
    return dg.MultiPartitionsDefinition(
        {
            "instrument": dg.StaticPartitionsDefinition(list(market.instruments)),
            "timeframe": dg.StaticPartitionsDefinition([timeframe.value for timeframe in market.timeframes]),
        }
    )


def whole(market: Market) -> Mapping[str, str]:
    """The tags of one run of every partition."""
    return range_tags(market, list(market.instruments), market.timeframes)
