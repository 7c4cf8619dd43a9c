"""What `make refresh` does on a machine that knows nothing of us: the demo, in a folder of its own, twice."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, command

NOW = datetime(2026, 6, 1, 12, 3, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
TABLES = ("raw_candles", "enhanced_candles", "indicators")
# What a first refresh leaves in the data folder.
LEFT = {"dagster", "disk_reserve", "exports", "refresh.duckdb"}
SERIES = {"m5": 3 * 288, "m15": 7 * 96, "H1": 20 * 24, "H4": 90 * 6, "D1": 365}


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[World]:
    """An empty folder, and an empty home."""
    (tmp_path / "home").mkdir()
    with inside(tmp_path):
        yield World(tmp_path)


def test_the_demo_is_refreshed_and_then_only_grows(nowhere: World) -> None:
    first = command("once", "--now", NOW.isoformat())
    assert first.exit_code == 0, first.output
    before, exports = {table: nowhere.lasting_rows(table) for table in TABLES}, nowhere.files("exports")
    counts = nowhere.query("select timeframe, count(*), count(distinct instrument) from demo.raw_candles group by 1")
    assert {timeframe: count for timeframe, count, _ in counts} == {name: 8 * count for name, count in SERIES.items()}
    assert {instruments for _, _, instruments in counts} == {8}
    texts = {name for name in exports if name.endswith(".csv")}
    assert len(texts) == 8 * 5
    datasets = {name.rpartition("/")[0] for name in exports if name not in texts}
    assert datasets == {f"demo/dataset/timeframe={name}" for name in SERIES}
    assert "uploads    off, no destination is named: set REFRESH_UPLOAD_URL=" in first.output
    assert {path.name for path in (nowhere.root / "data").iterdir()} == LEFT

    second = command("once", "--now", LATER.isoformat())
    assert second.exit_code == 0, second.output
    assert "check not passed" not in first.output + second.output
    for table, old in before.items():
        new = nowhere.lasting_rows(table)
        assert old <= new
        assert len(new - old) == 8
        assert {(row[1], row[2].isoformat()) for row in new - old} == {("m5", "2026-06-01T12:00:00")}
    for table in ("raw_candle_revisions", "rejected_candles"):
        assert nowhere.query(f"select * from demo.{table}") == []
    changed = {name for name, found in nowhere.files("exports").items() if exports.get(name) != found}
    assert {name.rpartition("_")[2] for name in changed & texts} == {"m5.csv"}
    assert len(changed & texts) == 8
    assert {name.rpartition("/")[0] for name in changed - texts} == {"demo/dataset/timeframe=m5"}

    rows = json.loads(command("status", "--json", "--now", LATER.isoformat()).stdout)
    assert len(rows) == 40
    assert {(row["bars_behind"], row["completeness"]) for row in rows} == {(0, 1.0)}
    assert sorted(path.name for path in nowhere.root.iterdir()) == ["data", "home"]


def test_a_stretch_that_ends_before_it_begins_is_nothing_to_refresh(nowhere: World) -> None:
    # As the demo, without its hundreds of columns.
    (nowhere.root / "demo.yaml").write_text(
        "{name: demo, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD, ETH/USD], timeframes: [H1, D1],"
        " history: {H1: 30d, D1: 30d}, indicators: {compute: [sma_10]}, exports: {default: {}}}"
    )
    os.environ["REFRESH_MARKETS_DIR"] = str(nowhere.root)
    some = ("once", "-i", "BTC/USD", "-t", "H1", "--now", NOW.isoformat())
    assert command(*some, "--until", "2020-01-01").exit_code == 0
    assert nowhere.query("select count(*) from demo.raw_candles") == [(0,)]
    assert command(*some).exit_code == 0
    assert command(*some, "--until", "2026-05-20").exit_code == 0
    assert nowhere.query("select count(*) from demo.raw_candles") == [(720,)]
