"""A series whose venue or symbol changes in the YAML is refused until somebody forgets or renames it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from refresh_pipeline.cli.app import app
from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import compute, export, fetch
from refresh_pipeline.sources import Fetched, Request, Source
from refresh_pipeline.sources.binance import BinanceSource
from refresh_pipeline.sources.demo import DemoSource
from refresh_pipeline.sources.failover import Member, PreferredSources
from refresh_pipeline.sources.json_api import JsonApiSource
from refresh_pipeline.sources.oanda import OandaSource
from refresh_pipeline.sources.origins import origins
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.warehouse import Warehouse

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
SERIES = Series("BTC/USD", Timeframe.H1)
NEVER = Series("TYPO/USD", Timeframe.H1)
YAML = """
name: moved
source: {source}
calendar: crypto
instruments: {instruments}
timeframes: [H1]
history: 10h
indicators: {{compute: [sma_10]}}
"""


def market_of(source: str = "{kind: demo}", instruments: str = "[BTC/USD]") -> Market:
    return parse_market(YAML.format(source=source, instruments=instruments), "moved.yaml")


@dataclass
class Venue:
    """A venue that has one price for everything."""

    kind: str = "venue"
    price: float = 100.0
    native_timeframes: Sequence[Timeframe] = (Timeframe.H1,)
    asked: list[Request] = field(default_factory=list)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """Every closed hour."""
        for request in requests:
            self.asked.append(request)
            until = min(request.until, instant(now) - np.timedelta64(1, "h"))
            times = np.arange(request.since, until, np.timedelta64(1, "h"))
            price = np.full(len(times), self.price)
            yield Fetched(request.series, Candles.of(times, open=price, high=price, low=price, close=price))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "refresh.duckdb")


def refresh(warehouse: Warehouse, market: Market, source: Source) -> dict[Series, Attempt]:
    with warehouse.session():
        warehouse.prepare(market)
        return fetch.refresh_candles(warehouse, market, source, market.series, NOW, gaps={})


def prices(warehouse: Warehouse) -> set[tuple[object, ...]]:
    with warehouse.reader() as connection:
        return set(connection.execute("select instrument, close from moved.raw_candles").fetchall())


def test_another_symbol_is_refused_in_words_until_the_series_is_forgotten(warehouse: Warehouse) -> None:
    refresh(warehouse, market_of(), Venue())
    renamed, venue = market_of(instruments="{BTC/USD: {symbol: XBT}}"), Venue(price=7.0)
    attempt = refresh(warehouse, renamed, venue)[SERIES]
    assert (attempt.outcome, attempt.transient, venue.asked) == (Outcome.failed, False, [])
    assert attempt.reason == (
        "the stored candles come from venue, symbol BTC/USD; the YAML names venue, symbol XBT. To fetch them anew, run "
        "`refresh forget --market moved --instrument BTC/USD`; to keep them, run "
        "`refresh rename --market moved BTC/USD BTC/USD`; or restore the YAML"
    )
    assert prices(warehouse) == {("BTC/USD", 100.0)}
    warehouse.forget(renamed, Choice("BTC/USD"), NOW)
    assert refresh(warehouse, renamed, venue)[SERIES].outcome is Outcome.updated
    assert prices(warehouse) == {("BTC/USD", 7.0)}


def test_another_symbol_is_accepted_by_a_rename_that_keeps_the_candles(warehouse: Warehouse) -> None:
    refresh(warehouse, market_of(), Venue())
    renamed = market_of(instruments="{BTC/USD: {symbol: XBT}}")
    assert warehouse.rename(renamed, "BTC/USD", "BTC/USD") == {SERIES: 10}
    assert refresh(warehouse, renamed, Venue())[SERIES].outcome is Outcome.unchanged
    assert refresh(warehouse, market_of(), Venue())[SERIES].outcome is Outcome.failed


def test_another_venue_is_refused_and_a_list_of_sources_with_the_former_one_is_not(warehouse: Warehouse) -> None:
    market = market_of()
    refresh(warehouse, market, Venue())
    assert "come from venue, symbol BTC/USD; the YAML names other" in str(
        refresh(warehouse, market, Venue("other"))[SERIES].reason
    )
    both = PreferredSources(market, [Member(Venue("other", 101.0), market), Member(Venue(), market)])
    assert refresh(warehouse, market, both)[SERIES].outcome is Outcome.updated
    assert refresh(warehouse, market, Venue("other", 101.0))[SERIES].outcome is Outcome.unchanged


def test_a_warehouse_of_before_records_what_the_first_refresh_fetches_with(warehouse: Warehouse) -> None:
    refresh(warehouse, market_of(), Venue())
    with warehouse.get_connection() as connection:
        connection.execute("drop table moved.series_sources")
    later = Warehouse(warehouse.database)
    assert refresh(later, market_of(), Venue("other"))[SERIES].outcome is Outcome.unchanged
    assert refresh(later, market_of(), Venue())[SERIES].outcome is Outcome.failed


def test_a_series_without_candles_may_change_its_source(warehouse: Warehouse) -> None:
    market = market_of(instruments="[ETH/USD, BTC/USD]")
    refresh(warehouse, market, Venue())
    warehouse.forget(market, Choice("BTC/USD"), NOW)
    done = refresh(warehouse, market, Venue("other"))
    assert [done[series].outcome for series in market.series] == [Outcome.failed, Outcome.updated]


JSON_API = (
    '{{kind: http, base_url: "{}", path: "/{{symbol}}", timeframes: {{H1: 1h}}, time: s, '
    "fields: {{time: 0, open: 1, high: 2, low: 3, close: 4}}}}"
)


@pytest.mark.parametrize(
    ("kind", "source", "other", "is_same"),
    [
        (BinanceSource, "{kind: binance}", '{kind: binance, base_url: "https://api1.binance.com"}', True),
        (OandaSource, "{kind: oanda}", '{kind: oanda, base_url: "https://api-fxtrade.oanda.com"}', True),
        (DemoSource, "{kind: demo}", "{kind: demo, seed: 1}", True),
        (DemoSource, "{kind: demo}", "{kind: demo, seed: 2}", False),
        (JsonApiSource, JSON_API.format("https://a.venue.com"), JSON_API.format("https://b.venue.com"), True),
        (JsonApiSource, JSON_API.format("http://127.0.0.1:81"), JSON_API.format("http://127.0.0.1:82"), True),
        (JsonApiSource, JSON_API.format("https://venue.com"), JSON_API.format("https://market.com"), False),
        (JsonApiSource, JSON_API.format("https://a.co.uk"), JSON_API.format("https://b.co.uk"), False),
    ],
)
def test_a_mirror_is_the_same_venue(tmp_path: Path, kind: type, source: str, other: str, is_same: bool) -> None:
    markets = [market_of(text) for text in (source, other)]
    one, two = ({*origins(kind(market, tmp_path), market, market.series)[SERIES]} for market in markets)
    assert (one == two) is is_same


def test_a_symbol_that_says_what_the_venues_rule_says_is_no_change(tmp_path: Path) -> None:
    plain, named = market_of("{kind: binance}"), market_of("{kind: binance}", "{BTC/USD: {symbol: BTCUSD}}")
    one, two = (origins(BinanceSource(each, tmp_path), each, each.series) for each in (plain, named))
    assert one == two


# ---- another name for an instrument


def everything_of(warehouse: Warehouse, name: str) -> dict[str, int]:
    """How many rows of an instrument each table holds; the change feed goes on naming what is gone."""
    with warehouse.reader() as connection:
        tables = connection.execute(
            "select distinct table_name from duckdb_columns() where schema_name = 'moved' "
            "and column_name = 'instrument' and table_name <> 'versions'"
        ).fetchall()
        counts = {
            table: connection.execute(f"select count(*) from moved.{table} where instrument = ?", [name]).fetchall()
            for (table,) in tables
        }
    return {table: count for table, [(count,)] in counts.items() if count}


@pytest.fixture
def exported(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Market:
    """A market with candles, indicators and files, whose YAML names another instrument by now."""
    market = market_of()
    refresh(warehouse, market, Venue())
    for table in computations(market):
        compute.compute(warehouse, market, table, market.series)
    export.export(warehouse, market, tmp_path / "exports", market.series, NOW)
    later = YAML.format(source="{kind: demo}", instruments="[XBT/USD]")
    (tmp_path / "moved.yaml").write_text(later)
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(tmp_path))
    return parse_market(later, "moved.yaml")


def run(tmp_path: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words, "--market", "moved", "--data-dir", str(tmp_path)])
    return result.exit_code, result.output


def test_a_rename_moves_every_table_and_writes_the_files_anew(
    warehouse: Warehouse, exported: Market, tmp_path: Path
) -> None:
    before = everything_of(warehouse, "BTC/USD")
    assert {"raw_candles": 10, "enhanced_candles": 10, "indicators": 10}.items() <= before.items()
    files = [path for path in (tmp_path / "exports").rglob("*") if path.is_file()]
    assert run(tmp_path, "rename", "BTC/USD", "xbt-usd")[0] == 2
    code, output = run(tmp_path, "rename", "BTC/USD", "xbt-usd", "--yes")
    assert (code, everything_of(warehouse, "BTC/USD")) == (0, {})
    assert "10 candles of 1 series are named XBT/USD" in output
    assert f"export files deleted: {len(files)}" in output
    assert not any(path.exists() for path in files)
    after = everything_of(warehouse, "XBT/USD")
    # The files are to be written anew, and the next refresh records the venue's symbol.
    assert before.keys() - after.keys() == {"exports", "series_sources"}
    assert after.pop("recompute_queue") == after.pop("stale") == 1
    assert after.items() <= before.items()
    export.export(warehouse, exported, tmp_path / "exports", exported.series, NOW)
    # One of them holds all instruments and counts as none's.
    assert everything_of(warehouse, "XBT/USD")["exports"] == len(files) - 1
    dataset = tmp_path / "exports" / "moved" / "dataset" / "*" / "*.parquet"
    with duckdb.connect() as connection:
        found = connection.execute(f"select distinct instrument from read_parquet('{dataset}')").fetchall()
    assert found == [("XBT/USD",)]
    assert refresh(warehouse, exported, Venue())[exported.series[0]].outcome is Outcome.unchanged


def test_a_rename_onto_stored_candles_is_refused_and_changes_nothing(
    warehouse: Warehouse, exported: Market, tmp_path: Path
) -> None:
    refresh(warehouse, exported, Venue())
    code, output = run(tmp_path, "rename", "BTC/USD", "XBT/USD", "--yes")
    assert code == 2
    assert "has 10 candles of 'XBT/USD'" in output
    assert "has no candles of 'LUNA'" in run(tmp_path, "rename", "LUNA", "XBT/USD", "--yes")[1]
    assert everything_of(warehouse, "BTC/USD")["raw_candles"] == 10


def test_forgotten_series_leave_no_files(warehouse: Warehouse, exported: Market, tmp_path: Path) -> None:
    code, output = run(tmp_path, "forget", "--instrument", "BTC/USD", "--yes")
    assert (code, "export files deleted" in output) == (0, True)
    assert [path for path in (tmp_path / "exports").rglob("*") if path.is_file()] == []
    assert "exports" not in everything_of(warehouse, "BTC/USD")


# ---- what no YAML names any more


def orphans(tmp_path: Path) -> list[dict[str, object]]:
    return json.loads(run(tmp_path, "status", "--orphans", "--json")[1])


def test_status_lists_what_the_yaml_no_longer_names(warehouse: Warehouse, exported: Market, tmp_path: Path) -> None:
    warehouse.record(exported, "raw_candles", {NEVER: Attempt(Outcome.failed, "no such symbol")}, "run", NOW)
    # The dataset is no file of one series.
    files = len([path for path in (tmp_path / "exports").rglob("*") if path.suffix == ".csv"])
    one = {"market": "moved", "timeframe": "H1", "uploaded_files": 0}
    assert orphans(tmp_path) == [
        # Ten rows in each of three tables, its completeness and the venue's symbol.
        one | {"instrument": "BTC/USD", "candles": 10, "rows": 32, "export_files": files},
        one | {"instrument": "TYPO/USD", "candles": 0, "rows": 1, "export_files": 0},
    ]
    assert "refresh rename --market MARKET OLD NEW" in " ".join(run(tmp_path, "status", "--orphans")[1].split())
    assert "10 candles of 1 series forgotten" in run(tmp_path, "forget", "--instrument", "BTC/USD", "--yes")[1]
    # Everything of a series that was not chosen stays.
    assert [row["instrument"] for row in orphans(tmp_path)] == ["TYPO/USD"]
    code, output = run(tmp_path, "forget", "--orphans", "--yes")
    assert (code, "TYPO/USD H1: no candles, 1 row, 0 export files" in output) == (0, True)
    assert "Rows and files of 1 series forgotten" in output
    assert orphans(tmp_path) == []


def test_a_market_without_a_yaml_is_listed_and_forgotten(
    warehouse: Warehouse, exported: Market, tmp_path: Path
) -> None:
    assert exported.series
    (tmp_path / "moved.yaml").unlink()
    result = CliRunner().invoke(app, ["status", "--orphans", "--json", "--market", "demo", "--data-dir", str(tmp_path)])
    assert [(row["market"], row["instrument"], row["rows"]) for row in json.loads(result.output)] == [
        ("moved", None, 32)
    ]
    assert run(tmp_path, "forget", "--orphans")[0] == 2
    assert "market moved and" in run(tmp_path, "forget", "--orphans", "--yes")[1]
    with warehouse.reader() as connection:
        assert connection.execute("from duckdb_tables() where schema_name = 'moved'").fetchall() == []
    assert [path for path in (tmp_path / "exports").rglob("*") if path.is_file()] == []
