"""The computed tables of a market: enhanced candles, and the indicators that its YAML chooses."""

import json
from functools import lru_cache

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import UnknownIndicator, indicators
from refresh_pipeline.analytics.own_indicators import OwnIndicatorError
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.warehouse.schema import Table


def computations(market: Market) -> dict[Table, Computation]:
    """The computed tables of a market, in the order in which they are computed.

    Raises:
        MarketError: the market's YAML names an unknown indicator; the message names the nearest.
    """
    try:
        table = _indicators(json.dumps(market.indicators.compute), market.calendar)
    except OverflowError as error:
        raise MarketError(f"market {market.name!r}: indicators.compute: found a number that is too large") from error
    except TypeError as error:
        raise MarketError(f"market {market.name!r}: indicators.compute: found binary data; allowed: text") from error
    except (UnknownIndicator, OwnIndicatorError) as error:
        raise MarketError(f"market {market.name!r}: indicators.compute: {error}") from error
    return {Table.enhanced_candles: ENHANCED_CANDLES, Table.indicators: table}


# Building a registry of 300 columns takes 40 ms, and every step of a run needs it.
@lru_cache(maxsize=32)
def _indicators(specs: str, calendar: Calendar) -> Computation:
    return indicators(json.loads(specs), calendar)
