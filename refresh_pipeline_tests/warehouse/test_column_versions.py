"""Whatever changes in a market's YAML or in a formula: the tables equal a fresh run, and the rest stays as it is."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from refresh_pipeline.analytics import derived, fingerprints
from refresh_pipeline.analytics.registry import registry
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import computations as computed_tables
from refresh_pipeline.warehouse.column_refresh import queued_columns, refresh_columns
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.incremental import TailRefresh
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.warehouse_fixtures import NOW, prices

BARS = {Timeframe.m15: 340, Timeframe.H1: 150}
FIRST = np.datetime64("2024-03-04T00:00", "us")
INSTRUMENTS = ("BTC/USD", "XAU/USD")
# Marks a stored value: it stays where nothing was recomputed.
POISON = 12345.0

Options = Mapping[str, Any]
BASE: Options = {
    "name": "fair",
    "source": {"kind": "demo"},
    "calendar": "crypto",
    "instruments": {"BTC/USD": {}},
    "timeframes": ["m15"],
    "history": "30d",
    "indicators": {"compute": ["sma_10"], "keep": "for ever"},
}
# Few enough to be computed alone.
SESSIONS = ("vwap", "opening_range_high", "opening_range_low", "pivot_point", "pivot_r1", "pivot_r2", "pivot_r3")


def market_of(**options: Any) -> Market:
    return parse_market(json.dumps({**BASE, **options}), file="fair.yaml")


def with_indicators(*specs: Any, **options: Any) -> Market:
    return market_of(indicators={"compute": list(specs), "keep": "for ever"}, **options)


def history(series: Series, bars: int) -> Candles:
    times = FIRST + length_of(series.timeframe) * np.arange(bars)
    return Candles(times, prices(bars, seed=INSTRUMENTS.index(series.instrument)))


def refresh(warehouse: Warehouse, market: Market, bars: Mapping[Timeframe, int] = BARS) -> dict[Table, int]:
    """What the first refresh of a process does; gives the number of series that each table recomputed."""
    warehouse._prepared.clear()
    warehouse.prepare(market)
    warehouse.store_candles(market, {one: history(one, bars[one.timeframe]) for one in market.series}, "test", NOW)
    return {table: len(warehouse.refresh_tail(market, table, market.series)) for table in computations(market)}


@contextmanager
def open_warehouse() -> Iterator[Warehouse]:
    """A new warehouse, kept open: opening and closing the file takes most of the time."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(Path(folder) / "warehouse.duckdb", patience=30)
        with warehouse.session():
            yield warehouse


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with open_warehouse() as opened:
        yield opened


def query(warehouse: Warehouse, statement: str, *values: Any) -> list[tuple]:
    with warehouse.get_connection() as connection:
        return connection.execute(statement, values).fetchall()


change = query


def table_of(warehouse: Warehouse, market: Market, table: Table) -> dict[str, list[Any]]:
    """Every column of the series of a market."""
    names = sorted(row[0] for row in query(warehouse, f"describe fair.{table}"))
    wanted = [[one.instrument, one.timeframe.value] for one in market.series]
    rows = query(
        warehouse,
        f"select {', '.join(names)} from fair.{table} where [instrument, timeframe] in (select unnest(?)) "
        "order by instrument, timeframe, open_time",
        wanted,
    )
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def assert_as_fresh(warehouse: Warehouse, market: Market, bars: Mapping[Timeframe, int] = BARS) -> None:
    """Both computed tables hold what a fresh full run gives, to the bit."""
    with open_warehouse() as fresh:
        refresh(fresh, market, bars)
        for table in computations(market):
            ours, theirs = table_of(warehouse, market, table), table_of(fresh, market, table)
            assert list(ours) == list(theirs)
            assert [name for name in ours if ours[name] != theirs[name]] == [], table
    wanted = [[one.instrument, one.timeframe.value] for one in market.series]
    queued = "select columns from fair.column_queue where [instrument, timeframe] in (select unnest(?))"
    assert query(warehouse, queued, wanted) == []


def poison(warehouse: Warehouse, table: Table, *columns: str) -> None:
    """Mark every value of columns."""
    change(warehouse, f"update fair.{table} set {', '.join(f'{name} = {POISON}' for name in columns)}")


def is_poisoned(warehouse: Warehouse, table: Table, column: str) -> bool:
    return query(warehouse, f"select distinct {column} from fair.{table}") == [(POISON,)]


# ---- the changes that kept old values


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"stoch": {"fastk_period": 14}}], [{"stoch": {"slowk_period": 14}}]),
        ([{"supertrend": [7]}], [{"supertrend": {"multiplier": 7}}]),
        ([{"supertrend": {"multiplier": 2.5}}], [{"supertrend": {"timeperiod": 2, "multiplier": 5}}]),
        ([{"bbands": {"nbdevup": 3}}], [{"bbands": {"nbdevdn": 3}}]),
        ([{"macd": {"fastperiod": 20}}], [{"macd": {"slowperiod": 20}}]),
        ([{"sar": {"acceleration": 0.2}}], [{"sar": {"acceleration": 0, "maximum": 2}}]),
        ([{"ema": [8]}, "obv"], ["obv", {"ema": [21]}]),
    ],
)
def test_other_parameters_are_other_values(warehouse: Warehouse, before: Sequence[Any], after: Sequence[Any]):
    refresh(warehouse, with_indicators(*before, "sma_10"))
    poison(warehouse, Table.indicators, "sma_10")
    poison(warehouse, Table.enhanced_candles, "ao")
    market = with_indicators(*after, "sma_10")
    assert refresh(warehouse, market) == {Table.enhanced_candles: 0, Table.indicators: 1}
    assert is_poisoned(warehouse, Table.indicators, "sma_10")
    assert is_poisoned(warehouse, Table.enhanced_candles, "ao")
    assert_as_fresh(unpoisoned(warehouse, market), market)


def test_a_column_that_leaves_recomputes_nothing_of_those_that_share_its_states(warehouse: Warehouse):
    refresh(warehouse, with_indicators({"adosc": [3]}, "ad"))
    market, longer = with_indicators("ad"), {Timeframe.m15: BARS[Timeframe.m15] + 1}
    assert refresh(warehouse, market) == {Table.enhanced_candles: 0, Table.indicators: 0}
    refresh(warehouse, market, longer)
    assert_as_fresh(warehouse, market, longer)


def unpoisoned(warehouse: Warehouse, market: Market) -> Warehouse:
    """The warehouse with the marked columns recomputed from the first candle on."""
    marked = {Table.enhanced_candles: "ao", Table.indicators: "sma_10"}
    for table, column in marked.items():
        if is_poisoned(warehouse, table, column):
            change(warehouse, f"update fair.column_versions set fingerprint = '' where column_name = '{column}'")
    refresh(warehouse, market)
    return warehouse


def test_both_parameters_in_one_list_are_two_columns(warehouse: Warehouse):
    market = with_indicators({"stoch": [{"fastk_period": 14}, {"slowk_period": 14}]})
    refresh(warehouse, market)
    [(first, second)] = query(
        warehouse, "select sum(stoch_slowk_14), sum(stoch_slowk_slowk_period_14) from fair.indicators"
    )
    assert first != second
    assert_as_fresh(warehouse, market)


def test_two_wishes_for_one_name_are_refused_when_the_market_is_loaded():
    market = with_indicators({"sar": [{"acceleration": 0.2}, {"acceleration": 0, "maximum": 2}]})
    with pytest.raises(
        MarketError, match=r"market 'fair': indicators\.compute: found \{'sar': .*both called 'sar_0_2'"
    ):
        computations(market)


@pytest.mark.parametrize("calendar", ["fx", "nse"])
def test_another_calendar_recomputes_the_columns_of_sessions_alone(warehouse: Warehouse, calendar: str):
    refresh(warehouse, with_indicators("sma_10", *SESSIONS, "obv"))
    poison(warehouse, Table.indicators, "sma_10")
    poison(warehouse, Table.enhanced_candles, "ao")
    market = with_indicators("sma_10", *SESSIONS, "obv", calendar=calendar)
    # Later candles follow the new days from the first refresh on.
    later = {Timeframe.m15: BARS[Timeframe.m15] + 40}
    refresh(warehouse, market)
    assert is_poisoned(warehouse, Table.indicators, "sma_10")
    assert is_poisoned(warehouse, Table.enhanced_candles, "ao")
    refresh(unpoisoned(warehouse, market), market, later)
    assert_as_fresh(warehouse, market, later)


def test_another_class_computes_the_indicators_of_its_instrument_alone(warehouse: Warehouse):
    plain = with_indicators("sessions", calendar="fx", instruments={"XAU/USD": {}})
    metal = with_indicators("sessions", calendar="fx", instruments={"XAU/USD": {"class": "metal"}})
    refresh(warehouse, plain)
    assert refresh(warehouse, metal) == {Table.enhanced_candles: 0, Table.indicators: len(metal.timeframes)}
    assert_as_fresh(warehouse, metal)


def test_rows_that_are_kept_for_longer_are_filled_and_for_shorter_dropped(warehouse: Warehouse):
    def keeping(keep: object) -> Market:
        return market_of(indicators={"compute": ["sma_10", "obv"], "keep": keep})

    for keep, rows in (("1d", 148), ("for ever", 340), ("2d", 244), ("1d", 148), ({"m15": "2d", "H1": "1d"}, 244)):
        refresh(warehouse, keeping(keep))
        assert query(warehouse, "select count(*) from fair.indicators") == [(rows,)], keep
        assert_as_fresh(warehouse, keeping(keep))
    assert refresh(warehouse, keeping({"m15": "2d", "H1": "3d"}))[Table.indicators] == 0


def test_another_constant_of_a_formula_recomputes_its_columns(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch):
    market = with_indicators("sma_10", "fibonacci", "volatility_regime")
    refresh(warehouse, market)
    poison(warehouse, Table.indicators, "sma_10")
    monkeypatch.setattr(derived, "WINDOW", 40)
    forget_registries()
    assert refresh(warehouse, market) == {Table.enhanced_candles: 0, Table.indicators: 1}
    assert is_poisoned(warehouse, Table.indicators, "sma_10")
    assert_as_fresh(unpoisoned(warehouse, market), market)


def test_another_talib_recomputes_what_it_computes(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch):
    market = with_indicators("ema_20", "sma_10", "obv")
    refresh(warehouse, market)
    poison(warehouse, Table.indicators, "ema_20", "sma_10", "obv")
    monkeypatch.setattr(fingerprints, "talib_version", lambda: "99")
    forget_registries()
    refresh(warehouse, market)
    poisoned = [name for name in ("ema_20", "sma_10", "obv") if is_poisoned(warehouse, Table.indicators, name)]
    assert poisoned == ["ema_20", "obv"]


def forget_registries() -> None:
    registry.cache_clear()
    computed_tables._indicators.cache_clear()


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Registries of this module's tests alone."""
    yield
    forget_registries()


# ---- a warehouse of before, a killed process, candles that change meanwhile


def test_a_warehouse_of_before_is_current_but_for_formulas_of_later_versions(warehouse: Warehouse):
    market = with_indicators("sma_10", "rsi_14", "ema_20", "zones")
    refresh(warehouse, market)
    poison(warehouse, Table.indicators, "sma_10", "rsi_14", "ema_20", "demand_zone_low")
    poison(warehouse, Table.enhanced_candles, "median", "ao")
    change(warehouse, "drop table fair.column_versions")
    change(warehouse, "drop table fair.column_queue")
    change(warehouse, "update fair.schema_info set schema_version = 5")
    refresh(warehouse, market)
    first_versions = {"sma_10": True, "ema_20": True, "rsi_14": False, "demand_zone_low": False}
    assert {name: is_poisoned(warehouse, Table.indicators, name) for name in first_versions} == first_versions
    first_versions = {"median": True, "ao": False}
    assert {name: is_poisoned(warehouse, Table.enhanced_candles, name) for name in first_versions} == first_versions
    versions = "select max(code_version) from fair.column_versions where column_name = ?"
    assert [query(warehouse, versions, name) for name in ("sma_10", "rsi_14")] == [[(1,)], [(2,)]]


@pytest.mark.parametrize("before", [["obv", "sma_10"], ["sma_10"], ["sma_10", "obv", {"ema": [8]}]])
def test_a_warehouse_of_before_whose_columns_change_at_once_equals_a_fresh_one(
    warehouse: Warehouse, before: Sequence[Any]
):
    refresh(warehouse, with_indicators(*before))
    change(warehouse, "drop table fair.column_versions")
    change(warehouse, "drop table fair.column_queue")
    market = with_indicators("sma_10", {"ema": [21]}, "obv")
    refresh(warehouse, market)
    more = {Timeframe.m15: BARS[Timeframe.m15] + 5}
    refresh(warehouse, market, more)
    assert_as_fresh(warehouse, market, more)


@dataclass
class Killed:
    """Ends the work after so many transactions."""

    after: int
    seen: int = field(default=0)

    def __call__(self, written: int, total: int) -> None:
        self.seen += 1
        if self.seen == self.after:
            raise KeyboardInterrupt


def work_of(warehouse: Warehouse, market: Market, table: Table, killed: Killed) -> TailRefresh:
    computation = computations(market)[table]
    return TailRefresh(
        warehouse.get_connection,
        market.name,
        computation,
        market.calendar,
        market.two_sided,
        cells_at_once=1,
        session=warehouse.session,
        progress=killed,
    )


def test_a_killed_recompute_goes_on_where_it_was(warehouse: Warehouse):
    long = {Timeframe.m15: 2500}
    refresh(warehouse, with_indicators("sma_10", *SESSIONS), long)
    market = with_indicators("sma_10", *SESSIONS, {"ema": [8]}, "obv", calendar="fx")
    warehouse.prepare(market)
    with warehouse.get_connection() as connection:
        queued = queued_columns(connection, "fair", Table.indicators, market.series)
    with pytest.raises(KeyboardInterrupt):
        refresh_columns(work_of(warehouse, market, Table.indicators, Killed(after=2)), queued)
    [(since, length)] = query(warehouse, "select since, len(columns) from fair.column_queue")
    assert since == query(warehouse, "select open_time from fair.raw_candles order by all offset 2048 limit 1")[0][0]
    assert length > 12
    # What is computed already stays.
    change(warehouse, f"update fair.indicators set vwap = {POISON} where open_time < ?", since)
    refresh(warehouse, market, long)
    assert query(warehouse, f"select count(*) from fair.indicators where vwap = {POISON}") == [(2048,)]
    change(warehouse, "update fair.column_versions set fingerprint = '' where column_name = 'vwap'")
    refresh(warehouse, market, long)
    assert_as_fresh(warehouse, market, long)


def test_candles_that_change_before_the_columns_are_computed_are_followed(warehouse: Warehouse):
    refresh(warehouse, with_indicators("sma_10", "obv"))
    market = with_indicators("sma_10", "obv", "sessions", {"ema": [8]})
    warehouse.prepare(market)
    longer = {Timeframe.m15: BARS[Timeframe.m15] + 30}
    [series] = market.series
    bent = history(series, longer[Timeframe.m15])
    bent.columns["close"][150] = bent.columns["high"][150]
    warehouse.store_candles(market, {series: bent}, "test", NOW)
    for table in computations(market):
        warehouse.refresh_tail(market, table, market.series)
    # The corrected candle comes back as it was, so that a fresh run has the same candles.
    refresh(warehouse, market, longer)
    assert_as_fresh(warehouse, market, longer)


def test_the_export_of_a_series_whose_columns_were_recomputed_is_due(warehouse: Warehouse):
    refresh(warehouse, with_indicators("sma_10"))
    change(warehouse, "delete from fair.recompute_queue")
    refresh(warehouse, with_indicators("sma_10", "obv"))
    assert query(warehouse, "select asset from fair.recompute_queue") == [("exports",)]


# ---- whatever changes

CHOICES: Mapping[str, Sequence[Any]] = {
    "calendar": ["crypto", "fx", "nse"],
    "instruments": [{"BTC/USD": {}}, {"BTC/USD": {}, "XAU/USD": {}}, {"XAU/USD": {"class": "metal"}, "BTC/USD": {}}],
    "timeframes": [["m15"], ["m15", "H1"], ["H1"]],
    "two_sided": [True, False],
    "keep": ["for ever", "1d", {"m15": "2d", "H1": "3d"}],
    "compute": [
        ["sma_10", "sessions", {"stoch": [{"fastk_period": 14}]}],
        ["sessions", "sma_10", {"stoch": [{"slowk_period": 14}]}, {"ema": [8]}],
        [{"ema": [21]}, "adosc", "trend_direction", "zones", "volatility_regime"],
        ["obv", "ad", {"supertrend": {"multiplier": 7}}, {"ema": [21, 8]}, "keltner", "vwap"],
    ],
}
ONE_CHANGE = st.sampled_from(sorted(CHOICES)).flatmap(
    lambda key: st.tuples(st.just(key), st.sampled_from(CHOICES[key]))
)


# Without shrinking: a failing example is short already, and every run of it takes a second.
@settings(max_examples=examples(3), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.lists(ONE_CHANGE, min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_changes_in_the_yaml_the_tables_equal_a_fresh_run(steps: Sequence[Sequence[tuple[str, Any]]]):
    chosen = {key: values[0] for key, values in CHOICES.items()}
    market, bars = market_of(), {**BARS}
    with open_warehouse() as warehouse:
        for number, step in enumerate([[], *steps]):
            chosen |= dict(step)
            options = {key: value for key, value in chosen.items() if key not in ("keep", "compute")}
            market = market_of(indicators={key: chosen[key] for key in ("compute", "keep")}, **options)
            bars = {timeframe: count + 3 * number for timeframe, count in BARS.items()}
            refresh(warehouse, market, bars)
        assert_as_fresh(warehouse, market, bars)
