"""A simulated venue: any instrument on any timeframe at any time, the same on every machine, offline.

How it is made lives here; when the market is open and where its bars begin is the calendar's. Prices follow a path
whose value at every whole minute is fixed by a hash: values a year apart are drawn on their own, so that prices stay
in a plausible range for ever, and halving refines what lies between (a Brownian bridge), so that any stretch is found
without simulating what came before. The path is worked out in units of one minute's standard deviation; candles are
aggregated there too, and only what comes out is turned into prices, which gives the same as the other way round
because turning into prices keeps the order. Adding, multiplying and square roots are the same on every platform,
logarithms and sines are not: none is used.
"""

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
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

# The coarsest steps of the path: 2^19 minutes are 364 days.
COARSEST = 19
YEAR = 2**COARSEST
# Standard deviation of the values a year apart, as a share of what a year's wandering would add.
YEARLY_SPREAD = 0.5
# How far a busy minute's high and low may lie beyond its open and close, in standard deviations of one minute.
REACH = 1.5
# Minutes x instruments worked on at a time: what fits a processor's cache, whatever the length of the history.
CELLS = 1 << 16
# Candles held for one batch of instruments, so that a long history of many instruments does not fill the memory.
BATCH_CANDLES = 1 << 20

LANE_SIZE = 1 << 16
GAMMA = 0x9E3779B97F4A7C15
# Levels of the path are streams 0 to COARSEST.
MINUTE_STREAM = 100
WEEK = 7 * 1440
# 1970-01-01 was a Thursday.
MINUTES_SINCE_MONDAY = 3 * 1440
# First and last hour (UTC) and how much is traded at its height: Asia, London, New York.
SESSIONS = ((0, 9, 0.7), (7, 16, 1.3), (12, 21, 1.6))
QUIET_HOURS, QUIET_WEEKEND = 0.25, 0.4
VOLUME_SPREAD = 0.6


class DemoOptions(BaseModel):
    """What `source:` may say of a demo market beside its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=1, strict=True)


@dataclass(frozen=True, slots=True)
class InstrumentProfile:
    """What kind of thing an instrument is: its middling price, a year's volatility, decimals, volume of a minute."""

    price: float
    volatility: float
    decimals: int
    volume: float

    @property
    def scale(self) -> int:
        """Ticks in a price of 1."""
        return 10**self.decimals


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


@dataclass(frozen=True, slots=True)
class Window:
    """Whole closed bars of one timeframe: their minutes from `start` to `end` (excluded), counted since 1970."""

    timeframe: Timeframe
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Cast:
    """Instruments that are simulated together: for each the key of its random numbers, and what it is like."""

    keys: Hashes
    natures: Sequence[InstrumentProfile]

    @classmethod
    def of(cls, seed: int, instruments: Sequence[str]) -> "Cast":
        """The instruments with these names, under this seed."""
        keys = [_digest(f"{seed}|{normalized(instrument)}") for instrument in instruments]
        return cls(np.array(keys, dtype=np.uint64), [nature_of(instrument) for instrument in instruments])

    def column(self, name: str) -> Floats:
        """One trait of every instrument, as a column beside rows of candles."""
        return np.array([[getattr(nature, name)] for nature in self.natures], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.natures)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bars of several instruments: a row each, a column per bar; all but volume in standard deviations of a minute."""

    open_time: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Instruments that are asked for the same windows: what is worked out at once.

    `numbers` says for each instrument which request each window answers.
    """

    instruments: Sequence[str]
    windows: Sequence[Window]
    numbers: Sequence[Sequence[int]]


class DemoSource:
    """Simulates whatever it is asked for; a seed gives the same candles on every machine, in whatever order."""

    kind = "demo"
    native_timeframes = tuple(Timeframe)

    def __init__(self, market: Market, *_: object) -> None:
        """The source of one market; sources on the network take further arguments, which mean nothing here."""
        self._market = market
        self._two_sided = market.two_sided
        self._seed = source_options(market, DemoOptions).seed

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Closed candles for each request, one answer each, in the order of the requests.

        Args:
            requests: for any instruments and timeframes.
            now: bars that end later are not there yet.
        """
        calendars = [self._market.calendar_of(request.series.instrument) for request in requests]
        answers = {
            calendar: self._answers(
                calendar, [r for r, own in zip(requests, calendars, strict=True) if own is calendar], now
            )
            for calendar in dict.fromkeys(calendars)
        }
        for calendar in calendars:
            yield next(answers[calendar])

    def _answers(self, calendar: Calendar, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        batches = _batches(requests, _windows(calendar, requests, instant(now)))
        ready: dict[int, Fetched] = {}
        for number in range(len(requests)):
            if number not in ready:
                ready |= self._simulated(calendar, batches[number], requests)
            yield ready.pop(number)

    def _simulated(self, calendar: Calendar, batch: Batch, requests: Sequence[Request]) -> dict[int, Fetched]:
        started = time.perf_counter()
        cast = Cast.of(self._seed, batch.instruments)
        simulated = stretches(cast, batch.windows, calendar)
        candles = [priced(stretch, cast, two_sided=self._two_sided) for stretch in simulated]
        seconds = (time.perf_counter() - started) / (len(batch.instruments) * len(batch.windows))
        return {
            number: Fetched(requests[number].series, candles[column][row], seconds=seconds)
            for row, numbers in enumerate(batch.numbers)
            for column, number in enumerate(numbers)
        }


def _windows(calendar: Calendar, requests: Sequence[Request], now: np.datetime64) -> list[Window]:
    spans = [(request.series.timeframe, request.since, min(request.until, now)) for request in requests]
    known = {span: _window(calendar, *span, now) for span in set(spans)}
    return [known[span] for span in spans]


def _window(
    calendar: Calendar, timeframe: Timeframe, since: np.datetime64, until: np.datetime64, now: np.datetime64
) -> Window:
    opens = calendar.open_times(timeframe, since, until)
    ends = calendar.closes(timeframe, opens)
    closed = int((ends <= now).sum())
    if closed == 0:
        return Window(timeframe, 0, 0)
    return Window(timeframe, _minute(opens[0]), _minute(ends[closed - 1]))


def _batches(requests: Sequence[Request], windows: Sequence[Window]) -> dict[int, Batch]:
    """The batch that answers each request."""
    numbers_of: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        numbers_of.setdefault(request.series.instrument, []).append(number)
    alike: dict[tuple[Window, ...], list[str]] = {}
    for instrument, numbers in numbers_of.items():
        alike.setdefault(tuple(windows[number] for number in numbers), []).append(instrument)
    batches = [
        Batch(some, wanted, [numbers_of[instrument] for instrument in some])
        for wanted, instruments in alike.items()
        for some in _portions(instruments, wanted)
    ]
    return {number: batch for batch in batches for numbers in batch.numbers for number in numbers}


def _portions(instruments: list[str], windows: Iterable[Window]) -> list[list[str]]:
    candles = sum((window.end - window.start) // window.timeframe.minutes + 1 for window in windows)
    size = max(1, BATCH_CANDLES // candles)
    return [instruments[first : first + size] for first in range(0, len(instruments), size)]


def nature_of(instrument: str) -> InstrumentProfile:
    """What kind of thing an instrument is; one that is not in KNOWN gets a price between 1 and 1,000 by its name.

    >>> nature_of("EUR-USD").decimals, nature_of("BTC/USDT") == nature_of("BTC/USD")
    (5, True)
    """
    name = normalized(instrument)
    if known := KNOWN.get(name.removesuffix("T") if name.endswith("USDT") else name):
        return known
    lots = _digest(name).to_bytes(8, "little")
    magnitude = lots[0] % 3
    price = (26 + lots[1]) / 26 * 10**magnitude
    return InstrumentProfile(price, 0.12 + lots[2] / 512, 4 - magnitude, volume=20.0 + lots[3])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stretches(cast: Cast, windows: Sequence[Window], calendar: Calendar) -> list[Stretch]:
    """The bars of each window for each instrument, every minute worked out once for all windows."""
    parts: list[list[Stretch]] = [[simulated_minutes(cast, 0, 0, calendar)] for _ in windows]
    for start, end in _pieces(windows, max(1, CELLS // len(cast))):
        minutes = simulated_minutes(cast, start, end, calendar)
        for window, found in zip(windows, parts, strict=True):
            found.append(aggregated(_within(minutes, window), window.timeframe, calendar))
    # A bar that two pieces share has come in two parts.
    return [
        aggregated(_joined(found), window.timeframe, calendar) for window, found in zip(windows, parts, strict=True)
    ]


def _pieces(windows: Iterable[Window], size: int) -> Iterator[tuple[int, int]]:
    """The minutes that any window needs, each once, in order, in pieces of a bounded size."""
    done = None
    for window in sorted(windows, key=lambda window: window.start):
        start = window.start if done is None else max(window.start, done)
        for first in range(start, window.end, size):
            yield first, min(first + size, window.end)
        done = window.end if done is None else max(done, window.end)


def simulated_minutes(cast: Cast, start: int, end: int, calendar: Calendar) -> Stretch:
    """Bars of one minute from `start` to `end` (excluded; minutes since 1970), where the market is open."""
    numbers = np.arange(start, end)
    times = numbers.astype("datetime64[m]").astype(TIME_UNIT)
    is_open = calendar.is_open(times)
    activity = week_profile()[(numbers + MINUTES_SINCE_MONDAY) % WEEK]
    walk = path(cast.keys, start, end)
    drawn = draws(cast.keys, MINUTE_STREAM, numbers)
    traded = cast.column("volume") * activity * growth(bells(drawn, lanes=(2, 3)) * VOLUME_SPREAD, halvings=5)
    minutes = Stretch(
        times,
        walk[:, :-1],
        np.maximum(walk[:, :-1], walk[:, 1:]) + activity * _beyond(_lane(drawn, 0)),
        np.minimum(walk[:, :-1], walk[:, 1:]) - activity * _beyond(_lane(drawn, 1)),
        walk[:, 1:],
        # Whole numbers add up to the same in whatever order.
        np.rint(traded),
    )
    return minutes if is_open.all() else _taken(minutes, np.flatnonzero(is_open))


def path(keys: Hashes, first: int, last: int) -> Floats:
    """The path's value at the beginning of each minute from `first` to `last` (both included), a row per key.

    Level by level from a year's steps down to a minute's; what is known at a level stays, and what lies midway between
    two neighbours is their mean plus a draw of its own, with the variance of a Brownian bridge: a quarter of the step.
    """
    left, right = first >> COARSEST, (last >> COARSEST) + 1
    nodes = bells(draws(keys, COARSEST, np.arange(left, right + 1)))
    nodes *= YEARLY_SPREAD * math.sqrt(YEAR)
    for level in range(COARSEST - 1, -1, -1):
        finer = np.empty((len(keys), 2 * (right - left) + 1))
        finer[:, ::2] = nodes
        middle = bells(draws(keys, level, np.arange(left, right)))
        middle *= math.sqrt(2**level / 2)
        middle += (nodes[:, :-1] + nodes[:, 1:]) * 0.5
        finer[:, 1::2] = middle
        begin = (first >> level) - 2 * left
        left, right = first >> level, (last >> level) + 1
        nodes = finer[:, begin : begin + right - left + 1]
    return nodes[:, : last - first + 1]


def draws(keys: Hashes, stream: int, numbers: NDArray[np.int64]) -> Hashes:
    """A random 64-bit number for each key (rows) and number (columns) of a stream.

    Source: the output function of SplitMix64 (Steele, Lea, Flood 2014), at the place `numbers` of a key's sequence.
    """
    sequences = _mixed(keys + np.uint64(stream * GAMMA % 2**64))
    places = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    return _mixed(sequences[:, None] + places)


def _mixed(state: Hashes) -> Hashes:
    state = state ^ (state >> np.uint64(30))
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state


def bells(drawn: Hashes, lanes: Sequence[int] = (0, 1, 2, 3)) -> Floats:
    """Numbers with mean 0 and variance 1, close to normal and never beyond 3.5: sums of the draws' 16-bit lanes.

    Source: the Irwin-Hall distribution, of four uniform numbers where all lanes are used.
    """
    result = np.zeros(drawn.shape)
    for lane in lanes:
        result += _lane(drawn, lane)
    result -= len(lanes) * (LANE_SIZE - 1) / 2
    result *= 1 / math.sqrt(len(lanes) * (LANE_SIZE**2 - 1) / 12)
    return result


def _lane(drawn: Hashes, number: int) -> NDArray[np.int64]:
    return (drawn >> np.uint64(16 * number) & np.uint64(LANE_SIZE - 1)).view(np.int64)


def _beyond(parts: NDArray[np.int64]) -> Floats:
    """How far a high or a low lies beyond open and close in a minute of activity 1: mostly little, seldom much."""
    share = np.multiply(parts, 1 / LANE_SIZE)
    share *= share
    share *= REACH
    return share


def growth(exponent: Floats, halvings: int = 8) -> Floats:
    """About e to the exponent, never falling as it rises, positive above -2^halvings; only multiplications.

    >>> growth(np.array([0.0, 1.0]))
    array([1.        , 2.71299162])
    """
    result = np.multiply(exponent, 1 / 2**halvings)
    result += 1.0
    for _ in range(halvings):
        result *= result
    return result


@lru_cache(maxsize=1)
def week_profile() -> Floats:
    """How busy each minute of the week is, from Monday 00:00 UTC: about 1 on average, high where sessions overlap."""
    hours = np.arange(1440) / 60
    day = np.full(1440, QUIET_HOURS)
    for first, last, height in SESSIONS:
        day += height * 4 * np.maximum((hours - first) * (last - hours), 0) / (last - first) ** 2
    return np.concatenate([np.tile(day, 5), np.tile(day * QUIET_WEEKEND, 2)])


def aggregated(stretch: Stretch, timeframe: Timeframe, calendar: Calendar) -> Stretch:
    """Bars of a longer timeframe from shorter ones, or from parts of its own; the same as market.resample."""
    opens = stretch.open_time if timeframe is Timeframe.m1 else calendar.floor(timeframe, stretch.open_time)
    starts = np.flatnonzero(np.concatenate([[True], opens[1:] != opens[:-1]])[: len(opens)])
    if len(starts) == len(opens):
        return Stretch(opens, stretch.open, stretch.high, stretch.low, stretch.close, stretch.volume)
    return Stretch(
        opens[starts],
        stretch.open[:, starts],
        np.maximum.reduceat(stretch.high, starts, axis=1),
        np.minimum.reduceat(stretch.low, starts, axis=1),
        stretch.close[:, np.append(starts[1:], len(opens)) - 1],
        np.add.reduceat(stretch.volume, starts, axis=1),
    )


def _within(stretch: Stretch, window: Window) -> Stretch:
    edges = np.array([window.start, window.end]).astype("datetime64[m]")
    first, last = np.searchsorted(stretch.open_time, edges)
    return _taken(stretch, slice(first, last))


def _taken(stretch: Stretch, which: slice | NDArray[np.int64]) -> Stretch:
    return Stretch(stretch.open_time[which], *(values[:, which] for values in _values(stretch)))


def _joined(parts: Sequence[Stretch]) -> Stretch:
    columns = zip(*(_values(part) for part in parts), strict=True)
    return Stretch(
        np.concatenate([part.open_time for part in parts]), *(np.concatenate(column, axis=1) for column in columns)
    )


def _values(stretch: Stretch) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    return stretch.open, stretch.high, stretch.low, stretch.close, stretch.volume


def priced(stretch: Stretch, cast: Cast, *, two_sided: bool) -> list[Candles]:
    """Candles of each instrument, rounded to its decimals; with bid and ask prices around them if wanted."""
    scale, per_minute = cast.column("scale"), cast.column("volatility") / math.sqrt(YEAR)
    middling = cast.column("price") * scale
    ticks = [np.rint(middling * growth(walk * per_minute)) for walk in _values(stretch)[:4]]
    columns = {name: values / scale for name, values in zip(PRICE_COLUMNS, ticks, strict=True)}
    columns["volume"] = stretch.volume
    if two_sided:
        half_spread = np.rint(middling * per_minute) + 1
        columns |= {
            f"bid_{name}": (values - half_spread) / scale for name, values in zip(PRICE_COLUMNS, ticks, strict=True)
        }
        columns |= {
            f"ask_{name}": (values + half_spread) / scale for name, values in zip(PRICE_COLUMNS, ticks, strict=True)
        }
    return [
        Candles(stretch.open_time, {name: values[row] for name, values in columns.items()}) for row in range(len(cast))
    ]


def _minute(moment: np.datetime64) -> int:
    return int(moment.astype("datetime64[m]").astype(np.int64))
