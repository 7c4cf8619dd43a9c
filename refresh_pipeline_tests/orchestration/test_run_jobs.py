"""A refresh from the command line, as Dagster runs on the instance: what it came to, and what the instance keeps."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import dagster as dg
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.run_jobs import Refreshed, refresh_once
from refresh_pipeline_tests.project_folder import LATER, NOW, World

AT_NOW = {"now": NOW.isoformat()}
AT_LATER = {"now": LATER.isoformat()}


def refreshed_in(world: World, asked: dict[str, str], keys: Sequence[str] = ()) -> Refreshed:
    series = [Series.from_key(key) for key in keys] or list(world.market.series)
    with world.dagster():
        return refresh_once(world.settings, world.market, series, asked, verbose=0)


def runs_of(world: World) -> list[dg.DagsterRun]:
    """Every run on record, the newest first."""
    with world.dagster() as instance:
        return list(instance.get_runs())


def outcomes(refreshed: Refreshed, asset: str) -> dict[str, str]:
    return {each.series.key: each.outcome for each in refreshed.outcomes if each.asset == asset}


def test_a_refresh_is_two_runs_on_the_instance_and_says_what_each_series_came_to(world: World) -> None:
    before = len(runs_of(world))
    done = refreshed_in(world, AT_LATER)
    assert done.succeeded
    assert (done.errors, done.failed_checks) == ([], {})
    for asset in ("raw_candles", "enhanced_candles", "indicators", "exports", "uploads"):
        assert outcomes(done, asset) == {series.key: "updated" for series in world.market.series}
    assert done.places == {
        "warehouse": str(world.root / "data" / "refresh.duckdb"),
        "exports": str(world.root / "data" / "exports"),
        "uploads": (world.root / "data" / "uploads").as_uri(),
    }
    runs = runs_of(world)
    assert len(runs) == before + 2
    assert [run.job_name for run in runs[:2]] == ["bazaar_publish", "bazaar_refresh"]
    for run in runs[:2]:
        assert run.status is DagsterRunStatus.SUCCESS
        assert run.tags["dagster/asset_partition_range_start"] == "BTC/USD|m15"
        assert run.tags["dagster/asset_partition_range_end"] == "XRP/USD|H1"
        assert run.tags[PROCESS_TAG] == this_process()


def test_series_that_fail_are_no_success(world: World) -> None:
    world.candle_file("ETH/USD|H1").write_text("no\ncandles\n")
    done = refreshed_in(world, AT_LATER)
    assert not done.succeeded
    assert done.errors == []
    failed = [each for each in done.outcomes if each.outcome == "failed"]
    assert [(each.asset, each.series.key) for each in failed] == [("raw_candles", "ETH/USD|H1")]
    assert "expected a first row" in str(failed[0].reason)
    assert set(done.failed_checks) == {"every_series_was_fetched", "every_series_is_fresh", "no_candles_are_missing"}
    # What was stored before is published all the same.
    assert outcomes(done, "exports")["ETH/USD|H1"] == "unchanged"


def test_when_every_series_fails_the_reasons_are_those_of_the_series(world: World) -> None:
    for file in (world.root / "candles").iterdir():
        file.write_text("no\ncandles\n")
    done = refreshed_in(world, AT_LATER)
    assert not done.succeeded
    assert done.errors == []
    assert set(outcomes(done, "raw_candles").values()) == {"failed"}


def test_a_step_that_breaks_is_told_with_the_reason(world: World) -> None:
    (world.root / "data" / "refresh.duckdb").write_bytes(b"no database" * 500)
    done = refreshed_in(world, AT_LATER)
    assert not done.succeeded
    assert done.outcomes == []
    assert done.errors[0].startswith("bazaar__raw_candles: WarehouseUnreadable: wanted to open ")
    assert "restore a backup" in done.errors[0]


def test_a_wrong_destination_is_told_and_named_no_place(world: World) -> None:
    os.environ["REFRESH_UPLOAD_URL"] = "ftp://somewhere/else"
    done = refreshed_in(world, AT_LATER, ["BTC/USD|H1"])
    assert not done.succeeded
    assert "found the scheme 'ftp'; set REFRESH_UPLOAD_URL to file:///a/folder" in done.errors[0]
    assert "uploads" not in done.places
    assert outcomes(done, "exports") == {"BTC/USD|H1": "updated"}


def test_a_run_whose_process_was_killed_is_marked_as_failed(world: World) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with world.dagster() as instance:
        tags = {PROCESS_TAG: f"{socket.gethostname()}:{ended.pid}"}
        orphan = instance.create_run_for_job(job_def=world.job("refresh"), tags=tags, status=DagsterRunStatus.STARTED)
    refreshed_in(world, AT_NOW, ["BTC/USD|H1"])
    found = {run.run_id: run.status for run in runs_of(world)}
    assert found[orphan.run_id] is DagsterRunStatus.FAILURE
