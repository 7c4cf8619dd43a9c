"""Destinations that a market's YAML describes: assets of their own, downstream of what goes there, each by itself."""

import json
import os
from collections.abc import Iterator

import dagster as dg
import pytest
import redis

from refresh_pipeline.market.destination_spec import RedisSpec
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.build import build
from refresh_pipeline_tests.fakes.s3 import ACCESS_KEY_ID, SECRET_ACCESS_KEY, FakeS3, refused
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import (
    FEW_INDICATORS,
    LATER,
    NOW,
    World,
    metadata_of,
    verdicts_of,
)
from refresh_pipeline_tests.redis_server import free_port, redis_server

EXPORTS = "exports: {current: {layout: fx_refresh, window: {last: 10}}, full: {layers: candles, formats: csv}}\n"
DESTINATIONS = """
destinations:
  uploads: {{exports: [full]}}
  lake: {{kind: s3, bucket: candles, endpoint: "{s3}", path: "dist/data/{{export}}/{{rest}}"}}
  share: {{kind: folder, directory: share, exports: [current]}}
  cache: {{kind: redis, url: "{redis}", timeframes: [m15], days: 1}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def storage() -> Iterator[FakeS3]:
    with FakeS3() as fake:
        yield fake


def describes(world: World, s3: str, redis_url: str) -> None:
    """Let the market's YAML describe three destinations."""
    text = FEW_INDICATORS + EXPORTS + DESTINATIONS.format(s3=s3, redis=redis_url)
    (world.root / "markets" / "bazaar.yaml").write_text(text)
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}


@pytest.fixture
def copied(founded: World, tmp_path, storage: FakeS3, server: str) -> Iterator[World]:
    """A world whose market's YAML describes destinations."""
    world = founded.copied(tmp_path / "world")
    with inside(world.root):
        describes(world, storage.base_url, server)
        with redis.Redis.from_url(server) as client:
            client.flushdb()
        yield world


def test_each_destination_is_an_asset_downstream_of_what_goes_there(copied: World) -> None:
    graph = build(copied.settings, [copied.market]).resolve_asset_graph()
    parents = {
        name: [key.path[-1] for key in graph.get(dg.AssetKey(["bazaar", name])).parent_keys]
        for name in ("lake_upload", "share_upload", "cache_redis")
    }
    assert parents == {"lake_upload": ["exports"], "share_upload": ["exports"], "cache_redis": ["raw_candles"]}
    checks = {f"{key.asset_key.path[-1]} {key.name}" for key in graph.asset_check_keys}
    assert checks >= {
        "lake_upload lake_upload_matches_the_exports",
        "share_upload share_upload_matches_the_exports",
        "cache_redis cache_redis_is_whole",
    }
    jobs = {what: copied.job(what).asset_layer.selected_asset_keys for what in ("refresh", "publish")}
    names = {what: {key.path[-1] for key in keys} for what, keys in jobs.items()}
    assert "cache_redis" in names["refresh"]
    assert names["publish"] == {"exports", "uploads", "lake_upload", "share_upload"}


def test_files_and_candles_go_where_the_yaml_says(copied: World, storage: FakeS3, server: str) -> None:
    refreshed, published = copied.run("refresh"), copied.run("publish")
    assert refreshed.success
    assert published.success
    assert {key.split("/")[2] for key in storage.objects} == {"current", "full"}
    assert "dist/data/current/cds/BTC-USD_m15.csv" in storage.objects
    shared = sorted(path.name for path in (copied.root / "share").rglob("*.csv"))
    assert len(shared) == 8 * 2
    assert all("/full/" in name for name in copied.files("uploads"))
    with redis.Redis.from_url(server, decode_responses=True) as client:
        keys = sorted(client.scan_iter("tet:kline:*"))
        assert keys == [f"tet:kline:15m:{name}/USD" for name in ("BTC", "ETH", "SOL", "XRP")]
        value = json.loads(str(client.get(keys[0])))
        status = json.loads(str(client.get("tet:system:status")))
    assert (value["candle_count"], value["data_completeness"], value["data_age_seconds"]) == (96, 1.0, 30.0)
    assert (status["active_symbols"], status["successful_updates"], status["failed_updates"]) == (4, 4, 0)
    assert verdicts_of(refreshed)["cache_redis_is_whole"]
    assert verdicts_of(published)["lake_upload_matches_the_exports"]
    assert len(metadata_of(published, "lake_upload")) == 8
    assert set(metadata_of(refreshed, "cache_redis")) == {f"{name}/USD|m15" for name in ("BTC", "ETH", "SOL", "XRP")}
    rows = copied.query("select destination, count(*) from bazaar.uploads group by all order by all")
    assert rows == [("lake", 24), ("share", 16), ("uploads", 8)]


def test_a_tick_without_any_of_its_timeframes_leaves_redis_alone(copied: World, server: str) -> None:
    assert copied.run("refresh", keys=["BTC/USD|H1"]).success
    with redis.Redis.from_url(server) as client:
        assert client.keys() == []


def test_an_incremental_refresh_still_writes_the_whole_window(copied: World, server: str) -> None:
    copied.run("refresh", keys=["BTC/USD|m15"])
    copied.run("refresh", keys=["BTC/USD|m15"], now=LATER)
    with redis.Redis.from_url(server) as client:
        value = json.loads(client.get("tet:kline:15m:BTC/USD") or "")
    assert value["last_candle_time"] == "2026-06-01T13:45:00Z"
    assert len(json.loads(value["ohlcv_data"])) == value["candle_count"] == 96


def test_a_destination_that_refuses_stops_no_other_and_is_tried_again(copied: World, storage: FakeS3) -> None:
    copied.run("refresh", keys=["BTC/USD|H1"])
    storage.fail(refused(403, "AccessDenied"), times=1000)
    published = copied.run("publish", keys=["BTC/USD|H1"])
    assert published.success
    assert metadata_of(published, "lake_upload") == {}
    assert copied.query("select outcome, failures from bazaar.outcomes where asset = 'lake_upload'") == [("failed", 1)]
    assert (copied.root / "share").exists()
    assert len(copied.files("uploads")) == 1
    storage.heal()
    assert copied.run("publish", keys=["BTC/USD|H1"], now=LATER).success
    assert len(storage.objects) == 3


def test_a_redis_server_that_is_gone_stops_no_refresh(copied: World, storage: FakeS3) -> None:
    describes(copied, storage.base_url, f"redis://127.0.0.1:{free_port()}/1")
    refreshed = copied.run("refresh", keys=["BTC/USD|m15"])
    assert refreshed.success
    assert copied.counts("indicators") == {"BTC/USD|m15": 96}
    assert copied.query("select outcome, failures from bazaar.outcomes where asset = 'cache_redis'") == [("failed", 1)]
    assert verdicts_of(refreshed).get("cache_redis_is_whole") in (None, False)


def test_a_status_that_redis_refuses_fails_no_refresh(copied: World, server: str) -> None:
    with redis.Redis.from_url(server) as client:
        client.execute_command("acl", "setuser", "default", "resetkeys", "~tet:kline:*", "~tet:timestamp:*")
        refreshed = copied.run("refresh", keys=["BTC/USD|m15"])
        client.execute_command("acl", "setuser", "default", "allkeys")
        assert refreshed.success
        assert client.exists("tet:kline:15m:BTC/USD") == 1
    assert "tet:system:status" in str(metadata_of(refreshed, "cache_redis")["BTC/USD|m15"]["warning"])


def test_a_window_that_lost_candles_is_found(copied: World, server: str) -> None:
    from refresh_pipeline.orchestration.resources import uploads_of  # noqa: PLC0415
    from refresh_pipeline.pipeline.quality import window_verdict  # noqa: PLC0415 - Dagster, which only this test needs here

    copied.run("refresh", keys=["ETH/USD|m15", "SOL/USD|m15"])
    with redis.Redis.from_url(server) as client:
        client.delete("tet:kline:15m:SOL/USD")
    spec = copied.market.destinations["cache"]
    assert isinstance(spec, RedisSpec)
    verdict = window_verdict(
        copied.warehouse, copied.market, spec, lambda: uploads_of(copied.settings).open_redis(spec)
    )
    assert [(fault.series, fault.what) for fault in verdict.faults] == [
        (Series("SOL/USD", Timeframe.m15), "0 candles at the destination, 96 wanted")
    ]
    assert verdict.examined == 2


def test_what_is_missing_for_a_destination_is_told_by_its_step_alone(copied: World) -> None:
    del os.environ["AWS_SECRET_ACCESS_KEY"]
    copied.run("refresh", keys=["BTC/USD|H1"], now=NOW)
    published = copied.run("publish", keys=["BTC/USD|H1"])
    assert [event.step_key for event in published.all_events if event.is_step_failure] == ["bazaar__lake_upload"]
    assert len(copied.files("uploads")) == 1
