"""A market in chunks: a tick asks for several runs, and the checks run once after them. Roles of code locations."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.orchestration.run_jobs import refresh_once
from refresh_pipeline.orchestration.schedules import (
    CHUNKS_TAG,
    TICK_TAG,
    in_chunks,
    previous_tick,
    refresh_schedule,
    tick_request,
)
from refresh_pipeline.orchestration.sensors import checks_request
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import LATER, World

YAML = """
name: crypto
source: {{kind: demo}}
calendar: crypto
instruments: [A/USD, B/USD, C/USD, D/USD, E/USD]
timeframes: [m5, H1]
history: 1d
{chunks}
"""
CHUNKED = parse_market(YAML.format(chunks="chunks: 4"), "crypto.yaml")
WHOLE = parse_market(YAML.format(chunks=""), "crypto.yaml")
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
TICK = timedelta(minutes=5)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def requests_at(previous: datetime, now: datetime) -> list[dg.RunRequest]:
    request = tick_request(CHUNKED, previous, now)
    assert isinstance(request, dg.RunRequest)
    timeframes = [each for each in CHUNKED.timeframes if each.value in request.tags[RANGE_END] or each.value == "m5"]
    return in_chunks(CHUNKED, request, timeframes)


def partitions(request: dg.RunRequest) -> list[str]:
    keys = dg.PartitionKeyRange(request.tags[RANGE_START], request.tags[RANGE_END])
    return [str(key) for key in grid(CHUNKED).get_partition_keys_in_range(keys)]


def past_run(instance: dg.DagsterInstance, tick: datetime, status: DagsterRunStatus, chunks: int = 2) -> None:
    @dg.job(name="crypto_refresh")
    def crypto_refresh() -> None: ...

    tags = {"dagster/schedule_name": "crypto_refresh", TICK_TAG: tick.isoformat(), CHUNKS_TAG: str(chunks)}
    instance.create_run_for_job(job_def=crypto_refresh, tags=tags, status=status)


@pytest.mark.parametrize(("previous", "runs"), [(NOON, 2), (NOON - timedelta(hours=1), 3)])
def test_the_runs_of_a_tick_hold_every_due_series_once(previous: datetime, runs: int) -> None:
    requests = requests_at(previous, NOON + TICK)
    assert len(requests) == runs
    assert len({request.run_key for request in requests}) == runs
    held = [key for request in requests for key in partitions(request)]
    due = ("m5",) if runs == 2 else ("m5", "H1")
    assert sorted(held) == sorted(f"{name}|{timeframe}" for name in CHUNKED.instruments for timeframe in due)
    assert all(len(partitions(request)) <= 4 for request in requests)


def test_a_schedule_asks_dagster_for_all_of_them(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    resources = {"warehouse": Warehouse(database=str(tmp_path / "none.duckdb"))}
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=NOON, resources=resources) as context:
        answer = refresh_schedule(CHUNKED).evaluate_tick(context)
    assert answer.run_requests is not None
    assert len(answer.run_requests) == 3
    assert {request.tags[CHUNKS_TAG] for request in answer.run_requests} == {"3"}


def test_a_tick_has_succeeded_once_all_of_its_chunks_have(instance: dg.DagsterInstance) -> None:
    for status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.SUCCESS):
        past_run(instance, NOON - TICK, status)
    past_run(instance, NOON, DagsterRunStatus.SUCCESS)
    past_run(instance, NOON, DagsterRunStatus.FAILURE)
    assert previous_tick(instance, CHUNKED) == NOON - TICK


def test_checks_are_asked_for_when_the_last_chunk_has_finished(instance: dg.DagsterInstance) -> None:
    assert isinstance(checks_request(instance, CHUNKED), dg.SkipReason)
    past_run(instance, NOON, DagsterRunStatus.SUCCESS)
    skipped = checks_request(instance, CHUNKED)
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith("1 of 2 chunks")
    # A chunk that failed has finished too: its series are what the checks tell.
    past_run(instance, NOON, DagsterRunStatus.FAILURE)
    request = checks_request(instance, CHUNKED)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == NOON.isoformat()


def test_the_checks_of_a_refresh_are_a_job_of_their_own(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)

    def checks(chunked: bool, job: str) -> bool:
        definitions = build(settings, [CHUNKED if chunked else WHOLE])
        return any("checks" in node.name for node in definitions.resolve_job_def(job).graph.nodes)

    assert not checks(True, "crypto_refresh")
    assert checks(True, "crypto_check_candles")
    assert checks(False, "crypto_refresh")


def test_a_refresh_from_the_command_line_checks_too(world: World) -> None:
    file = world.root / "markets" / "bazaar.yaml"
    file.write_text(f"{file.read_text()}\nchunks: 2\n")
    with world.dagster() as instance:
        done = refresh_once(world.settings, world.market, world.market.series, {"now": LATER.isoformat()}, verbose=0)
        assert done.succeeded
        runs = instance.get_runs(limit=3)
        assert [run.job_name for run in runs] == ["bazaar_publish", "bazaar_check_candles", "bazaar_refresh"]
        evaluations = instance.get_records_for_run(
            runs[1].run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records
        assert len(evaluations) >= 5


def test_maintenance_backup_and_alerts_exist_in_one_location_alone(tmp_path: Path) -> None:
    names = {}
    for role in ("all", "markets", "operations"):
        os.environ["REFRESH_ROLE"] = role
        repository = build(load_settings(data_dir=tmp_path), [CHUNKED]).get_repository_def()
        names[role] = {
            *repository.job_names,
            *(each.name for each in repository.schedule_defs),
            *(each.name for each in repository.sensor_defs),
        }
    assert names["markets"] & names["operations"] == set()
    assert names["markets"] | names["operations"] == names["all"]
    assert names["operations"] >= {"maintenance", "backup", "alerts"}
