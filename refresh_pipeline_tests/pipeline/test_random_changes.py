"""Whatever changes at the venue and in the YAML, in whatever order: the warehouse becomes what a fresh one is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import TIME_UNIT, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import backfill, compute, fetch
from refresh_pipeline.sources import Fetched, Request
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.warehouse import Warehouse

# A Thursday, so that the history reaches back over a weekend.
NOW = datetime(2026, 6, 4, 12, 0, 30, tzinfo=UTC)
# Longer than what the venues have, so that every history has the same edge.
HISTORY = timedelta(days=12)
STEP = np.timedelta64(30, "m")
YAML = """
name: fickle
source: {{kind: demo}}
calendar: {calendar}
instruments: {{{instruments}}}
timeframes: [{timeframes}]
history: 12d
two_sided: {two_sided}
indicators: {{compute: [{compute}], keep: {keep}}}
"""
CHOICES: dict[str, Sequence[str]] = {
    "calendar": ("crypto", "fx", "{name: fx, closed: [2026-06-02]}"),
    "first": ("{symbol: ONE}", "{symbol: TWO}", "{symbol: ONE, class: metal}", "{symbol: ONE, class: currency}"),
    "second": ("", ", EUR/USD: {symbol: TWO}", ", EUR/USD: {symbol: TWO, class: index}"),
    "timeframes": ("m30, H4", "m30, H4, D1", "m30", "m30, H1"),
    "two_sided": ("false", "true"),
    "compute": ("sma_10, vwap", "sma_10, {ema: [7]}, opening_range_high", "mfi, {ema: [9]}, pivot_point"),
    "keep": ("for ever", "2d", "4d"),
}
VENUES = ("alpha", "beta")
Prices = dict[np.datetime64, float]


@dataclass
class Venue:
    """A venue of half hours, whose candles a test changes."""

    kind: str
    market: Market
    prices: dict[str, Prices]
    native_timeframes: Sequence[Timeframe] = (Timeframe.m30,)

    def symbol(self, instrument: str) -> str:
        """The venue's name of an instrument."""
        return self.market.symbol(instrument, str)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """All closed candles of each request."""
        for request in requests:
            until = min(request.until, instant(now) - STEP + np.timedelta64(1, "us"))
            prices = self.prices[self.symbol(request.series.instrument)]
            times = [time for time in sorted(prices) if request.since <= time < until]
            close = np.array([prices[time] for time in times])
            columns = {"open": close - 1, "high": close + 2, "low": close - 2, "close": close, "volume": close % 7 + 1}
            if self.market.two_sided:
                columns |= {
                    f"{side}_{name}": columns[name] + shift
                    for side, shift in (("bid", -0.25), ("ask", 0.25))
                    for name in ("open", "high", "low", "close")
                }
            yield Fetched(request.series, Candles(np.array(times, dtype=TIME_UNIT), columns))


def prices_of(random: np.random.Generator) -> Prices:
    first = np.datetime64("2026-05-29", "us")
    walk = 100 + np.cumsum(random.integers(-4, 5, 48 * 7)) / 4
    return {first + number * STEP: float(price) for number, price in enumerate(np.maximum(walk, 10))}


@dataclass
class World:
    """A warehouse, the YAML by its keys, and the venues."""

    random: np.random.Generator
    warehouse: Warehouse
    now: datetime = NOW
    venue: str = VENUES[0]
    keys: dict[str, str] = field(default_factory=lambda: {key: values[0] for key, values in CHOICES.items()})
    prices: dict[str, dict[str, Prices]] = field(default_factory=dict)

    @property
    def market(self) -> Market:
        """The market as the YAML says now."""
        instruments = f"XAU/USD: {self.keys['first']}{self.keys['second']}"
        return parse_market(YAML.format(**self.keys, instruments=instruments), "fickle.yaml")

    def refresh(self, since: datetime | None = None) -> None:
        """Refresh, and forget what is refused."""
        market = self.market
        venue = Venue(self.venue, market, self.prices[self.venue])
        self.warehouse.prepare(market)
        for _ in range(2):
            done = fetch.refresh_candles(self.warehouse, market, venue, market.series, self.now, gaps={}, since=since)
            refused = {series for series, attempt in done.items() if attempt.outcome is Outcome.failed}
            for series in refused:
                self.warehouse.forget(market, Choice(series.instrument, series.timeframe.value), self.now)
            if not refused:
                return

    def fill(self) -> None:
        """Backfill what is missing."""
        market = self.market
        venue = Venue(self.venue, market, self.prices[self.venue])
        self.warehouse.prepare(market)
        backfill.backfill(self.warehouse, market, venue, market.series, self.now, since=NOW - HISTORY)

    def compute(self) -> None:
        """Compute what is queued."""
        market = self.market
        self.warehouse.prepare(market)
        for table in computations(market):
            compute.compute(self.warehouse, market, table, market.series)

    def change_yaml(self) -> None:
        """Give one key of the YAML another value, or the market another source."""
        key = str(self.random.choice([*CHOICES, "source"]))
        if key == "source":
            self.venue = str(self.random.choice(VENUES))
        else:
            self.keys[key] = str(self.random.choice(CHOICES[key]))

    def change_candles(self) -> None:
        """Take candles away, change or scale them, or let them come late; the edges of the history stay."""
        prices = self.prices[self.venue][str(self.random.choice(["ONE", "TWO"]))]
        times = sorted(prices)[50:-60]
        some = [times[number] for number in self.random.choice(len(times), 5, replace=False)]
        kind = self.random.choice(["gone", "other", "scaled"])
        for time in times if kind == "scaled" else some:
            if kind == "gone":
                del prices[time]
            elif kind == "other" or time >= some[0]:
                prices[time] = prices[time] * 2 if prices[time] < 400 else prices[time] / 4

    def bring_late_candles(self) -> None:
        """Give the venue the candles that it lacks."""
        for prices in self.prices[self.venue].values():
            for time in np.arange(min(prices), max(prices), STEP):
                prices.setdefault(time, 100.0)

    def later(self) -> None:
        """Let an hour pass."""
        self.now += timedelta(hours=1)

    def rows(self, table: str) -> dict[tuple[object, ...], dict[str, object]]:
        """A table's rows of the YAML's series by their keys, without provenance."""
        named = {(series.instrument, series.timeframe.value) for series in self.market.series}
        with self.warehouse.reader() as connection:
            cursor = connection.execute(
                f"from fickle.{table} where open_time >= ?", [(NOW - HISTORY).replace(tzinfo=None)]
            )
            names = [name for name, *_ in cursor.description or ()]
            found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for row in found:
            row.pop("source", None)
            row.pop("fetched_at", None)
        keyed = {(row.pop("instrument"), row.pop("timeframe"), row.pop("open_time")): row for row in found}
        return {key: row for key, row in keyed.items() if key[:2] in named}


def differences(world: World, other: World) -> Iterator[str]:
    for table in ("raw_candles", "enhanced_candles", "indicators"):
        mine, theirs = world.rows(table), other.rows(table)
        for key in sorted(mine.keys() | theirs.keys(), key=str):
            if key not in mine or key not in theirs:
                yield f"{table} {key}: only {'here' if key in mine else 'in the fresh one'}"
            else:
                yield from (
                    f"{table} {key} {name}: {value} for {theirs[key].get(name)}"
                    for name, value in mine[key].items()
                    if not _same(value, theirs[key].get(name))
                )


def _same(value: object, other: object) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return bool(np.isclose(value, other, rtol=1e-9, atol=1e-9))
    return value == other


@contextmanager
def held(warehouse: Warehouse) -> Iterator[None]:
    # Opening the file takes longer than most calls.
    with warehouse.session():
        yield


def differs_after_changes(seed: int, folder: Path, steps: int, *, of_the_yaml_alone: bool = False) -> list[str]:
    """What differs from a fresh warehouse, after the log of what was done; empty where nothing does.

    After changes of the YAML alone a plain refresh is enough.
    """
    random = np.random.default_rng(seed)
    world = World(random, Warehouse(folder / f"{seed}.duckdb"))
    world.prices = {venue: {symbol: prices_of(random) for symbol in ("ONE", "TWO")} for venue in VENUES}
    actions: list[Callable[[], object]] = [
        world.change_yaml, world.change_yaml, world.change_candles, world.bring_late_candles, world.refresh, world.fill,
        world.compute, world.later, lambda: world.refresh(NOW - HISTORY),
    ]  # fmt: skip
    if of_the_yaml_alone:
        actions = [world.change_yaml, world.change_yaml, world.refresh, world.fill, world.compute, world.later]
    log: list[str] = []
    with held(world.warehouse):
        world.refresh()
        world.compute()
        for number in random.integers(0, len(actions), steps):
            actions[number]()
            log.append(f"{getattr(actions[number], '__name__', '?')} {world.venue} {world.keys}")
        # What the source lacks is withdrawn after two answers.
        for _ in range(0 if of_the_yaml_alone else 3):
            world.refresh(NOW - HISTORY)
            world.later()
        world.refresh()
        world.fill()
        world.refresh(None if of_the_yaml_alone else NOW - HISTORY)
        world.compute()
    fresh = World(random, Warehouse(folder / f"{seed}-fresh.duckdb"), world.now, world.venue, world.keys, world.prices)
    with held(fresh.warehouse):
        fresh.refresh(NOW - HISTORY)
        fresh.compute()
    found = list(differences(world, fresh))
    return [f"seed {seed}", *log, *found[:12], f"{len(found)} differences"] if found else []


@pytest.mark.parametrize("of_the_yaml_alone", [False, True])
def test_after_random_changes_everything_equals_a_fresh_warehouse(tmp_path: Path, of_the_yaml_alone: bool) -> None:
    assert differs_after_changes(1, tmp_path, steps=6, of_the_yaml_alone=of_the_yaml_alone) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_after_many_random_changes_everything_equals_a_fresh_warehouse(seed: int, tmp_path: Path) -> None:
    assert differs_after_changes(seed, tmp_path, steps=15, of_the_yaml_alone=seed % 2 == 0) == []
