"""A simulated venue: any instrument on any timeframe at any time, the same on every machine, offline.

Trading hours and the edges of bars are the calendar's. A price follows a path with a hashed value at every whole
minute. Values a year apart are drawn independently, so that prices stay in a plausible range for ever. A Brownian
bridge halves the steps between them, so that no minute depends on a simulation of the minutes before it. The path's
unit is the standard deviation of one minute. Bars are aggregated in that unit and then turned into prices, which
keeps their order. The arithmetic is addition, multiplication and square roots, which every platform rounds alike;
logarithms and sines differ between platforms.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import PRICE_COLUMNS, TIME_UNIT, Candles, Floats, Times, instant
from refresh_pipeline.market.model import Market, normalized, source_options
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

# The longest steps of the path: 2^19 minutes are 364 days.
COARSEST = 19
YEAR = 2**COARSEST
# Standard deviation of the values a year apart, as a share of a year's standard deviation.
YEARLY_SPREAD = 0.5
# How far the high and low of a minute of activity 1 may lie beyond open and close, in standard deviations.
REACH = 1.5
# Minutes that are simulated at once: they fit a processor's cache, and the longest bar of a month fits in.
PIECE = 1 << 16
# Rows of a simulation; all but the volume are in standard deviations of a minute.
BAR_COLUMNS = (*PRICE_COLUMNS, "volume")

LANE_SIZE = 1 << 16
EVEN_LANES = np.uint64(0x0000FFFF0000FFFF)
GAMMA = 0x9E3779B97F4A7C15
# Streams 0 to COARSEST are the levels of the path.
MINUTE_STREAM = 100
WEEK = 7 * 1440
# 1970-01-01 was a Thursday.
MINUTES_SINCE_MONDAY = 3 * 1440
# First and last hour (UTC) and peak of the volume: Asia, London, New York.
SESSIONS = ((0, 9, 0.7), (7, 16, 1.3), (12, 21, 1.6))
QUIET_HOURS, QUIET_WEEKEND = 0.25, 0.4
VOLUME_SPREAD = 0.6


class DemoOptions(BaseModel):
    """The options of a demo market in its YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=1, strict=True)


@dataclass(frozen=True, slots=True)
class InstrumentProfile:
    """An instrument's middle price, yearly volatility, decimals of a price, and volume of a minute."""

    price: float
    volatility: float
    decimals: int
    volume: float


KNOWN = {
    "BTCUSD": InstrumentProfile(60_000, 0.60, 2, 900),
    "ETHUSD": InstrumentProfile(3_000, 0.70, 2, 1_500),
    "SOLUSD": InstrumentProfile(150, 0.90, 2, 4_000),
    "EURUSD": InstrumentProfile(1.10, 0.08, 5, 60),
    "GBPUSD": InstrumentProfile(1.27, 0.09, 5, 45),
    "USDJPY": InstrumentProfile(150, 0.10, 3, 55),
    "XAUUSD": InstrumentProfile(2_300, 0.15, 2, 40),
    "SPX500": InstrumentProfile(5_400, 0.16, 1, 30),
    "AAPL": InstrumentProfile(190, 0.28, 2, 90_000),
    "RELIANCE": InstrumentProfile(2_900, 0.25, 2, 15_000),
}


class DemoSource:
    """Simulates every instrument; a seed gives the same candles on every machine, in whatever order."""

    kind = "demo"
    native_timeframes = tuple(Timeframe)

    def __init__(self, market: Market, *_: object) -> None:
        """The source of one market; sources on the network take further arguments, which mean nothing here."""
        self._market = market
        self._seed = source_options(market, DemoOptions).seed

    @property
    def venue(self) -> str:
        """The name of the simulated world; another seed is another one."""
        return f"{self.kind} of seed {self._seed}"

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Closed candles for each request, one answer each, in the order of the requests.

        Args:
            requests: for any instruments and timeframes.
            now: bars that end later are not there yet.
        """
        for request in requests:
            started = time.perf_counter()
            candles = self._candles(request, instant(now))
            yield Fetched(request.series, candles, seconds=time.perf_counter() - started)

    def _candles(self, request: Request, now: np.datetime64) -> Candles:
        instrument, timeframe = request.series.instrument, request.series.timeframe
        calendar, profile = self._market.calendar_of(instrument), profile_of(instrument)
        opens = calendar.open_times(timeframe, request.since, min(request.until, now))
        ends = calendar.closes(timeframe, opens)
        opens, ends = opens[ends <= now], ends[ends <= now]
        key = _digest(f"{self._seed}|{normalized(instrument)}")
        bars = np.empty((len(BAR_COLUMNS), len(opens)))
        for piece, first, last in _pieces(opens, ends):
            bars[:, piece] = _aggregated(simulated_minutes(key, profile, first, last), first, opens[piece], calendar)
        return Candles(opens, priced(bars, profile, two_sided=self._market.two_sided))


def profile_of(instrument: str) -> InstrumentProfile:
    """The profile of an instrument; one that is not in KNOWN gets a price between 1 and 1,000 by its name.

    >>> profile_of("EUR-USD").decimals, profile_of("BTC/USDT") == profile_of("BTC/USD")
    (5, True)
    """
    name = normalized(instrument)
    if known := KNOWN.get(name.removesuffix("T") if name.endswith("USDT") else name):
        return known
    digits = _digest(name).to_bytes(8, "little")
    magnitude = digits[0] % 3
    price = (26 + digits[1]) / 26 * 10**magnitude
    return InstrumentProfile(price, 0.12 + digits[2] / 512, 4 - magnitude, volume=20.0 + digits[3])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _pieces(opens: Times, ends: Times) -> Iterator[tuple[slice, int, int]]:
    """Bars in order, as many at once as fit into PIECE, with the first and last (excluded) of their minutes."""
    starts, stops = (moments.astype("datetime64[m]").astype(np.int64) for moments in (opens, ends))
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(stops, starts[first] + PIECE, side="right")))
        yield slice(first, last), int(starts[first]), int(stops[last - 1])
        first = last


def simulated_minutes(key: int, profile: InstrumentProfile, first: int, last: int) -> Floats:
    """BAR_COLUMNS of every minute from `first` to `last` (excluded; minutes since 1970), trading hours or not."""
    minutes = np.arange(first, last)
    activity = week_profile()[(minutes + MINUTES_SINCE_MONDAY) % WEEK]
    walk, random = path(key, first, last), random_u64(key, MINUTE_STREAM, minutes)
    opens, closes = walk[:-1], walk[1:]
    highs = np.maximum(opens, closes) + activity * _beyond(_lane(random, 0))
    lows = np.minimum(opens, closes) - activity * _beyond(_lane(random, 1))
    spread = _standardized(_lane(random, 2) + _lane(random, 3), 2)
    volume = profile.volume * activity * exp_approx(spread * VOLUME_SPREAD, halvings=5)
    # Whole numbers have the same sum in whatever order.
    return np.stack([opens, highs, lows, closes, np.rint(volume)])


def _aggregated(minutes: Floats, first: int, opens: Times, calendar: Calendar) -> Floats:
    """Bars that open at `opens` and end before the next one or with the minutes, which begin at `first`."""
    times = np.arange(first, first + minutes.shape[1]).astype("datetime64[m]").astype(TIME_UNIT)
    is_open = calendar.is_open(times)
    times, minutes = times[is_open], minutes[:, is_open]
    if len(times) == len(opens):
        return minutes
    starts = np.searchsorted(times, opens)
    ends = np.append(starts[1:], len(times))
    highs, lows = np.maximum.reduceat(minutes[1], starts), np.minimum.reduceat(minutes[2], starts)
    return np.stack([minutes[0, starts], highs, lows, minutes[3, ends - 1], np.add.reduceat(minutes[4], starts)])


def path(key: int, first: int, last: int) -> Floats:
    """The path's value at the beginning of each minute from `first` to `last` (both included).

    Level by level from a year's steps down to a minute's: the values of a level stay, and the value midway between two
    neighbours is their mean plus a draw with the variance of a Brownian bridge, a quarter of the step.
    """
    left, right = first >> COARSEST, (last >> COARSEST) + 1
    nodes = gaussian(random_u64(key, COARSEST, np.arange(left, right + 1))) * (YEARLY_SPREAD * math.sqrt(YEAR))
    for level in range(COARSEST - 1, -1, -1):
        finer = np.empty(2 * (right - left) + 1)
        finer[::2] = nodes
        middle = gaussian(random_u64(key, level, np.arange(left, right))) * math.sqrt(2**level / 2)
        finer[1::2] = middle + (nodes[:-1] + nodes[1:]) * 0.5
        begin = (first >> level) - 2 * left
        left, right = first >> level, (last >> level) + 1
        nodes = finer[begin : begin + right - left + 1]
    return nodes[: last - first + 1]


def random_u64(key: int, stream: int, numbers: Integers) -> Hashes:
    """A random 64-bit number for each number of a key's stream.

    Source: the output function of SplitMix64 (Steele, Lea, Flood 2014), at the place `numbers` of the sequence.
    """
    return _mixed(_sequence(key, stream) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA))


@lru_cache(maxsize=1 << 14)
def _sequence(key: int, stream: int) -> np.uint64:
    return _mixed(np.array([(key + stream * GAMMA) % 2**64], dtype=np.uint64))[0]


def _mixed(state: Hashes) -> Hashes:
    state = state ^ (state >> np.uint64(30))
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def gaussian(random: Hashes) -> Floats:
    """Numbers with mean 0 and variance 1, close to normal and never beyond 3.5: sums of four 16-bit lanes.

    Source: the Irwin-Hall distribution of four uniform numbers.
    """
    pairs = (random & EVEN_LANES) + (random >> np.uint64(16) & EVEN_LANES)
    return _standardized((pairs & np.uint64(2**32 - 1)) + (pairs >> np.uint64(32)), 4)


def _standardized(sums: Hashes, lanes: int) -> Floats:
    result = sums.astype(np.float64) - lanes * (LANE_SIZE - 1) / 2
    result *= 1 / math.sqrt(lanes * (LANE_SIZE**2 - 1) / 12)
    return result


def _lane(random: Hashes, number: int) -> Hashes:
    return random >> np.uint64(16 * number) & np.uint64(LANE_SIZE - 1)


def _beyond(lane: Hashes) -> Floats:
    share = np.multiply(lane, 1 / LANE_SIZE)
    share *= share
    share *= REACH
    return share


def exp_approx(exponent: Floats, halvings: int = 8) -> Floats:
    """About e to the exponent, never falling as it rises, positive above -2^halvings; only multiplications.

    >>> exp_approx(np.array([0.0, 1.0]))
    array([1.        , 2.71299162])
    """
    result = np.multiply(exponent, 1 / 2**halvings)
    result += 1.0
    for _ in range(halvings):
        result *= result
    return result


@lru_cache(maxsize=1)
def week_profile() -> Floats:
    """The activity of each minute of the week from Monday 00:00 UTC: about 1 on average, high in London's afternoon."""
    hours = np.arange(1440) / 60
    day = np.full(1440, QUIET_HOURS)
    for first, last, height in SESSIONS:
        day += height * 4 * np.maximum((hours - first) * (last - hours), 0) / (last - first) ** 2
    return np.concatenate([np.tile(day, 5), np.tile(day * QUIET_WEEKEND, 2)])


def priced(bars: Floats, profile: InstrumentProfile, *, two_sided: bool) -> dict[str, Floats]:
    """Columns of candles from BAR_COLUMNS, rounded to the decimals; with bid and ask around them if wanted."""
    scale, per_minute = 10.0**profile.decimals, profile.volatility / math.sqrt(YEAR)
    middle = profile.price * scale
    ticks = dict(zip(PRICE_COLUMNS, np.rint(middle * exp_approx(bars[:4] * per_minute)), strict=True))
    columns = {name: values / scale for name, values in ticks.items()} | {"volume": bars[4]}
    if two_sided:
        half_spread = np.rint(middle * per_minute) + 1
        columns |= {f"bid_{name}": (values - half_spread) / scale for name, values in ticks.items()}
        columns |= {f"ask_{name}": (values + half_spread) / scale for name, values in ticks.items()}
    return columns
