"""Commands: runs of Dagster's with the right series, once for each key; and what is answered where Dagster is away."""

import asyncio
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from graphql import parse, validate

from refresh_pipeline.api import load_check
from refresh_pipeline.api.dagster_client import QUERIES
from refresh_pipeline.api.load_check import load_fault
from refresh_pipeline.api.reading import OPENING
from refresh_pipeline.api.service import Service
from refresh_pipeline.api.status import predecessors_config
from refresh_pipeline.instance.worker_heartbeat import say
from refresh_pipeline.market.model import Market
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.api.served import BTC, ETH, MALL, NOW, Shop, served, uvicorn_of, wait_for
from refresh_pipeline_tests.fakes.dagster_graphql import FakeDagster
from refresh_pipeline_tests.redis_server import redis_server

V1 = "/api/v1"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDagster]:
    with FakeDagster() as fake:
        yield fake


@pytest.fixture
def dagster(fake: FakeDagster) -> FakeDagster:
    """One that was asked for nothing yet."""
    fake.reset()
    return fake


@pytest.fixture(scope="module")
def shop(fake: FakeDagster, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    variables = {"REFRESH_DAGSTER_URL": fake.base_url, "REFRESH_API_RATE": "100000"}
    return Shop.opened(tmp_path_factory.mktemp("control") / "shop", **variables)


@pytest.fixture(scope="module")
def served_client(shop: Shop) -> Iterator[httpx.Client]:
    with served(shop) as client:
        yield client


@pytest.fixture
def client(served_client: httpx.Client, dagster: FakeDagster) -> httpx.Client:
    return served_client


def options(dagster: FakeDagster) -> dict[str, Any]:
    return dagster.launched[-1]["runConfigData"]["resources"]["run_options"]["config"]


def test_every_question_is_one_that_dagster_understands() -> None:
    from dagster_graphql.schema import create_schema  # noqa: PLC0415

    schema = create_schema().graphql_schema
    assert {name: validate(schema, parse(text)) for name, text in QUERIES.items()} == {name: [] for name in QUERIES}


def test_a_code_location_with_an_error_is_not_loaded(dagster: FakeDagster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFRESH_DAGSTER_URL", dagster.base_url)
    assert asyncio.run(load_fault()) == ""
    dagster.load_error = "\nSettingsError: REFRESH_BACKUPS_KEPT\n  more"
    assert asyncio.run(load_fault()) == "SettingsError: REFRESH_BACKUPS_KEPT"
    # A code server that is being restarted: it is waited for.
    unreachable = "dagster._core.errors.DagsterUserCodeUnreachableError: Could not reach user code server."
    dagster.load_error = f"{unreachable} gRPC Error code: UNAVAILABLE"
    monkeypatch.setattr(load_check, "PATIENCE", 0.0)
    monkeypatch.setattr(load_check, "PAUSE", 0.0)
    assert asyncio.run(load_fault()) == dagster.load_error
    monkeypatch.setattr(load_check, "PATIENCE", 60.0)

    async def until_it_is_there() -> str:
        asking = asyncio.create_task(load_fault())
        await asyncio.sleep(0)
        dagster.load_error = ""
        return await asking

    assert asyncio.run(until_it_is_there()) == ""
    monkeypatch.setenv("REFRESH_DAGSTER_URL", "http://127.0.0.1:1")
    assert "does not answer" in asyncio.run(load_fault())


def test_a_refresh_is_a_run_for_each_market_with_such_series(client: httpx.Client, dagster: FakeDagster) -> None:
    answer = client.post(f"{V1}/refresh", json={"instruments": ["btcusd"], "timeframes": ["1h"]})
    body = answer.json()
    assert (answer.status_code, body["status"]) == (202, "refresh_started")
    assert [(run["market"], run["job"]) for run in body["runs"]] == [("fair", "fair_refresh"), ("mall", "mall_refresh")]
    assert (body["instruments"], body["timeframes"]) == (["BTC/USD"], ["H1"])
    assert answer.headers["location"] == f"{V1}/runs/{body['runs'][0]['run_id']}"
    tags = {tag["key"]: tag["value"] for tag in dagster.launched[0]["executionMetadata"]["tags"]}
    assert tags == {
        "dagster/asset_partition_range_start": "BTC/USD|H1",
        "dagster/asset_partition_range_end": "BTC/USD|H1",
        "refresh/asked_by": "api",
    }
    assert options(dagster) == {"series": ["BTC/USD|H1"]}


def test_everything_is_refreshed_where_nothing_is_named(client: httpx.Client, dagster: FakeDagster) -> None:
    assert len(client.post(f"{V1}/refresh").json()["runs"]) == 2
    assert dagster.launched[0]["runConfigData"] == {}


def test_a_key_gives_the_same_run_again(client: httpx.Client, dagster: FakeDagster) -> None:
    asked = {"json": {"markets": ["mall"]}, "headers": {"Idempotency-Key": "k"}}
    first, again = (client.post(f"{V1}/refresh", **asked).json()["runs"] for _ in range(2))
    assert [run["run_id"] for run in first] == [run["run_id"] for run in again]
    other = client.post(f"{V1}/publish", **asked).json()["runs"]
    assert other[0]["job"] == "mall_publish"
    assert len(dagster.launched) == 2


def test_waiting_gives_the_runs_end(client: httpx.Client) -> None:
    body = client.post(f"{V1}/refresh?wait=20", json={"markets": ["fair"]}).json()
    assert body["runs"][0]["status"] == "success"
    assert client.get(f"{V1}/runs/{body['runs'][0]['run_id']}").json()["status"] == "success"


def test_a_backfill_and_a_gap(client: httpx.Client, dagster: FakeDagster) -> None:
    client.post(f"{V1}/backfill", json={"markets": ["fair"], "since": "2024-01-01"})
    assert options(dagster) == {"missing_only": True, "since": "2024-01-01T00:00:00+00:00"}
    gap = {"series": "BTC/USD|H1", "market": "fair", "first": "2024-01-01T02:00Z", "last": "2024-01-01T04:00Z"}
    client.post(f"{V1}/gaps/fill", json=gap)
    line = "BTC/USD|H1 2024-01-01T02:00:00Z 2024-01-01T05:00:00Z"
    assert options(dagster) == {"ranges": [line], "series": ["BTC/USD|H1"]}


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("refresh", {"markets": ["x"]}, "unknown-market"),
        ("refresh", {"instruments": ["BTX"]}, "unknown-instrument"),
        ("refresh", {"timeframes": ["M1"]}, "ambiguous-timeframe"),
        ("refresh", {"timeframes": ["W1"]}, "unknown-timeframe"),
        ("refresh", {"since": "x"}, "invalid-parameter"),
        ("refresh", {"since": "2024-01-02", "until": "2024-01-01"}, "invalid-body"),
        ("refresh", {"colour": "red"}, "invalid-body"),
        ("backfill", {}, "invalid-body"),
        ("gaps/fill", {"series": "BTC/USD|H1", "first": "2024-01-01", "last": "2024-01-02"}, "ambiguous-instrument"),
        ("pause", {"market": "x"}, "unknown-market"),
        ("restore", {}, "not-over-http"),
    ],
)
def test_a_wrong_command_starts_nothing(
    client: httpx.Client, dagster: FakeDagster, path: str, body: dict[str, Any], problem: str
) -> None:
    assert client.post(f"{V1}/{path}", json=body).json()["type"] == f"/problems/{problem}"
    assert dagster.launched == []


def test_schedules_are_switched_alone_and_by_market(client: httpx.Client, dagster: FakeDagster) -> None:
    answer = client.put(f"{V1}/schedules/fair_refresh", json={"running": False}).json()
    assert (answer["running"], answer["market"], answer["next_tick"]) == (False, "fair", None)
    assert client.put(f"{V1}/schedules/x", json={"running": False}).json()["type"] == "/problems/unknown-schedule"
    assert set(client.post(f"{V1}/pause", json={"market": "fair"}).json()["changed"]) == {
        *("fair_publish", "fair_retry", "fair_repair")
    }
    assert not any(running for name, running in dagster.running.items() if name.startswith("fair"))
    client.post(f"{V1}/resume")
    assert all(dagster.running.values())


def test_runs_are_listed_and_canceled(client: httpx.Client, dagster: FakeDagster, shop: Shop) -> None:
    dagster.ends_at_once = False
    run = dagster.run_of("fair_refresh", {"dagster/schedule_name": "fair_refresh"}, "STARTED")
    dagster.run_of("mall_refresh", {}, "FAILURE")
    attempts = {BTC: Attempt(Outcome.updated), ETH: Attempt(Outcome.failed, "HTTP 503")}
    with OPENING:
        shop.warehouse.record(shop.market, Table.exports, attempts, run["runId"], NOW)
    listed = client.get(f"{V1}/runs?market=fair").json()["runs"]
    assert [(one["job"], one["asked_by"]) for one in listed] == [("fair_refresh", "fair_refresh")]
    assert listed[0]["counts"] == {"updated": 1, "unchanged": 0, "no_data": 0, "failed": 1}
    assert client.get(f"{V1}/runs?market=mall").json()["runs"][0]["counts"] is None
    assert client.get(f"{V1}/runs?status=odd").json()["type"] == "/problems/invalid-parameter"
    assert client.post(f"{V1}/runs/{run['runId']}/cancel").json()["status"] == "canceled"
    assert client.get(f"{V1}/runs/x").json()["type"] == "/problems/unknown-run"
    wait_for(lambda: "mall: failed run: mall_refresh" in client.get(f"{V1}/alerts").text, 10)


def test_one_backup_at_a_time(client: httpx.Client, dagster: FakeDagster) -> None:
    run = dagster.run_of("backup", {}, "STARTED")
    refused = client.post(f"{V1}/backup")
    assert (refused.status_code, refused.json()["run_id"]) == (409, run["runId"])
    assert client.get(f"{V1}/backups").json() == {"backups": []}


def test_status_and_readiness(client: httpx.Client) -> None:
    body = client.get(f"{V1}/status").json()
    assert (body["running"], [market["name"] for market in body["markets"]]) == (True, ["fair", "mall"])
    assert body["markets"][0]["schedule_running"] is True
    ready = client.get(f"{V1}/ready").json()
    assert ready["checks"]["schedules"]["ok"]
    assert client.get("/health").json() == ready
    text = client.get("/metrics").text
    assert 'refresh_series{market="fair",timeframe="m5",state="never"} 3' in text
    assert "refresh_api_request_seconds_count" in text


def test_a_daemon_that_fell_silent_and_workers_that_are_gone_are_no_health(
    dagster: FakeDagster, tmp_path: Path
) -> None:
    dagster.launcher, dagster.last_heartbeat = "ClusterRunLauncher", NOW.timestamp() - 50
    with redis_server() as broker:
        shop = Shop.opened(tmp_path / "shop", REFRESH_DAGSTER_URL=dagster.base_url, REFRESH_REDIS_URL=broker)
        with served(shop) as client:
            assert parts(client) == {"daemon": 1, "workers": 0}
            say(broker, "1@beta", ["dagster"])
            assert parts(client) == {"daemon": 1, "workers": 1}
            assert 'refresh_workers{queue="dagster"} 1\nrefresh_workers{queue="files"} 0' in client.get("/metrics").text
            dagster.last_heartbeat -= 20
            assert parts(client) == {"daemon": 0, "workers": 1}
            # On one machine there are no workers.
            dagster.launcher = "WarmRunLauncher"
            assert parts(client) == {"daemon": 0}
            dagster.launcher = "ClusterRunLauncher"
            redis.Redis.from_url(broker).shutdown(nosave=True)
            assert parts(client) == {"daemon": 0, "workers": 0}
            assert client.get("/health").status_code == 503


def parts(client: httpx.Client) -> dict[str, int]:
    """What both paths say of the daemon and of workers, which is the same."""
    checks = {name: int(one["ok"]) for name, one in client.get("/health").json()["checks"].items()}
    figures = re.findall(r'^refresh_ready\{part="(\w+)"\} (\d)', client.get("/metrics").text, re.MULTILINE)
    assert {name: int(value) for name, value in figures} == checks
    return {name: value for name, value in checks.items() if name in ("daemon", "workers")}


def test_the_configuration_shows_no_secret(tmp_path: Path) -> None:
    secret = "a secret that nobody sees"
    shop = Shop.opened(tmp_path / "shop", SLACK_WEBHOOK_URL=f"https://hooks.example/{secret}", REFRESH_API_RATE="9999")
    with served(shop) as client:
        for path in ("config", "status", "metrics", "upload/status"):
            assert secret not in client.get(f"{V1}/{path}").text
        body = client.get(f"{V1}/config").json()
        settings = body["settings"]
    assert settings["SLACK_WEBHOOK_URL"] == {"set": True}
    assert settings["REFRESH_MARKETS"] == {"value": "fair,mall"}
    assert os.environ.get("SLACK_WEBHOOK_URL") is None
    assert body["data_path"] == str(shop.settings.data / "exports")


def test_the_predecessors_configuration_follows_the_markets(shop: Shop) -> None:
    said = yaml.safe_load(MALL)
    files = {**said, "name": "files", "source": {"kind": "files", "directory": "candles"}}
    uploading = {**said, "destinations": {"uploads": {}}}
    copying = {**said, "destinations": {"share": {"kind": "folder", "directory": "share"}}}
    short = {**files, "exports": {"current": {"window": {"last": 330}}}, "timeframes": ["D1"]}
    asked = ("instruments", "max_workers", "enable_upload", "use_fresh", "use_full", "refresh_interval")
    for given, wanted in (
        ([], ([], 0, False, False, False, None)),
        ([said], (["BTC/USD", "ADA/USD"], 1, False, True, True, 3600)),
        ([files, uploading], (["BTC/USD", "ADA/USD"], 2, True, True, True, 3600)),
        ([copying], (["BTC/USD", "ADA/USD"], 1, True, True, True, 3600)),
        ([short], (["BTC/USD", "ADA/USD"], 1, False, False, False, 86400)),
    ):
        service = Service.of(shop.settings, [Market.model_validate(one) for one in given], lambda: NOW)
        assert tuple(predecessors_config(service)[name] for name in asked) == wanted


def test_no_refresh_where_no_calendar_knows_the_day(shop: Shop, dagster: FakeDagster) -> None:
    nse = Market.model_validate({**yaml.safe_load(MALL), "calendar": "nse"})
    ended = Service.of(shop.settings, [nse], lambda: datetime(2090, 1, 2, tzinfo=UTC))
    with uvicorn_of(ended, shop.settings) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}{V1}/refresh", json={})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/calendar-ended")
    assert answer.headers["retry-after"] == "86400"
    assert not dagster.launched


def test_where_dagster_is_away_reading_goes_on(tmp_path: Path) -> None:
    with served(Shop.opened(tmp_path / "shop", REFRESH_DAGSTER_URL="http://127.0.0.1:9")) as client:
        for method, path in (("POST", "refresh"), ("GET", "runs"), ("GET", "schedules"), ("POST", "pause")):
            answer = client.request(method, f"{V1}/{path}")
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/control-unavailable")
            assert answer.headers["retry-after"] == "5"
        assert client.get(f"{V1}/status").json()["daemon"] is None
        ready = client.get(f"{V1}/ready")
        assert (ready.status_code, ready.json()["checks"]["daemon"]["ok"]) == (503, False)
        assert client.get(f"{V1}/series").status_code == 200


def test_the_predecessors_paths(client: httpx.Client, dagster: FakeDagster) -> None:
    assert client.get("/pipeline/").json()["status"] == "running"
    health = client.get("/pipeline/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    stats = client.get("/pipeline/metrics").json()["pipeline_stats"]
    assert {"health_score", "symbols_processed", "error_rate", "last_data_update"} <= set(stats)
    assert client.get("/pipeline/status").json()["scheduler"]["running"] is True
    assert client.post("/pipeline/start").status_code == 400
    assert client.post("/pipeline/stop").json()["message"] == "Pipeline stopped successfully"
    assert client.post("/pipeline/stop").status_code == 400
    stopped = client.get("/pipeline/health")
    assert (stopped.status_code, stopped.json()["status"]) == (503, "pipeline_stopped")
    going = dagster.run_of("fair_refresh", {}, "STARTED")
    body = client.post("/pipeline/restart").json()
    assert (body["canceled"], len(body["runs"])) == ([going["runId"]], 2)
    assert all(dagster.running.values())
    counted = client.get("/pipeline/status").json()["scheduler"]
    assert (counted["restart_attempts"], counted["stats"]["pipeline_restarts"]) == (1, 1)
    assert (counted["stats"]["pipeline_starts"], counted["stats"]["pipeline_stops"]) == (0, 1)
