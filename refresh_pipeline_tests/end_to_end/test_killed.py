"""A refresh that is killed at any moment loses nothing, stores nothing twice, and holds nobody up."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, end_session, finished, running
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import NOW, World, command

ONCE = ("refresh", "once", "--now", NOW.isoformat())
# Told by when it happened, not by what: differs between two refreshes of the same.
BESIDE_THE_POINT = {"outcomes", "check_results", "uploads", "schema_info", "versions"}


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[World]:
    """A market of simulated candles, some thousands, so that there is a while to be killed in."""
    yaml = """
name: stage
source: {kind: demo, seed: 3}
calendar: crypto
instruments: [BTC/USD, ETH/USD, EUR/USD, SPX500]
timeframes: [m1, m15, H1]
history: {m1: 1d, m15: 5d, H1: 15d}
indicators: {compute: [sma_10, obv]}
"""
    world = World.founded(tmp_path / "world", yaml, "stage")
    with inside(world.root):
        yield world


def killed_at_work(world: World, moment: float) -> None:
    """Start a refresh and kill it some time after its run has begun."""
    before = len(list(world.root.glob("data/dagster/history/runs/*.db")))
    with running(*ONCE) as process:
        deadline = time.monotonic() + PATIENCE
        while len(list(world.root.glob("data/dagster/history/runs/*.db"))) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moment)
        end_session(process)


def rows(world: World) -> dict[str, list[tuple]]:
    """Every row of every table, but for what tells when it was written."""
    found = {}
    for table, all_rows in world.tables().items():
        name = table.rpartition(".")[2]
        if name not in BESIDE_THE_POINT:
            found[name] = all_rows
    # All but `fetched_at`, which is the moment of storing.
    found["raw_candles"] = world.query(
        "select * exclude (fetched_at) from stage.raw_candles order by instrument, timeframe, open_time"
    )
    return found


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_after_kills_at_any_moment_a_refresh_leaves_what_it_always_leaves(
    simulated: World, tmp_path: Path, kills: int
) -> None:
    moments = random.Random(20260601)
    for _ in range(kills):
        killed_at_work(simulated, moments.uniform(0.0, 1.5))
    again = finished(*ONCE)
    assert again.returncode == 0, again.stdout + again.stderr

    untouched = World.founded(tmp_path / "untouched", (simulated.root / "markets" / "stage.yaml").read_text(), "stage")
    with inside(untouched.root):
        assert command(*ONCE[1:]).exit_code == 0
    assert rows(simulated) == rows(untouched)
    exports, expected = simulated.files("exports"), untouched.files("exports")
    assert {name: content for name, (content, _) in exports.items()} == {
        name: content for name, (content, _) in expected.items()
    }

    with simulated.dagster() as instance:
        found = [run.status for run in instance.get_runs()]
    assert DagsterRunStatus.STARTED not in found
    assert found.count(DagsterRunStatus.FAILURE) >= 1
    assert found[:2] == [DagsterRunStatus.SUCCESS] * 2


def test_an_interrupted_refresh_ends_at_once_and_begins_nothing_else(simulated: World) -> None:
    with running(*ONCE, "--since", "2024-01-01", "-t", "m1") as process:
        deadline = time.monotonic() + PATIENCE
        while not (simulated.root / "data" / "refresh.duckdb").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        assert process.wait(timeout=60) not in (0, 2)
    with simulated.dagster() as instance:
        assert [(run.job_name, run.status) for run in instance.get_runs()] == [
            ("stage_refresh", DagsterRunStatus.CANCELED)
        ]
