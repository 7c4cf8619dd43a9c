"""Options of a run: what they narrow, which lines are refused, and the key of the release before."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from refresh_pipeline.orchestration.run_options import RunOptions
from refresh_pipeline_tests.project_folder import LATER, NOW, QUIET, World, failures_of

KEY = "BTC/USD|m15"
FROM_TEN = "2026-06-01T10:00Z"


def test_a_run_goes_by_the_clock_unless_another_time_is_given() -> None:
    before = datetime.now(UTC)
    assert before <= RunOptions().now_instant <= datetime.now(UTC)
    assert RunOptions(now="2026-06-01T14:00+02:00").now_instant == datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_a_run_may_be_narrowed_to_a_time() -> None:
    assert (RunOptions().since_instant, RunOptions().until_instant) == (None, None)
    options = RunOptions(since="2026-06-01", until="2026-06-02T00:00Z")
    assert options.since_instant is not None
    assert options.until_instant == options.since_instant + timedelta(days=1)


def test_a_text_that_is_no_time_is_named() -> None:
    with pytest.raises(ValueError, match="found 'yesterday', allowed: ISO 8601"):
        _ = RunOptions(now="yesterday").now_instant


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
