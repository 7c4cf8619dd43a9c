"""Options of a run: what they narrow, which lines are refused, and the key of the release before."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.run_options import RunOptions
from refresh_pipeline.settings import load_settings
from refresh_pipeline_tests.project_folder import LATER, NOW, QUIET, World, failures_of

KEY = "BTC/USD|m15"
(DEMO,) = load_markets(load_settings(enabled_markets="demo"))
FROM_TEN = "2026-06-01T10:00Z"


def test_a_run_goes_by_the_clock_unless_another_time_is_given() -> None:
    before = datetime.now(UTC)
    assert before <= RunOptions().now_instant(DEMO) <= datetime.now(UTC)
    assert RunOptions(now="2026-06-01T14:00+02:00").now_instant(DEMO) == datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_a_run_may_be_narrowed_to_a_time() -> None:
    assert (RunOptions().since_instant, RunOptions().until_instant) == (None, None)
    options = RunOptions(since="2026-06-01", until="2026-06-02T00:00Z")
    assert options.since_instant is not None
    assert options.until_instant == options.since_instant + timedelta(days=1)


def test_a_text_that_is_no_time_is_named() -> None:
    with pytest.raises(dg.Failure, match="found 'yesterday', allowed: ISO 8601"):
        RunOptions(now="yesterday").now_instant(DEMO)


def ahead(**span: int) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


@pytest.mark.parametrize(
    "options",
    [
        {"now": "9999-12-31"},
        {"now": "9999-12-31T23:59-05:00"},
        {"now": "1969-12-31"},
        {"now": ahead(days=400)},
        {"since": "1601-01-01"},
        {"since": ahead(days=2)},
        {"until": ahead(days=2)},
        {"until": "0001-01-01"},
        {"now": "2026-06-01", "until": "2026-06-03"},
        {"ranges": [f"{KEY} 1960-01-01 1960-01-02"]},
        {"ranges": [f"{KEY} 2026-06-01 {ahead(days=2)}"]},
    ],
)
def test_instants_have_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(dg.Failure, match="allowed"):
        RunOptions(**options).now_instant(DEMO)


@pytest.mark.parametrize("options", [{"now": ahead(days=300)}, {"until": ahead(hours=20)}, {"since": "1970-01-01"}])
def test_instants_within_the_bounds_are_taken(options: dict[str, Any]) -> None:
    RunOptions(**options).now_instant(DEMO)


def test_only_a_simulated_market_runs_ahead_of_the_clock() -> None:
    (crypto,) = load_markets(load_settings(enabled_markets="crypto"))
    with pytest.raises(dg.Failure, match="allowed for market crypto: 1970 up to the clock's"):
        RunOptions(now=ahead(hours=1)).now_instant(crypto)


@pytest.mark.parametrize(
    "line", ["BTC/USD|m15 2026-06-01", f"{KEY} noon {FROM_TEN}", f"{KEY} {FROM_TEN} {FROM_TEN}", ""]
)
def test_a_malformed_range_is_refused_with_an_example(line: str) -> None:
    with pytest.raises(dg.Failure) as refused:
        RunOptions(ranges=[line]).chosen([KEY])
    assert refused.value.description is not None
    assert refused.value.description.startswith(f"`ranges`: found {line!r}, wanted a partition key, a start and")


def test_a_range_of_another_series_is_refused(world: World) -> None:
    before = world.counts()
    run = world.run("refresh", [KEY], LATER, ranges=[f"ETH/USD|m15 {FROM_TEN} 2026-06-01T11:00Z"])
    assert not run.success
    assert "`ranges` names ETH/USD|m15, which this run does not refresh" in str(failures_of(run))
    assert world.counts() == before


def launched(world: World, resources: Mapping[str, object]) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """A run of the refresh job with these resources in its config, and the warnings in its log."""
    tags = {"dagster/asset_partition_range_start": KEY, "dagster/asset_partition_range_end": "XRP/USD|H1"}
    with world.dagster() as instance:
        run = world.job("refresh").execute_in_process(
            instance=instance, tags=tags, run_config={"resources": resources, **QUIET}
        )
        logs = [entry.user_message for entry in instance.all_logs(run.run_id) if entry.level == 30]
    return run, logs


OLD = {"now": NOW.isoformat(), "series": [KEY], "stretches": [f"{KEY} {FROM_TEN} 2026-06-01T11:00Z"]}
NEW = {"now": NOW.isoformat(), "series": [KEY], "ranges": OLD["stretches"]}


@pytest.mark.parametrize(("key", "config"), [("run_options", NEW), ("asked", OLD)])
def test_the_key_of_the_release_before_works_and_warns(new_world: World, key: str, config: dict) -> None:
    run, warnings = launched(new_world, {key: {"config": config}})
    assert run.success
    assert new_world.counts() == {KEY: 4}
    deprecated = [line for line in warnings if "deprecated" in line]
    fields = "write `run_options` with the fields renamed: stretches -> ranges"
    expected = [f"the run config key `asked` is deprecated and goes with the next release: {fields}"]
    assert deprecated[:1] == (expected if key == "asked" else [])


def test_the_old_key_s_missing_is_missing_only(new_world: World) -> None:
    run, _ = launched(new_world, {"asked": {"config": {"now": NOW.isoformat(), "missing": True, "since": FROM_TEN}}})
    assert run.success
    assert new_world.counts()[KEY] == 8
