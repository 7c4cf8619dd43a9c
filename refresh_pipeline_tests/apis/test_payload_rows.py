"""Payloads as rows over time: in files, over HTTP, in Python, beside candles; and what alerts say of collections."""

import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from refresh_pipeline.api_files import load_collections
from refresh_pipeline.cli.app import app
from refresh_pipeline.client import Client, ClientError, connect
from refresh_pipeline.client.tables import beside
from refresh_pipeline.market.apis import Collection, parse_collection
from refresh_pipeline.monitoring.problems import broken_collections, stored_collection_problems
from refresh_pipeline.operations.backup import back_up, find, read_backup
from refresh_pipeline.operations.restore import restore
from refresh_pipeline.pipeline import api_snapshots
from refresh_pipeline_tests.api.served import NOW, Shop, served
from refresh_pipeline_tests.apis.api_server import ApiServer, api_server
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.warehouse.warehouse_fixtures import query

APIS = """
name: mood
allow_private: true
exports: [ndjson]
apis:
  fear: {url: URL/fear, every: 1h, columns: {value: {path: v, type: double}, label: l}}
  coins: {url: URL/coins, every: 1h, rows: list, columns: {name: n}}
  text: {url: URL/text, every: 1h, answer: text}
"""
# The first candle of BTC/USD.
BEGIN = NOW - timedelta(minutes=5 * 1200, seconds=30)
MINUTES = (-10, 7, 12, 57)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with api_server() as state:
        yield state


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, server: ApiServer) -> Shop:
    """Candles of two series, and three APIs that were asked four times."""
    root = tmp_path_factory.mktemp("payloads") / "shop"
    folder = root.parent / "apis"
    folder.mkdir()
    (folder / "mood.yaml").write_text(APIS.replace("URL", server.url))
    shop = Shop.stocked(root, REFRESH_APIS="mood", REFRESH_APIS_DIR=str(folder), REFRESH_API_RATE="100000")
    for number, minute in enumerate(MINUTES):
        server.says("/fear", json.dumps({"v": number, "l": f"mood {number}"}))
        server.says("/coins", json.dumps({"list": [{"n": f"a{number}"}, {"n": "b"}]}))
        server.says("/text", f"text {number}")
        ask(shop, BEGIN + timedelta(minutes=minute))
    return shop


def mood(shop: Shop) -> Collection:
    [collection] = load_collections(shop.settings)
    return collection


def ask(shop: Shop, now: datetime) -> None:
    mine, limits = mood(shop), shop.settings.limits_dir
    api_snapshots.refresh(shop.warehouse, mine, mine.questions, now, lambda name: None, limits_dir=limits)


@pytest.fixture(scope="module")
def http(shop: Shop) -> Iterator[httpx.Client]:
    with served(shop) as client:
        yield client


@pytest.fixture(scope="module", params=["folder", "server"])
def client(request: pytest.FixtureRequest, shop: Shop, http: httpx.Client) -> Client[pd.DataFrame]:
    return connect(shop.settings.data if request.param == "folder" else str(http.base_url))


def test_a_client_gives_the_columns_of_payloads_over_time(client: Client[pd.DataFrame]) -> None:
    every = client.snapshots("mood.fear")
    assert every["value"].tolist() == [0, 1, 2, 3]
    assert every["label"].tolist() == [f"mood {number}" for number in range(4)]
    # A payload is known from when it came, which is after it was asked for.
    for known, minute in zip(every.index, MINUTES, strict=True):
        asked = pd.Timestamp(BEGIN + timedelta(minutes=minute))
        assert asked < known < asked + pd.Timedelta(minutes=3)
    assert client.snapshots("fear", limit=2)["value"].tolist() == [2, 3]
    since, until = (BEGIN + timedelta(minutes=minute) for minute in (7, 57))
    assert client.snapshots("fear", since=since, until=until)["value"].tolist() == [1, 2]
    assert client.snapshots("coins", limit=1)["name"].tolist() == ["a3", "b"]
    assert client.snapshots("text", limit=1)["payload"].tolist() == ["text 3"]
    with pytest.raises(ClientError, match="no payload of such an API"):
        client.snapshots("joy")


def test_candles_stand_beside_what_was_known_when_they_opened(client: Client[pd.DataFrame], shop: Shop) -> None:
    bars = client.candles_with("mood.fear", "BTC/USD", "m5", market="fair", columns=["close"], since=BEGIN, limit=20)
    rows = query(
        shop.warehouse,
        "select c.open_time, c.close, f.value, f.label, f.fetched_at from fair.raw_candles c "
        "asof left join mood.fear f on f.fetched_at <= c.open_time "
        "where c.instrument = 'BTC/USD' and c.timeframe = 'm5' order by c.open_time limit 20",
    )
    names = ["close", "fear_value", "fear_label", "fear_fetched_at"]
    assert [tuple(row) for row in bars[names].itertuples(index=False)] == [
        (close, value, label, pd.Timestamp(at, tz="UTC")) for _, close, value, label, at in rows
    ]
    assert [value for _, _, value, _, _ in rows] == [0, 0, 1, *[2] * 9, *[3] * 8]
    with pytest.raises(ClientError, match="several rows"):
        client.candles_with("coins", "BTC/USD", "m5", market="fair")


def test_before_the_first_payload_nothing_was_known() -> None:
    times = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[us]")
    joined = beside({"open_time": times}, {"fetched_at": times[1:], "value": np.array([7])}, "a.b")
    assert np.isnan(joined["b_value"][0])
    assert joined["b_value"][1] == 7


def test_payloads_are_served_in_every_format_and_by_pages(http: httpx.Client) -> None:
    listed = http.get("/api/v1/snapshots").json()["snapshots"]
    assert [(row["api"], row["payloads"]) for row in listed] == [("fear", 4), ("coins", 4), ("text", 4)]
    url, values = "/api/v1/snapshots/mood/fear?limit=3&since=2020-01-01", []
    while url:
        page = http.get(url).json()
        values += [row["value"] for row in page["data"]]
        url = page["next"]
    assert values == [0, 1, 2, 3]
    for kind in ("json", "columns", "csv", "ndjson", "parquet"):
        answer = http.get(f"/api/v1/snapshots/mood/fear?format={kind}")
        assert answer.status_code == 200
        again = http.get(
            f"/api/v1/snapshots/mood/fear?format={kind}", headers={"If-None-Match": answer.headers["ETag"]}
        )
        assert again.status_code == 304
    assert http.get("/api/v1/snapshots/mood/joy").json()["type"] == "/problems/unknown-api"


def test_files_hold_every_payload(shop: Shop, tmp_path: Path) -> None:
    with inside(shop.root):
        command = [
            "apis",
            "files",
            "-c",
            "mood",
            "--format",
            "ndjson,parquet,csv",
            "--data-dir",
            str(shop.settings.data),
        ]
        os.environ["REFRESH_APIS_DIR"] = str(shop.root.parent / "apis")
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    folder = shop.settings.exports_dir / "mood" / "snapshots"
    assert {path.name for path in folder.iterdir()} == {
        f"{api}.{kind}" for api in ("fear", "coins", "text") for kind in ("ndjson", "parquet", "csv")
    }
    lines = [json.loads(line) for line in (folder / "fear.ndjson").read_text().splitlines()]
    assert [line["payload"]["v"] for line in lines] == [0, 1, 2, 3]
    read = query(shop.warehouse, f"select payload from '{folder}/text.parquet' order by fetched_at")
    assert read == [(f"text {number}",) for number in range(4)]
    assert query(shop.warehouse, f"select count(*) from '{folder}/coins.csv'") == [(4,)]


def test_alerts_name_apis_that_are_stale_or_fail_and_files_that_are_wrong(shop: Shop, tmp_path: Path) -> None:
    last = BEGIN + timedelta(minutes=MINUTES[-1])

    def problems(later: timedelta) -> list[tuple[str, str, str | None]]:
        found = stored_collection_problems(shop.settings, shop.warehouse, last + later)
        return [(one.scope, one.kind, one.item or None) for one in found]

    assert problems(timedelta(minutes=30)) == []
    assert problems(timedelta(hours=4)) == [("mood", "stale APIs", None)]
    broken = shop.settings.model_copy(update={"enabled_collections": "mood,gone"})
    [fault] = broken_collections(broken)
    assert (fault.scope, fault.kind) == ("gone", "not asked, its YAML is wrong")


def test_a_backup_holds_payloads_and_a_restore_brings_them_back(shop: Shop, tmp_path: Path) -> None:
    home, backups = tmp_path / "home", tmp_path / "backups"
    home.mkdir()
    back_up(backups, shop.settings.database, home, NOW)
    target = tmp_path / "restored" / "refresh.duckdb"
    restore(read_backup(find(backups, None, NOW)), target, home)
    assert connect(target).snapshots("mood.fear")["value"].tolist() == [0, 1, 2, 3]


def test_a_host_is_asked_no_more_often_than_its_rate(tmp_path: Path, server: ApiServer, shop: Shop) -> None:
    tight = parse_collection(
        APIS.replace("URL", server.url).replace("every: 1h", "every: 1h, rate: {requests: 2, seconds: 900}"),
        "mood.yaml",
    )
    before = len(server.asked)
    attempts = api_snapshots.refresh(
        shop.warehouse, tight, tight.questions, NOW, lambda name: None, limits_dir=tmp_path / "limits"
    )
    assert len(server.asked) - before == 2
    [(_, refused)] = [item for item in attempts.items() if item[1].reason]
    assert "rate: 2 requests in 900 s are used up" in str(refused.reason)
    assert refused.transient
