"""Splits and dividends, and how prices of before them are made comparable with those of after. Sources deliver them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from refresh_pipeline.market.candles import Floats, Times

PRICES = ("open", "high", "low", "close")


class AdjustmentKind(Enum):
    """What happened to a share."""

    split = "split"
    dividend = "dividend"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A split or a dividend of one instrument.

    `ex_time` is the open time of the first session without it. `value` is the number of new shares for each old one, or
    the dividend for each share in the currency of the prices. `in_prices` says that the source's older prices follow it
    already.
    """

    instrument: str
    ex_time: np.datetime64
    kind: AdjustmentKind
    value: float
    in_prices: bool


@dataclass(frozen=True, slots=True)
class Factors:
    """What to multiply candles by that open before each ex-time, oldest first; later candles stay as they are."""

    ex_time: Times
    price: Floats
    volume: Floats


def adjusted(open_time: Times, columns: Mapping[str, Floats], factors: Factors) -> dict[str, Floats]:
    """Candles with prices and volume comparable with those of the newest candle.

    >>> times = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], dtype="datetime64[us]")
    >>> split = Factors(times[1:2], np.array([0.25]), np.array([4.0]))
    >>> found = adjusted(times, {"close": np.array([100.0, 25.0, 26.0]), "volume": np.array([1.0, 4.0, 4.0])}, split)
    >>> found["close"].tolist(), found["volume"].tolist()
    ([25.0, 25.0, 26.0], [4.0, 4.0, 4.0])
    """
    place = np.searchsorted(factors.ex_time, open_time, side="right")
    price, volume = (np.append(each, 1.0)[place] for each in (factors.price, factors.volume))
    multipliers = {name: price for name in columns if name.rpartition("_")[2] in PRICES} | {"volume": volume}
    return {name: values * multipliers[name] if name in multipliers else values for name, values in columns.items()}
