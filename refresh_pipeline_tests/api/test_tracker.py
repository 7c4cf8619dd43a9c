"""The tracker's routes, `/api/v2`, over stored API snapshots; keys are masked and unknown names are 404."""

import os
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from refresh_pipeline.market.apis import parse_collection
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import Arrival
from refresh_pipeline_tests.api.served import NOW, Shop, served
from refresh_pipeline_tests.isolated_env import inside

MINE = """
name: mine
apis:
  fear: {name: Fear, category: sentiment, url: "https://a.example/fng", every: 1h}
  keyed: {category: whales, url: "https://b.example/x", params: {k: $MY_SECRET_KEY}, enabled: false}
  news: {category: sentiment, url: "https://c.example/rss", answer: rss, every: 10s}
"""
TASK = {
    *("api_id", "name", "category", "interval", "update_type", "enabled", "last_update", "next_update"),
    *("last_status", "success_count", "error_count", "last_error"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose collection has two payloads of one API, and one that failed."""
    root = tmp_path_factory.mktemp("tracker")
    shop = Shop.opened(root)
    (root / "apis").mkdir()
    (root / "apis" / "mine.yaml").write_text(MINE)
    with inside(root):
        os.environ.update({"REFRESH_APIS": "mine", "REFRESH_APIS_DIR": str(root / "apis")})
        shop.settings = load_settings(data_dir=str(root / "data"), markets_dir=str(root / "markets"))
    collection = parse_collection(MINE, "mine.yaml")
    with connect(str(shop.settings.database)) as connection, transaction(connection):
        snapshots.ensure(connection, collection)
        for hours, value in ((2, 1), (1, 2)):
            at = NOW - timedelta(hours=hours)
            due = (at + timedelta(hours=1)).replace(tzinfo=None)
            arrival = Arrival(Attempt(Outcome.updated), due, {"value": value}, 200, "https://a.example/fng")
            failed = Arrival(Attempt(Outcome.failed, "HTTP 503"), due)
            snapshots.store(connection, collection, {"fear": arrival, "news": failed}, at)
    with served(shop) as client:
        yield client


def test_the_catalogue_has_the_trackers_fields_and_masks_keys(client: httpx.Client):
    found = client.get("/api/v2/config/apis").json()
    assert found["total"] == 3
    assert set(found["apis"]["fear"]) == {
        *("id", "name", "category", "base_url", "auth", "docs_url", "endpoints", "notes", "priority"),
        *("update_type", "enabled"),
    }
    assert found["apis"]["keyed"]["auth"] == {"type": "apiKeyQuery", "key": "***", "param_name": "k"}
    assert client.get("/api/v2/config/apis/fear").json()["base_url"] == "https://a.example/fng"
    categories = client.get("/api/v2/config/categories").json()
    assert categories["categories"] == ["sentiment", "whales"]
    assert categories["stats"]["sentiment"] == {"count": 2, "apis": ["fear", "news"]}
    assert client.get("/api/v2/config/apis/category/whales").json()["count"] == 1
    exported = client.get("/api/v2/config/export")
    assert "attachment" in exported.headers["content-disposition"]
    assert "MY_SECRET_KEY" not in exported.text


@pytest.mark.parametrize(
    "path", ["config/apis/x", "config/apis/category/x", "schedule/tasks/x", "data/cached/x", "data/history/x"]
)
def test_what_is_unknown_is_404(client: httpx.Client, path: str):
    answer = client.get(f"/api/v2/{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-api")


def test_tasks_say_when_an_api_was_asked_and_is_due(client: httpx.Client):
    tasks = client.get("/api/v2/schedule/tasks").json()
    assert set(tasks["fear"]) == TASK
    assert (tasks["fear"]["last_status"], tasks["fear"]["success_count"], tasks["fear"]["interval"]) == (
        "success",
        2,
        3600,
    )
    assert (tasks["news"]["last_status"], tasks["news"]["error_count"]) == ("failed", 2)
    assert tasks["news"]["last_error"]
    assert tasks["keyed"]["next_update"] is None
    assert client.get("/api/v2/schedule/tasks/fear").json() == tasks["fear"]
    assert client.get("/api/v2/schedule/export").json()["schedules"] == tasks


def test_an_interval_and_a_switch_are_changed_by_query_or_body_within_bounds(client: httpx.Client):
    changed = client.put("/api/v2/schedule/tasks/fear?interval=600").json()
    assert (changed["status"], changed["task"]["interval"]) == ("success", 600)
    changed = client.put("/api/v2/schedule/tasks/fear", json={"interval": 3600, "enabled": True}).json()
    assert (changed["task"]["interval"], changed["task"]["enabled"]) == (3600, True)
    for wrong in ("interval=-5", "interval=0", "interval=604801", "enabled=perhaps"):
        assert client.put(f"/api/v2/schedule/tasks/fear?{wrong}").status_code == 422
    assert client.put("/api/v2/schedule/tasks/x?interval=60").status_code == 404


def test_payloads_are_served_newest_first(client: httpx.Client):
    cached = client.get("/api/v2/data/cached").json()
    assert set(cached) == {"fear"}
    assert set(cached["fear"]) == {"api_id", "timestamp", "data", "metadata"}
    assert client.get("/api/v2/data/cached/fear").json()["data"] == {"value": 2}
    assert client.get("/api/v2/data/cached/news").status_code == 404
    history = client.get("/api/v2/data/history/fear").json()
    assert [each["data"]["value"] for each in history["history"]] == [2, 1]
    assert client.get("/api/v2/data/history/fear?limit=1").json()["count"] == 1
    statistics = client.get("/api/v2/data/statistics").json()
    assert statistics["total_history_records"] == 2
    assert set(statistics["api_statistics"]["fear"]) == {"record_count", "oldest", "newest"}


def test_status_and_health_tell_the_truth_without_a_scheduler(client: httpx.Client):
    status = client.get("/api/v2/status").json()["services"]
    assert set(status) == {"config_loader", "scheduler", "persistence", "websocket"}
    assert status["config_loader"]["apis_loaded"] == 3
    assert status["scheduler"]["running"] is False
    health = client.get("/api/v2/health")
    assert (health.status_code, health.json()["services"]["scheduler"]) == (503, False)
    assert client.post("/api/v2/schedule/tasks/fear/force-update", json={}).status_code == 503


def test_exports_are_files_of_ours_and_nothing_else_can_be_downloaded(client: httpx.Client):
    assert client.post("/api/v2/export/json", json={"include_history": True}).status_code == 200
    for path, body in (("json", ["fear"]), ("json", {"api_ids": ["fear"]}), ("csv", ["fear"])):
        made = client.post(f"/api/v2/export/{path}", json=body).json()
        answer = client.get(made["download_url"])
        assert answer.status_code == 200
        assert "2" in answer.text
        assert "/" not in made["filepath"]
    assert (
        len(client.get(client.post("/api/v2/export/history/fear", json={}).json()["download_url"]).json()["history"])
        == 2
    )
    for name in ("/etc/hostname", "../overrides.yaml", "", "nothing.json"):
        assert client.get("/api/v2/download", params={"file": name}).status_code == 404
    assert client.post("/api/v2/export/json", json=["x"]).status_code == 404


def test_an_api_of_ones_own_is_added_checked_and_removed(client: httpx.Client):
    mine = {"id": "mine", "base_url": "https://d.example/x", "name": "<img onerror=x>"}
    assert client.post("/api/v2/config/apis", json=mine).status_code == 201
    assert client.get("/api/v2/config/apis").json()["total"] == 4
    assert client.get("/api/v2/config/apis/mine").json()["base_url"] == mine["base_url"]
    assert client.post("/api/v2/config/apis", json={**mine, "base_url": "file:///etc/passwd"}).status_code == 422
    assert client.post("/api/v2/config/apis", json={**mine, "id": "a/b"}).status_code == 422
    assert client.delete("/api/v2/config/apis/mine").status_code == 200
    assert client.get("/api/v2/config/apis/mine").status_code == 404
    assert client.delete("/api/v2/config/apis/mine").status_code == 404


def test_cleanup_asks_for_confirmation_and_keeps_the_newest_payload(client: httpx.Client):
    for path in ("cache", "history", "old-data"):
        assert client.post(f"/api/v2/cleanup/{path}", json={}).status_code == 409
    assert client.post("/api/v2/cleanup/old-data?confirm=true", json={}).json()["removed_count"] == 0
    assert client.post("/api/v2/cleanup/history?confirm=true&api_id=fear", json={}).json()["removed_count"] == 1
    assert client.get("/api/v2/data/cached/fear").json()["data"] == {"value": 2}
    assert client.post("/api/v2/restore", json={}).json()["command"] == "refresh restore"
    assert client.post("/api/v2/backup", json={}).status_code == 503
