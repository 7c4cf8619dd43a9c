"""What the web UI tells a stranger of each asset, held against the tables as they are."""

import re
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.assets import market_assets
from refresh_pipeline.orchestration.schedules import refresh_schedule
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

REPOSITORY = Path(__file__).resolve().parents[2]
YAML = """
name: {name}
source: {{kind: demo}}
calendar: {calendar}
instruments: [EUR/USD, GBP/USD]
timeframes: [m5, H1]
history: 1d
two_sided: {two_sided}
owners: [team:candles, somebody@example.com]
"""


def market_of(calendar: str = "fx", *, two_sided: bool = True) -> Market:
    return parse_market(YAML.format(name="house", calendar=calendar, two_sided=str(two_sided).lower()), "house.yaml")


DEMO, CRYPTO = load_markets(load_settings(enabled_markets="demo,crypto"))
MARKETS = [DEMO, CRYPTO, market_of(), market_of("crypto", two_sided=False)]


def specs(market: Market) -> list[dg.AssetSpec]:
    return [spec for asset in market_assets(market) for spec in asset.specs]


CASES = [
    pytest.param(market, spec, id=f"{market.name}-{spec.key.path[-1]}") for market in MARKETS for spec in specs(market)
]


@pytest.mark.parametrize(("market", "spec"), CASES)
def test_an_asset_says_what_it_is_whose_and_of_which_kind(market: Market, spec: dg.AssetSpec) -> None:
    assert spec.description is not None
    assert len(spec.description.split()) >= 10
    assert "{" not in spec.description
    assert list(spec.owners) == list(market.owners)
    assert spec.kinds
    assert spec.tags["source"] == market.source.kind
    assert spec.tags["layer"] in {"raw", "computed", "published"}
    assert spec.metadata["dashboard"].url == f"http://127.0.0.1:8080/?market={market.name}"
    pages = re.findall(r"docs/[\w-]+\.md", spec.metadata["manual"].value)
    assert pages
    assert all((REPOSITORY / page).is_file() for page in pages)
    assert spec.group_name == market.name
    assert spec.metadata["dagster/table_name"] == f"{market.name}.{spec.key.path[-1]}"


@pytest.mark.parametrize(("market", "spec"), CASES)
def test_the_columns_are_those_of_the_table(
    market: Market, spec: dg.AssetSpec, warehouses: dict[int, Warehouse]
) -> None:
    with warehouses[id(market)].reader() as connection:
        real = connection.execute(
            "select column_name, lower(data_type) from duckdb_columns() "
            "where schema_name = ? and table_name = ? order by column_index",
            [market.name, spec.key.path[-1]],
        ).fetchall()
    said = spec.metadata["dagster/column_schema"].columns
    assert [(column.name, column.type) for column in said] == real


@pytest.fixture(scope="module")
def warehouses(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Warehouse]:
    """A database per market, with its tables."""
    found = {}
    for number, market in enumerate(MARKETS):
        found[id(market)] = Warehouse(database=str(tmp_path_factory.mktemp("tables") / f"{number}.duckdb"))
        found[id(market)].prepare(market)
    return found


@pytest.mark.parametrize(("market", "spec"), CASES)
def test_every_column_says_what_it_means(market: Market, spec: dg.AssetSpec) -> None:
    silent = [column.name for column in spec.metadata["dagster/column_schema"].columns if not column.description]
    assert silent == []


def test_a_computed_column_says_in_which_unit() -> None:
    schema = next(spec for spec in specs(DEMO) if spec.key.path[-1] == Table.indicators).metadata[
        "dagster/column_schema"
    ]
    computed = [column for column in schema.columns if column.name not in ("instrument", "timeframe", "open_time")]
    assert len(computed) > 20
    assert all(column.description.endswith(")") for column in computed)


def test_the_candles_name_their_source() -> None:
    assert "binance" in str(specs(CRYPTO)[0].description)
    assert "demo" in str(specs(DEMO)[0].description)


def test_around_the_clock_an_asset_is_late_after_three_ticks() -> None:
    late = dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=16), warn_window=timedelta(minutes=11))
    assert [spec.freshness_policy for spec in specs(DEMO)[:3]] == [late] * 3


def test_files_are_late_after_three_publishings() -> None:
    for market in (DEMO, market_of()):
        published = [spec.freshness_policy for spec in specs(market)[3:]]
        assert (
            published
            == [dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=6), warn_window=timedelta(hours=4))] * 2
        )


@pytest.mark.parametrize(
    ("shortest", "deadline", "window"),
    [
        ("m1", "0 0-17 * * 1-5", timedelta(hours=1)),
        ("m30", "0 0-17 * * 1-5", timedelta(hours=1)),
        ("H1", "0 0-17 * * 1-5", timedelta(hours=1)),
        ("H4", "0 18 * * 1-5", timedelta(days=1)),
        ("D1", "0 18 * * 1-5", timedelta(days=1)),
        ("W1", "0 18 2 * *", timedelta(days=28)),
        ("MN1", "0 18 2 * *", timedelta(days=28)),
    ],
)
def test_a_market_with_closing_hours_is_late_by_its_own_clock_only(
    shortest: str, deadline: str, window: timedelta
) -> None:
    yaml = YAML.format(name="house", calendar="fx", two_sided="false").replace("[m5, H1]", f"[{shortest}]")
    policies = [spec.freshness_policy for spec in specs(parse_market(yaml, "house.yaml"))[:3]]
    expected = dg.FreshnessPolicy.cron(deadline_cron=deadline, lower_bound_delta=window, timezone="America/New_York")
    assert policies == [expected] * 3


class LondonCalendar(FxCalendar):
    """A calendar of somebody's own, with closing hours and no deadlines."""

    name, zone = "lse", "Europe/London"
    hourly_deadlines = ""


@pytest.mark.parametrize("shortest", ["m5", "D1"])
def test_a_new_calendar_needs_no_more_than_its_entry_in_the_registry(
    monkeypatch: pytest.MonkeyPatch, shortest: str
) -> None:
    monkeypatch.setitem(CALENDARS, "lse", LondonCalendar())
    yaml = YAML.format(name="house", calendar="lse", two_sided="false").replace("[m5, H1]", f"[{shortest}]")
    market = parse_market(yaml, "house.yaml")
    expected = dg.FreshnessPolicy.cron("0 18 * * 1-5", lower_bound_delta=timedelta(days=1), timezone="Europe/London")
    assert [spec.freshness_policy for spec in specs(market)[:3]] == [expected] * 3
    assert refresh_schedule(market).execution_timezone == "Europe/London"


@pytest.mark.parametrize("shortest", list(Timeframe))
def test_around_the_clock_every_length_of_candle_has_its_policy(shortest: Timeframe) -> None:
    yaml = YAML.format(name="house", calendar="crypto", two_sided="false").replace("[m5, H1]", f"[{shortest}]")
    assert all(spec.freshness_policy for spec in specs(parse_market(yaml, "house.yaml")))


@pytest.mark.parametrize(("market", "spec"), CASES)
def test_every_asset_has_a_freshness_policy(market: Market, spec: dg.AssetSpec) -> None:
    assert spec.freshness_policy is not None
