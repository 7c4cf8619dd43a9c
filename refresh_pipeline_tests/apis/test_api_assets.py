"""API snapshots as Dagster runs them: a run of what is due, outcomes by partition, checks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from websockets.sync.client import connect

from refresh_pipeline.api.service import Service
from refresh_pipeline.api_files import write_override
from refresh_pipeline.market.apis import Collection, Override, parse_collection
from refresh_pipeline.operations.maintenance import prune_snapshots
from refresh_pipeline.orchestration.api_assets import tick_request
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.settings import Settings, load_settings
from refresh_pipeline.warehouse.check_results import recorded_checks
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.api.served import uvicorn_of
from refresh_pipeline_tests.apis.api_server import ApiServer, api_server
from refresh_pipeline_tests.fakes.dagster_graphql import FakeDagster
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import query

APIS = "{one: {url: URL/a, columns: {v: v}}, two: {url: URL/b}, idle: {url: URL/c, enabled: false}}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """A server, in a folder whose settings name the collection."""
    with api_server() as state, inside(tmp_path):
        (tmp_path / "apis").mkdir()
        text = f"name: mine\nallow_private: true\napis: {APIS}\n".replace("URL", state.url)
        (tmp_path / "apis" / "mine.yaml").write_text(text)
        (tmp_path / ".env").write_text("REFRESH_APIS=mine\nREFRESH_APIS_DIR=apis\n")
        yield state


@pytest.fixture
def settings(server: ApiServer) -> Settings:
    """The settings of the folder."""
    return load_settings()


@pytest.fixture
def mine(settings: Settings) -> Collection:
    """The collection of the folder."""
    assert settings.apis_dir is not None
    return parse_collection((settings.apis_dir / "mine.yaml").read_text(), "mine.yaml")


def ran(settings: Settings, mine: Collection, request: dg.RunRequest) -> Any:
    """The run that a tick requested."""
    job = build(settings, [], [mine]).resolve_job_def("mine_snapshots")
    tags = dict(request.tags)
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(run_config=request.run_config, tags=tags, raise_on_error=False, instance=instance)


def materialized(result: Any) -> set[str]:
    """The partitions that a run materialized."""
    return {event.partition for event in result.get_asset_materialization_events()}


def test_a_tick_asks_what_is_due_and_materializes_what_was_answered(
    server: ApiServer, settings: Settings, mine: Collection
):
    server.says("/a", '{"v": 1}')
    server.says("/b", "no", 404)
    now = datetime.now(UTC)
    warehouse = Warehouse(settings.database)
    request = tick_request(warehouse, mine, now, {})
    assert isinstance(request, dg.RunRequest)
    result = ran(settings, mine, request)
    assert result.success
    assert materialized(result) == {"one"}
    assert query(warehouse, "select api, outcome from mine.api_outcomes order by api") == [
        ("one", "updated"),
        ("two", "failed"),
    ]
    checks = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert checks == {"every_api_is_fresh": False, "payloads_have_their_columns": True}
    with warehouse.reader() as connection:
        stored = {one.check: (one.passed, one.severity) for one in recorded_checks(connection, "mine")}
    assert stored == {"every_api_is_fresh": (False, "warn"), "payloads_have_their_columns": (True, "warn")}
    assert isinstance(tick_request(warehouse, mine, now, {}), dg.SkipReason)
    assert isinstance(tick_request(warehouse, mine, now + timedelta(hours=2), {}), dg.RunRequest)


def test_an_update_by_hand_asks_that_api_alone_by_either_door(
    server: ApiServer, settings: Settings, mine: Collection
) -> None:
    for path in ("/a", "/b", "/c"):
        server.says(path, '{"v": 1}')
    with FakeDagster(()) as dagster:
        tracked = settings.model_copy(update={"dagster_url": dagster.base_url})
        service = Service.of(tracked, [], collections=[mine])
        with uvicorn_of(service, tracked) as port:
            url = f"http://127.0.0.1:{port}/api/v2/schedule/tasks/two/force-update"
            assert httpx.post(url, json={}).status_code == 202
            with connect(f"ws://127.0.0.1:{port}/api/v2/ws") as socket:
                socket.recv()
                socket.send('{"type": "force_update", "api_id": "one"}')
                assert json.loads(socket.recv()) == {"type": "update_result", "api_id": "one", "status": "success"}
    for params, name in zip(dagster.launched, ("two", "one"), strict=True):
        tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
        request = dg.RunRequest(tags=tags, run_config=params["runConfigData"])
        assert params["selector"]["pipelineName"] == "mine_snapshots"
        assert materialized(ran(settings, mine, request)) == {name}


def test_an_override_counts_at_the_next_tick(server: ApiServer, settings: Settings, mine: Collection):
    server.says("/c", "[]")
    for name in ("one", "two"):
        write_override(settings, "mine", name, Override(enabled=False))
    write_override(settings, "mine", "idle", Override(timedelta(minutes=1), True))
    job = build(settings, [], [mine])
    assert job.resolve_schedule_def("mine_snapshots").cron_schedule == "* * * * *"
    warehouse = Warehouse(settings.database)
    request = tick_request(warehouse, mine, datetime.now(UTC), {})
    assert isinstance(request, dg.RunRequest)
    assert materialized(ran(settings, mine, request)) == {"idle"}
    assert [path for _, path, _, _ in server.asked] == ["/c"]


def test_a_run_fails_where_every_api_fails_for_now(server: ApiServer, settings: Settings, mine: Collection):
    server.says("/a", "down", 503)
    server.says("/b", "down", 503)
    request = tick_request(Warehouse(settings.database), mine, datetime.now(UTC), {})
    assert isinstance(request, dg.RunRequest)
    assert not ran(settings, mine, request).success


def test_maintenance_deletes_old_payloads(server: ApiServer, settings: Settings, mine: Collection):
    warehouse = Warehouse(settings.database)
    assert prune_snapshots(warehouse, settings, datetime.now(UTC)) == 0
    assert query(warehouse, "select count(*) from mine.snapshots") == [(0,)]
