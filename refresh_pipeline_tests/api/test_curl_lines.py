"""The predecessors' curl lines, as text: only hosts, ports and the prefix of the third one's paths are ours."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from shutil import which

import httpx
import pytest

from refresh_pipeline.market.apis import parse_collection
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import Arrival
from refresh_pipeline_tests.api.served import BTC, NOW, Shop, served
from refresh_pipeline_tests.fakes.dagster_graphql import FakeDagster
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles

MINE = """
name: mine
apis: {fear: {category: sentiment, url: "https://a.example/fng", every: 1h}}
"""
JSON = '-H "Content-Type: application/json"'
# A line, and the keys that its answer has to have.
LINES = (
    ("curl http://localhost:8080/api/v1/health", "status timestamp"),
    ("curl http://localhost:8080/api/v1/status", "running config"),
    ("curl http://localhost:8080/api/v1/instruments", "instruments"),
    ("curl http://localhost:8080/api/v1/timeframes", "timeframes"),
    ("curl http://localhost:8080/api/v1/data/BTC/USD/m5", "instrument timeframe records last_updated data"),
    ("curl 'http://localhost:8080/api/v1/data/BTC%2FUSD/m5?format=json&limit=100'", "instrument records data"),
    ("curl http://localhost:8080/api/v1/data/BTC-USD/m5/latest", "instrument timeframe last_updated latest"),
    ("curl 'http://localhost:8080/api/v1/data/BTC-USD/m5?format=csv&limit=2'", ""),
    (
        f"curl -X POST http://localhost:8080/api/v1/refresh {JSON} "
        """-d '{"instruments": ["BTC/USD"], "timeframes": ["m5"]}'""",
        "status instruments timeframes timestamp",
    ),
    (
        "curl http://localhost:8080/api/v1/config",
        "instruments timeframes max_workers data_path enable_upload use_fresh use_full refresh_interval",
    ),
    ("curl http://localhost:8080/api/v1/metrics", "service_uptime instruments_count timeframes_count data_files"),
    (
        'curl -H "Authorization: Bearer some-key-of-theirs" http://localhost:8080/api/v1/upload/status',
        "upload_enabled dropbox_configured upload_path_current upload_path_full last_upload upload_errors",
    ),
    ("curl http://localhost:8000/api/v2/config/apis", "apis total"),
    ("curl http://localhost:8000/api/v2/config/categories", "categories stats"),
    ("curl http://localhost:8000/api/v2/schedule/tasks", "fear"),
    ("curl -X PUT 'http://localhost:8000/api/v2/schedule/tasks/fear?interval=600&enabled=true'", "status task"),
    ("curl http://localhost:8000/api/v2/data/cached/fear", "api_id timestamp data metadata"),
    ("curl 'http://localhost:8000/api/v2/data/history/fear?limit=50'", "api_id history count"),
    ("curl http://localhost:8000/api/v2/data/statistics", "cached_apis total_history_records api_statistics"),
    (
        f"curl -X POST http://localhost:8000/api/v2/export/json {JSON} -d '[\"fear\"]'",
        "status filepath download_url",
    ),
    (
        f"""curl -X POST http://localhost:8000/api/v2/export/json {JSON} -d '{{"include_history": true}}'""",
        "status filepath download_url",
    ),
    ("curl http://localhost:8000/api/v2/status", "timestamp services"),
    ("curl http://localhost:8001/status", "scheduler pipeline market"),
    ("curl http://localhost:8001/health", "status timestamp pipeline_running market_open"),
    ("curl http://localhost:8001/metrics", "scheduler_stats uptime_seconds pipeline_stats"),
    ("curl http://localhost:8001/config", "scheduler pipeline"),
    ("curl -X POST http://localhost:8001/stop", "message"),
    ("curl -X POST http://localhost:8001/start", "message"),
    ("curl -X POST http://localhost:8001/restart", "message"),
    (
        "curl 'http://localhost:8001/data/BTCUSD?timeframe=5T&start_date=2020-01-01&end_date=2040-01-01'",
        "data count columns",
    ),
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with some candles, a payload, and a Dagster that starts runs."""
    if which("curl") is None:
        pytest.skip("needs curl")
    root = tmp_path_factory.mktemp("curl")
    with FakeDagster() as dagster:
        shop = Shop.opened(root)
        shop.warehouse.store_candles(shop.market, {BTC: candles(20, 1180)}, "demo", NOW)
        (root / "apis").mkdir()
        (root / "apis" / "mine.yaml").write_text(MINE)
        with inside(root):
            more = {"REFRESH_APIS": "mine", "REFRESH_APIS_DIR": str(root / "apis"), "REFRESH_API_RATE": "100000"}
            os.environ.update(more | {"REFRESH_DAGSTER_URL": dagster.base_url})
            shop.settings = load_settings(data_dir=str(root / "data"), markets_dir=str(root / "markets"))
        store_payload(shop)
        with served(shop) as client:
            yield str(client.base_url)


def store_payload(shop: Shop) -> None:
    collection = parse_collection(MINE, "mine.yaml")
    due = (NOW + timedelta(hours=1)).replace(tzinfo=None)
    with connect(str(shop.settings.database)) as connection, transaction(connection):
        snapshots.ensure(connection, collection)
        arrival = Arrival(Attempt(Outcome.updated), due, {"value": 1}, 200, "https://a.example/fng")
        snapshots.store(connection, collection, {"fear": arrival}, NOW)


def test_the_predecessors_lines_work(address: str, tmp_path: Path) -> None:
    url = httpx.URL(address)
    ours = f"http://localhost:{url.port}"
    for line, keys in LINES:
        command = line.replace("http://localhost:8001", f"{ours}/pipeline")
        command = command.replace("http://localhost:8080", ours).replace("http://localhost:8000", ours)
        command = command.replace("curl ", "curl -s -w '\\n%{http_code}' ", 1)
        run = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path)
        body, _, status = run.stdout.rpartition("\n")
        assert status in ("200", "202") or ("/health" in line and status == "503"), (line, run.stdout)
        if keys:
            assert set(keys.split()) <= set(json.loads(body)), (line, body)
        else:
            assert len(body.splitlines()) == 3, line
