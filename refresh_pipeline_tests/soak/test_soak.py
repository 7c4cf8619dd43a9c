"""The soak itself, by `make soak` alone, and, in every test run, that its pieces work and can fail."""

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.pipeline.compute import compute
from refresh_pipeline.pipeline.fetch import fetch_candles, requests_for
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.end_to_end.programs import free_port
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World
from refresh_pipeline_tests.soak import proof
from refresh_pipeline_tests.soak.crowd import kline_faults
from refresh_pipeline_tests.soak.hour import HISTORY, LIVE, ROUND, YAML, Hour, KillPlan, venue_at
from refresh_pipeline_tests.soak.processes import kill, megabytes_of, processes_of

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


@pytest.mark.soak
def test_whatever_is_killed_the_daemon_leaves_every_candle_once_and_nothing_stuck(tmp_path: Path) -> None:
    minutes, seed = float(os.environ.get("MINUTES", "60")), int(os.environ.get("SEED", "1"))
    port = free_port()
    yaml = YAML.format(port=port) + (LIVE if os.environ.get("LIVE") == "1" else "")
    world = World.founded(tmp_path / "world", yaml, "soak")
    with inside(world.root):
        hour = Hour(world, port, seed, say=lambda line: print(line, flush=True))
        hour.say(f"\nsoak of {minutes:g} minutes, seed {seed}, in {world.root}")
        with hour.at_work() as instance:
            hour.rage(instance, minutes)
            faults = hour.prove(instance, world.market)
            hour.say(f"at the end: {hour.state(instance)}")
    hour.say("\n".join(faults) or "every candle once, tables as computed anew, nothing stuck, memory and log bounded")
    assert faults == []


# ---- the venue


def klines(port: int) -> Any:
    query = "symbol=BTCUSDT&interval=1m&startTime=1717243200000&limit=3"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v3/klines?{query}", timeout=10) as answer:
        return json.load(answer)


def test_a_venue_that_was_killed_comes_back_on_its_port_with_the_same_candles() -> None:
    port = free_port()
    with venue_at(port, seed=1, share=0.0):
        before = klines(port)
    with pytest.raises(OSError, match="refused"):
        klines(port)
    with venue_at(port, seed=2, share=0.0):
        assert klines(port) == before
    assert len(before) == 3


def test_a_share_of_the_venues_answers_are_faults_and_all_if_so_wished() -> None:
    port = free_port()
    with venue_at(port, seed=1, share=1.0):
        right = 0
        for _ in range(6):
            with suppress(OSError, ValueError):
                klines(port)
                right += 1
    # What is late is right.
    assert right < 6


# ---- the proof


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse as a refresh at NOW leaves it."""
    folder = tmp_path_factory.mktemp("whole")
    warehouse = Warehouse(database=str(folder / "refresh.duckdb"))
    with FakeBinance(now=NOW) as venue:
        market = market_at(int(venue.base_url.rpartition(":")[2]))
        warehouse.prepare(market)
        requests = requests_for(market, warehouse.series_stats(market, market.series), NOW)
        fetch_candles(warehouse, market, open_source(market, folder), requests, NOW)
    for table in computations(market):
        compute(warehouse, market, table, market.series)
    return folder / "refresh.duckdb"


def market_at(port: int = 1) -> Any:
    return parse_market(YAML.format(port=port), file="soak.yaml")


@pytest.fixture
def connection(whole: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same, to be broken: nothing of it stays."""
    with duckdb.connect(str(whole)) as opened:
        opened.execute("begin")
        yield opened
        opened.execute("rollback")


def faults(connection: duckdb.DuckDBPyConnection) -> str:
    found = proof.candle_faults(connection, market_at(), NOW - HISTORY, NOW) + proof.table_faults(
        connection, market_at()
    )
    return "\n".join(found)


def test_of_a_warehouse_as_it_should_be_nothing_is_said(connection: duckdb.DuckDBPyConnection) -> None:
    assert faults(connection) == ""
    assert not proof.is_behind(connection, market_at(), NOW)
    assert proof.is_behind(connection, market_at(), LATER)


ONE = "where instrument = 'BTC/USDT' and timeframe = 'm1' and open_time = '2026-06-01 11:00'"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"delete from soak.raw_candles {ONE}", "BTC/USDT m1: 1 candles are missing"),
        (
            "delete from soak.raw_candles where instrument = 'ETH/USDT' and open_time < '2026-06-01 06:05'",
            "ETH/USDT m1: ",
        ),
        ("delete from soak.raw_candles where instrument = 'ETH/USDT'", "ETH/USDT m5: no candle at all"),
        (f"update soak.raw_candles set close = close * 1.0001 {ONE}", "1 candles are not the venue's"),
        (
            f"update soak.raw_candles set open_time = open_time + interval 7 second {ONE}",
            "1 candles that the calendar does not expect",
        ),
        (f"update soak.enhanced_candles set median = median * 1.0001 {ONE}", "enhanced_candles is not"),
        (f"delete from soak.indicators {ONE}", "indicators is not"),
    ],
)
def test_whatever_is_wrong_with_a_warehouse_is_said(
    connection: duckdb.DuckDBPyConnection, change: str, said: str
) -> None:
    connection.execute(change)
    assert said in faults(connection)


def test_candles_that_are_there_twice_are_told(connection: duckdb.DuckDBPyConnection) -> None:
    # The table's own key would not let them in.
    connection.execute("create temp table twice as select * from soak.raw_candles")
    connection.execute("drop table soak.raw_candles cascade")
    connection.execute("create table soak.raw_candles as select * from twice")
    connection.execute(f"insert into soak.raw_candles select * from soak.raw_candles {ONE}")
    assert "BTC/USDT m1: 1 candles are there more than once" in faults(connection)


def test_klines_of_the_api_that_are_wrong_lacking_or_out_of_order_are_told() -> None:
    begin = int(NOW.replace(second=0).timestamp() * 1000)
    rows = FakeBinance()._rows("BTCUSDT", "1m", np.arange(begin - 5 * 60_000, begin, 60_000))
    assert kline_faults("BTCUSDT", "1m", rows) == []
    assert kline_faults("BTCUSDT", "1m", [*rows[:2], *rows[3:]]) == ["candles are missing"]
    assert kline_faults("BTCUSDT", "1m", rows[::-1]) == ["candles are not in order"]
    forming = [rows[0], [*rows[1][:4], rows[1][2], *rows[1][5:]]]
    assert kline_faults("BTCUSDT", "1m", forming) == ["candles are not the venue's"]


def test_a_history_that_a_backfill_has_not_filled_is_told(connection: duckdb.DuckDBPyConnection) -> None:
    assert proof.depth_faults(connection, market_at(), NOW - HISTORY) == []
    faults = proof.depth_faults(connection, market_at(), NOW - 2 * HISTORY)
    assert len(faults) == len(market_at().instruments)


def test_a_run_that_somebody_works_on_for_ever_is_told_and_one_whose_process_is_gone_is_not(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        gone = {PROCESS_TAG: f"{socket.gethostname()}:999999999:1"}
        create_run_for_test(instance, job_name="job", status=DagsterRunStatus.STARTED, tags=gone)
        starting = create_run_for_test(instance, job_name="job", status=DagsterRunStatus.STARTING)
        now = time.time()
        assert proof.run_faults(instance, now) == []
        later = proof.run_faults(instance, now + proof.STUCK_AFTER + 1)
        assert later == [f"run {starting.run_id} of job is STARTING for ever"]


def test_memory_that_grows_or_is_too_much_is_told_and_warming_up_is_not() -> None:
    steady = [50.0] * 6 + [150.0] * 30
    assert proof.memory_faults({"daemon 1": steady, "run 2": [100.0, 400.0]}) == []
    assert len(proof.memory_faults({"daemon 1": [100.0 + each for each in range(60)], "run 2": [900.0]})) == 2


def test_the_processes_of_a_folder_are_found_by_it_and_no_others(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "dagster-daemon"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes_of(tmp_path / "home") == {process.pid: "daemon"}
        assert processes_of(tmp_path) == {}
        assert megabytes_of(process.pid) > 1
        kill(process.pid)
        process.wait()
    assert processes_of(tmp_path / "home") == {}
    assert megabytes_of(process.pid) == 0


# In the style of the fork server: a child with the parent's command line, which outlives it.
FORKING = "import os, sys; pid = os.fork(); pid and print(pid, flush=True); sys.stdin.read()"


def test_a_forked_run_is_known_by_its_parent_and_once_that_is_killed_by_its_tag(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, "refresh_pipeline.instance.fork_server"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        run = int(server.stdout.readline())
        try:
            assert processes_of(tmp_path) == {server.pid: "fork server", run: "run"}
            kill(server.pid)
            server.wait()
            assert processes_of(tmp_path) == {run: "fork server"}
            assert processes_of(tmp_path, {run}) == {run: "run"}
        finally:
            kill(run)


def test_a_target_that_is_absent_waits_while_others_are_killed_and_none_is_forgotten() -> None:
    plan = KillPlan(random.Random(1), ROUND)
    present = {*ROUND} - {"run", "everything"}
    early = [plan.next(present) for _ in range(len(ROUND) - 3)]
    assert sorted(filter(None, early)) == sorted(target for target in ROUND if target in present)
    assert plan.next(present) is None
    assert {plan.next({"run", "everything"}) for _ in range(3)} == {"run", "everything"}
    assert plan.next(present) is not None
