"""Several at one warehouse: refreshes of different markets at once, and a reader who comes and goes."""

import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, running
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import NOW, World

# `left` and `right` are words of SQL, and may be names of markets all the same.
YAML = """
name: {name}
source: {{kind: demo, seed: 3}}
calendar: crypto
instruments: [BTC/USD, ETH/USD, EUR/USD, SPX500]
timeframes: [m5, H1]
history: 1d
indicators: {{compute: [sma_10, obv]}}
destinations: {{uploads: {{}}}}
"""
CANDLES = 4 * (288 + 24)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World.founded(tmp_path / "world", YAML.format(name="left"), "left")
    (world.root / "markets" / "right.yaml").write_text(YAML.format(name="right"))
    with inside(world.root):
        yield world


def read(database: Path) -> int:
    """One short visit: how many candles there are, -1 where the door was locked or there was nothing yet."""
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            tables = connection.execute("select schema_name from duckdb_tables() where table_name = 'raw_candles'")
            markets = [row[0] for row in tables.fetchall()]
            counts = [connection.execute(f'select count(*) from "{name}".raw_candles').fetchall() for name in markets]
            return sum(count[0][0] for count in counts)
    except (duckdb.IOException, duckdb.CatalogException):
        return -1


def test_two_markets_and_a_reader_all_get_their_turn(world: World) -> None:
    database = world.root / "data" / "refresh.duckdb"
    once = ("refresh", "once", "--now", NOW.isoformat(), "--market")
    visits: list[int] = []
    with running(*once, "left") as left, running(*once, "right") as right:
        deadline = time.monotonic() + PATIENCE
        while left.poll() is None or right.poll() is None:
            assert time.monotonic() < deadline
            visits.append(read(database))
            time.sleep(0.05)
        told = [process.communicate()[0] for process in (left, right)]
        assert [left.returncode, right.returncode] == [0, 0], told
    assert any(count >= 0 for count in visits)
    assert read(database) == 2 * CANDLES
    for market in ("left", "right"):
        for table in ("raw_candles", "enhanced_candles", "indicators"):
            found = world.query(
                f'select count(*), count(distinct (instrument, timeframe, open_time)) from "{market}".{table}'
            )
            assert found == [(CANDLES, CANDLES)]
        # A file of candles for each series, and those of all instruments: everything that was exported is there.
        [(exported,)] = world.query(f'select count(*) from "{market}".exports')
        assert exported > 8
        assert world.query(f'select count(*) from "{market}".uploads') == [(exported,)]
    with world.dagster() as instance:
        runs = {(run.job_name, run.is_success) for run in instance.get_runs()}
    assert runs == {(f"{market}_{what}", True) for market in ("left", "right") for what in ("refresh", "publish")}
