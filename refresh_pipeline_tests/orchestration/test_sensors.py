"""Series that failed are asked for again, just those, ever more rarely."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.sensors import retry_request, retry_sensor, wait_after
from refresh_pipeline.warehouse.queries import FailedSeries
from refresh_pipeline_tests.project_folder import NOW, QUIET, World, metadata_of

BROKEN = ["ETH/USD|m15", "XRP/USD|H1"]


def failed(key: str, failures: int = 1, at: datetime = NOW) -> FailedSeries:
    return FailedSeries(Series.from_key(key), "HTTP 503", transient=True, failures=failures, at=at)


def asked_for(request: dg.RunRequest | dg.SkipReason) -> list[str]:
    assert isinstance(request, dg.RunRequest)
    return request.run_config["resources"]["run_options"]["config"]["series"]


# ---- the decision


def test_nothing_failed_is_nothing_to_ask_for(new_world: World) -> None:
    skipped = retry_request(new_world.market, [], NOW)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "no series of bazaar has failed or is overdue"


def test_a_series_that_just_failed_is_left_alone_for_a_while(new_world: World) -> None:
    skipped = retry_request(new_world.market, [failed(BROKEN[0])], NOW + timedelta(seconds=59))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "1 series failed; the next attempt is at 12:01:30 UTC"


def test_after_the_wait_it_is_asked_for_again(new_world: World) -> None:
    assert asked_for(retry_request(new_world.market, [failed(BROKEN[0])], NOW + timedelta(seconds=60))) == BROKEN[:1]


def test_a_failure_of_a_clock_that_was_ahead_is_asked_for_at_once(new_world: World) -> None:
    ahead = failed(BROKEN[0], failures=3, at=NOW + timedelta(hours=26))
    assert asked_for(retry_request(new_world.market, [ahead], NOW)) == BROKEN[:1]


def test_only_those_are_asked_for_whose_wait_is_over(new_world: World) -> None:
    series = [
        failed("BTC/USD|m15"),
        failed("SOL/USD|H1", failures=5),
        failed("XRP/USD|m15", at=NOW - timedelta(hours=1)),
    ]
    request = retry_request(new_world.market, series, NOW + timedelta(minutes=2))
    assert asked_for(request) == ["BTC/USD|m15", "XRP/USD|m15"]


def test_the_range_holds_every_series_that_is_asked_for(new_world: World) -> None:
    request = retry_request(new_world.market, [failed(key) for key in BROKEN], NOW + timedelta(minutes=2))
    assert isinstance(request, dg.RunRequest)
    assert request.tags == {
        "dagster/asset_partition_range_start": "ETH/USD|m15",
        "dagster/asset_partition_range_end": "XRP/USD|H1",
    }


@pytest.mark.parametrize(("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5000, 60)])
def test_each_failure_doubles_the_wait_up_to_an_hour(failures: int, minutes: int) -> None:
    assert wait_after(failures) == timedelta(minutes=minutes)


# ---- the sensor on an instance


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def look(world: World, instance: dg.DagsterInstance) -> tuple[list[dg.RunRequest], str | None]:
    """What the sensor of the world's market answers now."""
    with dg.build_sensor_context(instance=instance, resources={"warehouse": world.warehouse}) as context:
        answer = retry_sensor(world.market).evaluate_tick(context)
    return list(answer.run_requests or []), answer.skip_message


def test_before_any_refresh_there_is_nothing_to_retry(new_world: World, instance: dg.DagsterInstance) -> None:
    assert look(new_world, instance) == ([], "no series of bazaar has failed or is overdue")
    assert not (new_world.root / "data").exists()


def test_a_series_that_is_new_in_the_yaml_is_asked_for_at_once(world: World, instance: dg.DagsterInstance) -> None:
    world.run(now=datetime.now(UTC))
    market = world.root / "markets" / "bazaar.yaml"
    market.write_text(market.read_text().replace("BTC/USD", "NEW/USD, BTC/USD"))
    requests, _ = look(world, instance)
    assert [asked_for(request) for request in requests] == [["NEW/USD|m15", "NEW/USD|H1"]]


def test_what_failed_is_fetched_again_just_that_and_then_left_alone(world: World, instance: dg.DagsterInstance) -> None:
    good = {key: world.candle_file(key).read_text() for key in BROKEN}
    for key in BROKEN:
        world.candle_file(key).write_text("no\ncandles\n")
    # The sensor goes by the real clock, so the attempt has to.
    world.run(now=datetime.now(UTC))
    requests, skipped = look(world, instance)
    assert requests == []
    assert str(skipped).startswith("2 series failed, 6 overdue; the next attempt is at ")
    world.change("update bazaar.outcomes set attempted_at = attempted_at - interval 2 minute")
    requests, _ = look(world, instance)
    assert [asked_for(request) for request in requests] == [BROKEN]
    for key, text in good.items():
        world.candle_file(key).write_text(text)
    result = world.job("refresh").execute_in_process(
        instance=instance,
        tags={**requests[0].tags, PROCESS_TAG: this_process()},
        run_config={**requests[0].run_config, **QUIET},
    )
    assert sorted(metadata_of(result, "raw_candles")) == BROKEN
    assert sorted(metadata_of(result, "indicators")) == BROKEN
    # The files end long ago: nothing is failed any more, everything overdue, which is asked for once an hour.
    requests, skipped = look(world, instance)
    assert requests == []
    assert str(skipped).startswith("8 overdue; ")


def test_failing_again_and_again_makes_the_wait_longer(world: World, instance: dg.DagsterInstance) -> None:
    world.candle_file(BROKEN[0]).write_text("no\ncandles\n")
    for _ in range(2):
        world.run(now=datetime.now(UTC))
    world.change("update bazaar.outcomes set attempted_at = attempted_at - interval 90 second")
    assert look(world, instance)[0] == []
    world.change("update bazaar.outcomes set attempted_at = attempted_at - interval 40 second")
    assert len(look(world, instance)[0]) == 1


def test_while_a_run_is_going_the_sensor_waits(world: World, instance: dg.DagsterInstance) -> None:
    @dg.job(name="bazaar_refresh")
    def bazaar_refresh() -> None: ...

    run = instance.create_run_for_job(
        job_def=bazaar_refresh, tags={PROCESS_TAG: this_process()}, status=DagsterRunStatus.STARTED
    )
    assert look(world, instance) == ([], f"the previous run is still going: {run.run_id}")
