"""`refresh compute` and `refresh archive`: rows into files, whether they are stored or not."""

from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.market.model import parse_market
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import command
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, NOW, candles

YAML = (
    "{name: fair, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD, ETH/USD], timeframes: [m5], "
    "history: 30d, indicators: {compute: [sma_10], keep: {m5: 1d}}}"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    market = parse_market(YAML, file="fair.yaml")
    (tmp_path / "fair.yaml").write_text(YAML)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(tmp_path))
    monkeypatch.setenv("REFRESH_MARKETS", "fair")
    warehouse = Warehouse(database=str(tmp_path / "data" / "refresh.duckdb"))
    warehouse.prepare(market)
    warehouse.store_candles(market, {BTC: candles(1000)}, "test", NOW)
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(market, table, [BTC])
    return tmp_path


def test_a_stretch_that_is_no_longer_stored_is_written(folder: Path) -> None:
    with duckdb.connect(str(folder / "data" / "refresh.duckdb"), read_only=True) as connection:
        [(kept,)] = connection.execute("select count(*) from fair.indicators").fetchall()
    assert kept < 1000
    bounds = ["--since", "2024-01-01T01:00", "--until", "2024-01-01T02:00"]
    result = command("compute", "BTC/USD", "m5", "rows.csv", *bounds, "--data-dir", str(folder / "data"))
    assert (result.exit_code, result.output) == (0, "12 rows written to rows.csv\n")
    lines = (folder / "rows.csv").read_text().splitlines()
    assert lines[0] == "open_time,sma_10"
    assert lines[1].startswith("2024-01-01T01:00:00Z,")


def test_wrong_requests_are_one_sentence(folder: Path) -> None:
    for arguments, message in (
        (["BTC/USD", "m5", "rows.csv", "--layer", "raw"], "--layer: found 'raw', allowed: enhanced, indicators"),
        (["BTC/USD", "m5", "rows.csv", "--columns", "sma10"], "no column sma10; did you mean 'sma_10'?"),
        (["ETH/USD", "m5", "rows.csv"], "fair ETH/USD m5: no candle is stored there"),
        (["BTC/USD", "m5", "rows.xlsx"], "rows.xlsx"),
    ):
        result = command("compute", *arguments, "--data-dir", str(folder / "data"))
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
        assert message in result.output
    assert not (folder / "rows.csv").exists()


def test_an_archive_holds_all_rows_of_every_series(folder: Path) -> None:
    arguments = ["archive", "kept", "--data-dir", str(folder / "data")]
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("fair: 2,000 rows in 2 files, ")
    assert result.output.endswith(" MB, 1 series without candles\n")
    written = folder / "kept" / "fair" / "indicators" / "timeframe=m5" / "instrument=BTC%2FUSD" / "rows.parquet"
    before = written.stat().st_mtime_ns
    with duckdb.connect(str(folder / "data" / "refresh.duckdb"), read_only=True) as connection:
        rows = "read_parquet('kept/fair/indicators/**/*.parquet', hive_partitioning = true)"
        differing = connection.execute(
            "select instrument, timeframe, open_time, sma_10 from fair.indicators except "
            f"select instrument, timeframe, open_time::timestamp, sma_10 from {rows}"
        ).fetchall()
        [(count,)] = connection.execute(f"select count(*) from {rows}").fetchall()
    assert (differing, count) == ([], 1000)
    assert command(*arguments).exit_code == 0
    assert written.stat().st_mtime_ns == before
    assert command("archive", "none", "-i", "XRP/USD").exit_code == 2
    assert not (folder / "none").exists()
