"""What a run of Dagster says of each of its partitions, on an instance as it is deployed: on files, in batches."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster import AssetRecordsFilter

from refresh_pipeline.instance.event_log import BatchingSqliteEventLogStorage
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.materialization import must_fail
from refresh_pipeline.orchestration.run_options import RunOptions
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import LATER, World, failures_of, metadata_of, verdicts_of

KEYS = [f"{name}/USD|{timeframe}" for name in ("BTC", "ETH", "SOL", "XRP") for timeframe in ("m15", "H1")]
REFRESHED = ["raw_candles", "enhanced_candles", "indicators"]
BROKEN = {"ETH/USD|m15", "XRP/USD|H1"}
FIELDS = {"outcome", "rows_added", "rows_revised", "seconds", "dashboard"}
STANDING = {"last_open_time", "data_age_seconds", "data_age"}
# Said by raw candles alone.
OF_CANDLES = {"source", "candle_count", "first_open_time", "completeness", "complete"}


@pytest.fixture
def instance(world: World) -> Iterator[dg.DagsterInstance]:
    """The refreshed world's own."""
    with world.dagster() as instance:
        yield instance


@pytest.fixture(scope="module")
def untouched(refreshed: World) -> Iterator[dg.DagsterInstance]:
    """The refreshed world's own, to be read only."""
    with inside(refreshed.root), refreshed.dagster() as instance:
        yield instance


def key_of(asset: str) -> dg.AssetKey:
    return dg.AssetKey(["bazaar", asset])


def run_of_newest(instance: dg.DagsterInstance, asset: str, key: str) -> str:
    """Which run last materialized a partition, as the instance remembers it."""
    wanted = AssetRecordsFilter(key_of(asset), asset_partitions=[key])
    return instance.fetch_materializations(wanted, limit=1).records[0].event_log_entry.run_id


def break_files(world: World, *keys: str) -> None:
    for key in keys:
        world.candle_file(key).write_text("this,is,no\nfile,of,candles\n")


def steps_of(result: dg.ExecuteInProcessResult) -> list[str]:
    return [str(event.step_key) for event in result.all_events if event.is_step_success]


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_deployed_event_log_is_the_batching_one(untouched: dg.DagsterInstance) -> None:
    assert isinstance(untouched.event_log_storage, BatchingSqliteEventLogStorage)


def test_a_wide_run_is_one_step_an_asset_whatever_the_number_of_series_and_checks_come_last(
    world: World, instance: dg.DagsterInstance
) -> None:
    assert steps_of(world.run(now=LATER, instance=instance)) == [
        "bazaar__raw_candles",
        "bazaar__enhanced_candles",
        "bazaar__indicators",
        "bazaar_raw_candles_checks",
    ]


@pytest.mark.parametrize("asset", [*REFRESHED, "exports", "uploads"])
def test_every_partition_says_what_became_of_it(untouched: dg.DagsterInstance, asset: str) -> None:
    records = untouched.fetch_materializations(key_of(asset), limit=100).records
    said = {
        str(record.partition_key): {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in records
        if record.asset_materialization
    }
    assert sorted(said) == sorted(KEYS)
    assert all(entry.keys() >= FIELDS | STANDING for entry in said.values())
    entry = said["SOL/USD|m15"]
    assert entry["outcome"] == "updated"
    assert str(entry["dashboard"]).startswith("http://127.0.0.1:8080/series/")
    assert (entry["rows_added"], entry["rows_revised"]) == (0 if asset == "uploads" else 96, 0)
    assert entry["last_open_time"] == moment("2026-06-01T11:45")
    assert (entry["data_age_seconds"], entry["data_age"]) == (30.0, "30s")
    assert OF_CANDLES & entry.keys() == (OF_CANDLES if asset == "raw_candles" else set())
    if asset == "raw_candles":
        assert (entry["source"], entry["candle_count"]) == ("files", 96)
        assert entry["first_open_time"] == moment("2026-05-31T12:00")
        assert (entry["completeness"], entry["complete"]) == (1.0, "100.00 %")
    assert isinstance(entry["seconds"], float)
    assert 0 <= entry["seconds"] < 60


def test_the_numbers_are_those_of_this_run(world: World, instance: dg.DagsterInstance) -> None:
    world.write_candles("BTC/USD|m15", changes={"2026-06-01T11:30:00": {"volume": 99}}, without=["2026-06-01T12:30:00"])
    result = world.run(now=LATER, instance=instance)
    entry = metadata_of(result, "raw_candles")["BTC/USD|m15"]
    assert (entry["rows_added"], entry["rows_revised"], entry["candle_count"]) == (7, 1, 103)
    assert entry["completeness"] == round(103 / 104, 6)
    untouched = metadata_of(world.run(now=LATER, instance=instance), "indicators")["BTC/USD|m15"]
    assert (untouched["outcome"], untouched["rows_added"], untouched["rows_revised"]) == ("unchanged", 0, 0)


@dataclass(frozen=True)
class BrokenRun:
    """A refresh of a world in which the files of BROKEN are, and which run materialized each partition before it."""

    world: World
    instance: dg.DagsterInstance
    before: dict[tuple[str, str], str]
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def broken(refreshed: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokenRun]:
    world = refreshed.copied(tmp_path_factory.mktemp("broken") / "world")
    with inside(world.root), world.dagster() as instance:
        before = {(asset, key): run_of_newest(instance, asset, key) for asset in REFRESHED for key in KEYS}
        break_files(world, *BROKEN)
        yield BrokenRun(world, instance, before, world.run(now=LATER, instance=instance))


def test_series_that_fail_leave_the_others_alone(broken: BrokenRun) -> None:
    instance, result = broken.instance, broken.result
    assert result.success
    for asset in REFRESHED:
        assert set(metadata_of(result, asset)) == set(KEYS) - BROKEN
        assert instance.get_materialized_partitions(key_of(asset)) == set(KEYS)
    newest = {(asset, key): run_of_newest(instance, asset, key) for asset in REFRESHED for key in KEYS}
    for (asset, key), run_id in newest.items():
        assert run_id == (broken.before[asset, key] if key in BROKEN else result.run_id)
    with inside(broken.world.root):
        counts = broken.world.counts()
    assert {key: counts[key] for key in BROKEN} == {"ETH/USD|m15": 96, "XRP/USD|H1": 24}
    assert counts["BTC/USD|m15"] == 104


def test_the_check_lists_the_series_that_failed(broken: BrokenRun) -> None:
    assert verdicts_of(broken.result)["every_series_was_fetched"] is False
    checks = broken.result.get_asset_check_evaluations()
    table = next(one for one in checks if one.check_name == "every_series_was_fetched").metadata["first_faults"]
    assert isinstance(table, dg.TableMetadataValue)
    rows = [record.data for record in table.records]
    assert {f"{row['instrument']}|{row['timeframe']}" for row in rows} == BROKEN
    assert all("csv" in str(row["fault"]) for row in rows)


def test_series_that_fail_are_in_the_runs_log_with_the_reason(broken: BrokenRun) -> None:
    logs = broken.instance.all_logs(broken.result.run_id)
    logged = [entry.message for entry in logs if int(entry.level) >= logging.WARNING]
    assert any("ETH/USD m15" in message and "csv" in message for message in logged)


def observations_of(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """The reason that the newest observation of each partition gives."""
    records = instance.fetch_observations(key_of(asset), limit=100, ascending=True).records
    return {
        str(record.partition_key): str(record.asset_observation.metadata["reason"].value)
        for record in records
        if record.asset_observation
    }


def test_when_every_series_fails_for_good_checks_run_and_each_partition_says_why(
    world: World, instance: dg.DagsterInstance
) -> None:
    before = {(asset, key): run_of_newest(instance, asset, key) for asset in REFRESHED for key in KEYS}
    break_files(world, *KEYS)
    result = world.run(now=LATER, instance=instance)
    assert result.success
    assert "bazaar_raw_candles_checks" in steps_of(result)
    assert verdicts_of(result)["every_series_was_fetched"] is False
    assert not any(event.is_step_materialization for event in result.all_events)
    assert {(asset, key): run_of_newest(instance, asset, key) for asset in REFRESHED for key in KEYS} == before
    reasons = observations_of(instance, "raw_candles")
    assert sorted(reasons) == sorted(KEYS)
    assert all("expected a first row that names the columns" in reason for reason in reasons.values())
    assert sum(world.counts().values()) == 480


def test_a_retry_of_series_that_fail_ends_as_success_with_the_reason_on_the_partition(
    world: World, instance: dg.DagsterInstance
) -> None:
    before = run_of_newest(instance, "raw_candles", "ETH/USD|m15")
    break_files(world, *BROKEN)
    result = world.run(keys=["ETH/USD|m15"], now=LATER, instance=instance)
    assert result.success
    assert verdicts_of(result)["every_series_was_fetched"] is False
    assert list(observations_of(instance, "raw_candles")) == ["ETH/USD|m15"]
    assert run_of_newest(instance, "raw_candles", "ETH/USD|m15") == before


@pytest.mark.parametrize(
    ("transients", "narrowed", "fails"),
    [
        ((True, True), (), True),
        ((True, False), (), False),
        ((False, False), (), False),
        ((True, True), ("A|m1", "B|m1"), False),
        ((), (), False),
    ],
)
def test_a_step_fails_where_its_whole_range_failed_and_asking_again_may_help(
    transients: tuple[bool, ...], narrowed: tuple[str, ...], fails: bool
) -> None:
    attempts = {
        Series(name, Timeframe.m1): Attempt(Outcome.failed, "no answer", transient=transient)
        for name, transient in zip("AB", transients, strict=False)
    }
    assert must_fail(attempts, RunOptions(series=list(narrowed))) is fails


def test_no_data_is_an_outcome_and_no_failure(new_world: World) -> None:
    for key in ("ETH/USD|m15", "ETH/USD|H1"):
        new_world.candle_file(key).unlink()
    with new_world.dagster() as instance:
        result = new_world.run(instance=instance)
    assert result.success
    for asset in REFRESHED:
        said = metadata_of(result, asset)
        assert sorted(said) == sorted(KEYS)
        assert said["ETH/USD|H1"]["outcome"] == "no data"
        assert said["ETH/USD|H1"].get("candle_count") == (0 if asset == "raw_candles" else None)
        assert not STANDING & said["ETH/USD|H1"].keys()
    assert verdicts_of(result)["every_series_was_fetched"]
    assert "ETH/USD|H1" not in new_world.counts()


def test_a_run_of_series_without_any_data_succeeds(new_world: World) -> None:
    new_world.candle_file("ETH/USD|H1").unlink()
    result = new_world.run(keys=["ETH/USD|H1"])
    assert result.success
    assert metadata_of(result, "indicators")["ETH/USD|H1"]["outcome"] == "no data"


def test_within_a_range_just_the_series_that_were_asked_for_are_refreshed(world: World) -> None:
    keys = ["BTC/USD|m15", "SOL/USD|H1"]
    result = world.run(keys=keys, now=LATER)
    for asset in REFRESHED:
        assert sorted(metadata_of(result, asset)) == sorted(keys)
    counts = world.counts()
    assert [counts[key] for key in ("BTC/USD|m15", "SOL/USD|H1", "ETH/USD|m15", "BTC/USD|H1")] == [104, 26, 96, 24]


def test_a_series_beyond_the_range_is_told(world: World) -> None:
    result = world.run(keys=["BTC/USD|m15"], series=["XRP/USD|H1"])
    assert not result.success
    assert (
        "`series` names XRP/USD|H1, outside the run's range of partitions" in failures_of(result)["bazaar__raw_candles"]
    )


def test_an_export_that_fails_leaves_its_series_unmaterialized(world: World, instance: dg.DagsterInstance) -> None:
    before = run_of_newest(instance, "exports", "BTC/USD|H1")
    in_the_way = world.root / "data" / "exports" / "bazaar" / "BTC-USD_H1.csv"
    in_the_way.unlink()
    in_the_way.mkdir()
    world.run(now=LATER)
    result = world.run("publish", now=LATER, instance=instance)
    assert result.success
    assert set(metadata_of(result, "exports")) == set(KEYS) - {"BTC/USD|H1"}
    assert run_of_newest(instance, "exports", "BTC/USD|H1") == before
